"""The command ``saccade-build``: turns exported models into what the predictor serves.

Each command reads and writes files and words the errors; what is done to a graph stands in ``graph.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade_predictor.batchingconfig import MAX_SLO_MS
from saccade_predictor.build import (
    calibrate_command,
    file_commands,
    parity_command,
    plan_command,
    publish_command,
    ready_command,
)
from saccade_predictor.build.saying import MODEL, USAGE
from saccade_predictor.build.saying import fail as _fail
from saccade_predictor.repository import RepositoryError
from saccade_serving import __version__

# Plain text, no frames: the output is read in build logs as often as on a terminal.
app = typer.Typer(name="saccade-build", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def build(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Build what the Saccade predictor serves from an exported ONNX model."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(no_args_is_help=True, short_help="Measure what batches take on this machine, for the autoscaler.")
def profile(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A model's directory in the model repository, for example model-repository/detector.",
        ),
    ],
    slo_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            show_default=False,
            help="Time to keep from a request's first byte to its answer; default: slo_ms of config.pbtxt, else none.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="Threads of a CPU instance; 0: the container's CPUs less one.")
    ] = 0,
) -> None:
    """Measure what batches take on this machine, and print what the autoscaler has to be told.

    Runs batches of 1, 2, 4 ... rows of the newest served version, a few times each. Run it where the model will run.

    Example: saccade-build profile model-repository/detector --slo-ms 200

    Exit code: 0 done, 1 the model cannot be run, 2 a wrong option or directory.
    """
    if slo_ms is not None and not 0 < slo_ms <= MAX_SLO_MS:
        _fail(f"--slo-ms is {slo_ms:g}; expected above 0, at most {MAX_SLO_MS:g}", USAGE)
    if not directory.is_dir():
        _fail(f"{directory} is not a directory", USAGE)
    from saccade_predictor.build import profiling  # it loads kserve, which takes seconds

    typer.echo("measuring batches ...", err=True)
    try:
        found = profiling.measure(directory.resolve(), threads, slo_ms)
    except (RepositoryError, ValueError) as err:
        _fail(str(err), MODEL)
    for line in found.lines():
        typer.echo(line)


app.command(
    "ready", no_args_is_help=True, help=ready_command.HELP, short_help="Turn an export into the graph served."
)(ready_command.ready)
app.command("calibrate", no_args_is_help=True, short_help="Write an INT8 graph, scaled by a folder of pictures.")(
    calibrate_command.calibrate
)
app.command("plan", no_args_is_help=True, short_help="Build a TensorRT plan into a model repository.")(
    plan_command.plan
)
app.command("inspect", no_args_is_help=True, short_help="Say what an ONNX graph or a plan holds.")(
    file_commands.inspect
)
app.command("parity", no_args_is_help=True, short_help="Compare a plan or a graph with the graph it is from.")(
    parity_command.parity
)
app.command("manifest", no_args_is_help=True, short_help="List or check the digests of a model repository.")(
    file_commands.manifest
)
app.command("publish", no_args_is_help=True, short_help="Put a model repository into S3 or Google Cloud Storage.")(
    publish_command.publish
)
app.command("fetch", no_args_is_help=True, short_help="Get a published model repository.")(publish_command.fetch)


def main() -> None:
    """Run the command; ends the process."""
    app()


if __name__ == "__main__":
    main()
