"""The consistency rules that every encoding shares: names, datatypes, shapes, counts, ranges, parameters.

All rules are pure and look at values that are already parsed. None allocates in proportion to a shape: a
shape is only trusted once the bytes or values that fill it have been counted.

A *label* is how error sentences call a tensor, for example ``input 'image'``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from saccade_serving.errors import InvalidRequest, Unimplemented, WrongShape, short
from saccade_serving.oip.datatypes import DATATYPES, NUMPY_DTYPES
from saccade_serving.oip.messages import Parameters, ParameterValue

#: Most dimensions of a tensor. numpy's own limit is 64 (32 before 2.0); no model comes near either.
MAX_RANK: Final = 32
#: Largest single dimension.
MAX_DIMENSION: Final = 2**31 - 1
#: Largest product of the dimensions that are not 0: 8 TiB of FP64, far from an overflow of numpy's sizes.
MAX_ELEMENTS: Final = 2**40
#: Most elements of one BYTES tensor: each becomes an object, so that small elements cost far more than they weigh.
MAX_BYTES_ELEMENTS: Final = 2**16
#: Most values of one message that come one by one in gRPC's typed contents: each becomes an object on the way.
MAX_TYPED_ELEMENTS: Final = 2**20
SEND_RAW: Final = "; send raw_input_contents, which have no such limit"
#: Most tensors or parameters in one list or map. Models have a few; without a limit, reading millions of empty ones
#: would hold up everybody else.
MAX_ENTRIES: Final = 4096
#: Largest and smallest integer that all encodings can carry as a parameter (uint64_param, int64_param).
MAX_PARAMETER: Final = 2**64 - 1
MIN_PARAMETER: Final = -(2**63)

NO_SHARED_MEMORY: Final = (
    "shared memory is not served, since clients are on other machines as a rule; send tensors as binary data in the "
    "request (tritonclient's default, perf_analyzer's --shared-memory=none)"
)

#: Parameters that describe the REST encoding; the codecs consume them and write them anew.
ENCODING_PARAMETERS: Final = frozenset({"binary_data", "binary_data_size", "binary_data_output"})

_LIMITS: Final = {
    datatype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for datatype, dtype in NUMPY_DTYPES.items()
    if dtype.kind in "iu"
}


def label_of(direction: str, name: str) -> str:
    """Name a tensor in a sentence: ``input 'image'``."""
    return f"{direction} {short(name)}"


def check_names(direction: str, names: Sequence[str]) -> None:
    """Refuse empty and repeated tensor names.

    Raises:
        InvalidRequest: a name is empty or occurs twice.
    """
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not name:
            raise InvalidRequest(f"{direction} {index} has no name; expected a non-empty string")
        if name in seen:
            raise InvalidRequest(f"{label_of(direction, name)} is given twice; expected each name once")
        seen.add(name)


def check_datatype(label: str, datatype: str) -> None:
    """Refuse datatypes that are not served.

    Raises:
        WrongShape: the datatype is not one of ``DATATYPES``.
    """
    if datatype not in DATATYPES:
        raise WrongShape(
            f"{label} has datatype {short(datatype)}; expected one of {', '.join(DATATYPES)} in upper case"
        )


def check_entries(what: str, count: int) -> None:
    """Refuse lists and maps that no model has a use for, before they are walked through.

    Raises:
        InvalidRequest: more than ``MAX_ENTRIES``.
    """
    if count > MAX_ENTRIES:
        raise InvalidRequest(f"{what} has {count} entries; the limit is {MAX_ENTRIES}")


def check_shape(label: str, shape: Collection[Any]) -> tuple[int, ...]:
    """Accept a shape of at most ``MAX_RANK`` integers, each 0 to ``MAX_DIMENSION``.

    Returns:
        The shape as a tuple of Python integers; ``()`` for a scalar.

    Raises:
        WrongShape: a dimension is not an integer or out of range, or the product is over ``MAX_ELEMENTS``.
    """
    if len(shape) > MAX_RANK:
        raise WrongShape(f"{label} has {len(shape)} dimensions; the limit is {MAX_RANK}")
    sizes = tuple(shape)
    for axis, size in enumerate(sizes):
        if type(size) is not int:
            raise WrongShape(f"{label} has {kind_of(size)} as dimension {axis}; expected an integer")
        if not 0 <= size <= MAX_DIMENSION:
            raise WrongShape(f"{label} has {size} as dimension {axis}; expected 0 to {MAX_DIMENSION}")
    # Zeros are left out: numpy multiplies the other dimensions even of an empty array.
    if math.prod(size for size in sizes if size) > MAX_ELEMENTS:
        raise WrongShape(f"{label} has shape {list(sizes)}; the limit is {MAX_ELEMENTS} elements")
    return sizes


def check_bytes_count(label: str, count: int) -> None:
    """Refuse a BYTES tensor of too many elements.

    Raises:
        WrongShape: more than ``MAX_BYTES_ELEMENTS``.
    """
    if count > MAX_BYTES_ELEMENTS:
        raise WrongShape(f"{label} has {count} BYTES elements; the limit is {MAX_BYTES_ELEMENTS}")


def check_count(label: str, shape: tuple[int, ...], sent: int) -> None:
    """Compare the number of values sent with the shape.

    Raises:
        WrongShape: they differ.
    """
    expected = math.prod(shape)
    if sent != expected:
        raise WrongShape(f"{label} has {sent} values; shape {list(shape)} needs {expected}")


def check_range(label: str, datatype: str, values: Sequence[int]) -> None:
    """Refuse integers that do not fit the datatype; nothing ever wraps around.

    Raises:
        WrongShape: the smallest or largest value is out of the datatype's range.
    """
    if not values:
        return
    low, high = _LIMITS[datatype]
    for value in (min(values), max(values)):
        if not low <= value <= high:
            raise WrongShape(f"{label} holds {value}, which does not fit {datatype}; expected {low} to {high}")


def plain_parameters(owner: str, parameters: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """Check parameters and leave out those that only describe the encoding.

    Args:
        owner: whose parameters they are, as the sentence calls it: ``the request``, ``input 'image'``.
        parameters: names and values.

    Raises:
        InvalidRequest: a value is not a boolean, a finite number within 64 bits or a string.
        Unimplemented: the tensor lies in shared memory.
    """
    check_entries(f"'parameters' of {owner}", len(parameters))
    plain: dict[str, ParameterValue] = {}
    if "shared_memory_region" in parameters:
        raise Unimplemented(f"{owner} lies in shared memory: {NO_SHARED_MEMORY}")
    for name, value in parameters.items():
        if name in ENCODING_PARAMETERS:
            continue
        if not isinstance(value, bool | int | float | str):
            raise InvalidRequest(
                f"parameter {short(name)} of {owner} is {kind_of(value)}; expected a boolean, a number or a string"
            )
        if isinstance(value, int) and not MIN_PARAMETER <= value <= MAX_PARAMETER:
            raise InvalidRequest(f"parameter {short(name)} of {owner} does not fit 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"parameter {short(name)} of {owner} is {value}; expected a finite number")
        plain[name] = value
    return plain


def kind_of(value: object) -> str:
    """Name the kind of a parsed value in JSON's words, without showing the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number with a fraction or exponent, or an integer beyond 64 bits"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    return "an object"


def whole_parameter(parameters: Parameters, name: str, unit: str = "") -> int:
    """Read a request parameter that is a whole number of 0 or more; 0 where it is not sent.

    Args:
        parameters: of the request.
        name: of the parameter.
        unit: completes "a whole number" in the error.

    Raises:
        InvalidRequest: it is something else. Digits in a string are taken: forms and headers have nothing else.
    """
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:18])
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"parameter {name!r} is {short(str(value))}; expected a whole number{unit} >= 0")
    return value
