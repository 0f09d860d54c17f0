"""The models of the batching bench: graphs with random weights of a fixed seed, built here, none of them trained.

``resnet18`` has the layers of a ResNet-18 for pictures of 224 x 224 with its batch normalisation folded into the
convolutions, as exporters do. ``head`` is three fully connected layers, whose weights are far larger than a CPU's
caches: one row has to fetch all of them, and so do sixteen. What they answer means nothing; what they cost does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT: Final = "input"
OUTPUT: Final = "output"
_SEED: Final = 20261127
_OPSET: Final = 17
_IR_VERSION: Final = 8

Datatype = Literal["UINT8", "FP32"]


@dataclass(frozen=True, slots=True)
class Model:
    """A graph of one input and one FP32 output, both with a batch dimension in front.

    Attributes:
        what: for a person.
        datatype: of the input.
        shape: of one row of the input.
        outputs: numbers in one row of the output.
        parameters: weights and biases.
        flops: of one row, a multiplication and an addition counting as two; convolutions and full layers only.
    """

    key: str
    what: str
    datatype: Datatype
    shape: tuple[int, ...]
    outputs: int
    parameters: int
    flops: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the input."""
        return math.prod(self.shape) * (1 if self.datatype == "UINT8" else 4)

    def rows(self, count: int, seed: int = 1) -> NDArray[Any]:
        """Random rows, all different."""
        random = np.random.default_rng(seed)
        if self.datatype == "UINT8":
            return random.integers(0, 256, (count, *self.shape), np.uint8)
        return random.standard_normal((count, *self.shape), np.float32)


class _Graph:
    """Nodes and weights as they are added; every method returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.parameters = self.flops = 0
        self._random = np.random.default_rng(_SEED)

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def conv(self, source: str, before: int, after: int, kernel: int, side: int, stride: int = 1) -> str:
        """A convolution to ``side`` x ``side`` pixels; its weights keep the size of what passes through."""
        weight = self._weight((after, before, kernel, kernel), before * kernel**2)
        bias = self._bias(after)
        self.flops += 2 * before * kernel**2 * after * side**2
        pads = [kernel // 2] * 4
        return self.add("Conv", [source, weight, bias], kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2)

    def full(self, source: str, before: int, after: int, output: str = "") -> str:
        """A fully connected layer."""
        self.flops += 2 * before * after
        return self.add("Gemm", [source, self._weight((before, after), before), self._bias(after)], output)

    def relu(self, source: str) -> str:
        return self.add("Relu", [source])

    def _weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        self.parameters += math.prod(shape)
        return self.constant(self._random.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in)))

    def _bias(self, size: int) -> str:
        self.parameters += size
        return self.constant(self._random.standard_normal(size, np.float32) * np.float32(0.1))


def _resnet18(graph: _Graph, side: int = 224, classes: int = 1000) -> None:
    scaled = graph.add("Cast", [INPUT], to=TensorProto.FLOAT)
    scaled = graph.add("Mul", [scaled, graph.scalar(1 / 64)])
    scaled = graph.add("Sub", [scaled, graph.scalar(2)])
    found = graph.add("Transpose", [scaled], perm=[0, 3, 1, 2])
    side //= 2
    found = graph.relu(graph.conv(found, 3, 64, 7, side, stride=2))
    side //= 2
    found = graph.add("MaxPool", [found], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    before = 64
    for after in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and after != 64 else 1
            side //= stride
            past = graph.conv(found, before, after, 1, side, stride) if stride == 2 else found
            inner = graph.relu(graph.conv(found, before, after, 3, side, stride))
            inner = graph.conv(inner, after, after, 3, side)
            # Halved, so that sixteen layers of sums do not grow without bound.
            half = graph.scalar(0.5)
            found = graph.relu(graph.add("Mul", [graph.add("Add", [inner, past]), half]))
            before = after
    pooled = graph.add("Flatten", [graph.add("GlobalAveragePool", [found])])
    graph.full(pooled, before, classes, OUTPUT)


def _head(graph: _Graph) -> None:
    found = graph.relu(graph.full(INPUT, 2048, 4096))
    found = graph.relu(graph.full(found, 4096, 4096))
    graph.full(found, 4096, 512, OUTPUT)


_LAYERS: Final = {"resnet18": _resnet18, "head": _head}
MODELS: Final = (
    Model("resnet18", "ResNet-18, 224 x 224 x 3, UINT8 in", "UINT8", (224, 224, 3), 1000, 11_684_712, 3_628_146_688),
    Model("head", "fully connected 2048-4096-4096-512, FP32 in", "FP32", (2048,), 512, 27_271_680, 54_525_952),
)


def build(model: Model, path: Path) -> None:
    """Write the ONNX file of a model; the same bytes each time."""
    graph = _Graph()
    _LAYERS[model.key](graph)
    assert (graph.parameters, graph.flops) == (model.parameters, model.flops), (graph.parameters, graph.flops)
    element = TensorProto.UINT8 if model.datatype == "UINT8" else TensorProto.FLOAT
    made = helper.make_graph(
        graph.nodes,
        model.key,
        [helper.make_tensor_value_info(INPUT, element, ["rows", *model.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", model.outputs])],
        graph.weights,
    )
    wrapped = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(wrapped)
    path.write_bytes(wrapped.SerializeToString())
