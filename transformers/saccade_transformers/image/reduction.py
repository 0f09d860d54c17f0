"""How much smaller than itself a JPEG may be decoded for a model's input.

libjpeg can leave out the inverse DCT's upper frequencies and so decode to 1/2, 1/4 or 1/8 of the size for less work
(its other steps, such as 3/8, cost more than the next larger one: only these have SIMD code). The reduced picture is
then shrunk to the input, so it must stay larger than that by a margin.

Pure: neither decodes nor resizes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from saccade_transformers.image.letterbox import Letterbox
from saccade_transformers.image.picture import Reduction, reduced

#: How much larger than its place in the input a reduced picture is at least, along either side. docs/decisions.md has
#: the figures: what a detector finds changes about as much as when a JPEG is written at 3 points less quality.
MARGIN: Final = 1.5
_STEPS: Final[tuple[Reduction, ...]] = (8, 4, 2)


def reduction_for(stored: tuple[int, int], input_size: tuple[int, int]) -> Reduction:
    """Find the largest reduction that a model's input allows.

    Args:
        stored: (width, height) of the JPEG in its header, before the EXIF orientation is applied.
        input_size: (width, height) of the model's input.

    Returns:
        A reduction that keeps ``MARGIN`` whether or not the orientation swaps the sides, and after which the picture's
        shape still tells whether it did.
    """
    width, height = stored
    places = (
        Letterbox.fit((width, height), input_size).scaled_size,
        Letterbox.fit((height, width), input_size).scaled_size,
    )
    for step in _STEPS:
        # Rounded down: the last row and column of a reduced picture are partly the encoder's padding.
        least = all(
            width // step >= MARGIN * place[side] and height // step >= MARGIN * place[1 - side]
            for side, place in enumerate(places)
        )
        if least and (width == height or reduced(width, step) != reduced(height, step)):
            return step
    return 1


def size_of(stored: tuple[int, int], pixels: NDArray[np.uint8], reduction: Reduction) -> tuple[int, int] | None:
    """Tell the size of the whole upright picture from a reduced one.

    Args:
        stored: (width, height) in the header.
        pixels: [h, w, 3], upright.
        reduction: from ``reduction_for``, or 1.

    Returns:
        (width, height), None if ``pixels`` is no picture of that header.
    """
    if reduction == 1:
        return pixels.shape[1], pixels.shape[0]
    width, height = stored
    for size in ((width, height), (height, width)):
        if (reduced(size[0], reduction), reduced(size[1], reduction)) == (pixels.shape[1], pixels.shape[0]):
            return size
    return None
