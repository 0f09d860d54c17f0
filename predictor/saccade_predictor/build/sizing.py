"""Gives an exported model of any size the one size it will be served in.

Exporters such as Ultralytics' ``dynamic=True`` leave batch, height and width open together; a ready graph needs a
fixed height and width. The size is written into the input, and the outputs' shapes are found by running the graph
once, on two images, which also proves that its batch is dynamic in fact and not in name only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from saccade_predictor.build.source import (
    GraphError,
    check_batch,
    find_inputs,
    first_line,
    is_channels_last,
    shape_of,
)

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
    """Return a copy of a model whose input has one size, and whose outputs have the shapes that follow from it.

    Args:
        model: takes pictures [batch, 3, ?, ?] or [batch, ?, ?, 3]. Not modified.
        height: in pixels.
        width: in pixels.

    Raises:
        GraphError: its batch is fixed, or the graph cannot run in that size, or not with two images.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    graph = sized.graph
    image, sizes = find_inputs(sized)
    dims = image.type.tensor_type.shape.dim
    if len(dims) != 4:
        return sized  # the layout check words this error
    check_batch(sized)
    sides = list(dims)[1:3] if is_channels_last(shape_of(image)) else list(dims)[2:4]
    for dim, side in zip(sides, (height, width), strict=True):
        if dim.HasField("dim_value") and dim.dim_value != side:
            found = f"fixed at {sides[0].dim_value}x{sides[1].dim_value}"
            asked = f"an open size, or the {height}x{width} of --size"
            raise GraphError("the input's size", found, asked, "leave --size out")
        dim.dim_value = side
    graph.ClearField("value_info")  # shapes inferred for the open size
    feed = {image.name: np.zeros((_ROWS, *(dim.dim_value for dim in list(dims)[1:])), _dtype(image))}
    if sizes is not None:
        feed[sizes.name] = np.tile(np.array([width, height], _dtype(sizes)), (_ROWS, 1))
    for value, found_shape in zip(graph.output, _run_once(sized, feed, f"{height}x{width}"), strict=True):
        output = value.type.tensor_type.shape
        batch = output.dim[0].dim_param if output.dim else ""
        output.ClearField("dim")
        output.dim.add().dim_param = batch or "batch"
        for side in found_shape[1:]:
            output.dim.add().dim_value = side
    return sized


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _run_once(model: onnx.ModelProto, feed: dict[str, NDArray[Any]], size: str) -> list[tuple[int, ...]]:
    """Shapes of the outputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answers = session.run(None, feed)
    except Exception as error:  # ONNX Runtime's exceptions share no base
        found = f"one that fails ({first_line(error)[:200]})"
        raise GraphError(
            "the model", found, f"one that runs on {_ROWS} images of {size}", "export it with a dynamic batch"
        ) from error
    shapes = [tuple(np.shape(answer)) for answer in answers]
    for value, shape in zip(model.graph.output, shapes, strict=True):
        if not shape or shape[0] != _ROWS:
            found = f"of shape {list(shape)} for {_ROWS} images"
            raise GraphError(f"the output {value.name!r}", found, "one row per image")
    return shapes
