"""The exported model that a ready graph is made from: what it takes, and whether it can be wrapped at all.

Reads a model and judges it; changes nothing. What it gives is ``heads.py``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import TensorProto

#: Since opset 13 Split, Unsqueeze and Pad take their sizes as inputs, which is how the ready graph writes them.
MIN_OPSET: Final = 13

_NAMES: Final = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}
#: What the sizes of the pictures may be given in.
_SIZES: Final = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT})


class GraphError(ValueError):
    """The source graph, or what is asked of it, cannot become a ready graph."""

    def __init__(self, what: str, found: object, expected: str, hint: str = "") -> None:
        super().__init__(f"{what} is {found}; expected {expected}{f' ({hint})' if hint else ''}")


class FixedBatch(GraphError):
    """The source graph takes a fixed number of images."""

    def __init__(self, size: int, found: str, names: Sequence[str]) -> None:
        axes = ", ".join(f"'{name}': {{0: 'batch'}}" for name in names)
        ValueError.__init__(
            self,
            f"the batch is fixed at {size}; export with a dynamic batch ({found}; torch.onnx.export: "
            f"dynamic_axes={{{axes}}}, Ultralytics: dynamic=True)",
        )


@dataclass(frozen=True, slots=True)
class InputLayout:
    """What the source graph takes.

    Attributes:
        name: of the picture's tensor.
        takes_bytes: it is UINT8, 0..255; else FP32.
        channels_last: [batch, height, width, 3]; else [batch, 3, height, width].
        batch: name of the dynamic batch dimension.
        height: in pixels; ``width`` likewise.
        sizes: name of a second input [batch, 2] that says how wide and high the pictures are, where there is one.
        sizes_type: its ONNX datatype.
    """

    name: str
    takes_bytes: bool
    channels_last: bool
    batch: str
    height: int
    width: int
    sizes: str = ""
    sizes_type: int = 0


def find_inputs(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto | None]:
    """The picture's tensor, and the one with the pictures' sizes where there is one.

    Raises:
        GraphError: there are others.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    sizes = [value for value in inputs if _is_sizes(value)]
    images = [value for value in inputs if not _is_sizes(value)]
    if len(images) != 1 or len(sizes) > 1:
        raise GraphError(
            "the list of inputs",
            describe_all(inputs),
            "exactly one input, the picture (RT-DETR also orig_target_sizes [batch, 2])",
        )
    return images[0], sizes[0] if sizes else None


def is_channels_last(shape: Sequence[int | str]) -> bool:
    """Whether a picture's shape is [batch, height, width, 3]; 3 stands for colours where it can."""
    return len(shape) == 4 and shape[1] != 3 and shape[3] == 3


def read_input(model: onnx.ModelProto) -> InputLayout:
    """Check what a model takes.

    Raises:
        GraphError: it is no picture of a fixed size in a dynamic batch; the sentence names the tensor, what it is and
            what is expected.
    """
    image, sizes = find_inputs(model)
    what, found, shape = f"input {image.name!r}", describe(image), shape_of(image)
    kind = image.type.tensor_type.elem_type
    last = is_channels_last(shape)
    expected = "FP32 [batch, 3, height, width], RGB in 0..1 (or UINT8 or FP32 [batch, height, width, 3])"
    if any(entry.key == "saccade.input" for entry in model.metadata_props):
        raise GraphError(what, found, expected, "is this graph ready already? Its metadata has saccade.input")
    is_floats = kind == TensorProto.FLOAT and (last or (len(shape) == 4 and shape[1] == 3))
    if not is_floats and not (kind == TensorProto.UINT8 and last):
        raise GraphError(what, found, expected)
    check_batch(model)
    height, width = shape[1:3] if last else shape[2:4]
    if not isinstance(height, int) or not isinstance(width, int):
        raise GraphError(what, found, "a fixed height and width", "give it one with --size")
    return InputLayout(
        image.name,
        kind == TensorProto.UINT8,
        last,
        str(shape[0]) or "batch",
        height,
        width,
        sizes.name if sizes is not None else "",
        sizes.type.tensor_type.elem_type if sizes is not None else 0,
    )


def check_batch(model: onnx.ModelProto) -> None:
    """Refuse a model that was exported for a fixed number of images: requests could not be batched.

    Raises:
        FixedBatch: it was.
    """
    inputs = [value for value in find_inputs(model) if value is not None]
    for value in inputs:
        shape = shape_of(value)
        if shape and isinstance(shape[0], int):
            names = [tensor.name for tensor in (*inputs, *model.graph.output)]
            raise FixedBatch(shape[0], f"input {value.name!r} is {describe(value)}", names)


def read_opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set.

    Raises:
        GraphError: it is too old to be wrapped, or newer than the installed onnx.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    opset, newest = max(versions, default=0), onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        hint = "export it again" if opset < MIN_OPSET else "the installed onnx package is older than the model"
        raise GraphError("the model's opset", opset or "not given", f"{MIN_OPSET}..{newest}", hint)
    return opset


def check_valid(model: onnx.ModelProto) -> None:
    """Hold a model against onnx's own checker.

    Raises:
        GraphError: it is not valid, or its weights are elsewhere.
    """
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        hint = "onnx.save(onnx.load(path), new_path) joins them"
        raise GraphError("the model", "stored with its weights in separate files", "one file", hint)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as err:
        found = f"not valid ONNX ({first_line(err)})"
        raise GraphError("the model", found, "one that onnx.checker accepts") from err


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Dimensions: a number where fixed, else the dimension's name, which may be empty."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]


def describe(value: onnx.ValueInfoProto) -> str:
    """Datatype and shape, for a person."""
    if not value.type.HasField("tensor_type"):
        return "not a tensor"
    name = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    return f"{_NAMES.get(name, name)} [{', '.join(str(dim or '?') for dim in shape_of(value))}]"


def describe_all(values: Sequence[onnx.ValueInfoProto]) -> str:
    """Names, datatypes and shapes, for a person."""
    return ", ".join(f"{value.name!r} {describe(value)}" for value in values) or "empty"


def first_line(err: Exception) -> str:
    """The first line of an exception's text: ONNX explains over many."""
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


def _is_sizes(value: onnx.ValueInfoProto) -> bool:
    shape = shape_of(value)
    return len(shape) == 2 and shape[1] == 2 and value.type.tensor_type.elem_type in _SIZES
