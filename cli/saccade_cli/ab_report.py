"""Judges an A/B test: what was counted, what differs between the variants, and a plain sentence for each measure.

Pure: an experiment in, a report out that can be shown as tables or written as JSON. The arithmetic of the intervals
stands in ``bootstrap``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from saccade_cli.bootstrap import (
    FEW_CLUSTERS,
    MIN_CLUSTERS,
    Compared,
    Sample,
    compare_means,
    compare_quantiles,
    split_p_value,
)
from saccade_cli.experiment import Experiment, Joined, Request

_QUANTILES: Final = {"latency p50": 0.5, "latency p90": 0.9, "latency p99": 0.99}
#: A split less probable than this is none by chance.
_SPLIT_P: Final = 0.001
#: A part of the candidate's requests that fell back from which on one has to know.
_MANY_FALLBACKS: Final = 0.01
_LOWER_IS_BETTER: Final = True

Pair = tuple[Sample, Sample]


@dataclass(frozen=True)
class Arm:
    """What the split gave to one variant.

    Attributes:
        keys: different cameras and users.
        without_key: requests of neither.
        errors: failed by the service's fault.
        fallbacks: answered by stable in its place.
        invalid: refused by the client's fault.
        left: whose clients did not wait.
    """

    name: str
    requests: int
    keys: int
    without_key: int
    errors: int
    fallbacks: int
    invalid: int
    left: int


@dataclass(frozen=True)
class Measure:
    """One thing that was compared.

    Attributes:
        stable_count: values of stable.
        candidate_count: values of the candidate.
        sentence: what it says, in words.
    """

    name: str
    unit: str
    stable_count: int
    candidate_count: int
    compared: Compared
    sentence: str


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        share: the candidate's, as it was configured.
        observed_share: of the units that were split: keys, and requests without one.
        split_p: how probable that is by chance; None where there are too few to say.
        warnings: why the measures may mislead.
        notes: how they were made, and what was left out.
        verdict: a sentence for each measure.
    """

    stable: Arm
    candidate: Arm
    share: float
    observed_share: float
    split_p: float | None
    measures: Sequence[Measure] = ()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)


def make_report(experiment: Experiment, outcomes: Joined | None = None) -> Report:
    """Compare the two variants of an experiment."""
    arms = [_arm(name, experiment.of(name)) for name in (experiment.stable, experiment.candidate)]
    units = [arm.keys + arm.without_key for arm in arms]
    total = max(1, sum(units))
    split_p = split_p_value(units[1], total, experiment.share)
    measures = _measures(experiment, outcomes)
    report = Report(arms[0], arms[1], experiment.share, units[1] / total, split_p, measures)
    report.verdict.extend(measure.sentence for measure in measures)
    _warn(report, units)
    _note(report, experiment, outcomes)
    return report


def _arm(name: str, requests: list[Request]) -> Arm:
    keys = {request.key for request in requests}
    return Arm(
        name,
        requests=len(requests),
        keys=len(keys - {""}),
        without_key=sum(not request.key for request in requests),
        errors=sum(request.is_error for request in requests),
        fallbacks=sum(request.fell_back for request in requests),
        invalid=sum(not (r.is_answered or r.is_error or r.has_left) for r in requests),
        left=sum(request.has_left for request in requests),
    )


def _measures(experiment: Experiment, outcomes: Joined | None) -> list[Measure]:
    names = experiment.stable, experiment.candidate
    measures: list[Measure] = []

    def add(name: str, unit: str, samples: Pair, compared: Compared, lower_is_better: bool = False) -> None:
        counts = [len(sample.values) for sample in samples]
        words = _sentence(name, unit, samples, compared, lower_is_better)
        measures.append(Measure(name, unit, counts[0], counts[1], compared, words))

    judged = [[r for r in experiment.of(name) if r.is_answered or r.is_error] for name in names]
    if all(judged):
        samples = _samples(judged, lambda r: 100.0 * (r.is_error or r.fell_back))
        add("failed", "%", samples, compare_means(*samples), _LOWER_IS_BETTER)
    answers = [experiment.own_answers(name) for name in names]
    if all(answers):
        samples = _samples(answers, lambda r: r.latency_ms)
        found = compare_quantiles(*samples, list(_QUANTILES.values()))
        for name, compared in zip(_QUANTILES, found, strict=True):
            add(name, "ms", samples, compared, _LOWER_IS_BETTER)
        samples = _samples(answers, lambda r: float(r.items))
        add("items in an answer", "", samples, compare_means(*samples))
    for name, pairs in sorted((outcomes.by_name if outcomes is not None else {}).items()):
        stable, candidate = ([(r, value) for r, value in pairs if r.variant == variant] for variant in names)
        if stable and candidate:
            samples = _sample(stable), _sample(candidate)
            add(name, "", samples, compare_means(*samples))
    return measures


