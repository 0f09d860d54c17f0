"""What a run shows of one protocol, or of all together, in the form that objectives ask for it. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from saccade_loadtest.judging import confidence
from saccade_loadtest.record.results import Run, Tally


@dataclass(frozen=True, slots=True)
class Bounds:
    """A percentile of a sample, and how far off the true one may be.

    Attributes:
        value_us: of the sample; infinity where it falls on a request without a right answer, NaN of an empty sample.
        low_us: lower bound, 0 if the sample is too small for one.
        high_us: upper bound, infinity if the sample is too small for one.
        requests: size of the sample.
        counting: requests that it counts for towards a pass, where slow ones come together.
    """

    value_us: float
    low_us: float
    high_us: float
    requests: int
    counting: int


class Evidence:
    """The requests of a run that were due after the warm-up.

    Args:
        run: the record.
        protocol: one that it has; None: all.
    """

    def __init__(self, run: Run, protocol: str | None = None) -> None:
        self._bins: dict[int, Tally] = {
            number: tally
            for number, tally in run.timeline(protocol).items()
            if number >= run.schedule.first_measured_bin
        }
        self.measured_s = run.schedule.measured_s
        self._bin_s = run.schedule.bin_s

    @cached_property
    def total(self) -> Tally:
        """All seconds as one."""
        total = Tally()
        for tally in self._bins.values():
            total.merge(tally)
        return total

    @property
    def seconds(self) -> Sequence[Tally]:
        """The tally of each second in which something was due, in order of time."""
        return [tally for tally in self._bins.values() if tally.due]

    @property
    def busy_s(self) -> float:
        """Seconds in which something was due."""
        return len(self.seconds) * self._bin_s

    @property
    def due_per_s(self) -> float:
        """The rate that was offered."""
        return self.total.due / self.measured_s

    @property
    def without_answer(self) -> int:
        """Requests that were due and have no right answer: failed, not sent, or of unknown fate."""
        return self.total.due - self.total.answered

    def slow_by_second(self, limit_us: float, *, failures: bool = True) -> tuple[list[int], list[int]]:
        """Requests over a latency, and all requests, for each second.

        Args:
            limit_us: what is over it is slow.
            failures: whether those without a right answer count, as slow.
        """
        slow, requests = [], []
        for tally in self.seconds:
            size = tally.due if failures else tally.answered
            slow.append(size - tally.latency.count_within_us(limit_us))
            requests.append(size)
        return slow, requests

    def percentile(
        self, percent: float, alpha: float, *, failures: bool = True, dispersed_at_us: float | None = None
    ) -> Bounds:
        """A percentile with its bounds from order statistics.

        Args:
            percent: over 0, under 100.
            alpha: chance that one of the bounds is wrong.
            failures: whether requests without a right answer count, as slower than any.
            dispersed_at_us: the latency at which it is looked whether slow requests come together; None: at the
                percentile itself.
        """
        latency = self.total.latency
        size = self.total.due if failures else self.total.answered
        if size == 0:
            return Bounds(float("nan"), 0.0, float("inf"), 0, 0)
        value_us = latency.at_rank_us(_rank(percent, size)) if latency.count else float("inf")
        at_us = value_us if dispersed_at_us is None else dispersed_at_us
        dispersion = confidence.dispersion(*self.slow_by_second(at_us, failures=failures))
        # Slow requests that come together make a pass harder and never a fail: a stall is no excuse.
        low, _ = confidence.percentile_ranks(size, percent, alpha)
        _, high = confidence.percentile_ranks(size, percent, alpha, dispersion)
        low_us = 0.0 if low == 0 else latency.at_rank_us(low) if latency.count else float("inf")
        high_us = latency.at_rank_us(high) if latency.count else float("inf")
        return Bounds(value_us, low_us, high_us, size, max(1, int(size / dispersion)))


def _rank(percent: float, size: int) -> int:
    # Rounded, since 99.9 * 1000 / 100 is a little more than 999 in floating point.
    return -int(-round(percent * size / 100, 6) // 1)
