"""``saccade-build parity``: reads the options, prints the comparison, and keeps it in the plan's sidecar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from saccade_predictor.build import judging
from saccade_predictor.build.agreement import MATCH_IOU
from saccade_predictor.build.pictures import NoPictures, PictureError, Sample, find_images, from_images, from_random
from saccade_predictor.build.saying import MODEL, USAGE, fail, reason
from saccade_predictor.engines.plan import Plan, SidecarError, read_sidecar, sidecar_of, write_sidecar
from saccade_predictor.engines.plancheck import PlanRefused


def parity(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE.onnx", show_default=False, help="The graph that is right.")
    ],
    candidate: Annotated[
        Path,
        typer.Argument(
            metavar="CANDIDATE",
            show_default=False,
            help="What is judged: a model.plan with its plan.json beside it (needs its GPU), or another ONNX graph.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default=False, help="Photos to compare on, those in folders under it too."
        ),
    ] = None,
    random: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=100_000, help="Instead: this many random rows, for models without images."
        ),
    ] = 0,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Photos at most; 0: all.")] = 0,
    batch: Annotated[int, typer.Option(metavar="ROWS", min=1, max=4096, help="Rows run together.")] = 4,
    threads: judging.Threads = 2,
    score: judging.Score = 0.4,
    iou: Annotated[
        float,
        typer.Option(
            metavar="OVERLAP", min=0.05, max=1, help="Ready detectors: overlap (IoU) from which boxes are the same."
        ),
    ] = MATCH_IOU,
    max_error: judging.MaxError = None,
    max_box_error: judging.MaxBoxError = None,
    min_agreement: judging.MinAgreement = judging.MIN_AGREEMENT,
    min_recall: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            show_default=False,
            help="Ready detectors: least share of the reference's detections that are found again.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", show_default=False, help="Write the report as JSON; - is standard output."
        ),
    ] = None,
) -> None:
    """Compare a plan, or a rewritten graph, with the graph it was made from.

    Boxes are matched by their overlap (--iou), since a last digit may move a row; a detection is missing only
    if the other answer has nothing like it within 0.05 of the score. A plan's result is kept in its plan.json.

    Example: saccade-build parity model.onnx model.plan --images photos --max-box-error 4

    Exit code: 0 within the limits, 1 beyond them or it cannot be run, 2 a wrong option or file.
    """
    if (images is None) == (random == 0):
        fail("expected one of --images FOLDER and --random N", USAGE)
    for path in (reference, candidate):
        if not path.is_file():
            fail(f"{path} is not a file", USAGE)
    from saccade_predictor.build import parity as comparing  # it loads engines, which takes seconds

    limits = comparing.Limits(max_error, max_box_error, min_agreement, min_recall)
    with ExitStack() as stack:
        try:
            plan: Plan | None = None
            if candidate.suffix in comparing.PLAN_SUFFIXES:
                judged, plan = comparing.open_plan(candidate)
            else:
                judged = comparing.open_onnx(candidate, threads)
            stack.callback(judged.close)
            right = comparing.open_onnx(reference, threads)
            stack.callback(right.close)
            description = right.describe()
            comparing.check_alike(description, judged.describe())
            batched = comparing.is_batched(description)
            samples: Iterator[Sample]
            if images is not None:
                files = find_images(images, limit)
                count, samples = len(files), from_images(files, description.inputs)
            else:
                count, samples = random, from_random(random, description.inputs, batched=batched)
            rows = batch if batched else 1
            found = judging.compare(right, judged, samples, count, rows, score, iou)
        except (comparing.ParityError, PlanRefused, SidecarError) as error:
            fail(str(error), MODEL)
        except NoPictures as error:
            fail(f"{error}: use --random", USAGE)
        except PictureError as error:
            fail(str(error), USAGE)
    report = found.report(
        limits,
        {
            "reference": {"file": reference.name, "sha256": comparing.digest(reference)},
            "candidate": {"file": candidate.name, "sha256": comparing.digest(candidate)},
            "on": f"{count} images" if images is not None else f"{count} random rows",
            "batch": rows,
            "score_threshold": score,
        },
    )
    try:
        if plan is not None:
            sidecar = sidecar_of(candidate)
            write_sidecar(sidecar, read_sidecar(sidecar).model_copy(update={"parity": report}))
        if json_file is not None and str(json_file) != "-":
            json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {error.filename}: {reason(error)}", USAGE)
    if json_file is not None and str(json_file) == "-":
        typer.echo(json.dumps(report, indent=2))
    else:
        judging.show(report)
    judging.end(report)
