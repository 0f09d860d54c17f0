"""``saccade-loadtest example`` (`make loadtest`): the example pair on this machine, loaded with what it can take.

Starts the pair, finds how many requests per second it answers by a closed-loop probe past the cache, then runs whole
cameras at up to 60 % of that, each frame another picture, and judges. This is no capacity of a service and not the
seeds' SLO: the report shows both loads side by side.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from saccade_loadtest.commands import options
from saccade_loadtest.commands.example import Addresses, ExampleFailed, ExamplePair
from saccade_loadtest.commands.judging_commands import complain
from saccade_loadtest.commands.performing import (
    carry_out,
    check_judgeable,
    conclude,
    stopped_by_signals,
    warn_if_short,
)
from saccade_loadtest.commands.run_command import FAILURES
from saccade_loadtest.judging import slo
from saccade_loadtest.judging.verdict import shortest_measurement_s
from saccade_loadtest.load.loads import FleetLoad, UsersLoad
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.load.scenarios import Script
from saccade_loadtest.reports import outputs
from saccade_loadtest.sending.conductor import Conductor, RunFailed

_SHARE: Final = 0.6
_FPS: Final = 10.0
_LEAST_FPS: Final = 5.0
_PROBE_WARMUP_S: Final = 5.0
_WARMUP_S: Final = 5.0
#: Enough that the predictor always has a full batch waiting, few enough that they do not wait for seconds.
_PROBE_USERS: Final = 8
_NOMINAL_PER_S: Final = 1000.0
_NOMINAL_MS: Final = 100.0
console = Console(markup=False, emoji=False)


def add_to(app: typer.Typer) -> None:
    """Give the command to a command line."""
    app.command()(example)


def example(
    slo_file: Annotated[Path, typer.Option("--slo", help="SLO file.")] = options.ROOT / "examples" / "slo-laptop.yaml",
    out: Annotated[Path, typer.Option(help="Folder for the record, the verdict and the report.")] = Path(
        "loadtest-out"
    ),
    probe: Annotated[float, typer.Option(min=6, max=3600, help="Seconds of the capacity probe.")] = 20.0,
    duration: Annotated[float, typer.Option(min=5, max=86_400, help="Seconds of the run after its warm-up.")] = 60.0,
    pictures: options.Photos = options.PHOTOS,
    size: options.Size = "640x480",
) -> None:
    """Start the example pair, find its rate, load it with cameras, judge: 0 pass, 1 fail, 2 invalid."""
    try:
        objective = slo.load(slo_file)
        outputs.prepare(out)
        with console.status("starting the example pair"):
            pair = ExamplePair(out / "pair.log")
            addresses = pair.start()
        try:
            per_s = _probe(addresses, probe, pictures, size)
            console.print(
                f"probe: {per_s:,.1f} answers/s with {_PROBE_USERS} users who wait, cache bypassed", highlight=False
            )
            plan = _plan(addresses, per_s, duration, objective, pictures, size)
            for note in plan.notes:
                console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
            check_judgeable(plan, objective, addresses.metrics)
            warn_if_short(plan, objective, console)
            outcome = carry_out(plan, objective, console, metrics=addresses.metrics)
        finally:
            with console.status("stopping the example pair"):
                pair.stop()
        verdict = conclude(outcome, objective, out, console)
    except (*FAILURES, ExampleFailed) as error:
        complain(error)
    raise typer.Exit(verdict.exit_code)


def fitting_cameras(per_s: float) -> tuple[int, float, str]:
    """How many whole cameras fit into 60 % of a rate.

    Args:
        per_s: what the pair answers at most.

    Returns:
        Cameras, frames per second of each, and a remark; empty where there is nothing to remark.
    """
    cameras = math.floor(per_s * _SHARE / _FPS)
    if cameras:
        return cameras, _FPS, ""
    remark = (
        f"not even one camera at {_FPS:g} fps fits into {_SHARE:.0%} of {per_s:,.1f}/s; this run has one at "
        f"{_LEAST_FPS:g} fps"
    )
    return 1, _LEAST_FPS, remark


def _probe(addresses: Addresses, seconds: float, pictures: Path, size: str) -> float:
    """Right answers per second of users who wait for theirs.

    Raises:
        RunFailed: there were none.
    """
    load = UsersLoad(users=_PROBE_USERS, duration_s=seconds)
    plan = _any_plan(addresses, Script(load, min(_PROBE_WARMUP_S, seconds / 4), {}, "bypass"), pictures, size)
    with console.status("probing what it can do"), stopped_by_signals() as reasons:
        run = Conductor(plan, should_stop=lambda: reasons[0] if reasons else "").run().run
    if reasons:
        raise RunFailed(f"the probe was stopped {reasons[0]}")
    total = run.measured()
    if not total.answered:
        raise RunFailed(f"the probe got no right answer: {'; '.join(run.notes) or dict(total.errors)}")
    return total.answered / run.schedule.measured_s


def _plan(addresses: Addresses, per_s: float, seconds: float, objective: slo.Slo, pictures: Path, size: str) -> Plan:
    cameras, fps, remark = fitting_cameras(per_s)
    needed_s = math.ceil(shortest_measurement_s(objective, cameras * fps) * 1.05)
    notes = [remark] if remark else []
    if seconds < needed_s:
        notes.append(f"at {cameras * fps:g}/s SLO {objective.name} needs {needed_s} s instead of {seconds:g} s")
        seconds = needed_s
    # A moving scene: every frame is another picture, and the cache is bypassed as in the probe.
    load = FleetLoad(cameras=cameras, fps=fps, duration_s=seconds + _WARMUP_S)
    offered = (
        f"offered are {cameras * fps:,.0f} frames/s ({cameras} x {fps:g} fps), {cameras * fps / per_s:.0%} of the "
        f"{per_s:,.1f}/s that the probe found; the scenario stands for {_NOMINAL_PER_S:,.0f}/s within "
        f"{_NOMINAL_MS:g} ms, which this is not"
    )
    script = Script(
        load,
        _WARMUP_S,
        {},
        "bypass",
        nominal_per_s=_NOMINAL_PER_S,
        nominal_limit_ms=_NOMINAL_MS,
        notes=(offered, *notes),
    )
    return _any_plan(addresses, script, pictures, size)


def _any_plan(addresses: Addresses, script: Script, pictures: Path, size: str) -> Plan:
    found = options.find(addresses.url, "", {}, script)
    note = "example pair on the generator's own machine, cache bypassed"
    mix = {"jpeg": 1.0}
    return options.make_plan("example", script, addresses.url, found, mix, pictures, size, note=note)
