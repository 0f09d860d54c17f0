"""The work every server of a bench does: one byte of the input is read, one number answered."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: What every server calls its model and the model's tensors.
MODEL: Final = "noop"
INPUT: Final = "image"
OUTPUT: Final = "first"


def first_byte(image: NDArray[Any]) -> NDArray[np.float32]:
    """Read the first byte of a UINT8 tensor of any shape.

    Returns:
        FP32 of shape (1,).
    """
    return np.array([image.item(0)], np.float32)
