"""What a frame looks like, in a form that two frames of a camera can be compared by: a hash and a thumbnail.

Pure. The hash says whether it is the same scene at all; what has changed in it, ``blocks`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from saccade_transformers.image.grey import HASH_SIDE, Greys

#: Bits of a hash: the lowest 8 frequencies in each direction.
HASH_BITS: Final = 64
_MIDDLE: Final = HASH_BITS // 2

_LOWEST: Final = 8
#: The rows of an unnormalised DCT-II of 32 samples, ``2 sum x[n] cos(pi k (2n + 1) / 64)``: what scipy.fftpack.dct is.
_DCT: Final = 2 * np.cos(np.pi * np.arange(_LOWEST)[:, None] * (2 * np.arange(HASH_SIDE) + 1) / (2 * HASH_SIDE))


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What is kept of a frame.

    Attributes:
        phash: 64 bits.
        thumbnail: uint8 [h, w], grey; see ``image.grey``.
        of_grey: of a frame that was decoded as grey, which differs by a level or two from one in colour.
    """

    phash: int
    thumbnail: NDArray[np.uint8]
    of_grey: bool = False


def look(greys: Greys, of_grey: bool = False) -> Look:
    """Take the look of a frame from its grey pictures."""
    return Look(phash(greys.hash_input), greys.thumbnail, of_grey)


def phash(grey: NDArray[np.uint8]) -> int:
    """The perceptual hash of a grey picture, as ``imagehash.phash`` has it: which low frequencies exceed their median.

    Bit for bit that of imagehash 4.3.2 for the same 32 x 32 pixels, without its SciPy.

    Args:
        grey: uint8 [32, 32].

    Returns:
        64 bits, the first row of frequencies in the highest ones.
    """
    frequencies = _DCT @ grey.astype(np.float64) @ _DCT.T
    ordered = np.sort(frequencies, axis=None)
    # The median of an even number of values, as np.median has it, which checks more and takes ten times as long.
    bits = frequencies > (ordered[_MIDDLE - 1] + ordered[_MIDDLE]) / 2
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(a: int, b: int) -> int:
    """Bits in which two hashes differ (Hamming), 0 to 64."""
    return (a ^ b).bit_count()
