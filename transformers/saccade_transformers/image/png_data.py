"""How much picture data a PNG may inflate to: as much as its size needs, and no byte more.

libpng inflates all of it, whatever the header says: a file of 20 MB may keep a thread for a minute with zeros behind
a picture of 200 x 100. So what could take long is inflated here first, and refused where it goes on after its end.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

#: Deflate makes at most 1,032 bytes of one (zlib's documentation): so much compressed data inflates to 1.2 GB or less,
#: which takes as long as the largest picture that is served. No more than that is looked at.
HARMLESS_BYTES: Final = 1_200_000
#: Colour type -> samples of a pixel.
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: First column and row, and steps, of Adam7's passes.
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE: Final = 2**20


def inflated_size(width: int, height: int, depth: int, colour: int, interlaced: bool) -> int | None:
    """Bytes that a picture's rows have before they are compressed, each with its filter's byte.

    Args:
        width: pixels.
        height: pixels.
        depth: bits of a sample.
        colour: the header's colour type.
        interlaced: by Adam7.

    Returns:
        None for a colour type that there is none of.
    """
    samples = _SAMPLES.get(colour)
    if samples is None:
        return None
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    size = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * samples * depth // 8))
    return size


def goes_on(parts: Iterable[memoryview], size: int) -> bool:
    """Whether compressed data inflates to more than ``size`` bytes. What is damaged does not: the decoder says so.

    Takes the time of inflating at most ``size`` bytes, and a megabyte of memory.
    """
    inflater = zlib.decompressobj()
    left = size
    for part in parts:
        waiting: bytes | memoryview = part
        while len(waiting):
            try:
                left -= len(inflater.decompress(waiting, _PIECE))
            except zlib.error:
                return False
            if left < 0:
                return True
            if inflater.eof:
                return False
            waiting = inflater.unconsumed_tail
    return False
