"""The grey pictures that frames are compared by, made from what the model is given: nothing is decoded for them.

A perceptual hash needs a tiny one, and a guard against small changes one at half the scale of the model's input
(coarser ones are blind to small objects). Both together cost a fraction of a second decode, however small that is.

Pure: computes no hash, compares nothing, remembers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from saccade_transformers.image.letterbox import Letterbox, scale_into
from saccade_transformers.image.picture import Picture

#: Side of the picture whose lowest frequencies are the hash: four times its 8 bits, as ``imagehash.phash`` has it.
HASH_SIDE: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Greys:
    """Luminance (0.299 R + 0.587 G + 0.114 B) of one frame, without the letterbox's frame. The caller's own.

    Attributes:
        hash_input: uint8 [32, 32], the whole frame whatever its shape, as perceptual hashes take it.
        thumbnail: uint8 [h, w], half of the frame's size in the model's input, rounded up: 208 x 117 for 16:9 at 416.
    """

    hash_input: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]


def greys(tensor: NDArray[np.uint8], box: Letterbox) -> Greys:
    """Make both grey pictures of a frame.

    Args:
        tensor: [H, W, 3] uint8 RGB, what ``letterbox`` wrote.
        box: what ``letterbox`` returned for it.
    """
    width, height = box.scaled_size
    inner = tensor[box.pad_y : box.pad_y + height, box.pad_x : box.pad_x + width]
    return _greys(cv2.cvtColor(inner, cv2.COLOR_RGB2GRAY), box)


def greys_of_grey(picture: Picture, box: Letterbox) -> Greys:
    """Make both from a frame that was decoded as grey, scaled as the model's input is.

    They are those of ``greys`` but for rounding: a 4x4 block differs by a level or two.

    Args:
        picture: luminance, whole or reduced.
        box: how the frame would be letterboxed.
    """
    width, height = box.scaled_size
    inner = np.empty((height, width), np.uint8)
    scale_into(picture, inner)
    return _greys(inner, box)


def _greys(grey: Any, box: Letterbox) -> Greys:
    width, height = box.scaled_size
    half = (width + 1) // 2, (height + 1) // 2
    thumbnail = cv2.resize(grey, half, interpolation=cv2.INTER_AREA)
    small = thumbnail
    # Means of means are the same means. Halving is fast, any other scale takes ten times as long per pixel.
    while not (small.shape[0] % 2 or small.shape[1] % 2) and min(small.shape) >= 4 * HASH_SIDE:
        small = cv2.resize(small, (small.shape[1] // 2, small.shape[0] // 2), interpolation=cv2.INTER_AREA)
    hash_input = cv2.resize(small, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return Greys(hash_input.astype(np.uint8, copy=False), thumbnail.astype(np.uint8, copy=False))
