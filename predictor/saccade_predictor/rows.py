"""How many rows a request brings, guessed from its head, before any of its body has come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from saccade_predictor.modelconfig import TensorConfig
from saccade_serving.oip.body import HEADER_LENGTH, stated_length
from saccade_serving.oip.datatypes import BYTES, NUMPY_DTYPES


def rows_of(headers: Mapping[str, str], bytes_per_row: int, most: int) -> int:
    """Rows that a request brings: of binary tensors of known shape, by its length; else 1.

    Args:
        headers: names in lower case.
        bytes_per_row: from ``row_bytes``.
        most: rows of the largest batch.
    """
    length = stated_length(headers.get("content-length", ""))
    json_length = stated_length(headers.get(HEADER_LENGTH, ""))
    if not bytes_per_row or length is None or json_length is None:
        return 1
    return min(max(1, (length - json_length) // bytes_per_row), max(1, most))


def row_bytes(inputs: Sequence[TensorConfig]) -> int:
    """Bytes of one row of all inputs; 0 where a shape is open or an input has no fixed size."""
    if any(tensor.datatype == BYTES or -1 in tensor.dims for tensor in inputs):
        return 0
    return sum(math.prod(tensor.dims) * NUMPY_DTYPES[tensor.datatype].itemsize for tensor in inputs)
