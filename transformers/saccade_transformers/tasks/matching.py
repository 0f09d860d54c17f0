"""Which boxes of two answers are the same object, by how far they overlap. Pure; knows no scores and no labels."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Boxes of two answers that overlap at least this much (IoU) are the same object.
AGREEMENT_IOU: Final = 0.5
#: Boxes of one answer held against all of the other at once: two full tables would need half a gigabyte.
_AT_ONCE: Final = 256


class Pair(NamedTuple):
    """A box in each of two answers: its index in a, its index in b, their IoU."""

    a: int
    b: int
    iou: float


def match(
    a: NDArray[np.float32], a_classes: NDArray[np.int32], b: NDArray[np.float32], b_classes: NDArray[np.int32]
) -> tuple[list[Pair], list[Pair]]:
    """Pair the boxes of two answers that overlap by an IoU of at least 0.5, best overlap first; each box once.

    Args:
        a: [n, 4] as x1, y1, x2, y2 in pixels.
        a_classes: [n].
        b: [m, 4], the same pixels.
        b_classes: [m].

    Returns:
        Pairs of one class, then pairs of different classes among what these leave over. Swapping a and b swaps the
        indices and changes nothing else.
    """
    found: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]] = []
    for start in range(0, len(a), _AT_ONCE):
        overlap = iou_matrix(a[start : start + _AT_ONCE], b)
        rows, columns = np.nonzero(overlap >= AGREEMENT_IOU)
        found.append((rows + start, columns, overlap[rows, columns]))
    if not found:
        return [], []
    rows, columns, overlaps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Ties are broken by the pair's indices without regard to their order: swapping a and b changes nothing.
    order = np.lexsort((np.maximum(rows, columns), np.minimum(rows, columns), -overlaps))
    is_same = a_classes[rows] == b_classes[columns]
    left, right = set(range(len(a))), set(range(len(b)))

    def take(which: NDArray[np.intp]) -> list[Pair]:
        pairs = []
        for i, j, iou in zip(rows[which].tolist(), columns[which].tolist(), overlaps[which].tolist(), strict=True):
            if i in left and j in right:
                left.remove(i)
                right.remove(j)
                pairs.append(Pair(i, j, iou))
        return pairs

    return take(order[is_same[order]]), take(order[~is_same[order]])


def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of every box of ``a`` [n, 4] with every one of ``b`` [m, 4], as [n, m], 0..1."""
    first, second = a.astype(np.float64).T[:, :, None], b.astype(np.float64).T[:, None, :]
    shared = _shared_side(first[0], first[2], second[0], second[2])
    shared *= _shared_side(first[1], first[3], second[1], second[3])
    union = _area(first) + _area(second)
    union -= shared
    union[union <= 0] = 1.0
    shared /= union
    return shared


def _shared_side(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    other_low: NDArray[np.float64],
    other_high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How much of two intervals [low, high] is the same; in place, since these are the largest arrays there are."""
    shared: NDArray[np.float64] = np.minimum(high, other_high)
    shared -= np.maximum(low, other_low)
    np.maximum(shared, 0, out=shared)
    return shared


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
    return area
