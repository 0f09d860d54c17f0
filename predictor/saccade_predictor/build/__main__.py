"""The command ``saccade-build``: turns exported models into what the predictor serves.

Reads and writes files and words the errors; what is done to a graph stands in ``graph.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import onnx
import typer
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from saccade_predictor.batchingconfig import MAX_SLO_MS
from saccade_predictor.build import file_commands, parity_command, plan_command
from saccade_predictor.build.graph import (
    DEFAULT_CANDIDATES,
    DEFAULT_MIN_SCORE,
    MAX_CANDIDATES,
    check_table,
    make_ready,
)
from saccade_predictor.build.saying import MODEL, USAGE
from saccade_predictor.build.saying import fail as _fail
from saccade_predictor.build.saying import reason as _reason
from saccade_predictor.build.sizing import fix_size, parse_size
from saccade_predictor.build.source import GraphError, Head, read_layout
from saccade_predictor.files import replace_file
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


@app.command(no_args_is_help=True)
def ready(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.onnx",
            show_default=False,
            help="The exported detector: one input FP32 [batch, 3, H, W], RGB in 0..1, with a fixed H and W and a"
            " dynamic batch; one output as --head says; opset 13 or later.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.onnx",
            show_default=False,
            help="Where the ready graph goes, for example model-repository/detector/1/model.onnx. Its directory"
            " must exist; an existing file is replaced in one step.",
        ),
    ],
    head: Annotated[
        Head,
        typer.Option(
            show_default=False,
            help="Layout of the output. yolov8: FP32 [batch, 4 + classes, anchors], cx, cy, w, h in pixels of the"
            " input, then the class scores after the sigmoid.",
        ),
    ],
    candidates: Annotated[
        int,
        typer.Option(
            metavar="K",
            help=f"Rows of the table, 1..{MAX_CANDIDATES}; the best K anchors of an image. Write the same number"
            " into config.pbtxt: dims: [K, 6].",
        ),
    ] = DEFAULT_CANDIDATES,
    min_score: Annotated[
        float,
        typer.Option(
            metavar="SCORE",
            help="Rows with a lower score, 0..1, become zero rows, so no request can ask for them later.",
        ),
    ] = DEFAULT_MIN_SCORE,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="H[xW]",
            show_default=False,
            help="Size to serve a model in whose height and width are open (Ultralytics: dynamic=True), in pixels.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Class names, one on each line; only checked against the model's number of classes. The file"
            " itself goes beside config.pbtxt (label_filename).",
        ),
    ] = None,
) -> None:
    """Turn an exported detector into the ready graph.

    The ready graph takes letterboxed pictures as they are, image UINT8 [batch, H, W, 3] RGB, and returns
    candidates FP32 [batch, K, 6]: x1, y1, x2, y2 in pixels of the input, score, class; best first, unused rows
    zero. Scaling and layout happen inside the graph; overlapping boxes are removed later, by the transformer.

    Example: saccade-build ready yolov8m.onnx ready.onnx --head yolov8

    Exit code: 0 done, 1 the model cannot be converted, 2 a wrong option or file.
    """
    try:
        check_table(candidates, min_score)
        sides = parse_size(size) if size is not None else None
    except GraphError as err:
        _fail(str(err), USAGE)
    try:
        content = source.read_bytes()
    except OSError as err:
        _fail(f"cannot read {source}: {_reason(err)}", USAGE)
    if not target.parent.is_dir():
        _fail(f"the directory {target.parent} of the output does not exist", USAGE)
    if target.is_dir():
        _fail(f"the output {target} is a directory; name a file, for example {target / 'model.onnx'}", USAGE)
    if target.exists() and target.samefile(source):
        _fail("the output is the input itself; name another file", USAGE)

    digest = hashlib.sha256(content).hexdigest()
    try:
        model = onnx.load_model_from_string(content)
        if sides is not None:
            model = fix_size(model, *sides)
        layout = read_layout(model, head)
        if labels is not None:
            _check_labels(labels, layout.classes)
        result = make_ready(model, head, candidates, min_score, digest).SerializeToString(deterministic=True)
    except DecodeError:
        _fail(f"{source} is not an ONNX file", MODEL)
    except GraphError as err:
        _fail(f"{source}: {err}", MODEL)
    try:
        replace_file(target, result)
    except OSError as err:
        _fail(f"cannot write {target}: {_reason(err)}", USAGE)

    if layout.anchors < candidates:
        typer.echo(
            f"note: the model has {layout.anchors} anchors, so the last {candidates - layout.anchors} of the"
            f" {candidates} rows are always zero; --candidates {layout.anchors} makes the answer smaller"
        )
    typer.echo(
        f"{target}: image UINT8 [batch, {layout.height}, {layout.width}, 3] -> candidates FP32"
        f" [batch, {candidates}, 6], {layout.classes} classes, {layout.anchors} anchors, {len(result)} bytes"
    )


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


def _check_labels(path: Path, classes: int) -> None:
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except OSError as err:
        _fail(f"cannot read {path}: {_reason(err)}", USAGE)
    except UnicodeDecodeError:
        _fail(f"{path} is not UTF-8 text with one class name on each line", USAGE)
    if len(names) != classes:
        _fail(f"{path} has {len(names)} lines; the model has {classes} classes", MODEL)
    if "" in (stripped := [name.strip() for name in names]):
        _fail(f"{path} line {stripped.index('') + 1} is empty; every class needs a name", MODEL)


def main() -> None:
    """Run the command; ends the process."""
    app()


if __name__ == "__main__":
    main()
