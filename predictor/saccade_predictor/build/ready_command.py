"""``saccade-build ready``: an exported model becomes a ready graph.

Reads and writes files and words the errors; what is done to the graph stands in ``graph.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import onnx
import typer
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from saccade_predictor.build.graph import (
    DEFAULT_CANDIDATES,
    DEFAULT_MIN_SCORE,
    MAX_CANDIDATES,
    check_table,
    make_ready,
)
from saccade_predictor.build.heads import HEADS, Activation, Background, Choices, Form, Head, HeadLayout
from saccade_predictor.build.pixels import Normalisation, parse_normalisation
from saccade_predictor.build.recognition import SourceLayout, read_layout
from saccade_predictor.build.saying import MODEL, USAGE, fail, reason
from saccade_predictor.build.sizing import fix_size, parse_size
from saccade_predictor.build.source import GraphError
from saccade_predictor.files import replace_file

_HEADS: Final = "\n\n".join(f"{head}: {text}." for head, text in HEADS.items())
HELP: Final = f"""Turn an exported detector or classifier into the ready graph.

The ready graph takes letterboxed pictures as they are, image UINT8 [batch, H, W, 3] RGB. Scaling, normalisation and
layout happen inside the graph.

A detector's returns candidates FP32 [batch, K, 6]: x1, y1, x2, y2 in pixels of the input, score, class; best first,
unused rows zero. Overlapping boxes are removed later, by the transformer. A classifier's returns probabilities FP32
[batch, classes]; the transformer does not serve it, the predictor does.

Heads, FP32 all but class numbers:

{_HEADS}

Without --head the head is found by the shapes of the outputs, where those fit several by the nodes that make them and
the class names in the metadata; what stays unclear is refused, with the heads it could be.

Example: saccade-build ready yolov8m.onnx ready.onnx

Example: saccade-build ready ssd.onnx ready.onnx --head ssd --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

