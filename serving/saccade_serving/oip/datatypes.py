"""The datatypes of the Open Inference Protocol and their numpy counterparts.

BF16 is not served: numpy has no such type.
Source: Open Inference Protocol, "Tensor Data Types"; little-endian as in Triton's binary tensor extension.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

BYTES: Final = "BYTES"

#: Datatype -> numpy dtype of one element, for every datatype of a fixed size.
NUMPY_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}

_NAMES: Final = {dtype: name for name, dtype in NUMPY_DTYPES.items()}

DATATYPES: Final = (*NUMPY_DTYPES, BYTES)


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Name the protocol's datatype for a numpy dtype.

    Raises:
        KeyError: the dtype has no counterpart in the protocol.
    """
    return _NAMES[dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype]
