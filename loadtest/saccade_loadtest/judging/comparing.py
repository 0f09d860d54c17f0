"""Compares two runs: what became faster, slower, or cannot be told apart, each with an interval.

A percentile's change is bounded by the bootstrap over stretches of time: the seconds of each run are drawn again and
again, with replacement, and the percentile is taken of what was drawn (Efron and Tibshirani, An Introduction to the
Bootstrap, sections 8.6 and 13.3; stretches instead of requests, since requests of one moment share their fate).
Rates of failure are compared likewise. Pure but for the seed of the drawing, which is fixed: the same two files give
the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from saccade_loadtest.judging import confidence
from saccade_loadtest.judging.evidence import Evidence
from saccade_loadtest.judging.finding import percentile_name
from saccade_loadtest.judging.slo import GeneratorLimits, allowed_lateness_ms
from saccade_loadtest.judging.verdict import check_generator
from saccade_loadtest.record.results import Run, Tally

Change: TypeAlias = Literal["better", "worse", "same", "unknown"]

_BY_WEIGHT: Final[tuple[Change, ...]] = ("worse", "better", "unknown")
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
_DRAWS: Final = 2_000
_AT_ONCE: Final = 250
_MOST_STRETCHES: Final = 120
_LEAST_STRETCHES: Final = 10
_LEAST_BEYOND: Final = 10
#: A change of the share of failures that is not worth telling.
_SHARE_WORTH: Final = 0.001
_SEED: Final = 20_261_127


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two runs.

    Attributes:
        name: as "p99 (jpeg)".
        first: of run A; milliseconds, or a share.
        second: of run B.
        unit: "ms" or "share".
        low: lower bound of the change from A to B: of a latency as a factor (1.1: a tenth slower), of a share as a
            difference; NaN where there is none.
        high: its upper bound.
        change: "same" if the interval lies within what is not worth telling; else "worse" or "better" if it lies on
            one side of no change; otherwise "unknown".
        reason: why there is no interval; empty otherwise.
    """

    name: str
    first: float
    second: float
    unit: Literal["ms", "share"]
    low: float
    high: float
    change: Change
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences, what makes the two runs unlike each other, and what makes one of them no measurement.

    Attributes:
        differences: of each figure.
        remarks: sentences, doubts included.
        is_doubted: a generator did not do what was planned, and the comparison was not forced: nothing is concluded.
    """

    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]
    is_doubted: bool = False

    @property
    def change(self) -> Change:
        """Worse if anything is; else better if anything is; the same only if everything is; otherwise unknown."""
        if self.is_doubted:
            return "unknown"
        seen = {difference.change for difference in self.differences}
        return next((change for change in _BY_WEIGHT if change in seen), "same" if seen else "unknown")

    @property
    def exit_code(self) -> int:
        """1 if anything is worse, 2 if nothing at all can be told, otherwise 0."""
        if self.change == "worse":
            return 1
        return 2 if self.is_doubted or all(difference.change == "unknown" for difference in self.differences) else 0


def compare(first: Run, second: Run, *, level: float = 0.99, worth: float = 0.05, forced: bool = False) -> Comparison:
    """Compare two runs by the protocols that both have.

    Args:
        first: what was.
        second: what is now.
        level: confidence of each bound.
        worth: relative change of a latency that is worth telling: 0.05 is 5 %.
        forced: conclude also from runs whose generators did not do what was planned.
    """
    shared = [protocol for protocol in first.series if protocol in second.series]
    differences = [
        difference for protocol in shared for difference in _protocol(first, second, protocol, level, worth)
    ]
    doubts = [f"{name}: {doubt}" for name, run in (("A", first), ("B", second)) for doubt in _doubts(run)]
    remarks = [*doubts, *_remarks(first, second, shared)]
    return Comparison(tuple(differences), tuple(remarks), bool(doubts) and not forced)


def _doubts(run: Run) -> Iterator[str]:
    """Why a run is no measurement, whatever it would be judged by.

    A closed loop is no doubt: where only one is, a remark says so. How late requests may be sent follows from the p99
    that is compared: by a tenth of it.
    """
    evidence = Evidence(run)
    p99_ms = evidence.total.latency.percentile_us(99) / 1e3 if evidence.total.answered else 0.0
    limits = GeneratorLimits(closed_loop=True, schedule_error_p99_ms=allowed_lateness_ms(p99_ms))
    return (check.sentence for check in check_generator(run, limits, evidence) if not check.kept)


def _protocol(first: Run, second: Run, protocol: str, level: float, worth: float) -> Iterator[Difference]:
    samples = [_Sample(Evidence(run, protocol)) for run in (first, second)]
    drawn = [sample.draw(seed) for seed, sample in enumerate(samples)]
    for number, percent in enumerate(PERCENTILES):
        name = f"{percentile_name(percent)} ({protocol})"
        values = [sample.percentile_ms(percent) for sample in samples]
        reason = _too_few(samples, percent, 1 - level)
        if reason:
            yield Difference(name, values[0], values[1], "ms", math.nan, math.nan, "unknown", reason)
            continue
        if math.isinf(values[0]) and math.isinf(values[1]):
            reason = "in both it falls on requests without a right answer"
            yield Difference(name, values[0], values[1], "ms", math.nan, math.nan, "unknown", reason)
            continue
        before, after = (found.percentiles_ms[:, number] for found in drawn)
        with np.errstate(invalid="ignore", over="ignore"):
            factors = after / before
        # Where both drawings fall on failed requests there is no factor, and no change.
        factors = np.where(np.isnan(factors), 1.0, factors)
        low, high = _interval(factors, level)
        yield Difference(name, values[0], values[1], "ms", low, high, _judged(low, high, worth))
    yield _failures(samples, drawn, protocol, level)


def _failures(samples: Sequence[_Sample], drawn: Sequence[_Drawn], protocol: str, level: float) -> Difference:
    values = [sample.failed_share for sample in samples]
    name = f"failures ({protocol})"
    reason = _stretches_missing(samples)
    if reason:
        return Difference(name, values[0], values[1], "share", math.nan, math.nan, "unknown", reason)
    low, high = _interval(drawn[1].failed - drawn[0].failed, level)
    # Drawing again never shows what was not seen; what a sample without failures may hide is bounded exactly.
    hidden = [confidence.share_bounds(sample.failed, sample.requests, 1 - level)[1] - share
              for sample, share in zip(samples, values, strict=True)]  # fmt: skip
    low, high = min(low, values[1] - values[0] - hidden[0]), max(high, values[1] - values[0] + hidden[1])
    change: Change = "worse" if low > 0 else "better" if high < 0 else "unknown"
    if low >= -_SHARE_WORTH and high <= _SHARE_WORTH:
        change = "same"
    return Difference(name, values[0], values[1], "share", low, high, change)


def _interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [1 - level, level], method="nearest")
    return float(low), float(high)


def _judged(low: float, high: float, worth: float) -> Change:
    if low >= 1 / (1 + worth) and high <= 1 + worth:
        return "same"
    return "worse" if low > 1 else "better" if high < 1 else "unknown"


def _too_few(samples: Sequence[_Sample], percent: float, alpha: float) -> str:
    # The bootstrap needs some values beyond the percentile to draw from.
    least = max(confidence.minimum_sample(percent, alpha), round(_LEAST_BEYOND / (1 - percent / 100)))
    for sample, name in zip(samples, "AB", strict=True):
        if sample.requests < least:
            return f"too few requests: {name} has {sample.requests:,}, at least {least:,} are needed"
    return _stretches_missing(samples)


def _stretches_missing(samples: Sequence[_Sample]) -> str:
    for sample, name in zip(samples, "AB", strict=True):
        if sample.stretches < _LEAST_STRETCHES:
            return f"{name} has {sample.stretches} seconds, at least {_LEAST_STRETCHES} are needed"
    return ""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What 2,000 drawings gave: percentiles [draws, percentiles] in milliseconds, and shares of failures [draws]."""

    percentiles_ms: NDArray[np.float64]
    failed: NDArray[np.float64]


