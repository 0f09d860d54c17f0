"""Judges an A/B test: what was counted, what differs between the variants, and a plain sentence for each measure.

Pure: an experiment in, a report out that can be shown as tables or written as JSON. The arithmetic of the intervals
stands in ``bootstrap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from saccade_cli.experiment import MOST, Experiment, Joined, Request
from saccade_serving.errors import short

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
        is_outcome: it was fed back.
    """

    name: str
    unit: str
    stable_count: int
    candidate_count: int
    compared: Compared
    sentence: str
    is_outcome: bool = False


@dataclass(frozen=True)
class OutcomeCounts:
    """What became of the outcomes that were fed back.

    Attributes:
        given: lines of the file.
        counted: values that belong to an answer of the experiment.
        unreadable: without an id, or with a value that is no number.
        unmatched: of requests that are not in the log.
        left_out: of requests that no variant of the experiment has answered itself.
        ambiguous: of ids that several requests have.
        compared: names of the outcomes that both variants have values of.
    """

    given: int
    counted: int
    unreadable: int
    unmatched: int
    left_out: int
    ambiguous: int
    compared: list[str]


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        share: the candidate's, as it was configured.
        observed_share: of the units that were split: keys, and requests without one.
        split_p: how probable that is by chance; None where there are too few to say.
        outcomes: what became of them; None where none were given.
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
    outcomes: OutcomeCounts | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)

    @property
    def has_compared(self) -> bool:
        """Whether anything could be compared; where outcomes were given, any of them."""
        return bool(self.measures) and (self.outcomes is None or bool(self.outcomes.compared))


def make_report(experiment: Experiment, outcomes: Joined | None = None) -> Report:
    """Compare the two variants of an experiment."""
    arms = [_arm(name, experiment.of(name)) for name in (experiment.stable, experiment.candidate)]
    units = [arm.keys + arm.without_key for arm in arms]
    total = max(1, sum(units))
    split_p = split_p_value(units[1], total, experiment.share)
    measures = _measures(experiment, outcomes)
    counts = None if outcomes is None else _outcome_counts(outcomes, measures)
    report = Report(arms[0], arms[1], experiment.share, units[1] / total, split_p, measures, counts)
    report.verdict.extend(measure.sentence for measure in measures)
    _warn(report, units)
    if outcomes is not None and counts is not None:
        report.warnings.extend(_warnings_of(outcomes, counts))
    _note(report, experiment)
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


def _outcome_counts(outcomes: Joined, measures: Sequence[Measure]) -> OutcomeCounts:
    dropped = outcomes.unreadable, outcomes.unmatched, outcomes.left_out, outcomes.ambiguous
    return OutcomeCounts(
        given=outcomes.matched + sum(one.count for one in dropped),
        counted=outcomes.matched,
        unreadable=outcomes.unreadable.count,
        unmatched=outcomes.unmatched.count,
        left_out=outcomes.left_out.count,
        ambiguous=outcomes.ambiguous.count,
        compared=[measure.name for measure in measures if measure.is_outcome],
    )


def _warnings_of(outcomes: Joined, counts: OutcomeCounts) -> Iterator[str]:
    """Say of which outcomes nothing comes, and why, each reason with the first of them."""
    of = f"of {counts.given} outcomes cannot be used"
    for dropped, why in (
        (outcomes.unreadable, f"expected an id and a finite number of at most {MOST:g}, and"),
        (outcomes.unmatched, "the log has no request of their id, such as"),
        (outcomes.ambiguous, "several requests have their id, such as"),
    ):
        if dropped.count:
            yield f"{dropped.count} {of}: {why} {dropped.example}."
    if outcomes.left_out.count and not counts.counted:
        yield (
            f"{outcomes.left_out.count} {of}: their requests are left out, fell back or failed, such as "
            f"{outcomes.left_out.example}."
        )
    for name, pairs in sorted(outcomes.by_name.items()):
        if name not in counts.compared:
            yield f"Outcome {short(name)} is not compared: all of its {len(pairs)} values are {pairs[0][0].variant}'s."
    if not counts.compared:
        yield f"No outcome could be compared: of {counts.given} given, {counts.counted} belong to an answer."


def _measures(experiment: Experiment, outcomes: Joined | None) -> list[Measure]:
    names = experiment.stable, experiment.candidate
    measures: list[Measure] = []

    def add(
        name: str,
        unit: str,
        samples: Pair,
        compared: Compared,
        lower_is_better: bool = False,
        is_outcome: bool = False,
    ) -> None:
        counts = [len(sample.values) for sample in samples]
        words = _sentence(name, unit, samples, compared, lower_is_better)
        measures.append(Measure(name, unit, counts[0], counts[1], compared, words, is_outcome))

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
            add(name, "", samples, compare_means(*samples), is_outcome=True)
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


def _note(report: Report, experiment: Experiment) -> None:
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
    if (counts := report.outcomes) is not None:
        note(
            f"Outcomes: {counts.counted} counted; {counts.unreadable} unreadable, {counts.unmatched} of unknown "
            f"requests, {counts.left_out} of requests that are left out, fell back or failed, {counts.ambiguous} of "
            "ids that are not unique."
        )
