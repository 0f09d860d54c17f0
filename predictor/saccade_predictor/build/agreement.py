"""How far two answers are apart: numbers of any tensor, and detections matched by their boxes. Pure.

Rows of two tables of candidates cannot be compared one by one: a score that differs in its last digit moves a row. So
boxes are matched by their overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Boxes of one class that overlap more are one object; the transformer's default.
NMS_IOU: Final = 0.5
#: Boxes that overlap at least so are the same detection, unless a person asks for more.
MATCH_IOU: Final = 0.5
#: A detection counts as missing only if the other answer has nothing like it over the threshold less this: a score of
#: 0.401 against 0.399 is no disagreement.
SCORE_MARGIN: Final = 0.05

Table = NDArray[np.float32]


@dataclass(slots=True)
class Errors:
    """Differences of one output over all samples; ``nan`` and infinities must be where the reference has them."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    unlike: int = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add one sample's.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != candidate.shape:
            raise ValueError(f"the shapes differ: {list(reference.shape)} and {list(candidate.shape)}")
        if reference.dtype == object:
            self.unlike += int(np.sum(reference != candidate))
            self.count += reference.size
            return
        a, b = reference.astype(np.float64), candidate.astype(np.float64)
        both = np.isfinite(a) & np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        self.unlike += int(np.sum(~both & ~same))
        difference = np.abs(a[both] - b[both])
        if difference.size:
            self.largest = max(self.largest, float(difference.max()))
            self.total += float(difference.sum())
        self.count += a.size

    @property
    def mean(self) -> float:
        """Mean absolute difference."""
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class Matches:
    """Detections of two answers over all samples.

    Attributes:
        iou: overlap from which two boxes are the same detection, over 0 to 1.
        reference: detections of the reference over the threshold; ``candidate`` likewise.
        found: of the reference, with a partner of the same class.
        matched: pairs of one class.
        flips: pairs whose class differs.
        missing: of the reference, without a partner; ``extra``: of the candidate.
        box_errors: largest corner difference of each pair, in pixels of the input.
        score_errors: of each pair.
        worst: (agreement, sample) of the sample that agrees least.
    """

    iou: float = MATCH_IOU
    reference: int = 0
    candidate: int = 0
    found: int = 0
    matched: int = 0
    flips: int = 0
    missing: int = 0
    extra: int = 0
    box_errors: list[float] = field(default_factory=list)
    score_errors: list[float] = field(default_factory=list)
    worst: tuple[float, str] = (1.0, "")

    @property
    def agreement(self) -> float:
        """Pairs of one class among all that was found, 0..1; 1 where nothing was."""
        return _share(self.matched, self.matched + self.flips + self.missing + self.extra)

    @property
    def recall(self) -> float:
        """Detections of the reference that the candidate has, of the same class, 0..1; 1 where there are none."""
        return _share(self.found, self.reference)

    def add(self, name: str, reference: Table, candidate: Table, threshold: float) -> None:
        """Add one sample's tables [K, 6]: x1, y1, x2, y2, score, class."""
        low = max(threshold - SCORE_MARGIN, 1e-6)
        a, b = suppress(reference[reference[:, 4] >= low]), suppress(candidate[candidate[:, 4] >= low])
        pairs = match(a, b, self.iou)
        own = {i for i in range(len(a)) if a[i, 4] >= threshold}
        theirs = {j for j in range(len(b)) if b[j, 4] >= threshold}
        matched = flips = 0
        for i, j in pairs:
            if i not in own and j not in theirs:
                continue
            if a[i, 5] == b[j, 5]:
                matched += 1
                self.found += i in own
            else:
                flips += 1
            self.box_errors.append(float(np.abs(a[i, :4] - b[j, :4]).max()))
            self.score_errors.append(float(abs(a[i, 4] - b[j, 4])))
        missing, extra = len(own - {i for i, _ in pairs}), len(theirs - {j for _, j in pairs})
        self.reference += len(own)
        self.candidate += len(theirs)
        self.matched += matched
        self.flips += flips
        self.missing += missing
        self.extra += extra
        here = _share(matched, matched + flips + missing + extra)
        if here < self.worst[0]:
            self.worst = here, name


def suppress(table: Table) -> Table:
    """Non-maximum suppression: of boxes of one class that overlap more than ``NMS_IOU`` the best stays."""
    table = table[np.argsort(-table[:, 4], kind="stable")]
    kept: list[int] = []
    for i in range(len(table)):
        rivals = [k for k in kept if table[k, 5] == table[i, 5]]
        if not rivals or overlap(table[i : i + 1], table[rivals]).max() <= NMS_IOU:
            kept.append(i)
    return table[kept]


def match(a: Table, b: Table, iou: float = MATCH_IOU) -> list[tuple[int, int]]:
    """Pair rows of two tables one to one: those of one class first, then the rest, by their overlap, best first.

    Args:
        a: [m, 6].
        b: [n, 6].
        iou: least overlap of a pair, over 0 to 1.
    """
    overlaps = overlap(a, b)
    same = a[:, None, 5] == b[None, :, 5]
    pairs: list[tuple[int, int]] = []
    for allowed in (same, ~same):
        while True:
            left = np.where(allowed, overlaps, 0.0)
            if not left.size or left.max() < iou:
                break
            i, j = map(int, np.unravel_index(int(left.argmax()), left.shape))
            pairs.append((i, j))
            overlaps[i, :] = 0
            overlaps[:, j] = 0
    return pairs


def overlap(a: Table, b: Table) -> NDArray[np.float64]:
    """Intersection over union of every box of a with every one of b: [len(a), len(b)]."""
    a4, b4 = a[:, None, :4].astype(np.float64), b[None, :, :4].astype(np.float64)
    sides = np.minimum(a4[..., 2:], b4[..., 2:]) - np.maximum(a4[..., :2], b4[..., :2])
    common = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = np.prod(np.clip(a4[..., 2:] - a4[..., :2], 0, None), -1) + np.prod(
        np.clip(b4[..., 2:] - b4[..., :2], 0, None), -1
    )
    union = areas - common
    result: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result


def share_interval(part: int, whole: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 22, 1927), two-sided; 0 to 1 where there is nothing.

    Args:
        part: of ``whole``.
        whole: taken as independent of each other, which detections of one scene are not quite.
        level: of confidence, between 0 and 1.
    """
    if not whole:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = part / whole
    middle = share + z * z / (2 * whole)
    reach = z * sqrt(share * (1 - share) / whole + (z / (2 * whole)) ** 2)
    scale = 1 + z * z / whole
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