class _Sample:
    """One run's requests of a protocol, by stretch of time."""

    def __init__(self, evidence: Evidence) -> None:
        tallies = _stretches(evidence.seconds)
        self._evidence = evidence
        self.stretches = len(tallies)
        self.requests = evidence.total.due
        self.failed = evidence.without_answer
        self.failed_share = self.failed / self.requests if self.requests else math.nan
        steps = [tally.latency.steps() for tally in tallies]
        self._ends_us = np.array(sorted({end for found in steps for end, _ in found}))
        place = {end: number for number, end in enumerate(self._ends_us.tolist())}
        # The last column holds the requests without a right answer: slower than any.
        self._counts = np.zeros((len(tallies), len(place) + 1))
        for row, (tally, found) in enumerate(zip(tallies, steps, strict=True)):
            before = 0
            for end, cumulative in found:
                self._counts[row, place[end]] = cumulative - before
                before = cumulative
            self._counts[row, -1] = tally.due - tally.answered

    def percentile_ms(self, percent: float) -> float:
        """Of the whole sample, requests without a right answer being slower than any."""
        return self._evidence.percentile(percent, 0.01).value_us / 1e3

    def draw(self, seed: int) -> _Drawn:
        """Draw the stretches anew, as many as there are, 2,000 times."""
        ends = np.append(self._ends_us, np.inf)
        percentiles = np.full((_DRAWS, len(PERCENTILES)), np.nan)
        failed = np.full(_DRAWS, np.nan)
        if self.stretches == 0:
            return _Drawn(percentiles, failed)
        generator = np.random.default_rng((_SEED, seed))
        even = np.full(self.stretches, 1 / self.stretches)
        for begin in range(0, _DRAWS, _AT_ONCE):
            times = generator.multinomial(self.stretches, even, size=_AT_ONCE).astype(np.float64)
            cumulative = np.cumsum(times @ self._counts, axis=1)
            size = cumulative[:, -1]
            failed[begin : begin + _AT_ONCE] = self._counts[:, -1] @ times.T / size
            for number, percent in enumerate(PERCENTILES):
                ranks = np.ceil(np.round(percent * size / 100, 6))
                at = (cumulative < ranks[:, None]).sum(axis=1)
                percentiles[begin : begin + _AT_ONCE, number] = ends[at] / 1e3
        return _Drawn(percentiles, failed)


