"""V2 REST requests and responses: JSON entries, and the raw bytes of the tensors that are sent as binary data.

JSON and binary tensors mix freely. Binary tensors come in the order of their JSON entries, each with its size
in ``parameters.binary_data_size``. Tensors are views of the body on the way in, and the parts of a body are
views of the tensors on the way out. How JSON and bytes share one body is ``body``'s matter.

Source: Open Inference Protocol, "Inference Request JSON Object" and "Inference Response JSON Object"; Triton,
"Binary Tensor Data Extension".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade_serving.errors import InvalidRequest, WrongShape
from saccade_serving.oip.body import EncodedBody, join_body, split_body
from saccade_serving.oip.datatypes import BYTES
from saccade_serving.oip.json_codec import encode_data, field, objects
from saccade_serving.oip.json_values import decode_data
from saccade_serving.oip.messages import Buffer, InferRequest, InferResponse, RequestedOutput, Tensor
from saccade_serving.oip.raw import decode_raw, encode_raw
from saccade_serving.oip.rules import (
    check_datatype,
    check_names,
    check_shape,
    kind_of,
    label_of,
    plain_parameters,
)
from saccade_serving.oip.selection import select_outputs

__all__ = ["EncodedBody", "decode_request", "decode_response", "encode_request", "encode_response"]


def decode_request(
    model_name: str,
    model_version: str,
    body: Buffer,
    json_length: int | str | None,
    max_json_bytes: int | None = None,
) -> InferRequest:
    """Read an inference request.

    Args:
        model_name: from the path.
        model_version: from the path; empty for the model's own choice.
        body: the HTTP body. The tensors are views of it, so it must not change while they are in use.
        json_length: the value of ``Inference-Header-Content-Length``, None when the header is absent.
        max_json_bytes: largest JSON that is parsed; None for JSON of who is trusted, which may be anything.

    Raises:
        InvalidRequest: the body contradicts the protocol (WrongShape for datatypes, shapes and sizes).
        PayloadTooLarge: the JSON is over ``max_json_bytes``, or holds too many values.
    """
    owner = "the request"
    header, binary = split_body(body, json_length, owner, max_json_bytes)
    parameters = field(header, "parameters", dict, owner, {})
    entries = objects(field(header, "inputs", list, owner), "input")
    if not entries:
        raise InvalidRequest("'inputs' of the request is empty; expected at least one tensor")
    return InferRequest(
        model_name=model_name,
        model_version=model_version,
        id=field(header, "id", str, owner, ""),
        parameters=plain_parameters(owner, parameters),
        inputs=_decode_tensors("input", entries, binary),
        outputs=_decode_requested_outputs(field(header, "outputs", list, owner, [])),
        binary_output=field(parameters, "binary_data_output", bool, "the request's parameters", False),
    )


def encode_response(request: InferRequest, response: InferResponse) -> EncodedBody:
    """Write the response to a request: the outputs it asked for, in its order and encodings.

    Raises:
        UnknownTensor: a requested output is not in the response.
        InvalidRequest: a BYTES output that is not UTF-8 was asked for as JSON.
        WrongShape: an output contradicts its own datatype or shape.
    """
    header: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        header["model_version"] = response.model_version
    outputs = select_outputs(request, response)
    binary = [request.wants_binary(tensor.name) for tensor in outputs]
    _add_common(header, "the response", response.id, plain_parameters("the response", response.parameters))
    entries, buffers = _encode_tensors("output", outputs, binary)
    header["outputs"] = entries
    return join_body(header, buffers, "the response")


def encode_request(request: InferRequest, binary: bool = True) -> EncodedBody:
    """Write a request; the model's name and version belong to the path and are not in the body.

    Args:
        request: the request.
        binary: send all inputs as binary data, else all as JSON. How outputs come back is decided by
            ``request.outputs`` and ``request.binary_output``.

    Raises:
        InvalidRequest: a BYTES input that is not UTF-8 was to be sent as JSON.
        WrongShape: an input contradicts its own datatype or shape.
    """
    owner = "the request"
    header: dict[str, Any] = {}
    parameters: dict[str, Any] = plain_parameters(owner, request.parameters)
    if request.binary_output:
        parameters["binary_data_output"] = True
    _add_common(header, owner, request.id, parameters)
    header["inputs"], buffers = _encode_tensors("input", request.inputs, [binary] * len(request.inputs))
    if request.outputs:
        header["outputs"] = [_encode_requested_output(output) for output in request.outputs]
    return join_body(header, buffers, owner)


def decode_response(body: Buffer, json_length: int | str | None, max_json_bytes: int | None = None) -> InferResponse:
    """Read an inference response; null in a floating-point tensor is NaN.

    Args:
        body: the HTTP body. The tensors are views of it, so it must not change while they are in use.
        json_length: the value of ``Inference-Header-Content-Length``, None when the header is absent.
        max_json_bytes: largest JSON that is parsed; None for JSON of who is trusted, which may be anything.

    Raises:
        InvalidRequest: the body contradicts the protocol (WrongShape for datatypes, shapes and sizes).
        PayloadTooLarge: the JSON is over ``max_json_bytes``, or holds too many values.
    """
    owner = "the response"
    header, binary = split_body(body, json_length, owner, max_json_bytes)
    entries = objects(field(header, "outputs", list, owner), "output")
    return InferResponse(
        model_name=field(header, "model_name", str, owner),
        model_version=field(header, "model_version", str, owner, ""),
        id=field(header, "id", str, owner, ""),
        parameters=plain_parameters(owner, field(header, "parameters", dict, owner, {})),
        outputs=_decode_tensors("output", entries, binary, null_is_nan=True),
    )


def _decode_tensors(
    direction: str, entries: list[dict[str, Any]], binary: memoryview | None, null_is_nan: bool = False
) -> list[Tensor]:
    names = [field(entry, "name", str, f"{direction} {index}") for index, entry in enumerate(entries)]
    check_names(direction, names)
    # All of them before any values are read, which may be the work of a second.
    declared = [_declared(label_of(direction, name), entry) for name, entry in zip(names, entries, strict=True)]
    tensors = []
    offset = 0
    for name, entry, (datatype, shape, parameters) in zip(names, entries, declared, strict=True):
        label = label_of(direction, name)
        plain = plain_parameters(label, parameters)
        data = entry.get("data")
        if "binary_data_size" not in parameters:
            if data is None:
                raise InvalidRequest(f"{label} has neither 'data' nor the parameter 'binary_data_size'")
            values = decode_data(label, datatype, shape, data, null_is_nan)
            tensors.append(Tensor(name, datatype, shape, values, plain, is_text=datatype == BYTES))
            continue
        if data is not None:
            raise InvalidRequest(f"{label} has both 'data' and the parameter 'binary_data_size'; expected one")
        part = _take(label, parameters["binary_data_size"], binary, offset)
        tensors.append(decode_raw(direction, name, datatype, shape, part, plain))
        offset += part.nbytes
    if binary is not None and offset != binary.nbytes:
        raise WrongShape(
            f"the body has {binary.nbytes} bytes after its JSON; the binary {direction}s account for {offset} of them"
        )
    return tensors


def _declared(label: str, entry: dict[str, Any]) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """What an entry says of its tensor: datatype, shape, parameters."""
    datatype = field(entry, "datatype", str, label)
    check_datatype(label, datatype)
    shape = check_shape(label, field(entry, "shape", list, label))
    return datatype, shape, field(entry, "parameters", dict, label, {})


def _take(label: str, size: object, binary: memoryview | None, offset: int) -> memoryview:
    """Cut one tensor's ``binary_data_size`` bytes out of the binary data, from ``offset`` on."""
    if type(size) is not int or size < 0:
        found = size if type(size) is int else kind_of(size)
        raise InvalidRequest(f"'binary_data_size' of {label} is {found}; expected an integer of 0 or more")
    if binary is None:
        raise InvalidRequest(
            f"{label} has the parameter 'binary_data_size', but the header Inference-Header-Content-Length is missing"
        )
    if size > binary.nbytes - offset:
        raise WrongShape(f"'binary_data_size' of {label} is {size}, but only {binary.nbytes - offset} bytes are left")
    return binary[offset : offset + size]


