"""Write a copy of a model whose weights are rounded to so many bits, each output channel by its own scale."""

import sys

import numpy as np
import onnx
from onnx import numpy_helper

source, target, bits = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = onnx.load(source)
for tensor in model.graph.initializer:
    weights = numpy_helper.to_array(tensor)
    if weights.ndim < 2 or weights.dtype != np.float32:
        continue  # biases and constants stay as they are
    scale = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True) / (2 ** (bits - 1) - 1)
    rounded = np.round(weights / np.maximum(scale, 1e-12)) * scale
    tensor.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), tensor.name))
onnx.save(model, target)
