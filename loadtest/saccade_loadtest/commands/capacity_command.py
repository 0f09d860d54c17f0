"""``saccade-loadtest capacity``: finds the highest rate that meets an SLO, draws the knee, writes the result."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from saccade_loadtest.commands import options
from saccade_loadtest.commands.judging_commands import complain
from saccade_loadtest.commands.performing import check_judgeable, stopped_by_signals
from saccade_loadtest.commands.run_command import FAILURES
from saccade_loadtest.judging.capacity import KIND, VERSION, Search, SearchFailed, Trial, batch_profile
from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.judging.verdict import judge, shortest_measurement_s
from saccade_loadtest.load.arrivals import MOST_PER_S, BadSchedule, constant
from saccade_loadtest.load.loads import ClientsLoad
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.load.scenarios import Script
from saccade_loadtest.reports import outputs
from saccade_loadtest.sending.conductor import Conductor, machine
from saccade_loadtest.sending.preflight import NotReady, Preflight

_WARMUP_S = 3.0
#: Characters of the longest bar of the knee.
_BAR = 40
console = Console(markup=False, emoji=False)


def add_to(app: typer.Typer) -> None:
    """Give the command to a command line."""
    app.command()(capacity)


def capacity(
    url: options.Url,
    slo: Annotated[Path, typer.Option(help="SLO file that a rate must meet.")],
    out: Annotated[Path, typer.Option(help="File for the result.")] = Path("capacity.json"),
    model: options.Model = "",
    grpc: options.GrpcAddress = "",
    protocol: options.ProtocolOptions = None,
    header: options.Headers = None,
    start: Annotated[float, typer.Option(min=0.1, max=MOST_PER_S, help="First rate, requests per second.")] = 10.0,
    trial: Annotated[
        float | None,
        typer.Option(min=2, max=86_400, help="Seconds of a trial; as many as the SLO's percentiles need if left out."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=9, help="Trials of a rate, of which most must pass.")] = 3,
    tolerance: Annotated[float, typer.Option(min=0.005, max=0.5, help="How exact, as a share.")] = 0.05,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas that serve now, for the rate of one.")] = 1,
    predictor: Annotated[
        str, typer.Option(help="The predictor's URL, for the profile of its batches.", show_default=False)
    ] = "",
    cache: Annotated[str, typer.Option(help="use, bypass or refresh the frame cache.")] = "bypass",
    processes: Annotated[int, typer.Option(min=1, max=64, help="Generators, a core each.")] = 1,
    pictures: options.Photos = options.PHOTOS,
    size: options.Size = "640x480",
    seed: Annotated[int, typer.Option(help="Of all that is by chance.")] = 1,
) -> None:
    """Find the highest arrival rate that still meets an SLO.

    Doubles the rate until it fails, then halves the distance; ends with 0, or 2 if there is nothing to find.
    """
    try:
        headers = options.read_headers(header)
        search = Search(start, tolerance, trials)
        script = Script(_load(start, 60.0, seed), _WARMUP_S, {})
        objective = options.read_slo(slo, script)
        least_s = shortest_measurement_s(objective, math.inf)
        if trial is not None and trial < least_s:
            raise BadSchedule(
                f"--trial {trial:g} is too short: the percentiles of SLO {objective.name} are claimed of at least "
                f"{least_s:g} s"
            )
        found = options.find(url, model, headers, script)
        mix = options.read_mix(protocol, found, bool(grpc))
        given = {"cache": cache if found.service == "transformer" else "use"}
        plan = options.make_plan("capacity", script, url, found, mix, pictures, size, grpc, headers, **given)
        check_judgeable(plan, objective, {})
        outputs.check_file(out)
        before = _statistics(predictor, headers, found.model)
        _search(search, plan, objective, trial, processes, seed)
        after = _statistics(predictor, headers, found.model)
    except (*FAILURES, SearchFailed) as error:
        complain(error)
    console.print(knee(search, objective))
    content = {
        "kind": KIND,
        "version": VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": plan.url,
        "model": plan.model,
        "service": plan.service,
        "protocols": plan.mix,
        "cache": plan.cache,
        "slo": objective.name,
        "slo_file": slo.name,
        "rate_per_s": round(search.holds_per_s, 3),
        "fails_at_per_s": round(search.fails_per_s, 3),
        "replicas": replicas,
        "rate_per_replica_per_s": round(search.holds_per_s / replicas, 3),
        "batch_profile": batch_profile(before, after),
        "generator_machine": machine(),
        "trials": [_trial_to_dict(one) for one in search.made],
    }
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console.print(f"capacity: {search.holds_per_s:,.1f}/s ({out})", highlight=False, markup=False)


def _search(search: Search, plan: Plan, slo: Slo, trial_s: float | None, processes: int, seed: int) -> None:
    """Try rates until the search is over.

    Raises:
        SearchFailed: see there; or a person stopped it.
    """
    with stopped_by_signals() as reasons:
        while (per_s := search.next_per_s) is not None:
            needed_s = max(5.0, shortest_measurement_s(slo, per_s) * 1.1) if trial_s is None else trial_s
            load = _load(per_s, math.ceil(needed_s) + _WARMUP_S, seed + len(search.made))
            run = (
                Conductor(plan.with_load(load), processes, should_stop=lambda: reasons[0] if reasons else "").run().run
            )
            if reasons:
                raise SearchFailed(f"the search was stopped {reasons[0]}; up to {search.holds_per_s:,.1f}/s held")
            verdict = judge(run, slo)
            total = run.measured()
            p50_ms, p99_ms = (total.latency.percentile_us(percent) / 1e3 for percent in (50, 99))
            reason = verdict.reasons[0] if verdict.reasons else ""
            # At a rate too near to the limit to tell, the SLO is not shown to be met.
            result = "fail" if verdict.is_undecided else verdict.outcome
            one = Trial(per_s, result, p50_ms, p99_ms, total.answered / run.schedule.measured_s, reason)
            console.print(
                f"{per_s:10,.1f}/s  p50 {p50_ms:8,.1f} ms  p99 {p99_ms:8,.1f} ms  "
                f"{one.answered_per_s:10,.1f} answers/s  {verdict.outcome}{f': {reason}' if reason else ''}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
            search.take(one)


def knee(search: Search, slo: Slo) -> Table:
    """The latency over the rate, as bars: where they shoot up is the knee."""
    limit_ms = min((limit.limit_ms for limit in slo.latency if not limit.stage), default=math.nan)
    limit = "" if math.isnan(limit_ms) else f", limit {limit_ms:g} ms"
    table = Table(title=f"p99 over the offered rate{limit}", title_justify="left", show_edge=False)
    for name in ("offered/s", "answers/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    known = [one.p99_ms for one in search.made if not math.isnan(one.p99_ms)]
    longest = max(math.log10(1 + value) for value in known) if known else 1.0
    for per_s, trials in search.by_rate.items():
        trial = sorted(trials, key=lambda one: one.p99_ms)[len(trials) // 2]
        length = 0 if math.isnan(trial.p99_ms) else round(_BAR * math.log10(1 + trial.p99_ms) / longest)
        passed = sum(one.outcome == "pass" for one in trials)
        mark = "  <- capacity" if per_s == search.holds_per_s else ""
        table.add_row(
            f"{per_s:,.1f}",
            f"{trial.answered_per_s:,.1f}",
            f"{trial.p50_ms:,.1f}",
            f"{trial.p99_ms:,.1f}",
            "█" * length,
            f"{passed} of {len(trials)} passed{mark}",
        )
    return table


def _load(per_s: float, duration_s: float, seed: int) -> ClientsLoad:
    return ClientsLoad.of(constant(per_s, duration_s), "poisson", "poisson", seed)


def _statistics(url: str, headers: dict[str, str], model: str) -> Any:
    """What a predictor counts of its batches; empty where it is not known or does not tell."""
    if not url:
        return {}
    status, content = Preflight(url, headers).get(f"/v2/models/{quote(model, safe='')}/stats")
    if status != 200:
        raise NotReady(f"{url} does not tell the statistics of model {model!r}: {status}")
    return content


def _trial_to_dict(trial: Trial) -> dict[str, Any]:
    finite = {name: getattr(trial, name) for name in ("p50_ms", "p99_ms")}
    return {
        "per_s": round(trial.per_s, 3),
        "outcome": trial.outcome,
        "answered_per_s": round(trial.answered_per_s, 3),
        **{name: None if math.isnan(value) else round(value, 3) for name, value in finite.items()},
        "reason": trial.reason,
    }
