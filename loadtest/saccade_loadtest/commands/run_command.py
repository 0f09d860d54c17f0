"""``saccade-loadtest run SCENARIO``: one run against a service that is up, with a verdict; ends with 0, 1 or 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from saccade_loadtest.commands import options
from saccade_loadtest.commands.judging_commands import complain
from saccade_loadtest.commands.performing import carry_out, check_judgeable, conclude, warn_if_short
from saccade_loadtest.judging.judgeable import NotJudgeable
from saccade_loadtest.judging.slo import BadSlo
from saccade_loadtest.load.arrivals import PROCESSES, BadSchedule, Process
from saccade_loadtest.load.frames import NoPictures
from saccade_loadtest.load.scenarios import GENERATOR_PER_S, SCENARIOS, UnknownScenario, Wishes, script_of
from saccade_loadtest.load.trace import read_text
from saccade_loadtest.reports import outputs
from saccade_loadtest.sending.conductor import Disturbance, RunFailed
from saccade_loadtest.sending.dialects import UnknownDialect
from saccade_loadtest.sending.preflight import NotReady

#: What a command ends with for a reason that a person can act on.
FAILURES: Final = (
    BadSchedule,
    UnknownScenario,
    UnknownDialect,
    NotReady,
    NoPictures,
    BadSlo,
    NotJudgeable,
    RunFailed,
    ValidationError,
    OSError,
)
console = Console(markup=False, emoji=False)


def add_to(app: typer.Typer) -> None:
    """Give the commands to a command line."""
    app.command()(run)
    app.command()(scenarios)


def scenarios() -> None:
    """List the scenarios."""
    table = Table("scenario", "what it does", show_edge=False)
    for name, scenario in SCENARIOS.items():
        table.add_row(name, scenario.summary)
    console.print(table)


def run(
    scenario: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENARIOS)}.", show_default=False)],
    url: options.Url,
    slo: Annotated[Path | None, typer.Option(help="SLO file; without one, the scenario's own objective.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the record, the verdict and the report.")] = Path(
        "loadtest-out"
    ),
    model: options.Model = "",
    grpc: options.GrpcAddress = "",
    protocol: options.ProtocolOptions = None,
    header: options.Headers = None,
    cache: Annotated[
        str | None, typer.Option(help="use, bypass or refresh the frame cache; the scenario's choice if left out.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Requests per second, at the peak.")] = None,
    cameras: Annotated[int | None, typer.Option(min=1, help="Cameras.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Frames per second of each camera.")] = None,
    duration: Annotated[float | None, typer.Option(min=1, help="Seconds, warm-up included.")] = None,
    warmup: Annotated[float | None, typer.Option(min=0, help="Seconds that do not count.")] = None,
    shape: Annotated[
        str, typer.Option(help="constant, step, ramp, spike or diurnal in the scenario's place.", show_default=False)
    ] = "",
    arrivals: Annotated[str, typer.Option(help="poisson (by chance) or even, of what is no camera.")] = "poisson",
    trace: Annotated[Path | None, typer.Option(help="A trace to replay in the scenario's place (CSV).")] = None,
    closed: Annotated[
        int | None,
        typer.Option(min=1, help="Closed loop with so many users instead: hides what a slow server holds back."),
    ] = None,
    capacity: Annotated[Path | None, typer.Option(help="capacity.json to take the rate from.")] = None,
    generator_rate: Annotated[
        float, typer.Option(min=1, help="Requests per second that one generator is given, where several are planned.")
    ] = GENERATOR_PER_S,
    seed: Annotated[int, typer.Option(help="Of all that is by chance.")] = 1,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Generators on this machine, a core each.")] = 1,
    pictures: options.Photos = options.PHOTOS,
    size: options.Size = "640x480",
    patience: Annotated[
        float | None, typer.Option(min=0.05, help="Seconds after which a request is a failure.")
    ] = None,
    most_open: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Requests under way at once, at most; beyond what the load can make it if left out.",
            show_default=False,
        ),
    ] = None,
    metrics: options.Metrics = None,
    during: Annotated[
        str, typer.Option(help="Command to run in the middle, as a rolling restart.", show_default=False)
    ] = "",
    at: Annotated[
        float | None, typer.Option(min=0, help="When to run it, seconds; half of the run if left out.")
    ] = None,
) -> None:
    """Run a scenario against a service, judge it, and write the report.

    Ends with 0 (pass), 1 (fail) or 2 (invalid, or it could not run).
    """
    try:
        wishes = Wishes(
            rate_per_s=rate,
            cameras=cameras,
            fps=fps,
            duration_s=duration,
            warmup_s=warmup,
            capacity_per_s=None if capacity is None else options.read_capacity(capacity),
            process=_process(arrivals),
            trace=None if trace is None else (read_text(trace), trace.name),
            users=closed,
            shape=shape,
            seed=seed,
            generator_per_s=generator_rate,
        )
        script = script_of(scenario, wishes)
        objective = options.read_slo(slo, script)
        if scenario == "drain" and not during:
            raise BadSchedule(
                "scenario 'drain' needs --during with the command that restarts the service, as --during 'kubectl "
                "rollout restart deployment/...'"
            )
        headers = options.read_headers(header)
        found = options.find(url, model, headers, script)
        mix = options.read_mix(protocol, found, bool(grpc))
        compares = objective.agreement is not None
        given = {"cache": cache, "patience_s": patience, "most_open": most_open, "agreement": compares}
        plan = options.make_plan(scenario, script, url, found, mix, pictures, size, grpc, headers, **given)
        disturbance = Disturbance(during, plan.load.duration_s / 2 if at is None else at) if during else None
        watched = options.read_metrics(metrics)
        check_judgeable(plan, objective, watched)
        outputs.prepare(out)
        warn_if_short(plan, objective, console)
        outcome = carry_out(plan, objective, console, processes, watched, disturbance)
        verdict = conclude(outcome, objective, out, console)
    except FAILURES as error:
        complain(error)
    raise typer.Exit(verdict.exit_code)


def _process(name: str) -> Process:
    for known in PROCESSES:
        if name == known:
            return known
    raise BadSchedule(f"--arrivals {name!r} is not known; choose {' or '.join(PROCESSES)}")