def _samples(arms: Sequence[list[Request]], value: Callable[[Request], float]) -> Pair:
    stable, candidate = ([(request, value(request)) for request in arm] for arm in arms)
    return _sample(stable), _sample(candidate)


def _sample(rows: Sequence[tuple[Request, float]]) -> Sample:
    """Requests of one key are a cluster, and each one without a key is one of its own."""
    numbers: dict[object, int] = {}
    clusters = [numbers.setdefault(request.key or i, len(numbers)) for i, (request, _) in enumerate(rows)]
    return Sample(np.array([value for _, value in rows], np.float64), np.array(clusters, np.intp))


def _sentence(name: str, unit: str, samples: Pair, compared: Compared, lower_is_better: bool) -> str:
    difference = compared.difference
    space = f" {unit}" if unit and unit != "%" else unit and " points"
    if difference.low is None or difference.high is None:
        alike = [
            f"{_rounded(sample.values[0])}{' %' if unit == '%' else space}"
            for sample in samples
            if _is_constant(sample)
        ]
        clusters = min(len(sample.sizes) for sample in samples)
        if clusters < MIN_CLUSTERS:
            why = f"a variant has {clusters} cameras or users, and {MIN_CLUSTERS} is the least"
        elif len(alike) == 2 and difference.value:
            return f"{name}: all of stable's are {alike[0]}, all of the candidate's {alike[1]}."
        elif len(alike) == 2:
            why = f"all are {alike[0]}"
        else:
            why = "there are too few requests"
        return f"{name}: nothing can be said, since {why}."
    if not difference.is_seen:
        size = f"{_rounded(difference.detectable, 2)}{space}"
        return f"{name}: no difference seen; would have seen one of about {size}."
    direction = "higher" if difference.value > 0 else "lower"
    better = f", which is {'worse' if difference.value > 0 else 'better'}" if lower_is_better else ""
    low, high = sorted((abs(difference.low), abs(difference.high)))
    size = f"{_rounded(abs(difference.value))}{space} ({_rounded(low)} to {_rounded(high)})"
    return f"{name}: the candidate's is {direction} by {size}{better}."


def _rounded(value: float | None, digits: int = 3) -> str:
    """A number to so many digits, in no scientific notation where people would not use it."""
    return f"{float(f'{value or 0.0:.{digits}g}'):g}"


def _is_constant(sample: Sample) -> bool:
    return bool((sample.values == sample.values[0]).all())


def _warn(report: Report, units: Sequence[int]) -> None:
    warn = report.warnings.append
    if report.split_p is not None and report.split_p < _SPLIT_P:
        warn(
            f"The split is not the one that was configured: the candidate had {report.observed_share:.2%} of the "
            f"cameras instead of {report.share:.2%} (p = {report.split_p:.1g}). Find out why before you believe "
            "anything else here."
        )
    if min(units) < FEW_CLUSTERS:
        warn(
            f"A variant has {min(units)} cameras, users or requests without one; with fewer than {FEW_CLUSTERS} the "
            "intervals are rough, those of high quantiles too narrow."
        )
    fallbacks = report.candidate.fallbacks
    if fallbacks > _MANY_FALLBACKS * report.candidate.requests:
        warn(
            f"Stable answered {fallbacks} of the candidate's {report.candidate.requests} requests. They count as "
            "failed, and are in neither latency nor outcomes."
        )


def _note(report: Report, experiment: Experiment, outcomes: Joined | None) -> None:
    note = report.notes.append
    keys = report.stable.keys + report.candidate.keys
    without = report.stable.without_key + report.candidate.without_key
    if not keys:
        note("No request names a camera or user: each one is taken as independent of the others.")
    else:
        note(
            f"Intervals: 95 %, by drawing whole cameras and users ({keys})"
            + (f" and requests without one ({without})." if without else ".")
        )
    note("Of twenty measures that do not differ, one will show a difference by chance.")
    if experiment.chosen:
        note(f"Left out: {experiment.chosen} requests that chose their variant themselves.")
    if experiment.earlier:
        note(f"Left out: {experiment.earlier} requests from before the last change of the share or the salt.")
    if outcomes is not None:
        note(
            f"Outcomes: {outcomes.matched} counted; {outcomes.unmatched} of unknown requests, {outcomes.left_out} of "
            f"requests that are left out, fell back or failed, {outcomes.ambiguous} of ids that are not unique."
        )
