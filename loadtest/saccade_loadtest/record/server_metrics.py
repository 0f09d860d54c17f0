"""What servers say of themselves: their Prometheus metrics before and after a run, as the difference between the two.

``parse`` reads a scrape, ``ServerRecord.between`` takes the difference of two, for each service. Asks nobody: who
scrapes hands in text. Knows the names of DESIGN section 7: ``saccade_request_seconds{stage}``, cache outcomes, and the
process' memory and descriptors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

STAGES: Final = "saccade_request_seconds"
CACHE: Final = "saccade_cache_requests"
RESIDENT: Final = "process_resident_memory_bytes"
DESCRIPTORS: Final = "process_open_fds"
#: Gauges that are kept over time, for runs that look for what grows.
GAUGES: Final = (RESIDENT, DESCRIPTORS, "saccade_queue_depth", "saccade_inflight_requests")
#: Of a process; another one is another process.
STARTED: Final = "process_start_time_seconds"
WENT_BACK: Final = (
    "its counters went back: it was restarted, or another replica answered, and what was counted before is lost"
)
_MOST_POINTS: Final = 2000


class UnreadableMetrics(ValueError):
    """An answer to ``GET /metrics`` that is something else."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"what the server gave as its metrics is not Prometheus' text format: {error}")


@dataclass(frozen=True, slots=True)
class StageTimes:
    """A Prometheus histogram of one stage, as counts between bounds.

    Attributes:
        bounds_s: upper ends, ascending, without infinity.
        counts: values in each, and one more for those above the last; not cumulative.
        sum_s: of all values.
    """

    bounds_s: tuple[float, ...]
    counts: tuple[float, ...]
    sum_s: float

    @property
    def count(self) -> float:
        """Values in it."""
        return sum(self.counts)

    @property
    def mean_s(self) -> float:
        """NaN when empty."""
        return self.sum_s / self.count if self.count else math.nan

    def percentile_bounds_s(self, percent: float) -> tuple[float, float]:
        """Between which two bounds the percentile lies: nothing narrower is known. NaN when empty."""
        if not self.count:
            return math.nan, math.nan
        wanted = percent / 100 * self.count
        reached = 0.0
        for number, count in enumerate(self.counts):
            reached += count
            if reached >= wanted - 1e-9 and count:
                lower = self.bounds_s[number - 1] if number else 0.0
                return lower, self.bounds_s[number] if number < len(self.bounds_s) else math.inf
        return self.bounds_s[-1], math.inf


@dataclass(slots=True)
class Scrape:
    """What one service said at one moment."""

    stages: dict[str, StageTimes] = field(default_factory=dict)
    cache: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    started_at: float = 0.0

    def went_back_from(self, earlier: Scrape) -> bool:
        """Whether this is no later state of the same process."""
        if earlier.started_at and self.started_at and self.started_at != earlier.started_at:
            return True
        lost = any(times.count > 0 for stage, times in earlier.stages.items() if stage not in self.stages)
        return lost or any(
            times.count < earlier.stages[stage].count
            for stage, times in self.stages.items()
            if stage in earlier.stages
        )


@dataclass(slots=True)
class ServerRecord:
    """What the servers counted during a run.

    Attributes:
        stages: by "service/stage", as "predictor/queue".
        cache: answers by outcome.
        gauges: by "service/metric": seconds since the run's first moment, and the value.
        missing: services whose metrics could not be read, with the reason.
    """

    stages: dict[str, StageTimes] = field(default_factory=dict)
    cache: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, service: str, before: Scrape, after: Scrape) -> None:
        """Take in the difference of two scrapes of one service; a restart between them starts at 0, and is noted."""
        for stage, ended in after.stages.items():
            begun = before.stages.get(stage)
            if begun is not None and begun.bounds_s == ended.bounds_s:
                counts = tuple(b - a for a, b in zip(begun.counts, ended.counts, strict=True))
                if min(counts) >= 0:
                    ended = StageTimes(ended.bounds_s, counts, ended.sum_s - begun.sum_s)
                else:
                    self.missing[service] = WENT_BACK
            self.stages[f"{service}/{stage}"] = ended
        for outcome, count in after.cache.items():
            difference = count - before.cache.get(outcome, 0.0)
            self.cache[outcome] = self.cache.get(outcome, 0.0) + (difference if difference >= 0 else count)

    def watch(self, service: str, at_s: float, scrape: Scrape) -> None:
        """Keep the gauges of a moment; of very long runs every second point goes, again and again."""
        for name, value in scrape.gauges.items():
            points = self.gauges.setdefault(f"{service}/{name}", [])
            points.append((at_s, value))
            if len(points) > _MOST_POINTS:
                del points[1:-1:2]


def parse(text: str) -> Scrape:
    """Read the text that ``GET /metrics`` gave; series of several models are added up.

    Raises:
        UnreadableMetrics: it is something else.
    """
    try:
        return _parsed(text)
    except (ValueError, KeyError, IndexError) as error:
        raise UnreadableMetrics(error) from error


def _parsed(text: str) -> Scrape:
    scrape = Scrape()
    buckets: dict[str, dict[float, float]] = {}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{STAGES}_bucket":
                of_stage = buckets.setdefault(sample.labels.get("stage", "total"), {})
                bound = float(sample.labels["le"])
                of_stage[bound] = of_stage.get(bound, 0.0) + sample.value
            elif sample.name == f"{STAGES}_sum":
                stage = sample.labels.get("stage", "total")
                sums[stage] = sums.get(stage, 0.0) + sample.value
            elif sample.name == f"{CACHE}_total":
                outcome = sample.labels.get("outcome", "")
                scrape.cache[outcome] = scrape.cache.get(outcome, 0.0) + sample.value
            elif sample.name == STARTED:
                scrape.started_at = max(scrape.started_at, sample.value)
            elif sample.name in GAUGES:
                scrape.gauges[sample.name] = scrape.gauges.get(sample.name, 0.0) + sample.value
    scrape.stages = {stage: _stage_times(found, sums.get(stage, 0.0)) for stage, found in buckets.items()}
    return scrape


def _stage_times(cumulative: Mapping[float, float], sum_s: float) -> StageTimes:
    bounds = sorted(cumulative)
    counts = _differences(cumulative[bound] for bound in bounds)
    if not bounds or bounds[-1] != math.inf:
        return StageTimes(tuple(bounds), (*counts, 0.0), sum_s)
    return StageTimes(tuple(bounds[:-1]), tuple(counts), sum_s)


def _differences(cumulative: Iterable[float]) -> list[float]:
    found: list[float] = []
    last = 0.0
    for value in cumulative:
        found.append(value - last)
        last = value
    return found
