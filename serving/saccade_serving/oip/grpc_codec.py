"""gRPC messages of the Open Inference Protocol to requests and responses, and back.

Reads raw and typed contents; always writes raw ones. A message never mixes both. Works on parsed messages of
``proto``: transport, limits and status codes are not its matter.

Protobuf's Python objects hand out and take in ``bytes``, so one copy each way cannot be avoided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from saccade_serving.errors import InvalidRequest, PayloadTooLarge
from saccade_serving.oip import proto
from saccade_serving.oip.datatypes import BYTES, NUMPY_DTYPES
from saccade_serving.oip.messages import (
    Buffer,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Parameters,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)
from saccade_serving.oip.raw import byte_view, decode_raw, encode_raw
from saccade_serving.oip.rules import (
    MAX_TYPED_ELEMENTS,
    SEND_RAW,
    check_bytes_count,
    check_count,
    check_datatype,
    check_entries,
    check_names,
    check_range,
    check_shape,
    label_of,
    plain_parameters,
)
from saccade_serving.oip.selection import select_outputs

#: Datatype -> its field of InferTensorContents. The protocol has none for FP16.
_TYPED_FIELDS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
_MAX_INT64: Final = 2**63 - 1
#: Typed values that are read in one go.
_SLICE: Final = 2**13


def decode_request(message: Any, raw_contents: Sequence[Buffer] | None = None) -> InferRequest:
    """Read a ``ModelInferRequest``.

    Args:
        message: the message.
        raw_contents: its raw input contents, where they were cut out before it was parsed (``wire.split``).

    Raises:
        InvalidRequest: the message contradicts the protocol (WrongShape for datatypes, shapes and sizes).
    """
    if not message.inputs:
        raise InvalidRequest("'inputs' of the request is empty; expected at least one tensor")
    check_entries("'inputs' of the request", len(message.inputs))
    check_entries("'outputs' of the request", len(message.outputs))
    outputs = [
        RequestedOutput(output.name, None, _decode_parameters(label_of("output", output.name), output.parameters))
        for output in message.outputs
    ]
    check_names("requested output", [output.name for output in outputs])
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters=_decode_parameters("the request", message.parameters),
        inputs=_decode_tensors("input", message.inputs, raw_contents or message.raw_input_contents),
        outputs=outputs,
    )


def encode_response(response: InferResponse, request: InferRequest | None = None) -> Any:
    """Write a ``ModelInferResponse`` with raw contents.

    Args:
        response: the response.
        request: the request it answers, whose choice of outputs is applied; None for all outputs.

    Raises:
        UnknownTensor: a requested output is not in the response.
        WrongShape: an output contradicts its own datatype or shape.
    """
    message = proto.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    _encode_parameters("the response", response.parameters, message.parameters)
    outputs = response.outputs if request is None else select_outputs(request, response)
    _encode_tensors("output", outputs, message.outputs, message.raw_output_contents)
    return message


def encode_request(request: InferRequest) -> Any:
    """Write a ``ModelInferRequest`` with raw contents.

    Raises:
        WrongShape: an input contradicts its own datatype or shape.
    """
    message = proto.ModelInferRequest(
        model_name=request.model_name, model_version=request.model_version, id=request.id
    )
    _encode_parameters("the request", request.parameters, message.parameters)
    _encode_tensors("input", request.inputs, message.inputs, message.raw_input_contents)
    for output in request.outputs:
        entry = message.outputs.add(name=output.name)
        _encode_parameters(label_of("output", output.name), output.parameters, entry.parameters)
    return message


def decode_response(message: Any) -> InferResponse:
    """Read a ``ModelInferResponse``, with raw or typed contents.

    Raises:
        InvalidRequest: the message contradicts the protocol (WrongShape for datatypes, shapes and sizes).
    """
    return InferResponse(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters=_decode_parameters("the response", message.parameters),
        outputs=_decode_tensors("output", message.outputs, message.raw_output_contents),
    )


def encode_metadata(metadata: ModelMetadata) -> Any:
    """Write a ``ModelMetadataResponse``."""
    message = proto.ModelMetadataResponse(
        name=metadata.name,
        versions=metadata.versions,
        platform=metadata.platform,
        properties=dict(metadata.properties),
    )
    for tensors, entries in ((metadata.inputs, message.inputs), (metadata.outputs, message.outputs)):
        for tensor in tensors:
            entries.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return message


def decode_metadata(message: Any) -> ModelMetadata:
    """Read a ``ModelMetadataResponse``."""
    return ModelMetadata(
        name=message.name,
        versions=list(message.versions),
        platform=message.platform,
        inputs=[TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in message.inputs],
        outputs=[TensorMetadata(t.name, t.datatype, tuple(t.shape)) for t in message.outputs],
        properties=dict(message.properties),
    )


def _decode_tensors(direction: str, entries: Sequence[Any], raw_contents: Sequence[Buffer]) -> list[Tensor]:
    check_names(direction, [entry.name for entry in entries])
    if raw_contents and len(raw_contents) != len(entries):
        raise InvalidRequest(
            f"raw_{direction}_contents has {len(raw_contents)} entries for {len(entries)} {direction}s; "
            "expected one for each, or none"
        )
    tensors = []
    for index, entry in enumerate(entries):
        label = label_of(direction, entry.name)
        check_datatype(label, entry.datatype)
        shape = check_shape(label, entry.shape)
        parameters = _decode_parameters(label, entry.parameters)
        filled = [field.name for field, _ in entry.contents.ListFields()]
        if not raw_contents:
            tensors.append(_decode_typed(label, entry, shape, filled, parameters))
            continue
        if filled:
            raise InvalidRequest(f"{label} has both raw contents and {', '.join(filled)}; expected one")
        data = byte_view(raw_contents[index])
        tensors.append(decode_raw(direction, entry.name, entry.datatype, shape, data, parameters))
    return tensors


def _decode_typed(label: str, entry: Any, shape: tuple[int, ...], filled: list[str], parameters: Parameters) -> Tensor:
    datatype = entry.datatype
    expected = _TYPED_FIELDS.get(datatype)
    if expected is None:
        raise InvalidRequest(f"{label} has datatype {datatype}, which has no typed contents; send raw contents")
    if filled not in ([], [expected]):
        raise InvalidRequest(f"{label} of datatype {datatype} has {', '.join(filled)}; expected {expected}")
    sent = getattr(entry.contents, expected)
    check_count(label, shape, len(sent))
    if len(sent) > MAX_TYPED_ELEMENTS:
        raise PayloadTooLarge(label, len(sent), MAX_TYPED_ELEMENTS, "typed values", SEND_RAW)
    if datatype == BYTES:
        check_bytes_count(label, len(sent))
        return Tensor(entry.name, datatype, shape, list(sent), parameters)
    dtype = NUMPY_DTYPES[datatype]
    array = np.empty(len(sent), dtype)
    # In slices: the whole as objects would be many times its size, and no other thread has its turn within one.
    for at in range(0, len(sent), _SLICE):
        values = sent[at : at + _SLICE]
        if dtype.kind in "iu":
            # int_contents and uint_contents hold 32 bits, and serve datatypes of 8 and 16 too.
            check_range(label, datatype, values)
        array[at : at + _SLICE] = np.array(values, dtype)
    return Tensor(entry.name, datatype, shape, array.reshape(shape), parameters)


def _encode_tensors(direction: str, tensors: Sequence[Tensor], entries: Any, raw_contents: Any) -> None:
    for tensor in tensors:
        entry = entries.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _encode_parameters(label_of(direction, tensor.name), tensor.parameters, entry.parameters)
        raw_contents.append(encode_raw(direction, tensor).tobytes())


def _decode_parameters(owner: str, parameters: Mapping[str, Any]) -> Parameters:
    check_entries(f"'parameters' of {owner}", len(parameters))
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else None
    return plain_parameters(owner, values)


def _encode_parameters(owner: str, parameters: Parameters, target: Any) -> None:
    for name, value in plain_parameters(owner, parameters).items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            if value > _MAX_INT64:
                target[name].uint64_param = value
            else:
                target[name].int64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        else:
            target[name].string_param = value
