"""Raw tensor bytes to tensors and back: the part that REST's binary extension and gRPC have in common.

Elements are little-endian, in row-major order, without padding; a BYTES element is its length as 4 bytes
little-endian, then its bytes. BOOL is one byte, 0 or 1. Source: Triton, "Binary Tensor Data Extension".

Does not know how the bytes travelled, and does not copy them without need.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest, WrongShape
from saccade_serving.oip.datatypes import BYTES, NUMPY_DTYPES
from saccade_serving.oip.messages import Buffer, ParameterValue, Tensor
from saccade_serving.oip.rules import check_bytes_count, check_count, label_of

_LENGTH: Final = struct.Struct("<I")


def byte_view(buffer: Buffer) -> memoryview:
    """View a buffer as read-only unsigned bytes."""
    view = memoryview(buffer).toreadonly()
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def decode_raw(
    direction: str,
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    data: memoryview,
    parameters: Mapping[str, ParameterValue],
) -> Tensor:
    """Read one tensor from its raw bytes.

    Args:
        direction: ``input`` or ``output``, for error sentences.
        name: the tensor's name.
        datatype: a checked datatype.
        shape: a checked shape.
        data: exactly the tensor's bytes, from ``byte_view``.
        parameters: the tensor's own parameters.

    Returns:
        A tensor whose array, or whose BYTES elements, are read-only views of ``data``.

    Raises:
        WrongShape: the number of bytes is not what datatype and shape need.
        InvalidRequest: a BOOL byte is neither 0 nor 1.
    """
    label = label_of(direction, name)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, _read_elements(label, shape, data), parameters)
    dtype = NUMPY_DTYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if data.nbytes != expected:
        raise WrongShape(
            f"{label} has {data.nbytes} bytes; datatype {datatype} and shape {list(shape)} need {expected}"
        )
    array = np.frombuffer(data, dtype)
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise InvalidRequest(f"{label} of datatype BOOL has a byte over 1; expected 0 for false, 1 for true")
    if not array.flags.aligned:
        # The bytes before it in the body shifted the tensor off its natural alignment. Engines take a plain
        # pointer to it and may use aligned loads, so this one is copied.
        array = array.copy()
        array.flags.writeable = False
    return Tensor(name, datatype, shape, array.reshape(shape), parameters)


def encode_raw(direction: str, tensor: Tensor) -> memoryview:
    """Write one tensor as raw bytes.

    Returns:
        For fixed-size datatypes a view of the tensor's own memory (of a copy only if it is not contiguous
        or not little-endian); for BYTES a view of one new buffer.

    Raises:
        WrongShape: the tensor contradicts its own datatype or shape.
    """
    if tensor.datatype == BYTES:
        check_count(label_of(direction, tensor.name), tensor.shape, len(tensor.elements))
        parts: list[Buffer] = []
        for element in tensor.elements:
            size = element.nbytes if isinstance(element, memoryview) else len(element)
            parts += (_LENGTH.pack(size), element)
        return memoryview(b"".join(parts))
    return flat_array(direction, tensor).view(np.uint8).data


def flat_array(direction: str, tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's numbers as one contiguous little-endian row, without a copy where they already are.

    Returns:
        An array of shape (element_count,).

    Raises:
        WrongShape: the array's dtype or shape is not what the tensor declares.
    """
    array = tensor.array
    dtype = NUMPY_DTYPES[tensor.datatype]
    if array.dtype.newbyteorder("<") != dtype or array.shape != tensor.shape:
        raise WrongShape(
            f"{label_of(direction, tensor.name)} is declared {tensor.datatype} {list(tensor.shape)}, "
            f"but its array is {array.dtype} {list(array.shape)}"
        )
    return np.ascontiguousarray(array, dtype).reshape(-1)


def _read_elements(label: str, shape: tuple[int, ...], data: memoryview) -> list[Buffer]:
    """Cut length-prefixed elements out of ``data``, each as a slice of it."""
    count = math.prod(shape)
    size = data.nbytes
    # Before any list is built: a shape may promise far more elements than were sent.
    if count * _LENGTH.size > size:
        raise WrongShape(
            f"{label} of datatype BYTES and shape {list(shape)} needs at least {count * _LENGTH.size} bytes "
            f"for its length prefixes; {size} were sent"
        )
    check_bytes_count(label, count)
    elements: list[Buffer] = []
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > size:
            raise WrongShape(f"{label} ends inside the length prefix of BYTES element {index} of {count}")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset = start + length
        if offset > size:
            raise WrongShape(
                f"{label} says that BYTES element {index} of {count} has {length} bytes, "
                f"but only {size - start} follow"
            )
        elements.append(data[start:offset])
    if offset != size:
        raise WrongShape(f"{label} has {size - offset} bytes after the last of its {count} BYTES elements")
    return elements
