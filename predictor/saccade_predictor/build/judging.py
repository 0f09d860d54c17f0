"""What ``saccade-build parity`` and ``calibrate`` share: options, the comparison with its bar, the table, the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from saccade_predictor.build.agreement import MATCH_IOU
from saccade_predictor.build.pictures import Sample
from saccade_predictor.build.saying import MODEL
from saccade_predictor.engines.engine import Engine

if TYPE_CHECKING:  # it loads engines, which takes seconds
    from saccade_predictor.build.parity import Compared

#: Least agreement of ready detectors unless a person says; FP16 keeps more on the example (docs/tensorrt.md).
MIN_AGREEMENT: Final = 0.95
T = TypeVar("T")

Threads = Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Threads of a graph on the CPU.")]
Score = Annotated[
    float,
    typer.Option(metavar="SCORE", min=0, max=1, help="Ready detectors: score from which a row is a detection."),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0,
        show_default=False,
        help="Limit of an element's absolute difference; of a ready detector, of a detection's score.",
    ),
]
MaxBoxError = Annotated[
    float | None,
    typer.Option(
        metavar="PIXELS",
        min=0,
        show_default=False,
        help="Ready detectors: limit of a box's corners, in input pixels.",
    ),
]
MinAgreement = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Ready detectors: least share of detections with a partner of the same class.",
    ),
]


def compare(
    right: Engine,
    judged: Engine,
    samples: Iterator[Sample],
    count: int,
    rows: int,
    score: float,
    iou: float = MATCH_IOU,
) -> Compared:
    """Run two models over samples, with a bar on a terminal.

    Args:
        right: the reference.
        judged: the candidate.
        samples: one row each.
        count: of the samples, at least one.
        rows: of a batch.
        score: see ``parity.compare``.
        iou: likewise.

    Raises:
        ParityError, PictureError: as there.
    """
    from saccade_predictor.build import parity

    *_, found = with_bar(parity.compare(right, judged, samples, rows, score, iou), "comparing", -(-count // rows))
    return found


def with_bar(steps: Iterable[T], what: str, count: int) -> Iterable[T]:
    """Steps of long work, with a bar on a terminal."""
    console = Console(stderr=True)
    return track(steps, what, count, console=console, transient=True, disable=not console.is_terminal)


def end(report: Mapping[str, Any]) -> None:
    """Say what is beyond the limits, or that nothing was compared, and end the command if anything is beyond."""
    found = report.get("detections")
    if found is not None and not found["reference"] and not found["candidate"]:
        typer.echo(
            f"note: neither graph detects anything over {report['score_threshold']:g}, so the agreement says nothing: "
            "other photos, or a lower --score",
            err=True,
        )
    for failure in report["failures"]:
        typer.echo(f"beyond the limits: {failure}", err=True)
    if not report["passed"]:
        raise typer.Exit(MODEL)


def show(report: Mapping[str, Any]) -> None:
    """The report for a person."""
    table = Table(title=f"{report['candidate']['file']} against {report['reference']['file']}, {report['on']}")
    table.add_column("what")
    table.add_column("value", justify="right")
    found = report.get("detections")
    if found is None:
        for name, errors in report["outputs"].items():
            table.add_row(f"{name}: largest difference", f"{errors['max_error']:.3g}")
            table.add_row(f"{name}: mean difference", f"{errors['mean_error']:.3g}")
    else:
        table.add_row(f"detections over {report['score_threshold']:g}", f"{found['reference']} / {found['candidate']}")
        table.add_row(f"agreement (overlap of {found['iou']:g} or more)", f"{found['agreement']:.2%}")
        recall = found["recall"]
        table.add_row(
            f"of the reference's found again ({recall['level']:.0%} interval)",
            f"{recall['share']:.2%} ({recall['low']:.2%} to {recall['high']:.2%})",
        )
        table.add_row("class flips", str(found["class_flips"]))
        table.add_row("missing / extra", f"{found['missing']} / {found['extra']}")
        box, score = found["box_error_px"], found["score_error"]
        table.add_row("box corners, largest / mean (pixels)", f"{box['max']:.3g} / {box['mean']:.3g}")
        table.add_row("scores, largest / mean", f"{score['max']:.3g} / {score['mean']:.3g}")
    table.add_row("result", "within the limits" if report["passed"] else "beyond the limits")
    Console().print(table)
