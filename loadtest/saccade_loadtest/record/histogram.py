"""A latency histogram that merges exactly: HdrHistogram's own wheel for layout and wire form, numpy for queries.

Values are whole microseconds from 1 to 10 minutes, kept with three significant digits: a percentile is at most 0.1 %
above the value that was recorded. Merging adds counts; a percentile is never computed from percentiles. Recording
only appends to a buffer, which is folded into the counts in one go, so that it costs a fraction of a microsecond.
Does not know what it counts, and nothing of seconds or phases.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Iterable
from typing import Final

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

LOWEST_US: Final = 1
HIGHEST_US: Final = 600_000_000
SIGNIFICANT_DIGITS: Final = 3
_FOLD_AT: Final = 4096
#: So many values take no more room than their encoded counts.
_FEW: Final = 128


class DamagedHistogram(ValueError):
    """An encoded histogram that is none, or that was made with other bounds."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"an encoded histogram cannot be read: {reason}")


class Histogram:
    """Counts of latencies in microseconds.

    What is under 1 us counts as 1 us, what is over 10 minutes as 10 minutes. Not safe for several threads at once.
    """

    __slots__ = ("_count", "_dense", "_packed", "_pending")

    def __init__(self, values_us: Iterable[float] = ()) -> None:
        self._pending = array("d", values_us)
        self._dense: HdrHistogram | None = None
        self._packed: str | None = None
        self._count = 0

    def record_us(self, value_us: float) -> None:
        """Count one value."""
        self._pending.append(value_us)
        if len(self._pending) >= _FOLD_AT:
            self._fold()

    def record_many_us(self, values_us: Iterable[float]) -> None:
        """Count each of many values."""
        self._pending.extend(values_us)
        if len(self._pending) >= _FOLD_AT:
            self._fold()

    def merge(self, other: Histogram) -> None:
        """Add the counts of another; exact, in any order."""
        if other.count == 0:
            return
        if other._only_pending:
            self.record_many_us(other._pending)
            return
        theirs = other._counts()
        self._fold()
        view = _view(self._opened())
        view += theirs
        self._count += other.count

    def copy(self) -> Histogram:
        """One of its own with the same counts."""
        made = Histogram()
        made.merge(self)
        return made

    def pack(self) -> None:
        """Give up the 170 KiB of counters for the encoded form, which later uses open again; a few values stay."""
        if not self._only_pending or len(self._pending) > _FEW:
            self._packed = self.encode()
            self._dense = None

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return self._count + len(self._pending)

    def percentile_us(self, percent: float) -> float:
        """The smallest value that at least ``percent`` of all are not above (nearest rank).

        Args:
            percent: over 0, at most 100.

        Returns:
            Microseconds, the upper end of the bucket; NaN of an empty histogram.
        """
        if not 0 < percent <= 100:
            raise ValueError(f"a percentile is over 0 and at most 100, not {percent}")
        # Rounded, since 99.9 * 1000 / 100 is a little more than 999 in floating point.
        return self.at_rank_us(math.ceil(round(percent * self.count / 100, 6)))

    def at_rank_us(self, rank: int) -> float:
        """The ``rank``-th smallest value, from 1 on; NaN of an empty histogram, infinity beyond the last."""
        if self.count == 0:
            return math.nan
        if rank > self.count:
            return math.inf
        cumulative = np.cumsum(self._counts())
        return float(_upper_ends()[int(np.searchsorted(cumulative, max(rank, 1)))])

    def at_ranks_us(self, ranks: Iterable[int]) -> list[float]:
        """As ``at_rank_us``, for several ranks at the price of one."""
        wanted = list(ranks)
        if self.count == 0:
            return [math.nan] * len(wanted)
        cumulative = np.cumsum(self._counts())
        ends = _upper_ends()
        found = np.searchsorted(cumulative, np.maximum(wanted, 1))
        return [
            math.inf if rank > self.count else float(ends[int(at)]) for rank, at in zip(wanted, found, strict=True)
        ]

    def count_within_us(self, limit_us: float) -> int:
        """How many values are certainly at most ``limit_us``: those of the buckets that end there or before."""
        if self.count == 0:
            return 0
        if self._only_pending:
            whole = _whole(np.frombuffer(self._pending, dtype=np.float64))
            return int((_upper_ends()[_indexes(_layout(), whole)] <= limit_us).sum())
        # The ends ascend, so those within the limit come first.
        return int(self._counts()[: int(np.searchsorted(_upper_ends(), limit_us, side="right"))].sum())

    def mean_us(self) -> float:
        """The mean, each value taken at the middle of its bucket; NaN of an empty histogram."""
        if self.count == 0:
            return math.nan
        counts = self._counts()
        ends = _upper_ends()
        starts = np.concatenate(([0.0], ends[:-1] + 1))
        return float((counts * ((starts + ends) / 2)).sum() / self.count)

    def steps(self) -> list[tuple[float, int]]:
        """The used buckets, ascending: upper end in microseconds, and how many values are not above it."""
        counts = self._counts()
        cumulative = np.cumsum(counts)
        ends = _upper_ends()
        return [(float(ends[at]), int(cumulative[at])) for at in np.flatnonzero(counts)]

    def encode(self) -> str:
        """HdrHistogram's V2 compressed form in base64, which every HdrHistogram library reads."""
        if self._packed is not None and not self._pending:
            return self._packed
        self._fold()
        dense = self._opened()
        used = np.flatnonzero(_view(dense))
        dense.total_count = self._count
        # The codec writes the counters up to that of the largest value.
        dense.max_value = dense.get_value_from_index(int(used[-1])) if len(used) else 0
        encoded: bytes = dense.encode()
        return encoded.decode("ascii")

    @classmethod
    def decode(cls, encoded: str) -> Histogram:
        """The histogram that ``encode`` gave.

        Raises:
            DamagedHistogram: it is no such thing, or has other bounds.
        """
        made = cls()
        made._count = int(_view(_decoded(encoded)).sum())
        made._packed = encoded
        return made

    @property
    def _only_pending(self) -> bool:
        return self._dense is None and self._packed is None

    def _opened(self) -> HdrHistogram:
        if self._dense is None:
            self._dense = _empty() if self._packed is None else _decoded(self._packed)
            self._packed = None
        return self._dense

    def _fold(self) -> None:
        if not self._pending:
            return
        whole = _whole(np.frombuffer(self._pending, dtype=np.float64))
        dense = self._opened()
        view = _view(dense)
        np.add.at(view, _indexes(dense, whole), 1)
        self._count += len(whole)
        self._pending = array("d")

    def _counts(self) -> NDArray[np.uint64]:
        """The counters, to read."""
        self._fold()
        if self._dense is not None:
            return _view(self._dense)
        # A packed one stays packed: a report reads thousands of seconds, one after the other.
        return _view(_empty() if self._packed is None else _decoded(self._packed))


