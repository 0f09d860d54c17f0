"""How ``saccade cache-report`` shows what it found: a table, a sentence to act on, a picture, JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
from rich.table import Table

from saccade_cli.cache_report import FEWEST_HITS, CacheReportFailed, Report
from saccade_transformers.cache.policy import Rules

#: Forms of a picture.
PLOTS: Final = (".png", ".svg", ".pdf")


def check_outputs(plot: Path | None, as_json: Path | None) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        CacheReportFailed: not there, or not in that form.
    """
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise CacheReportFailed(f"--plot is {str(plot)!r}; expected a file that ends in {', '.join(PLOTS)}")
    for path in filter(None, (plot, as_json)):
        if not path.absolute().parent.is_dir():
            raise CacheReportFailed(f"{path} cannot be written: there is no directory {path.absolute().parent}")


def table(report: Report) -> Table:
    """Settings, hits and their quality."""
    made = Table("policy", "setting", "hits", "F1 of hits", "worst 5 %", "hits judged", "")
    for column in range(2, 6):
        made.columns[column].justify = "right"
    default, best = Rules().change_levels, report.recommended
    before = ""
    for point in report.points:
        if before and point.policy != before:
            made.add_section()
        before = point.policy
        notes = ["default"] if point.policy == "cache" and point.setting == default else []
        notes += ["recommended"] if point is best else []
        unit = "levels" if point.policy == "cache" else "bits"
        made.add_row(
            point.policy,
            f"{point.setting:g} {unit}",
            f"{point.hits:.1%}",
            _share(point.f1),
            _share(point.worst),
            str(point.judged),
            ", ".join(notes),
        )
    return made


def tell(report: Report) -> str:
    """What follows from it."""
    lines = [
        f"{report.frames} frames at {report.fps:g} per second. Two fresh answers for one frame, one of them with "
        f"noise, agree to {report.floor:.3f} (F1): no cache can do better."
    ]
    best = report.recommended
    if best is not None:
        lines.append(
            f"Most hits at F1 {report.aim:g} or better: {best.hits:.0%}, at {best.setting:g} grey levels. Set\n"
            f"SACCADE_TRANSFORMER_CACHE_CHANGE_LEVELS={best.setting:g}"
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
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for policy, unit in (("cache", "grey levels"), ("plain hash", "bits")):
        drawn = [
            (point.hits, point.f1 or 0.0, point) for point in report.points if point.policy == policy and point.judged
        ]
        axes.plot([hits for hits, _, _ in drawn], [f1 for _, f1, _ in drawn], "o-", label=f"{policy} ({unit})")
        for hits, f1, point in drawn:
            axes.annotate(f"{point.setting:g}", (hits, f1), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.axhline(report.floor, linestyle=":", color="grey", label="two fresh answers for a frame")
    axes.axhline(report.aim, linestyle="--", color="grey", linewidth=0.8, label="aim")
    lowest = min([point.f1 for point in report.points if point.f1 is not None], default=0.0)
    axes.set(xlabel="share of frames answered from the cache", ylabel="F1 of these answers", xlim=(0, 1))
    axes.set_ylim(max(0.0, math.floor(lowest * 10) / 10 - 0.05), 1.02)
    axes.set_title(f"{report.video}, {report.frames} frames at {report.fps:g} per second")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def as_json(report: Report) -> bytes:
    """The report for programs."""
    best = report.recommended
    content = {**asdict(report), "recommended": asdict(best) if best is not None else None}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
