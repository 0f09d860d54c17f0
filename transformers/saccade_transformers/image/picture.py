"""A decoded picture, whole or reduced, and what it is a picture of. Does not decode, reduce or resize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Reduction: TypeAlias = Literal[1, 2, 4, 8]


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, or a reduced copy of it.

    Attributes:
        pixels: [h, w, 3] uint8 RGB, or [h, w] its luminance; upright.
        size: (width, height) in pixels of the whole upright picture, in which boxes are given.
        reduction: each of ``pixels`` stands for so many of the whole picture along either side; those of the last
            row and column for fewer, where it does not divide ``size``.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    reduction: Reduction = 1

    @classmethod
    def whole(cls, pixels: NDArray[np.uint8]) -> Picture:
        """A picture that is not reduced."""
        return cls(pixels, (pixels.shape[1], pixels.shape[0]))


def reduced(side: int, reduction: Reduction) -> int:
    """Length of a side of ``side`` pixels in a reduced picture; libjpeg rounds up."""
    return -(-side // reduction)
