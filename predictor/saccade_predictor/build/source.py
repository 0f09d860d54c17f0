"""The exported detector that a ready graph is made from: which layouts are known, and whether a file has one.

Reads a model and judges it; changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import onnx
from onnx import TensorProto

#: Since opset 13 Split, Unsqueeze and Pad take their sizes as inputs, which is how the ready graph writes them.
MIN_OPSET: Final = 13

_BOX_ROWS: Final = 4


class Head(StrEnum):
    """Layouts of a detector's output that can be turned into candidates."""

    #: FP32 [batch, 4 + classes, anchors]: cx, cy, w, h in pixels of the input, then scores after the sigmoid.
    YOLOV8 = "yolov8"


class GraphError(ValueError):
    """The source graph, or what is asked of it, cannot become a ready graph."""

    def __init__(self, what: str, found: object, expected: str, hint: str = "") -> None:
        super().__init__(f"{what} is {found}; expected {expected}{f' ({hint})' if hint else ''}")


class FixedBatch(GraphError):
    """The source graph takes a fixed number of images."""

    def __init__(self, size: int, found: str, source: str, output: str) -> None:
        axes = f"dynamic_axes={{'{source}': {{0: 'batch'}}, '{output}': {{0: 'batch'}}}}"
        ValueError.__init__(
            self,
            f"the batch is fixed at {size}; export with a dynamic batch ({found}; torch.onnx.export: {axes}, "
            "Ultralytics: dynamic=True)",
        )


@dataclass(frozen=True, slots=True)
class SourceLayout:
    """What the source graph takes and gives.

    Attributes:
        opset: version of the default operator set.
        batch: name of the dynamic batch dimension.
        height: of the input, in pixels; ``width`` likewise.
        classes: number of class scores of an anchor.
        anchors: number of boxes the head predicts for one image.
    """

    input_name: str
    output_name: str
    opset: int
    batch: str
    height: int
    width: int
    classes: int
    anchors: int


def read_layout(model: onnx.ModelProto, head: Head) -> SourceLayout:
    """Check a detector as ONNX, and that it has the input and the output that ``head`` promises.

    Raises:
        GraphError: it has not; the sentence names the tensor, what it is and what is expected.
    """
    if not model.HasField("graph"):
        raise GraphError("the file", "not an ONNX model", "a graph with one input and one output")
    opset = _read_opset(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    source = _only("input", [value for value in model.graph.input if value.name not in weights])
    output = _only("output", list(model.graph.output))

    what, found, shape = f"input {source.name!r}", _describe(source), _shape(source)
    expected = "FP32 [batch, 3, height, width], RGB in 0..1"
    if source.type.tensor_type.elem_type == TensorProto.UINT8:
        raise GraphError(what, found, expected, "is this graph ready already?")
    if source.type.tensor_type.elem_type != TensorProto.FLOAT or len(shape) != 4 or shape[1] != 3:
        raise GraphError(what, found, expected)
    batch, _, height, width = shape
    check_batch(source, output)
    if not isinstance(height, int) or not isinstance(width, int):
        raise GraphError(what, found, "a fixed height and width", "give it one with --size")

    match head:
        case Head.YOLOV8:
            classes, anchors = _read_yolov8(output)
    _check_valid(model)
    return SourceLayout(source.name, output.name, opset, str(batch) or "batch", height, width, classes, anchors)


def check_batch(source: onnx.ValueInfoProto, output: onnx.ValueInfoProto) -> None:
    """Refuse a model that was exported for a fixed number of images: requests could not be batched.

    Raises:
        FixedBatch: it was.
    """
    shape = _shape(source)
    if shape and isinstance(shape[0], int):
        raise FixedBatch(shape[0], f"input {source.name!r} is {_describe(source)}", source.name, output.name)


def _read_opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    opset, newest = max(versions, default=0), onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        hint = "export it again" if opset < MIN_OPSET else "the installed onnx package is older than the model"
        raise GraphError("the model's opset", opset or "not given", f"{MIN_OPSET}..{newest}", hint)
    return opset


def _read_yolov8(output: onnx.ValueInfoProto) -> tuple[int, int]:
    """Numbers of classes and of anchors."""
    what, found, shape = f"output {output.name!r}", _describe(output), _shape(output)
    expected = "FP32 [batch, 4 + classes, anchors], the YOLOv8 layout"
    if output.type.tensor_type.elem_type != TensorProto.FLOAT or len(shape) != 3:
        raise GraphError(what, found, expected)
    _, rows, anchors = shape
    if not isinstance(rows, int) or not isinstance(anchors, int) or rows <= _BOX_ROWS or anchors < 1:
        raise GraphError(what, found, expected, "both numbers fixed, at least one class")
    if rows > anchors:
        raise GraphError(what, found, expected, "more rows than anchors: is it transposed?")
    return rows - _BOX_ROWS, anchors


def _check_valid(model: onnx.ModelProto) -> None:
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        hint = "onnx.save(onnx.load(path), new_path) joins them"
        raise GraphError("the model", "stored with its weights in separate files", "one file", hint)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as err:
        found = f"not valid ONNX ({first_line(err)})"
        raise GraphError("the model", found, "one that onnx.checker accepts") from err


def _only(direction: str, values: list[onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(repr(value.name) for value in values) or "empty"
        raise GraphError(f"the list of {direction}s", names, f"exactly one {direction}")
    return values[0]


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Dimensions: a number where fixed, else the dimension's name, which may be empty."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]


def _describe(value: onnx.ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        return "not a tensor"
    name = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    datatype = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}.get(name, name)
    return f"{datatype} [{', '.join(str(dim or '?') for dim in _shape(value))}]"


def first_line(err: Exception) -> str:
    """The first line of an exception's text: ONNX explains over many."""
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