def _decode_requested_outputs(values: list[Any]) -> list[RequestedOutput]:
    outputs = []
    for index, entry in enumerate(objects(values, "requested output")):
        name = field(entry, "name", str, f"requested output {index}")
        label = label_of("requested output", name)
        parameters = field(entry, "parameters", dict, label, {})
        binary = None
        if "binary_data" in parameters:
            binary = field(parameters, "binary_data", bool, f"the parameters of {label}")
        outputs.append(RequestedOutput(name, binary, plain_parameters(label, parameters)))
    check_names("requested output", [output.name for output in outputs])
    return outputs


def _encode_requested_output(output: RequestedOutput) -> dict[str, Any]:
    parameters: dict[str, Any] = plain_parameters(label_of("output", output.name), output.parameters)
    if output.binary is not None:
        parameters["binary_data"] = output.binary
    return {"name": output.name, "parameters": parameters} if parameters else {"name": output.name}


def _encode_tensors(
    direction: str, tensors: Sequence[Tensor], binary: Sequence[bool]
) -> tuple[list[dict[str, Any]], list[memoryview]]:
    entries: list[dict[str, Any]] = []
    buffers: list[memoryview] = []
    for tensor, as_binary in zip(tensors, binary, strict=True):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        parameters: dict[str, Any] = plain_parameters(label_of(direction, tensor.name), tensor.parameters)
        if as_binary:
            buffer = encode_raw(direction, tensor)
            parameters["binary_data_size"] = buffer.nbytes
            buffers.append(buffer)
        else:
            entry["data"] = encode_data(direction, tensor)
        if parameters:
            entry["parameters"] = parameters
        entries.append(entry)
    return entries, buffers


def _add_common(header: dict[str, Any], owner: str, identifier: str, parameters: dict[str, Any]) -> None:
    if identifier:
        header["id"] = identifier
    if parameters:
        header["parameters"] = parameters
