"""How ``saccade cache-report`` shows what it found: a table, a sentence to act on, a picture, JSON."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
from pydantic import ValidationError
from rich.table import Table

from saccade_cli.cache_report import FEWEST_HITS, CacheReportFailed, Point, Policy, Report
from saccade_serving.settings import explain
from saccade_transformers.cache.policy import Rules
from saccade_transformers.image.decode import configure_opencv
from saccade_transformers.settings import TransformerSettings

_UNITS: Final[dict[Policy, str]] = {"cache": "levels", "plain hash": "bits"}
#: Forms of a picture.
PLOTS: Final = (".png", ".svg", ".pdf")


def be_quiet() -> None:
    """Keep what libraries say of broken videos, and the cache of a camera that stands still, out of the report."""
    configure_opencv()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging.getLogger("saccade").addHandler(logging.NullHandler())


def read_settings() -> TransformerSettings:
    """What a transformer with this environment is set to.

    Raises:
        CacheReportFailed: it would not start; the message names the variable.
    """
    try:
        return TransformerSettings()
    except ValidationError as error:
        raise CacheReportFailed(explain(error, "SACCADE_TRANSFORMER_")) from None


def check_outputs(video: Path, plot: Path | None, as_json: Path | None) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        CacheReportFailed: not there, not in that form, or over the video.
    """
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise CacheReportFailed(f"--plot is {str(plot)!r}; expected a file that ends in {', '.join(PLOTS)}")
    for path in filter(None, (plot, as_json)):
        if path.is_dir():
            raise CacheReportFailed(f"{path} cannot be written: it is a directory")
        if not path.absolute().parent.is_dir():
            raise CacheReportFailed(f"{path} cannot be written: there is no directory {path.absolute().parent}")
        if path.exists() and path.samefile(video):
            raise CacheReportFailed(f"{path} is the video; it is not written over")


def table(report: Report) -> Table:
    """Settings, hits and their quality."""
    made = Table("setting", "hits", "share", "F1", "worst 5 %", "")
    for column in range(1, 5):
        made.columns[column].justify = "right"
    before = ""
    for point in report.points:
        if before and point.policy != before:
            made.add_section()
        before = point.policy
        made.add_row(
            f"{point.policy}, {point.setting:g} {_UNITS[point.policy]}",
            str(point.judged),
            f"{point.hits:.1%}",
            _share(point.f1),
            _share(point.worst),
            _notes(report, point),
        )
    return made


def tell(report: Report) -> str:
    """What follows from it."""
    lines = [
        f"{report.frames} frames at {report.fps:.3g} per second; something was found in {report.found} of them. Two "
        f"fresh answers for one frame, one of them with noise, agree to {report.floor:.3f} (F1): hits are as good as "
        "fresh answers where they come near that."
    ]
    best = report.recommended
    if best is not None:
        lines.append(
            f"Most hits at F1 {report.aim:g} or better: {best.hits:.0%}, at {best.setting:g} grey levels (judged by "
            f"{best.judged} hits)."
        )
        if report.is_set(best):
            lines.append("So it is set already: there is nothing to change.")
        else:
            lines.append(f"Set\nSACCADE_TRANSFORMER_CACHE_CHANGE_LEVELS={best.setting:g}")
    elif not report.found:
        lines.append(
            "Nothing was found in any frame, so nothing could be missed, and there is nothing to choose by: take a "
            "video with things in it that the model knows."
        )
    elif 1 / report.fps > report.rules.gap_s:
        lines.append(
            f"The frames are {1 / report.fps:.2g} s apart, and after {report.rules.gap_s:g} s without a frame nothing "
            "is known of a camera any more (SACCADE_TRANSFORMER_CACHE_TTL_S): take more of them (--every), or tell "
            "how fast the camera is (--fps)."
        )
    elif report.good or not any(point.judged >= FEWEST_HITS for point in report.cached):
        lines.append(
            f"What reaches F1 {report.aim:g} has fewer than {FEWEST_HITS} hits here, too few to choose by: take more "
            "frames (--frames). If that does not help, too much moves before this camera for a cache."
        )
    elif report.floor < report.aim:
        lines.append(f"The model's own answers do not agree to {report.aim:g}: ask for less with --f1.")
    else:
        lines.append(
            f"No threshold reaches F1 {report.aim:g}: ask for less with --f1, or send this camera's frames past the "
            "cache (cache=bypass)."
        )
    return "\n".join(lines)


def plot(report: Report, path: Path) -> None:
    """Draw F1 of the hits against their share, into a PNG, SVG or PDF file."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # the first time, it tells of its work
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for policy, unit in _UNITS.items():
        drawn = [
            (point.hits, point.f1 or 0.0, point) for point in report.points if point.policy == policy and point.judged
        ]
        axes.plot([hits for hits, _, _ in drawn], [f1 for _, f1, _ in drawn], "o-", label=f"{policy} ({unit})")
        for hits, f1, point in drawn:
            axes.annotate(f"{point.setting:g}", (hits, f1), textcoords="offset points", xytext=(4, 4), fontsize=8)
    for point in report.points:
        notes = _notes(report, point)
        if notes and point.f1 is not None:
            label = f"{notes}: {point.setting:g} levels"
            axes.plot([point.hits], [point.f1], "s", markersize=12, fillstyle="none", label=label)
    axes.axhline(report.floor, linestyle=":", color="grey", label="two fresh answers for a frame")
    axes.axhline(report.aim, linestyle="--", color="grey", linewidth=0.8, label="aim")
    lowest = min([point.f1 for point in report.points if point.f1 is not None], default=0.0)
    axes.set(xlabel="share of frames answered from the cache", ylabel="F1 of these answers", xlim=(0, 1))
    axes.set_ylim(max(0.0, math.floor(lowest * 10) / 10 - 0.05), 1.02)
    axes.set_title(f"{report.video}, {report.frames} frames at {report.fps:.3g} per second")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def as_json(report: Report) -> bytes:
    """The report for programs."""
    best = report.recommended
    content = {**asdict(report), "recommended": asdict(best) if best is not None else None}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _notes(report: Report, point: Point) -> str:
    now = "default" if point.setting == Rules().change_levels else "set now"
    notes = [now] if report.is_set(point) else []
    return ", ".join([*notes, "best"] if point is report.recommended else notes)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
