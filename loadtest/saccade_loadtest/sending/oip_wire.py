"""As much of the Open Inference Protocol's wire forms as a load generator needs: V2 binary and gRPC's ModelInfer.

Encodes requests of one tensor, decodes answers. A small codec of its own, since a generator is a client like others:
it shares no code with the servers that it judges, and loads neither of the protobuf modules that exclude each other.

Source: the binary tensor data extension (KServe, Open Inference Protocol) and ``grpc_service.proto`` (Triton), whose
field numbers stand below; the encoding is protobuf's (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

#: NumPy's types of the protocol's.
DTYPES: Final[dict[str, Any]] = {
    "FP32": np.float32,
    "FP64": np.float64,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "FP16": np.float16,
    "BOOL": np.bool_,
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WrongAnswer(Exception):
    """An answer that is not what the protocol says; the text is for a log, not for a client."""


@dataclass(slots=True)
class Answer:
    """A decoded answer.

    Attributes:
        outputs: by name; BYTES tensors as flat lists of bytes.
        model: its name.
        version: of the model.
        parameters: of the answer.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    version: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


def decode_json(body: bytes) -> Answer:
    """A V2 JSON answer; numbers become arrays, BYTES lists of bytes."""
    return _of_json(orjson.loads(body), b"")


def decode_binary(body: bytes, json_bytes: int) -> Answer:
    """A V2 answer whose tensors follow its JSON.

    Args:
        body: all of it.
        json_bytes: what ``Inference-Header-Content-Length`` says.
    """
    try:
        layout = _layout(body[:json_bytes])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, orjson.JSONDecodeError):
            raise
        raise WrongAnswer(f"no V2 answer: {error!r}") from error
    if layout is None:
        return _of_json(orjson.loads(memoryview(body)[:json_bytes]), memoryview(body)[json_bytes:])
    answer = Answer({}, layout.model, layout.version, layout.parameters)
    at = json_bytes
    try:
        for name, datatype, shape, size in layout.outputs:
            answer.outputs[name] = _of_raw(body[at : at + size], datatype, shape)
            at += size
    except (KeyError, TypeError, ValueError) as error:
        raise WrongAnswer(f"no V2 answer: {error!r}") from error
    if at != len(body):
        raise WrongAnswer(f"the outputs take {at - json_bytes} bytes, {len(body) - json_bytes} came")
    return answer


class _Layout(NamedTuple):
    """What the JSON of a binary answer says: the outputs' names, datatypes, shapes, and bytes behind it."""

    model: Any
    version: Any
    parameters: dict[str, Any]
    outputs: tuple[tuple[str, str, list[int], int], ...]


@functools.lru_cache(maxsize=256)
def _layout(header: bytes) -> _Layout | None:
    """The layout of equal headers, of which a service has few; None where an output stands in the JSON itself."""
    content = orjson.loads(header)
    outputs = []
    for output in content["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            return None
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"binary_data_size is {size!r}")
        outputs.append((output["name"], output["datatype"], output["shape"], size))
    names = content.get("model_name", ""), content.get("model_version", "")
    return _Layout(*names, content.get("parameters", {}), tuple(outputs))


def _of_json(content: Any, rest: bytes | memoryview) -> Answer:
    try:
        names = content.get("model_name", ""), content.get("model_version", "")
        answer = Answer({}, *names, content.get("parameters", {}))
        at = 0
        for output in content["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                answer.outputs[output["name"]] = _of_list(output)
            else:
                answer.outputs[output["name"]] = _of_raw(rest[at : at + size], output["datatype"], output["shape"])
                at += size
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WrongAnswer(f"no V2 answer: {error!r}") from error
    if at != len(rest):
        raise WrongAnswer(f"the outputs take {at} bytes, {len(rest)} came")
    return answer


def _of_list(output: Mapping[str, Any]) -> Any:
    if output["datatype"] == "BYTES":
        return [one.encode() for one in output["data"]]
    return np.array(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])


def _of_raw(raw: bytes | memoryview, datatype: str, shape: list[int]) -> Any:
    if datatype == "BYTES":
        return split_strings(raw)
    array: NDArray[Any] = np.frombuffer(raw, DTYPES[datatype])
    return array.reshape(shape)


def split_strings(raw: bytes | memoryview) -> list[bytes]:
    """The elements of a BYTES tensor: each a length of four bytes, little-endian, and its bytes."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        if at + 4 + size > len(raw):
            raise WrongAnswer(f"a string of {size} bytes in a tensor that has {len(raw) - at - 4} left")
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def encode_infer(
    model: str, tensor: str, datatype: str, shape: list[int], size: int, text: Mapping[str, str]
) -> bytes:
    """A ModelInferRequest up to its one raw tensor of ``size`` bytes, which the caller puts behind it.

    Args:
        model: name.
        tensor: name of the input; ``datatype`` and ``shape`` as in the protocol.
        datatype: as "UINT8".
        shape: all dimensions.
        size: bytes of the tensor.
        text: parameters with string values.
    """
    parameters = b"".join(
        _field(4, _field(1, name.encode()) + _field(2, _field(3, value.encode()))) for name, value in text.items()
    )
    shape_bytes = b"".join(_varint(size) for size in shape)
    described = _field(1, tensor.encode()) + _field(2, datatype.encode()) + _field(3, shape_bytes)
    return _field(1, model.encode()) + parameters + _field(5, described) + _key(7, _BYTES) + _varint(size)


def decode_infer(message: bytes) -> Answer:
    """A ModelInferResponse with raw outputs."""
    answer = Answer()
    described: list[tuple[str, str, list[int]]] = []
    raw: list[bytes] = []
    try:
        for number, value in _fields(message):
            if number == 1:
                answer.model = value.decode()
            elif number == 2:
                answer.version = value.decode()
            elif number == 4:
                entry = dict(_fields(value))
                kinds = dict(_fields(entry.get(2, b"")))
                answer.parameters[entry[1].decode()] = _parameter(kinds)
            elif number == 5:
                described.append(_description(value))
            elif number == 6:
                raw.append(value)
        for (name, datatype, shape), content in zip(described, raw, strict=True):
            answer.outputs[name] = _of_raw(content, datatype, shape)
    except (IndexError, KeyError, ValueError, AttributeError, struct.error) as error:
        raise WrongAnswer(f"no ModelInferResponse: {error!r}") from error
    return answer


def _parameter(kinds: Mapping[int, Any]) -> Any:
    if 1 in kinds:
        return bool(kinds[1])
    return kinds[2] if 2 in kinds else kinds.get(3, b"").decode()


def _description(message: bytes) -> tuple[str, str, list[int]]:
    name, datatype, shape = "", "", []
    for number, value in _fields(message):
        if number == 1:
            name = value.decode()
        elif number == 2:
            datatype = value.decode()
        elif number == 3:
            shape += [value] if isinstance(value, int) else list(_packed(value))
    return name, datatype, shape


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield key >> 3, value
        elif kind == _BYTES:
            size, at = _read_varint(message, at)
            if at + size > len(message):
                raise WrongAnswer("a field of a message is longer than the message")
            yield key >> 3, message[at : at + size]
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise WrongAnswer(f"a field of wire type {kind}")


def _packed(raw: bytes) -> Iterator[int]:
    at = 0
    while at < len(raw):
        value, at = _read_varint(raw, at)
        yield value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise WrongAnswer("a number of over 64 bits")


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content
