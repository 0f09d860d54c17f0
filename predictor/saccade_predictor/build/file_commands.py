"""``saccade-build inspect`` and ``saccade-build manifest``: the commands that only read files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saccade_predictor.build import inspecting
from saccade_predictor.build import manifest as digests
from saccade_predictor.build.onnxfile import OnnxFileError
from saccade_predictor.build.saying import MODEL, USAGE, fail, reason
from saccade_predictor.engines.plan import SidecarError


def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="An ONNX graph; or a model.plan, its plan.json, or the version's folder that they are in.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an ONNX graph or a plan holds: tensors, operators, precision, metadata, sizes.

    Needs no GPU and no TensorRT: a plan is described by its plan.json, and its size and digest are checked.

    Example: saccade-build inspect my-models/detector/1

    Exit code: 0 done, 1 the plan's file is not the one described, 2 the file cannot be read.
    """
    try:
        told = inspecting.inspect(file)
    except (OnnxFileError, SidecarError) as error:
        fail(str(error), USAGE)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        for name, text in inspecting.lines(told):
            typer.echo(f"{name:<10} {text}")
    if told.get("intact", True) is not True:
        fail(str(told["intact"]), MODEL)


def manifest(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", show_default=False, help="A model repository, or any folder in it.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Hold the files against the list instead of writing it.")
    ] = False,
) -> None:
    """List the SHA-256 digests of a model repository in its SHA256SUMS, or check them.

    Without Saccade: cd FOLDER && sha256sum -c SHA256SUMS. It tells damage, not forgery. Write it last: a parity
    result changes plan.json.

    Example: saccade-build manifest my-models

    Exit code: 0 done, 1 a file is missing, changed or not listed, 2 a wrong option or file.
    """
    try:
        if not check:
            count = digests.write(folder)
            typer.echo(f"{folder / digests.MANIFEST_FILE}: {count} files")
            return
        problems = list(digests.check(folder))
    except digests.ManifestError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(f"cannot read or write {error.filename}: {reason(error)}", USAGE)
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        fail(f"{folder}: {len(problems)} files are not as {digests.MANIFEST_FILE} says", MODEL)
    typer.echo(f"{folder}: all files are as {digests.MANIFEST_FILE} says")
