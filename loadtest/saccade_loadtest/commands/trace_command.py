"""``saccade-loadtest trace``: writes what a fleet of cameras would send as a trace, to look at, change and replay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from saccade_loadtest.commands.judging_commands import complain
from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.cameras import Fleet
from saccade_loadtest.load.trace import MOST_LINES, write_trace

console = Console(markup=False, emoji=False)


def add_to(app: typer.Typer) -> None:
    """Give the command to a command line."""
    app.command("trace")(make_trace)


def make_trace(
    out: Annotated[Path, typer.Argument(help="CSV file to write.", show_default=False)],
    cameras: Annotated[int, typer.Option(help="Cameras.")] = 10,
    fps: Annotated[float, typer.Option(help="Frames per second of each.")] = 10.0,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
    jitter: Annotated[
        float, typer.Option(help="How far a frame is off its moment, as a share of the gap (0-0.5).")
    ] = 0.1,
    static: Annotated[float, typer.Option(help="Share of the cameras whose scene stands still.")] = 0.5,
    scene: Annotated[float, typer.Option(help="Seconds for which a still scene stays, on average.")] = 10.0,
    duplicates: Annotated[float, typer.Option(help="Share of frames that are the last one again.")] = 0.0,
    burst_every: Annotated[float, typer.Option(help="A camera's network stalls so often, seconds; 0: never.")] = 0.0,
    burst: Annotated[float, typer.Option(help="For so long; then all that was held back comes at once.")] = 0.5,
    day: Annotated[float, typer.Option(help="Length of a day, seconds, a third of it night; 0: always day.")] = 0.0,
    night_fps: Annotated[float | None, typer.Option(help="Frames per second by night; as by day if left out.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same trace.")] = 1,
) -> None:
    """Write what cameras do as a trace for `run --trace` and for Locust's `--trace`."""
    try:
        fleet = Fleet(
            cameras=cameras,
            fps=fps,
            duration_s=duration,
            jitter=jitter,
            static=static,
            scene_s=scene,
            duplicates=duplicates,
            burst_every_s=burst_every,
            burst_s=burst,
            day_s=day,
            night_fps=night_fps,
            seed=seed,
        )
        if fleet.per_s * duration > MOST_LINES:
            raise BadSchedule(
                f"{cameras:,} cameras at {fps:g} fps send {fleet.per_s * duration:,.0f} frames in {duration:g} s; "
                f"a trace has {MOST_LINES:,} at most"
            )
        shots = list(fleet.shots())
        if not shots:
            raise BadSchedule(f"{cameras} cameras at {fps:g} fps send nothing in {duration:g} s; make it longer")
        out.write_text(write_trace(shots), encoding="utf-8")
    except (BadSchedule, OSError) as error:
        complain(error)
    most = max(Counter(int(shot.due_s) for shot in shots).values())
    console.print(
        f"{out}: {len(shots):,} frames of {len({shot.camera for shot in shots}):,} cameras in {duration:g} s, "
        f"at most {most:,} in a second",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
