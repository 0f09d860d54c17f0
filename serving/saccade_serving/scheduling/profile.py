"""How long a batch takes, by its size: learned at warm-up, kept fresh by every batch.

Pure. Between the sizes that were measured the time is interpolated; a smaller batch never takes more than a larger.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

#: The time that is planned with is the one that so many of a hundred batches keep.
QUANTILE: Final = 0.9
#: Batches of a size that are remembered.
WINDOW: Final = 32
#: Weight, in batches, of what was measured before the first: one that stalls at once changes nothing.
_BELIEF: Final = 16
#: So much longer than planned the batches of an SLO may take (DESIGN section 4).
SAFETY: Final = 1.1


class _Window:
    """How much longer than known the last batches took, as ratios; sorted beside."""

    __slots__ = ("_order", "_sorted", "seen")

    def __init__(self) -> None:
        self._order: deque[float] = deque([1.0] * _BELIEF)
        self._sorted: list[float] = [1.0] * _BELIEF
        self.seen = False

    def add(self, value: float) -> None:
        self.seen = True
        if len(self._order) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]
        self._order.append(value)
        insort(self._sorted, value)

    def quantile(self) -> float:
        return self._sorted[math.ceil(QUANTILE * len(self._sorted)) - 1]


class LatencyProfile:
    """t(n): seconds that a batch of n rows takes on one instance.

    A batch tells about the measured sizes next to its own, in proportion: what is kept of it is how much longer or
    shorter than known it took. A size that no batch has had lately follows the others.

    Args:
        seconds: measured times by number of rows. Without any, nothing is known until the first batch.
    """

    def __init__(self, seconds: Mapping[int, float] | None = None) -> None:
        self._sizes: list[int] = []
        self._base: list[float] = []
        self._windows: list[_Window] = []
        self._all = _Window()
        self._now: list[float] = []
        self._known: dict[int, float] = {}
        if seconds:
            self.learn(seconds)

    @property
    def sizes(self) -> Sequence[int]:
        """The sizes that were measured, ascending."""
        return self._sizes

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._sizes)

    def learn(self, seconds: Mapping[int, float]) -> None:
        """Begin anew with measured times.

        Raises:
            ValueError: a size or a time that is not above 0.
        """
        if any(size < 1 or not value > 0 for size, value in seconds.items()):
            raise ValueError(f"batch sizes and seconds have to be above 0: {dict(seconds)}")
        self._sizes = sorted(seconds)
        self._base = _rising([seconds[size] for size in self._sizes])
        self._windows = [_Window() for _ in self._sizes]
        self._all = _Window()
        self._refresh()

    def observe(self, rows: int, seconds: float) -> None:
        """Note how long a batch took."""
        if rows < 1 or not seconds > 0:
            return
        if not self._sizes:
            self.learn({rows: seconds})
            return
        ratio = seconds / _interpolate(self._sizes, self._base, rows)
        index = bisect_left(self._sizes, rows)
        if index < len(self._sizes):
            self._windows[index].add(ratio)
        if index == len(self._sizes) or (index and self._sizes[index] != rows):
            self._windows[index - 1].add(ratio)
        self._all.add(ratio)
        self._refresh()

    def seconds(self, rows: int) -> float:
        """t(n); 0 while nothing is known."""
        if not self._sizes:
            return 0.0
        found = self._known.get(rows)
        if found is None:
            found = self._known[rows] = _interpolate(self._sizes, self._now, rows)
        return found

    def table(self) -> dict[int, float]:
        """The present times of the sizes that were measured."""
        return dict(zip(self._sizes, self._now, strict=True))

    def largest_within(self, limit_s: float, most: int) -> int:
        """The largest batch, 1 to ``most`` rows, that takes at most ``limit_s``; 1 if none does."""
        low, high = 1, max(1, most)
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds(middle) <= limit_s:
                low = middle
            else:
                high = middle - 1
        return low

    def _refresh(self) -> None:
        overall = self._all.quantile()
        windows = [window.quantile() if window.seen else overall for window in self._windows]
        self._now = _rising([base * ratio for base, ratio in zip(self._base, windows, strict=True)])
        self._known.clear()


def _rising(values: Sequence[float]) -> list[float]:
    """Values that never fall: each at most the next. What is too high alone is a stall, not a size's nature."""
    rising: list[float] = []
    for value in reversed(values):
        rising.append(min(value, rising[-1]) if rising else value)
    return rising[::-1]


def _interpolate(sizes: Sequence[int], values: Sequence[float], rows: int) -> float:
    """Piecewise linear; below the smallest size its value, above the largest in proportion to the rows."""
    index = bisect_left(sizes, rows)
    if index == len(sizes):
        return values[-1] * rows / sizes[-1]
    if sizes[index] == rows or not index:
        return values[index]
    low, high = sizes[index - 1], sizes[index]
    return values[index - 1] + (values[index] - values[index - 1]) * (rows - low) / (high - low)
