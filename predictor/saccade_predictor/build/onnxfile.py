"""Reads ONNX files that people hand in, and says in a sentence what is wrong with one.

Checks what TensorRT's parser does not (an empty file parses as a graph of nothing, a newer operator set as the newest
it knows) before anything is built. Works for any graph, unlike ``source.py``, which knows detectors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types
from onnx import TensorProto

from saccade_predictor.build.source import first_line
from saccade_predictor.engines.plan import PlanTensor

#: Protobuf carries no larger message, so no larger graph can be kept as one file.
MAX_BYTES: Final = 2**31 - 1
_DATATYPES: Final[Mapping[int, str]] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "BYTES",
}


class OnnxFileError(ValueError):
    """An ONNX file cannot be used. The sentence names the file."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ONNX graph as one file.

    Attributes:
        content: the file; weights that lay in files of their own are in it.
        model: the same, parsed.
        inputs: without initializers; -1 is an open dimension. ``outputs`` likewise.
        opset: of the default domain.
        properties: the graph's metadata.
    """

    content: bytes
    model: onnx.ModelProto
    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    opset: int
    properties: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest of the content as hex."""
        return hashlib.sha256(self.content).hexdigest()


def read_onnx(path: Path) -> OnnxFile:
    """Read a graph, with its weights.

    Raises:
        OnnxFileError: it is missing, empty, cut short, no ONNX, not valid, of an operator set that is too new, or
            its weights lie in files that are not there; or it has tensors that V2 cannot carry.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OnnxFileError(f"cannot read {path}: {error.strerror or type(error).__name__}") from None
    if not content:
        raise OnnxFileError(f"{path} is empty; expected an ONNX file")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        raise OnnxFileError(f"{path} is not an ONNX file, or is cut short ({len(content)} bytes)") from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise OnnxFileError(f"{path} is not an ONNX file: there is no graph in it")
    opset = _opset(path, model)
    if external := sorted({name for tensor in _weights(model) if (name := _location(tensor))}):
        content = _join(path, model, external)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise OnnxFileError(f"{path} is not valid ONNX: {first_line(error)[:300]}") from None
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return OnnxFile(
        content,
        model,
        tuple(_tensor(path, "input", value) for value in inputs),
        tuple(_tensor(path, "output", value) for value in model.graph.output),
        opset,
        {entry.key: entry.value for entry in model.metadata_props},
    )


def _opset(path: Path, model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    opset, newest = max(versions, default=0), onnx.defs.onnx_opset_version()
    if opset > newest:
        raise OnnxFileError(
            f"{path} is of opset {opset}; the installed onnx package knows 1..{newest}: export with an older opset, "
            "for example torch.onnx.export(..., opset_version=18)"
        )
    return opset


def _join(path: Path, model: onnx.ModelProto, external: list[str]) -> bytes:
    """Load weights that lie in other files into the model, and return it as one file."""
    folder = path.parent.resolve()
    for name in external:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder):
            raise OnnxFileError(f"{path} has weights in {name!r}, outside its own folder, which is not read")
        if not file.is_file():
            raise OnnxFileError(
                f"{path} has its weights in {name!r}, which is not beside it; copy the file there, or export the "
                "model as one file"
            )
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise OnnxFileError(
            f"{path}: the weights in {', '.join(external)} cannot be read: {first_line(error)}"
        ) from None
    for tensor in _weights(model):
        expected = _expected_bytes(tensor)
        if expected is not None and len(tensor.raw_data) != expected:
            raise OnnxFileError(
                f"{path}: weight {tensor.name!r} has {len(tensor.raw_data)} bytes in its file; expected {expected}: "
                "the file is cut short or of another model"
            )
    if (size := model.ByteSize()) > MAX_BYTES:
        raise OnnxFileError(f"{path} has {size} bytes with its weights; one ONNX file holds at most {MAX_BYTES}")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _expected_bytes(tensor: TensorProto) -> int | None:
    """Bytes of a tensor with raw data, or None where its elements are not whole bytes."""
    if not tensor.HasField("raw_data") or tensor.data_type not in _DATATYPES or tensor.data_type == TensorProto.STRING:
        return None
    itemsize = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return int(math.prod(tensor.dims)) * itemsize


def _weights(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _location(tensor: TensorProto) -> str:
    if tensor.data_location != TensorProto.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _tensor(path: Path, direction: str, value: onnx.ValueInfoProto) -> PlanTensor:
    kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else TensorProto.UNDEFINED
    if kind not in _DATATYPES:
        found = "not a tensor" if kind == TensorProto.UNDEFINED else TensorProto.DataType.Name(kind)
        raise OnnxFileError(f"{path}: {direction} {value.name!r} is {found}, which the V2 protocol cannot carry")
    dims = value.type.tensor_type.shape.dim
    shape = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else -1 for dim in dims)
    return PlanTensor(name=value.name, datatype=_DATATYPES[kind], shape=shape)
