"""``saccade ab-report``: reads the files, shows the report as tables, and writes it as JSON where asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from saccade_cli.ab_report import Arm, Measure, Report, make_report
from saccade_cli.bootstrap import Difference, Estimate
from saccade_cli.experiment import experiment_of, join, read_log, read_outcomes
from saccade_cli.terminal import literal

_COUNTS: Final = ("requests", "keys", "without_key", "errors", "fallbacks", "invalid", "left")


def read_report(logs: list[Path], outcomes: Path | None, candidate: str) -> Report:
    """Make the report of some files.

    Args:
        logs: of all replicas, in any order.
        outcomes: CSV with the columns request_id, value and perhaps name.
        candidate: the candidate's name.

    Raises:
        UnreadableInput: a file is not what it should be.
        OSError: it cannot be read.
    """
    requests = []
    for path in logs:
        with path.open("rb") as lines:
            requests += read_log(lines, str(path))
    experiment = experiment_of(requests, candidate)
    joined = None
    if outcomes is not None:
        with outcomes.open(newline="", encoding="utf-8-sig", errors="replace") as text:
            joined = join(read_outcomes(text, str(outcomes)), experiment, requests)
    return make_report(experiment, joined)


def show(report: Report, console: Console) -> None:
    """Print it."""
    arms = report.stable, report.candidate
    counts = Table("", *(literal(arm.name) for arm in arms), title="Requests", title_justify="left")
    measures = Table("", *(literal(arm.name) for arm in arms), "difference", title="Measures", title_justify="left")
    for table in (counts, measures):
        for column in table.columns[1:]:
            column.justify = "right"
    for name in _COUNTS:
        counts.add_row(name.replace("_", " "), *(_count(arm, name) for arm in arms))
    for measure in report.measures:
        measures.add_row(literal(_title(measure)), *_row(measure))
    console.print(counts)
    console.print(
        f"Configured share of {literal(report.candidate.name)}: {report.share:.2%}; of cameras, users and requests "
        f"without one it had {report.observed_share:.2%}"
        + ("." if report.split_p is None else f" (p = {report.split_p:.2g})."),
        highlight=False,
        soft_wrap=True,
    )
    console.print(measures)
    for title, sentences in (("", report.warnings), ("Verdict", report.verdict), ("Notes", report.notes)):
        if sentences and title:
            console.print(f"[bold]{title}[/bold]")
        for sentence in sentences:
            mark = "- " if title else "[red]warning:[/red] "
            console.print(f"{mark}{literal(sentence)}", highlight=False, soft_wrap=True)


def write_json(report: Report, path: Path) -> None:
    """Write it for a program to read: the fields of ``Report``."""
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _count(arm: Arm, name: str) -> str:
    return str(getattr(arm, name))


def _title(measure: Measure) -> str:
    return f"{measure.name} ({measure.unit})" if measure.unit else measure.name


def _row(measure: Measure) -> list[str]:
    compared = measure.compared
    return [_with_interval(one) for one in (compared.stable, compared.candidate, compared.difference)]


def _with_interval(number: Estimate | Difference) -> str:
    sign = "+" if isinstance(number, Difference) else ""
    text = _short(number.value, sign)
    if number.low is None or number.high is None:
        return text
    return f"{text} ({_short(number.low, sign)} to {_short(number.high, sign)})"


def _short(value: float, sign: str) -> str:
    """Three digits, but whole numbers whole."""
    if abs(value) >= 100:
        return f"{value:{sign}.0f}"
    return f"{value:{sign}.3g}"