def _empty() -> HdrHistogram:
    return HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)


def _decoded(encoded: str) -> HdrHistogram:
    try:
        found: HdrHistogram = HdrHistogram.decode(encoded)
    except Exception as error:  # the codec raises what zlib, base64 and struct raise, and classes of its own
        raise DamagedHistogram(f"{type(error).__name__}: {error}") from error
    bounds = (found.lowest_trackable_value, found.highest_trackable_value, found.significant_figures)
    if bounds != (LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS):
        raise DamagedHistogram(
            f"its bounds are {bounds}, and ({LOWEST_US}, {HIGHEST_US}, {SIGNIFICANT_DIGITS}) needed"
        )
    return found


def _whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """As they are counted: whole microseconds within the bounds."""
    return np.clip(np.rint(values), LOWEST_US, HIGHEST_US).astype(np.int64)


def _view(dense: HdrHistogram) -> NDArray[np.uint64]:
    return np.frombuffer(dense.counts, dtype=np.uint64)


def _indexes(dense: HdrHistogram, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The counter of each value, as HdrHistogram places it: a power of two, halved into equal sub-buckets."""
    magnitude = dense.sub_bucket_half_count_magnitude
    # frexp's exponent is the number of bits, exactly so for whole numbers under 2**53.
    bits = np.frexp((values | dense.sub_bucket_mask).astype(np.float64))[1].astype(np.int64)
    bucket = bits - (magnitude + 1)
    found: NDArray[np.int64] = ((bucket + 1) << magnitude) + (values >> bucket) - dense.sub_bucket_half_count
    return found


@functools.cache
def _layout() -> HdrHistogram:
    """A histogram that stays empty and is asked where values belong."""
    return _empty()


@functools.cache
def _upper_ends() -> NDArray[np.float64]:
    """The highest value of each counter, in microseconds."""
    layout = _layout()
    ends = [layout.get_highest_equivalent_value(layout.get_value_from_index(at)) for at in range(layout.counts_len)]
    return np.array(ends, dtype=np.float64)
