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
    first, second = a.astype(np.float64)[:, None, :], b.astype(np.float64)[None, :, :]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared: NDArray[np.float64] = np.clip(sides, 0, None).prod(axis=-1)
    areas: NDArray[np.float64] = _area(first) + _area(second)
    union = areas - shared
    return shared / np.where(union > 0, union, 1.0)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return area
