"""The verdict on a run: pass, fail or invalid, why, and the exit code that says so.

Invalid comes first: where the generator did not do what was planned, nothing of the run is judged to be good or bad.
Then fail, if any objective certainly fails; then invalid, if any cannot be told; and only then pass. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from saccade_loadtest.judging import confidence, objectives
from saccade_loadtest.judging.evidence import Evidence
from saccade_loadtest.judging.finding import Check, Finding, Outcome, figure, percent, percentile_name
from saccade_loadtest.judging.slo import GeneratorLimits, Slo
from saccade_loadtest.record.results import Run

EXIT_CODES: Final[dict[Outcome, int]] = {"pass": 0, "fail": 1, "invalid": 2}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a run.

    Attributes:
        outcome: of all together.
        reasons: one sentence each; empty of a pass.
        findings: by objective.
        checks: of the generator.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]

    @property
    def is_undecided(self) -> bool:
        """Invalid though the generator did what was planned: there were too few requests for what was seen."""
        return self.outcome == "invalid" and all(check.kept for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 invalid."""
        return EXIT_CODES[self.outcome]


def judge(run: Run, slo: Slo) -> Verdict:
    """Judge a run by an SLO."""
    of = objectives.evidences(run)
    checks = tuple(check_generator(run, slo.generator, of(None)))
    findings = tuple(objectives.judge(run, slo, of))
    broken = [check.sentence for check in checks if not check.kept]
    if broken:
        return Verdict("invalid", tuple(broken), findings, checks)
    for outcome in ("fail", "invalid"):
        reasons = [f"{found.objective}: {found.reason}" for found in findings if found.outcome == outcome]
        if reasons:
            return Verdict(outcome, tuple(reasons), findings, checks)
    return Verdict("pass", (), findings, checks)


def shortest_measurement_s(slo: Slo, per_s: float) -> float:
    """Seconds after the warm-up below which the SLO's percentiles cannot pass at a rate; 0 if it has none.

    Args:
        slo: whose latency limits on what clients see are taken.
        per_s: requests per second, over 0; with limits for each protocol, those of the rarest.
    """
    limits = [limit.percentile for limit in slo.latency if not limit.stage]
    samples_s = (confidence.minimum_sample(limit, slo.alpha) / per_s for limit in limits)
    return max((max(sample_s, objectives.LEAST_SECONDS) for sample_s in samples_s), default=0.0)


def check_generator(run: Run, limits: GeneratorLimits, evidence: Evidence) -> Iterator[Check]:
    """Whether the run is what was planned, condition by condition; the evidence is that of all protocols."""
    for fault in run.faults:
        yield Check("run", False, fault)
    if run.loop == "closed":
        sentence = "closed loop: while the server is slow less is sent, so that its worst latencies are missing"
        yield Check("open loop", limits.closed_loop, sentence)
    yield from _workers(run)
    for worker in run.workers:
        if worker.lost:
            continue
        share, allowed = max(worker.cpu_share, worker.busiest_share), limits.cpu_at_most
        if worker.wall_s <= 0:
            yield Check("generator CPU", False, f"worker {worker.name} does not tell how much CPU time it took")
            continue
        when = " in its busiest seconds" if worker.busiest_share > worker.cpu_share else ""
        sentence = f"worker {worker.name} used {share:.0%} of its CPU{when}, at most {allowed:.0%} are allowed"
        yield Check("generator CPU", share <= allowed, sentence)
    if run.loop == "open":
        for percentile, allowed_ms in ((99.0, limits.schedule_error_p99_ms), *limits.schedule_errors_ms):
            yield _schedule_error(run, evidence, percentile, allowed_ms)
        yield _offered(run, evidence, limits)
    if run.protocols:
        yield _protocols(run)
    yield _not_sent(evidence, limits)
    total = evidence.total
    known = f"what became of {total.sent - total.unresolved:,} of {total.sent:,} sent requests is known"
    yield Check("accounting", total.unresolved == 0, known)


def _workers(run: Run) -> Iterator[Check]:
    lost = [f"{worker.name} ({worker.lost})" for worker in run.workers if worker.lost]
    sentence = f"{len(run.workers) - len(lost)} of {run.workers_expected} workers told their results"
    if lost:
        sentence += f"; lost: {', '.join(lost)}"
    yield Check("workers", not lost and len(run.workers) >= run.workers_expected, sentence)


def _protocols(run: Run) -> Check:
    sent = {protocol for protocol in run.series if any(tally.due for _, tally in run.measured_bins(protocol))}
    missing = [protocol for protocol in run.protocols if protocol not in sent]
    sentence = f"after the warm-up requests were due by {', '.join(sorted(sent)) or 'no protocol'}"
    if missing:
        sentence += f", and by none of the plan's {', '.join(missing)}: more cameras or a longer run would tell of all"
    return Check("protocols", not missing, sentence)


def _schedule_error(run: Run, evidence: Evidence, percentile: float, allowed_ms: float) -> Check:
    name = "schedule error" if percentile == 99 else f"schedule error {percentile_name(percentile)}"
    told = [worker for worker in run.workers if worker.schedule_error.count]
    if evidence.total.sent and not told:
        return Check(name, False, "no worker tells how late it sent its requests")
    worst_ms, worker_name = max(
        ((worker.schedule_error.percentile_us(percentile) / 1e3, worker.name) for worker in told),
        default=(0.0, "none"),
    )
    many = "a hundred" if percentile == 99 else f"{1 / (1 - percentile / 100):,.0f}"
    sentence = (
        f"one of {many} requests was sent {figure(worst_ms, 'ms')} or more after its moment by worker {worker_name}"
    )
    return Check(name, worst_ms <= allowed_ms, f"{sentence}; {allowed_ms:g} ms are allowed")


def _offered(run: Run, evidence: Evidence, limits: GeneratorLimits) -> Check:
    planned = run.schedule.offered_per_s * run.schedule.measured_s
    due = evidence.total.due
    # Arrivals by chance differ from their mean; three standard deviations of a Poisson process are let pass.
    least = limits.offered_at_least * planned - 3 * math.sqrt(planned)
    sentence = (
        f"{due:,} requests were due, {planned:,.0f} were planned ({percent(limits.offered_at_least)} are needed)"
    )
    return Check("offered load", due >= least, sentence)


def _not_sent(evidence: Evidence, limits: GeneratorLimits) -> Check:
    total = evidence.total
    share = total.not_sent / total.due if total.due else 0.0
    allowed = limits.not_sent_at_most
    sentence = (
        f"{total.not_sent:,} of {total.due:,} requests were due and could not be sent; {percent(allowed)} are allowed"
    )
    return Check("not sent", share <= allowed, sentence)