Exit code: 0 done, 1 the model cannot be converted, 2 a wrong option or file.
"""


def ready(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.onnx",
            show_default=False,
            help="The exported model: RGB pictures in, FP32 [batch, 3, H, W] in 0..1 (others: --mean, --std), or FP32"
            " or UINT8 [batch, H, W, 3]; a fixed H and W (others: --size) and a dynamic batch; the outputs of one of"
            " the heads; opset 13 or later.",
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
        Head | None,
        typer.Option(show_default=False, help="Layout of the outputs, as listed above; by default it is found."),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(
            metavar="K",
            help=f"Rows of a detector's table, 1..{MAX_CANDIDATES}; the best K boxes of an image. Write the same"
            " number into config.pbtxt: dims: [K, 6].",
        ),
    ] = DEFAULT_CANDIDATES,
    min_score: Annotated[
        float,
        typer.Option(
            metavar="SCORE",
            help="Rows of a detector's table with a lower score, 0..1, become zero rows, so no request can ask for"
            " them later.",
        ),
    ] = DEFAULT_MIN_SCORE,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="H[xW]",
            show_default=False,
            help="Size to serve a model in whose height and width are open (Ultralytics: dynamic=True), in pixels;"
            " also finds what the shapes of the outputs leave open, by running the model once.",
        ),
    ] = None,
    mean: Annotated[
        str,
        typer.Option(
            metavar="R,G,B",
            help="What the model wants subtracted from pixels in 0..1, one number or three; ImageNet's is"
            " 0.485,0.456,0.406; 0.5 with --std 0.5 makes -1..1.",
        ),
    ] = "0",
    std: Annotated[
        str,
        typer.Option(
            metavar="R,G,B",
            help="What they are divided by then; ImageNet's is 0.229,0.224,0.225; 0.00392156862745098 makes 0..255.",
        ),
    ] = "1",
    activation: Annotated[
        Activation | None,
        typer.Option(
            show_default=False,
            help="What makes scores of what ssd, rtdetr with two outputs, and classifier give. By default nothing"
            " where the model ends in a softmax or sigmoid; else sigmoid for rtdetr, softmax for the others.",
        ),
    ] = None,
    background: Annotated[
        Background | None,
        typer.Option(
            show_default=False,
            help="Column of the scores that stands for no object; it is dropped, and classes count from the others."
            " By default first for ssd, whose class numbers, where it gives such, count from 1; none for rtdetr.",
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
    """Turn an exported model into the ready graph; ``HELP`` is what a person reads."""
    try:
        check_table(candidates, min_score)
        sides = parse_size(size) if size is not None else None
        normalisation = parse_normalisation(mean, std)
    except GraphError as err:
        fail(str(err), USAGE)
    try:
        content = source.read_bytes()
    except OSError as err:
        fail(f"cannot read {source}: {reason(err)}", USAGE)
    if not target.parent.is_dir():
        fail(f"the directory {target.parent} of the output does not exist", USAGE)
    if target.is_dir():
        fail(f"the output {target} is a directory; name a file, for example {target / 'model.onnx'}", USAGE)
    if target.exists() and target.samefile(source):
        fail("the output is the input itself; name another file", USAGE)

    digest = hashlib.sha256(content).hexdigest()
    choices = Choices(activation, background)
    try:
        model = onnx.load_model_from_string(content)
        if sides is not None:
            model = fix_size(model, *sides)
        layout = read_layout(model, head, choices)
        if layout.head.head is Head.CLASSIFIER and (candidates, min_score) != (DEFAULT_CANDIDATES, DEFAULT_MIN_SCORE):
            fail("--candidates and --min-score are for detectors; the model is a classifier", USAGE)
        if labels is not None:
            _check_labels(labels, layout.head)
        made = make_ready(model, layout.head.head, candidates, min_score, digest, choices, normalisation)
        result = made.SerializeToString(deterministic=True)
    except DecodeError:
        fail(f"{source} is not an ONNX file", MODEL)
    except GraphError as err:
        fail(f"{source}: {err}", MODEL)
    try:
        replace_file(target, result)
    except OSError as err:
        fail(f"cannot write {target}: {reason(err)}", USAGE)

    if head is None:
        typer.echo(f"head: {layout.head.head}, found by the model's outputs")
    for note in _notes(layout, candidates, choices, normalisation):
        typer.echo(f"note: {note}")
    typer.echo(f"{target}: {_summary(layout, candidates)}, {len(result)} bytes")


def _notes(layout: SourceLayout, candidates: int, choices: Choices, normalisation: Normalisation) -> Iterator[str]:
    """What was taken for granted, and how to say otherwise."""
    head = layout.head
    is_classifier = head.head is Head.CLASSIFIER
    if head.activation is not Activation.NONE and choices.activation is None:
        yield (
            f"{head.outputs[-1]!r} ends in no softmax or sigmoid, so a {head.activation} is applied to it;"
            " --activation none leaves it as it is"
        )
    if head.background is Background.FIRST and choices.background is None:
        if head.form is Form.LISTED:
            yield "class numbers are taken to count from 1; --background none where they count from 0"
        else:
            yield "the first column of the scores is taken for the background; --background none where it is a class"
    if normalisation.is_plain and not layout.input.takes_bytes and is_classifier:
        yield (
            "the model gets RGB in 0..1; if it was trained on ImageNet's normalisation, add"
            " --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
        )
    if not is_classifier and head.anchors < candidates:
        yield (
            f"the model has {head.anchors} anchors, so the last {candidates - head.anchors} of the"
            f" {candidates} rows are always zero; --candidates {head.anchors} makes the answer smaller"
        )


def _summary(layout: SourceLayout, candidates: int) -> str:
    takes, gives = layout.input, layout.head
    image = f"image UINT8 [batch, {takes.height}, {takes.width}, 3]"
    if gives.head is Head.CLASSIFIER:
        return f"{image} -> probabilities FP32 [batch, {gives.classes}]"
    classes = f"{gives.classes} classes" if gives.classes else "class numbers as the model gives them"
    return f"{image} -> candidates FP32 [batch, {candidates}, 6], {classes}, {gives.anchors} anchors"


def _check_labels(path: Path, head: HeadLayout) -> None:
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except OSError as err:
        fail(f"cannot read {path}: {reason(err)}", USAGE)
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8 text with one class name on each line", USAGE)
    if head.classes and len(names) != head.classes:
        more = " beside the background (--background)" if head.background is not Background.NONE else ""
        fail(f"{path} has {len(names)} lines; the model has {head.classes} classes{more}", MODEL)
    if "" in (stripped := [name.strip() for name in names]):
        fail(f"{path} line {stripped.index('') + 1} is empty; every class needs a name", MODEL)