def _stretches(seconds: Sequence[Tally]) -> list[Tally]:
    """At most 120, each of as many seconds as the others."""
    size = max(1, math.ceil(len(seconds) / _MOST_STRETCHES))
    if size == 1:
        return list(seconds)
    gathered = []
    for at in range(0, len(seconds), size):
        total = Tally()
        for tally in seconds[at : at + size]:
            total.merge(tally)
        gathered.append(total)
    return gathered


def _remarks(first: Run, second: Run, shared: Sequence[str]) -> Iterator[str]:
    pairs = (
        ("scenario", first.scenario, second.scenario),
        ("loop", first.loop, second.loop),
        ("arrivals", first.schedule.arrivals, second.schedule.arrivals),
        ("service", first.target.service, second.target.service),
        ("model", first.target.model, second.target.model),
        ("machine", first.machine.get("cpu", ""), second.machine.get("cpu", "")),
    )
    for what, one, other in pairs:
        if one != other:
            yield f"the runs differ in their {what}: {one or 'unknown'} and {other or 'unknown'}"
    rates = [Evidence(run).due_per_s for run in (first, second)]
    if min(rates) < 0.95 * max(rates):
        yield f"the runs were offered different loads: {rates[0]:.1f}/s and {rates[1]:.1f}/s"
    only = sorted(set(first.series) ^ set(second.series))
    if only:
        yield f"only one of the runs has {', '.join(only)}"
    if not shared:
        yield "the runs have no protocol in common: there is nothing to compare"
