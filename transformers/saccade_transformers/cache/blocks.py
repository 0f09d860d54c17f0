"""What has changed between two frames of a camera, block by block of their thumbnails. Pure.

A hash of the whole frame cannot see a small object, and most cameras have something that moves all the time. So a
change is judged by where it is. Outside of what the answer has found, nothing may change: what is new there, is
missing in the answer. Inside, a part may: a person who has moved by a few pixels is still where the answer says.
The limits, and what they give on real video, stand in docs/cache.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

#: Side of a block in pixels of the thumbnail. Blocks are taken around every pixel, so that none is cut in two.
BLOCK: Final = 4
#: A found thing's outline is not exact, and its shadow moves along: its region has such a margin, thumbnail pixels.
MARGIN: Final = 3
#: A region that covers more of the frame than this is none: too much could be new inside.
LARGEST_REGION: Final = 0.02

#: Medians are taken of every fourth pixel in both directions.
_SAMPLE: Final = (slice(None, None, 4), slice(None, None, 4))
#: From the median of absolute values to the standard deviation of a normal distribution.
_MEDIAN_TO_SIGMA: Final = 1.4826


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Where an answer has found something, in pixels of the thumbnail.

    Attributes:
        boxes: int [m, 4] as x1, y1, x2, y2, the last ones exclusive; each at least a pixel.
        mask: bool [h, w]: inside one of them, or within ``MARGIN``.
    """

    boxes: NDArray[np.intp]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Change:
    """How two frames differ.

    Attributes:
        outside: largest difference of a block's mean outside of all regions, grey levels.
        moved: share of the regions' area that has changed, 0..1.
        gone: the largest share of one region that has changed, 0..1.
    """

    outside: float
    moved: float
    gone: float


def regions(boxes: NDArray[np.float32], image_size: tuple[int, int], shape: tuple[int, int]) -> Regions:
    """Find the regions in which an answer expects movement.

    Args:
        boxes: [m, 4] as x1, y1, x2, y2 in pixels of the image, clipped to it.
        image_size: (width, height) of the image.
        shape: (height, width) of the thumbnail.

    Returns:
        Those that are small enough.
    """
    height, width = shape
    scale = np.array([width / image_size[0], height / image_size[1]] * 2)
    low = np.floor(boxes[:, :2] * scale[:2]).astype(np.intp)
    high = np.ceil(boxes[:, 2:] * scale[2:]).astype(np.intp)
    low = np.clip(low, 0, (width - 1, height - 1))
    high = np.maximum(np.minimum(high, (width, height)), low + 1)
    sides = high - low
    small = sides[:, 0] * sides[:, 1] <= LARGEST_REGION * width * height
    found = np.concatenate([low, high], axis=1)[small]
    mask = np.zeros(shape, np.bool_)
    for x1, y1, x2, y2 in found.tolist():
        mask[max(0, y1 - MARGIN) : y2 + MARGIN, max(0, x1 - MARGIN) : x2 + MARGIN] = True
    return Regions(found, mask)


def differences(reference: NDArray[np.uint8], thumbnail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far the mean of the block around each pixel has changed, without what has changed all over, as light does.

    Args:
        reference: uint8 [h, w], the earlier frame's thumbnail.
        thumbnail: likewise, the later one's.

    Returns:
        [h, w], grey levels >= 0.
    """
    difference = np.subtract(thumbnail, reference, dtype=np.float32)
    means = cv2.blur(difference, (BLOCK, BLOCK), borderType=cv2.BORDER_REFLECT)
    means -= np.median(difference[_SAMPLE])
    changed: NDArray[np.float32] = np.abs(means, out=means)
    return changed


def noise(changed: NDArray[np.float32]) -> float:
    """The camera's own noise in ``differences``: their standard deviation, by what most of the frame does."""
    return float(np.median(changed[_SAMPLE])) * _MEDIAN_TO_SIGMA


def measure(changed: NDArray[np.float32], level: float, found: Regions) -> Change:
    """Sum up what has changed.

    Args:
        changed: from ``differences``.
        level: grey levels above which a block has changed.
        found: regions of the answer to the earlier frame.
    """
    if not len(found.boxes):
        return Change(float(changed.max()), 0.0, 0.0)
    outside = changed[~found.mask]
    over = changed > level
    gone = max(float(over[y1:y2, x1:x2].mean()) for x1, y1, x2, y2 in found.boxes.tolist())
    moved = float(over[found.mask].mean())
    return Change(float(outside.max()) if outside.size else 0.0, moved, gone)
