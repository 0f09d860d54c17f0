"""Objectives on what servers say of themselves: percentiles of a stage, and growth of memory and descriptors. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from saccade_loadtest.judging import confidence
from saccade_loadtest.judging.finding import Finding, Outcome, Unit, digits, percent, percentile_name, seconds
from saccade_loadtest.judging.slo import Growth, LatencyLimit
from saccade_loadtest.record.results import Run
from saccade_loadtest.record.server_metrics import DESCRIPTORS, RESIDENT, ServerRecord, StageTimes

#: A slope per hour is not told from less.
LEAST_SPAN_S = 600.0
_LEAST_POINTS = 20
_MOST_POINTS = 400


def judge_stage(server: ServerRecord | None, limit: LatencyLimit, alpha: float) -> Finding:
    """Judge a percentile of a stage by the servers' histogram, which knows no more than its buckets."""
    name = f"{percentile_name(limit.percentile)} of {limit.stage}"
    service = limit.stage.partition("/")[0]
    if server is not None and service in server.missing:
        reason = f"the metrics of {service} tell no whole run: {server.missing[service]}"
        return Finding(name, "invalid", math.nan, limit.limit_ms, True, "ms", reason=reason)
    times = None if server is None else server.stages.get(limit.stage)
    if times is None or times.count == 0:
        known = "none" if server is None else ", ".join(sorted(server.stages)) or "none"
        reason = f"the servers' metrics tell nothing of {limit.stage}; stages they tell of: {known}"
        return Finding(name, "invalid", math.nan, limit.limit_ms, True, "ms", reason=reason)
    low_s, high_s = times.percentile_bounds_s(limit.percentile)
    outcome, reason = _stage_outcome(times, limit, alpha)
    return Finding(
        objective=name,
        outcome=outcome,
        measured=high_s * 1e3,
        limit=limit.limit_ms,
        at_most=True,
        unit="ms",
        low=low_s * 1e3,
        high=high_s * 1e3,
        requests=int(times.count),
        reason=reason,
    )


def _stage_outcome(times: StageTimes, limit: LatencyLimit, alpha: float) -> tuple[Outcome, str]:
    limit_s = limit.limit_ms / 1e3
    size = int(times.count)
    allowed = 1 - limit.percentile / 100
    # A bound that is the limit but for floating point counts as the limit.
    within = sum(
        count for end, count in zip(times.bounds_s, times.counts, strict=False) if end <= limit_s * (1 + 1e-9)
    )
    begins = (0.0, *times.bounds_s)
    over = sum(count for begin, count in zip(begins, times.counts, strict=True) if begin >= limit_s * (1 - 1e-9))
    if over >= confidence.fewest_over(size, allowed, alpha):
        return "fail", f"{percent(over / size)} of {size:,} took longer"
    if size - within <= confidence.most_over(size, allowed, alpha):
        return "pass", ""
    least = confidence.minimum_sample(limit.percentile, alpha)
    if size < least:
        return "invalid", f"too few requests: {size:,}, and at least {least:,} are needed"
    if size - within > over:
        bounds = ", ".join(f"{bound * 1e3:g}" for bound in times.bounds_s if 0.1 <= bound / limit_s <= 10)
        return (
            "invalid",
            f"the servers' buckets cannot tell at {limit.limit_ms:g} ms; their bounds near it: {bounds} ms",
        )
    return "invalid", f"too few requests to tell: {over:,.0f} of {size:,} took longer"


def judge_growth(run: Run, growth: Growth) -> Iterator[Finding]:
    """Judge how fast memory and descriptors of each service grow after the warm-up."""
    wanted: tuple[tuple[str, str, float | None, int, Unit], ...] = (
        (RESIDENT, "memory", growth.memory_mib_per_hour, 2**20, "MiB/h"),
        (DESCRIPTORS, "descriptors", growth.descriptors_per_hour, 1, "/h"),
    )
    for metric, noun, limit, scale, unit in wanted:
        if limit is None:
            continue
        gauges = {} if run.server is None else run.server.gauges
        found = {name: points for name, points in gauges.items() if name.rpartition("/")[2] == metric}
        if not found:
            reason = f"the servers' metrics have no {metric}"
            yield Finding(f"growth of {noun}", "invalid", math.nan, limit, True, unit, reason=reason)
        for name, points in found.items():
            service = name.rpartition("/")[0]
            objective = f"growth of {noun} ({service})"
            if run.server is not None and service in run.server.missing:
                reason = f"the metrics of {service} tell no whole run: {run.server.missing[service]}"
                yield Finding(objective, "invalid", math.nan, limit, True, unit, reason=reason)
                continue
            later = [(at, value / scale) for at, value in points if at >= run.schedule.warmup_s]
            span_s = later[-1][0] - later[0][0] if later else 0.0
            if span_s < LEAST_SPAN_S or len(later) < _LEAST_POINTS:
                reason = (
                    f"{len(later)} readings over {seconds(span_s)} tell no growth per hour; at least "
                    f"{_LEAST_POINTS} over {seconds(LEAST_SPAN_S)} are needed"
                )
                yield Finding(objective, "invalid", math.nan, limit, True, unit, reason=reason)
                continue
            slope = 3600 * slope_per_s(later)
            reason = (
                "" if slope <= limit else f"from {digits(later[0][1])} to {digits(later[-1][1])} in {seconds(span_s)}"
            )
            yield Finding(
                objective,
                "pass" if slope <= limit else "fail",
                slope,
                limit,
                True,
                unit,
                requests=len(later),
                reason=reason,
            )


def slope_per_s(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs (Theil 1950, Sen 1968): a single jump or spike does not move it.

    Args:
        points: seconds and values, at least two at different times.
    """
    taken = points[:: max(1, math.ceil(len(points) / _MOST_POINTS))]
    at, values = np.array(taken, dtype=np.float64).T
    first, second = np.triu_indices(len(at), k=1)
    apart = at[second] > at[first]
    slopes = (values[second] - values[first])[apart] / (at[second] - at[first])[apart]
    return float(np.median(slopes))
