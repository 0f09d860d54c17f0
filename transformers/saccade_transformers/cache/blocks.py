"""What has changed between two frames of a camera, block by block of their thumbnails. Pure.

A hash of the whole frame cannot see a small object, and most cameras have something that moves all the time. So a
change is judged by where it is. Outside of what the answer has found, nothing may change: what is new there, is
missing in the answer. Inside, a part may: a person who has moved by a few pixels is still where the answer says.
The limits, and what they give on real video, stand in docs/cache.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

#: Side of a block in pixels of the thumbnail. Blocks are taken around every pixel, so that none is cut in two.
BLOCK: Final = 4
#: A found thing's outline is not exact, and its shadow moves along: its region has such a margin, thumbnail pixels.
MARGIN: Final = 3
#: A region that covers more of the frame than this is none, nor are those that would make all of them cover more than
#: that: too much could be new inside.
LARGEST_REGION: Final = 0.02
ALL_REGIONS: Final = 0.15

#: Medians are taken of every fourth pixel in both directions.
_SAMPLE: Final = (slice(None, None, 4), slice(None, None, 4))
#: Differences of grey levels lie between minus and plus this.
_LEVELS: Final = 255
#: The mean of a block is a multiple of one of so many.
_PER_BLOCK: Final = BLOCK * BLOCK
#: From the median of absolute values to the standard deviation of a normal distribution.
_MEDIAN_TO_SIGMA: Final = 1.4826


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Where an answer has found something, in pixels of the thumbnail.

    Attributes:
        boxes: int [m, 4] as x1, y1, x2, y2, the last ones exclusive; each at least a pixel.
        inside: uint8 [h, w]: 255 inside one of them, or within ``MARGIN``; else 0.
        outside: uint8 [h, w]: 255 where ``inside`` is 0.
    """

    boxes: NDArray[np.intp]
    inside: NDArray[np.uint8]
    outside: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        return self.boxes.nbytes + self.inside.nbytes + self.outside.nbytes


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
        boxes: [m, 4] as x1, y1, x2, y2 in pixels of the image, clipped to it; the surest first.
        image_size: (width, height) of the image.
        shape: (height, width) of the thumbnail.

    Returns:
        Those that are small enough, each and together.
    """
    height, width = shape
    scale_x, scale_y = width / image_size[0], height / image_size[1]
    largest, left_over = LARGEST_REGION * width * height, ALL_REGIONS * width * height
    inside = np.zeros(shape, np.uint8)
    found: list[tuple[int, int, int, int]] = []
    for left, top, right, bottom in boxes.tolist():  # for a few dozen, faster than arrays of them
        x1 = min(max(floor(left * scale_x), 0), width - 1)
        y1 = min(max(floor(top * scale_y), 0), height - 1)
        x2 = max(min(ceil(right * scale_x), width), x1 + 1)
        y2 = max(min(ceil(bottom * scale_y), height), y1 + 1)
        if (x2 - x1) * (y2 - y1) > largest:
            continue
        left_over -= (x2 - x1 + 2 * MARGIN) * (y2 - y1 + 2 * MARGIN)
        if left_over < 0:
            break
        found.append((x1, y1, x2, y2))
        cv2.rectangle(inside, (x1 - MARGIN, y1 - MARGIN), (x2 + MARGIN - 1, y2 + MARGIN - 1), 255, cv2.FILLED)
    return Regions(np.array(found, np.intp).reshape(-1, 4), inside, np.bitwise_not(inside))


def differences(reference: NDArray[np.uint8], thumbnail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far the mean of the block around each pixel has changed, without what has changed all over, as light does.

    Args:
        reference: uint8 [h, w], the earlier frame's thumbnail.
        thumbnail: likewise, the later one's.

    Returns:
        [h, w], grey levels >= 0.
    """
    difference = np.subtract(thumbnail, reference, dtype=np.int16)
    means = cv2.blur(difference.astype(np.float32), (BLOCK, BLOCK), borderType=cv2.BORDER_REFLECT)
    changed = np.asarray(means, np.float32)
    changed -= _median(difference[_SAMPLE] + _LEVELS) - _LEVELS
    return np.abs(changed, out=changed)


def noise(changed: NDArray[np.float32]) -> float:
    """The camera's own noise in ``differences``: their standard deviation, by what most of the frame does."""
    return _median(changed[_SAMPLE] * _PER_BLOCK) / _PER_BLOCK * _MEDIAN_TO_SIGMA


def measure(changed: NDArray[np.float32], level: float, found: Regions) -> Change:
    """Sum up what has changed.

    Args:
        changed: from ``differences``.
        level: grey levels above which a block has changed.
        found: regions of the answer to the earlier frame.
    """
    outside = cv2.minMaxLoc(changed, found.outside)[1]  # 0 where there is no outside
    if not len(found.boxes):
        return Change(outside, 0.0, 0.0)
    over = np.greater(changed, level).view(np.uint8)
    shares = [
        cv2.countNonZero(over[y1:y2, x1:x2]) / ((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in found.boxes.tolist()
    ]
    moved = cv2.countNonZero(cv2.bitwise_and(over, found.inside)) / cv2.countNonZero(found.inside)
    return Change(outside, moved, max(shares))


def _median(values: NDArray[np.generic]) -> int:
    """The median of whole numbers >= 0, which may have any type; of an even number of them the upper one.

    Counted, since choosing takes several times as long where most values are the same, as between two still frames.
    """
    counts = np.bincount(values.ravel().astype(np.intp, copy=False))
    return int(np.searchsorted(np.cumsum(counts), values.size // 2, side="right"))
