"""Gives an exported detector of any size the one size it will be served in.

Exporters such as Ultralytics' ``dynamic=True`` leave batch, height and width open together; a ready graph needs a
fixed height and width. The size is written into the input, and the output's shape is found by running the graph
once, on two images, which also proves that its batch is dynamic in fact and not in name only.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from saccade_predictor.build.source import GraphError, check_batch, first_line

_ROWS = 2


def parse_size(text: str) -> tuple[int, int]:
    """Read ``640`` or ``480x640`` (height x width).

    Raises:
        GraphError: it is neither, or a side is not 32..8192.
    """
    sides = text.lower().split("x")
    numbers = [int(side) for side in sides if side.isascii() and side.isdigit() and len(side) < 6]
    if len(numbers) != len(sides) or len(sides) > 2 or not all(32 <= number <= 8192 for number in numbers):
        raise GraphError("--size", repr(text[:40]), "640, or HEIGHTxWIDTH such as 480x640, each 32..8192")
    return numbers[0], numbers[-1]


def fix_size(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """Return a copy of a detector whose input is [batch, 3, height, width].

    Args:
        model: one input FP32 [batch, 3, ?, ?], one output. Not modified.
        height: in pixels.
        width: in pixels.

    Raises:
        GraphError: its batch is fixed, or the graph cannot run in that size, or not with two images.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    graph = sized.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        return sized  # the layout check words this error
    dims = inputs[0].type.tensor_type.shape.dim
    if len(dims) != 4:
        return sized
    check_batch(inputs[0], graph.output[0])
    for dim, side in zip(list(dims)[2:], (height, width), strict=True):
        if dim.HasField("dim_value") and dim.dim_value != side:
            found = f"fixed at {dims[2].dim_value}x{dims[3].dim_value}"
            asked = f"an open size, or the {height}x{width} of --size"
            raise GraphError("the input's size", found, asked, "leave --size out")
        dim.dim_value = side
    graph.ClearField("value_info")  # shapes inferred for the open size
    shape = _run_once(sized, inputs[0].name, (_ROWS, 3, height, width))
    output = graph.output[0].type.tensor_type.shape
    batch = output.dim[0].dim_param if output.dim else ""
    output.ClearField("dim")
    output.dim.add().dim_param = batch or "batch"
    for side in shape[1:]:
        output.dim.add().dim_value = side
    return sized


def _run_once(model: onnx.ModelProto, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    size = "x".join(map(str, shape[2:]))
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answer = session.run(None, {name: np.zeros(shape, np.float32)})[0]
    except Exception as error:  # ONNX Runtime's exceptions share no base
        found = f"one that fails ({first_line(error)[:200]})"
        raise GraphError(
            "the model", found, f"one that runs on {shape[0]} images of {size}", "export it with a dynamic batch"
        ) from error
    if answer.ndim != 3 or len(answer) != shape[0]:
        raise GraphError("the output", f"of shape {list(answer.shape)} for {shape[0]} images", "one row per image")
    return tuple(answer.shape)
