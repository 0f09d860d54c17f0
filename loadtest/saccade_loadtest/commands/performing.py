"""Does a plan on a terminal: shows the run while it lasts, stops it on Ctrl-C, judges it and writes what it leaves.

Shared by the commands that run something. Starts no target.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from saccade_loadtest.commands.dashboard import Dashboard
from saccade_loadtest.judging import judgeable
from saccade_loadtest.judging.judgeable import Intended
from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.judging.verdict import Verdict, shortest_measurement_s
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.record import scraping
from saccade_loadtest.record.live import Fairness
from saccade_loadtest.reports import outputs, tables
from saccade_loadtest.sending.conductor import Conductor, Disturbance, Outcome

#: Below it, cameras are served so unevenly that a reader must know.
_FAIR = 0.9


@contextmanager
def stopped_by_signals() -> Iterator[list[str]]:
    """While it lasts, Ctrl-C and SIGTERM do not end the process, but put a reason into the list that this gives."""
    reasons: list[str] = []

    def stop(number: int, _frame: Any) -> None:
        reasons.append(f"by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield reasons
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carry_out(
    plan: Plan,
    slo: Slo,
    console: Console,
    processes: int = 1,
    metrics: Mapping[str, str] | None = None,
    disturbance: Disturbance | None = None,
) -> Outcome:
    """Run a plan and show it.

    Raises:
        RunFailed: it could not begin.
    """
    with stopped_by_signals() as reasons, Dashboard(console, plan, slo) as dashboard:
        outcome = Conductor(
            plan,
            processes,
            metrics,
            disturbance,
            dashboard.beat,
            lambda: reasons[0] if reasons else "",
        ).run()
    outcome.run.notes += fairness_notes(outcome.fairness)
    return outcome


def conclude(outcome: Outcome, slo: Slo, folder: Path, console: Console) -> Verdict:
    """Judge a run, write its files, show the verdict.

    Raises:
        OSError: the folder cannot be written to.
    """
    verdict = outputs.write(outcome.run, slo, folder)
    console.print(tables.verdict_table(outcome.run, verdict, slo.name))
    console.print(f"report: {folder / outputs.REPORT}", highlight=False, soft_wrap=True, markup=False)
    return verdict


def check_judgeable(plan: Plan, slo: Slo, metrics: Mapping[str, str]) -> None:
    """Ask the services for their metrics, and refuse a run that the SLO could not be judged by.

    Raises:
        NotJudgeable: with all that could not.
    """
    stages: dict[str, Collection[str]] = {}
    unreadable: dict[str, str] = {}
    for service, url in metrics.items():
        try:
            stages[service] = list(scraping.scrape(url).stages)
        except (OSError, ValueError) as error:
            unreadable[service] = f"the metrics of {service} at {url} cannot be read: {error}"
    mix = plan.new_mix()
    cache = plan.cache if plan.service == "transformer" else ""
    measured_s = plan.schedule().measured_s
    judgeable.check(slo, Intended(mix.protocols, cache, measured_s, plan.agreement, stages, unreadable))


def warn_if_short(plan: Plan, slo: Slo, console: Console) -> None:
    """Say before a run that it will be too short for what the SLO asks."""
    schedule = plan.schedule()
    if schedule.offered_per_s <= 0:
        return
    rarest = min(weight for weight in plan.mix.values() if weight > 0) / sum(plan.mix.values())
    is_each = any(limit.protocol != "all" for limit in slo.latency)
    needed_s = shortest_measurement_s(slo, schedule.offered_per_s * (rarest if is_each else 1.0))
    if schedule.measured_s < needed_s:
        console.print(
            f"note: at {schedule.offered_per_s:,.1f}/s the percentiles of SLO {slo.name} need {needed_s:,.0f} s after "
            f"the warm-up, this run has {schedule.measured_s:,.0f} s: it can fail, but not pass. "
            f"--duration {needed_s + schedule.warmup_s:,.0f} is enough.",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def fairness_notes(fairness: Fairness) -> list[str]:
    """What a reader must know of how evenly cameras were served; nothing where all got nearly everything."""
    shares = fairness.shares
    if len(shares) < 2 or shares[0] > 0.99:
        return []
    middle = shares[len(shares) // 2]
    said = "evenly" if fairness.index >= _FAIR else "unevenly"
    return [
        f"{len(shares)} cameras were served {said} (Jain's index {fairness.index:.3f}): the least served got "
        f"{shares[0]:.0%} of its requests answered, the median {middle:.0%}, the best {shares[-1]:.0%}"
    ]
