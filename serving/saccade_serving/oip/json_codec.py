"""The JSON half of V2 REST: typed fields of JSON objects, tensors written as JSON lists, model metadata.

Requests and responses as a whole are put together in ``binary_codec``, since any of their tensors may be binary.

Numbers are written as one flat list in row-major order. JSON has no NaN and no infinity: both are written as
null. How a tensor's values are read is ``json_values``'s matter.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import orjson
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest
from saccade_serving.oip.datatypes import BYTES
from saccade_serving.oip.messages import Buffer, ModelMetadata, Tensor, TensorMetadata
from saccade_serving.oip.raw import flat_array
from saccade_serving.oip.rules import check_count, check_entries, kind_of, label_of

T = TypeVar("T")

_MUCH: Final = 2**16
_NAMES: Final = {str: "a string", list: "an array", dict: "an object", bool: "a boolean", int: "an integer"}


def parse_object(body: Buffer, owner: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        body: UTF-8 JSON.
        owner: what it is, as the sentence calls it: ``the request``.

    Raises:
        InvalidRequest: not JSON, or not an object.
    """
    try:
        value = orjson.loads(body) if len(body) <= _MUCH else _parse_much(body)
    except orjson.JSONDecodeError as err:
        # Not chained: the cause keeps a copy of the whole document.
        message = f"{owner} is not valid JSON: {err.msg} (line {err.lineno}, column {err.colno})"
        raise InvalidRequest(message) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{owner} is {kind_of(value)}; expected a JSON object")
    return value


def _parse_much(body: Buffer) -> Any:
    """Parse without the collector of cycles, which would look through all lists made so far again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(body)
    finally:
        if collecting:
            gc.enable()


def dump_object(value: dict[str, Any], owner: str) -> bytes:
    """Write a JSON object; numpy arrays in it must be contiguous.

    Raises:
        InvalidRequest: a string in it is not valid Unicode.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as err:
        raise InvalidRequest(f"{owner} cannot be written as JSON: {err}") from err


def field(source: dict[str, Any], name: str, expected: type[T], owner: str, default: T | None = None) -> T:
    """Read one field of a JSON object and check its type.

    Args:
        source: the object.
        name: the field's name.
        expected: its exact type: ``str``, ``list``, ``dict``, ``bool`` or ``int``.
        owner: whose field it is, as the sentence calls it.
        default: the value when the field is absent or null (several clients write unset fields as null);
            None for a required field.

    Raises:
        InvalidRequest: the field is missing or of another type.
    """
    value = source.get(name)
    if value is None and default is not None:
        return default
    if type(value) is expected:
        return value
    found = kind_of(value) if name in source else "missing"
    raise InvalidRequest(f"{name!r} of {owner} is {found}; expected {_NAMES[expected]}")


def objects(values: Iterable[Any], what: str) -> list[dict[str, Any]]:
    """Check that every item of a list is an object.

    Raises:
        InvalidRequest: an item is not.
    """
    items = list(values)
    check_entries(f"the list of {what}s", len(items))
    for index, item in enumerate(items):
        if type(item) is not dict:
            raise InvalidRequest(f"{what} {index} is {kind_of(item)}; expected an object")
    return items


def encode_data(direction: str, tensor: Tensor) -> NDArray[Any] | list[str]:
    """Turn a tensor's values into what ``dump_object`` writes as a flat list.

    Raises:
        InvalidRequest: a BYTES element is not UTF-8.
        WrongShape: the tensor contradicts its own datatype or shape.
    """
    if tensor.datatype != BYTES:
        return flat_array(direction, tensor)
    label = label_of(direction, tensor.name)
    check_count(label, tensor.shape, len(tensor.elements))
    try:
        return [str(element, "utf-8") for element in tensor.elements]
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"{label} holds bytes that are not UTF-8, which JSON cannot carry; send it as binary_data"
        ) from None


def encode_metadata(metadata: ModelMetadata) -> dict[str, Any]:
    """Build the V2 model metadata object (``GET /v2/models/{model}``)."""
    encoded: dict[str, Any] = {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": [_encode_tensor_metadata(tensor) for tensor in metadata.inputs],
        "outputs": [_encode_tensor_metadata(tensor) for tensor in metadata.outputs],
    }
    if metadata.properties:
        encoded["properties"] = dict(metadata.properties)
    return encoded


def decode_metadata(obj: object) -> ModelMetadata:
    """Read a parsed V2 model metadata object.

    Only ``name`` is required. Datatypes are not checked: a model may have some that are not served here.

    Raises:
        InvalidRequest: a field is missing or of the wrong type.
    """
    owner = "the model metadata"
    if not isinstance(obj, dict):
        raise InvalidRequest(f"{owner} is {kind_of(obj)}; expected a JSON object")
    versions = field(obj, "versions", list, owner, [])
    properties = field(obj, "properties", dict, owner, {})
    for value in (*versions, *properties.values()):
        if type(value) is not str:
            raise InvalidRequest(f"a version or property of {owner} is {kind_of(value)}; expected a string")
    return ModelMetadata(
        name=field(obj, "name", str, owner),
        versions=versions,
        platform=field(obj, "platform", str, owner, ""),
        inputs=_decode_tensors_metadata(obj, "inputs", owner),
        outputs=_decode_tensors_metadata(obj, "outputs", owner),
        properties=properties,
    )


def _encode_tensor_metadata(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _decode_tensors_metadata(obj: dict[str, Any], key: str, owner: str) -> list[TensorMetadata]:
    tensors = []
    for index, entry in enumerate(objects(field(obj, key, list, owner, []), f"{key} of {owner}: item")):
        label = f"item {index} of {key} of {owner}"
        shape = field(entry, "shape", list, label)
        for size in shape:
            if type(size) is not int or size < -1:
                raise InvalidRequest(f"the shape of {label} has a dimension that is not an integer of at least -1")
        tensors.append(
            TensorMetadata(field(entry, "name", str, label), field(entry, "datatype", str, label), tuple(shape))
        )
    return tensors
