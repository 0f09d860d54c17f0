"""A tensor's values from its parsed JSON list, flat or nested.

A list may hold two million values, and is read in a thread while others are served. Values are therefore converted in
slices: between two of them any other thread can have its turn, where one call for all would keep it to the end.

JSON has no NaN and no infinity; null is read as NaN where that is wanted (responses). Integers beyond 64 bits are
parsed as floats, and so are refused wherever an integer is expected.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import WrongShape
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import Buffer
from saccade_serving.oip.rules import check_bytes_count, check_count, check_range, kind_of

#: Values converted at a time: about 4 ms.
SLICE: Final = 2**15

#: Kind of datatype (numpy's letter; "S" for BYTES) -> the JSON types of its elements, and their name.
_ELEMENT_TYPES: Final[dict[str, tuple[frozenset[type], str]]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers"),
    "f": (frozenset({int, float}), "numbers"),
    "S": (frozenset({str}), "strings"),
}


def decode_data(
    label: str, datatype: str, shape: tuple[int, ...], data: object, null_is_nan: bool = False
) -> NDArray[Any] | list[Buffer]:
    """Read a tensor's values from JSON, flat or nested exactly as the shape says.

    Args:
        label: the tensor in error sentences.
        datatype: a checked datatype.
        shape: a checked shape.
        data: the parsed ``data`` field.
        null_is_nan: read null as NaN in floating-point tensors.

    Returns:
        An array of ``shape``; for BYTES the UTF-8 encoded strings in row-major order.

    Raises:
        WrongShape: the number or nesting of the values does not match the shape, a value is not of the
            datatype's JSON type, or it does not fit the datatype.
    """
    slices = _slices(label, shape, data)
    dtype = NUMPY_DTYPES.get(datatype)
    allowed, name = _ELEMENT_TYPES["S" if dtype is None else dtype.kind]
    if null_is_nan and dtype is not None and dtype.kind == "f":
        allowed = allowed | {type(None)}
    if dtype is None:
        check_bytes_count(label, math.prod(shape))
    elements: list[Buffer] = []
    array: NDArray[Any] | None = None if dtype is None else np.empty(math.prod(shape), dtype)
    at = 0
    for values in slices:
        if at:
            time.sleep(0)  # who waits to run does so now, not when the interpreter's next interval ends
        if surplus := set(map(type, values)) - allowed:
            odd = next(value for value in values if type(value) in surplus)
            raise WrongShape(f"{label} holds {kind_of(odd)}; datatype {datatype} takes {name}")
        if array is None:
            elements += [value.encode() for value in values]
        else:
            array[at : at + len(values)] = _convert(label, datatype, array.dtype, values)
        at += len(values)
    return elements if array is None else array.reshape(shape)


def _convert(label: str, datatype: str, dtype: np.dtype[Any], values: list[Any]) -> NDArray[Any]:
    if dtype.kind in "iu":
        check_range(label, datatype, values)
    if dtype.kind != "f":
        return np.array(values, dtype)
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).astype(dtype, copy=False)
    # JSON cannot write an infinity, so one that stands here is a number beyond the datatype's range.
    if np.isinf(array).any():
        limit = np.finfo(dtype).max
        raise WrongShape(f"{label} holds a number that does not fit {datatype}; expected at most {limit}")
    return array


def _slices(label: str, shape: tuple[int, ...], data: object) -> Iterator[list[Any]]:
    """Check the nesting, then give the values in row-major order, some at a time.

    ``data`` is a flat list, or nested exactly as the shape says.
    """
    if isinstance(data, list) and not (data and isinstance(data[0], list)):
        check_count(label, shape, len(data))
        return _cut(data)
    if not shape:
        return iter([[data]])
    rows: list[Any] = [data]
    for axis, size in enumerate(shape):
        if axis:
            rows = list(itertools.chain.from_iterable(rows))
        if set(map(type, rows)) - {list} or set(map(len, rows)) - {size}:
            raise WrongShape(
                f"{label} has shape {list(shape)}, but its nested data is not made of lists of {size} "
                f"at dimension {axis}"
            )
    return _join(rows, shape[-1])


def _cut(values: list[Any]) -> Iterator[list[Any]]:
    if len(values) <= SLICE:
        yield values
        return
    for at in range(0, len(values), SLICE):
        yield values[at : at + SLICE]


def _join(rows: list[list[Any]], size: int) -> Iterator[list[Any]]:
    """The values of rows of ``size`` each."""
    if size >= SLICE:
        for row in rows:
            yield from _cut(row)
        return
    step = SLICE // max(1, size)
    for at in range(0, len(rows), step):
        yield list(itertools.chain.from_iterable(rows[at : at + step]))
