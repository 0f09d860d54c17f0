"""A comparison of two runs as a table for a terminal, as JSON, and as one HTML file like the report's."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from html import escape
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from saccade_loadtest.judging.comparing import Change, Comparison, Difference
from saccade_loadtest.judging.evidence import Evidence
from saccade_loadtest.judging.finding import Outcome, digits, figure, percent
from saccade_loadtest.record.results import Run
from saccade_loadtest.reports import charts
from saccade_loadtest.reports.charts import Curve
from saccade_loadtest.reports.html_parts import mark, table
from saccade_loadtest.reports.report import page
from saccade_loadtest.reports.tables import narrow_table

_STYLES: Final[dict[Change, str]] = {"better": "green", "worse": "bold red", "same": "", "unknown": "yellow"}
_MARKS: Final[dict[Change, Outcome]] = {"better": "pass", "same": "pass", "worse": "fail", "unknown": "invalid"}
_WORDS: Final[dict[Change, str]] = {
    "better": "B is better than A",
    "worse": "B is worse than A",
    "same": "B is the same as A",
    "unknown": "no difference is shown, and not everything is shown to be the same",
}
_HEADS: Final = ("", "B is", "A", "B", "change", "its bounds")


def to_table(comparison: Comparison) -> RenderableType:
    """For a terminal."""
    shown = narrow_table()
    for number, head in enumerate(_HEADS):
        shown.add_column(head, justify="right" if number > 1 else "left", no_wrap=True)
    for found in comparison.differences:
        name, *figures = _cells(found)
        shown.add_row(Text(name), Text(found.change, style=_STYLES[found.change]), *figures)
    lines: list[RenderableType] = [Text(remark, style="yellow") for remark in comparison.remarks]
    reasons = [Text(f"{found.name}: {found.reason}") for found in comparison.differences if found.reason]
    return Group(*lines, shown, *reasons, Text(words(comparison), style=_STYLES[comparison.change]))


def words(comparison: Comparison) -> str:
    """What comes of it, in a sentence."""
    if comparison.is_doubted:
        return "nothing is concluded: a generator did not do what was planned (--force concludes all the same)"
    return _WORDS[comparison.change]


def to_json(comparison: Comparison) -> str:
    """As a JSON document; a figure that is no number is null."""
    differences = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in found.items()}
        for found in (asdict(difference) for difference in comparison.differences)
    ]
    document = {
        "kind": "saccade-loadtest-comparison",
        "version": 1,
        "change": comparison.change,
        "exit_code": comparison.exit_code,
        "differences": differences,
        "remarks": list(comparison.remarks),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def to_html(first: Run, second: Run, names: tuple[str, str], comparison: Comparison) -> str:
    """As a page, with the latencies of both runs in one figure for each protocol.

    Args:
        first: run A.
        second: run B.
        names: of their files.
        comparison: of the two.
    """
    outcome = _MARKS[comparison.change]
    rows = []
    for found in comparison.differences:
        name, *figures = (escape(cell) for cell in _cells(found))
        rows.append((name, mark(_MARKS[found.change], found.change), *figures, escape(found.reason)))
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in comparison.remarks)
    parts = [
        f"<h1>{escape(first.scenario)}: two runs</h1>",
        *(
            f'<p class="soft">{letter}: {escape(name)}, {escape(run.target.url)} {escape(run.began_at)}</p>'
            for letter, name, run in zip("AB", names, (first, second), strict=True)
        ),
        f'<section class="verdict {outcome}" role="status"><strong>{words(comparison)}</strong>'
        f"{f'<ul>{remarks}</ul>' if remarks else ''}</section>",
        table((*_HEADS, ""), rows, numbers=(2, 3, 4, 5), caption="Latency from the moment a request was due."),
    ]
    parts.extend(_figure(first, second, protocol) for protocol in first.series if protocol in second.series)
    return page(f"{first.scenario}: {words(comparison)}", "".join(parts))


def _figure(first: Run, second: Run, protocol: str) -> str:
    totals = [Evidence(run, protocol).total for run in (first, second)]
    curves = [
        Curve(letter, total.latency, total.due, style)
        for letter, total, style in zip("AB", totals, ("s0", "s1"), strict=True)
        if total.answered
    ]
    if not curves:
        return ""
    names = charts.legend([(curve.label, curve.style) for curve in curves])
    plot = charts.percentile_plot(f"Latency by percentile, {protocol}", curves, ())
    return f'<h2>{escape(protocol)}</h2><div class="card">{names}{plot}</div>'


def _cells(found: Difference) -> tuple[str, str, str, str, str]:
    first, second = figure(found.first, found.unit), figure(found.second, found.unit)
    if found.unit == "share":
        return found.name, first, second, _points(found.second - found.first), _bounds(found, _points)
    change = found.second / found.first if found.first else math.nan
    return found.name, first, second, _factor(change), _bounds(found, _factor)


def _bounds(found: Difference, words: Callable[[float], str]) -> str:
    return "" if math.isnan(found.low) else f"{words(found.low).rstrip(' %')} to {words(found.high)}"


def _factor(value: float) -> str:
    return f"{value - 1:+.1%}" if math.isfinite(value) else "none"


def _points(value: float) -> str:
    if not math.isfinite(value):
        return "none"
    return f"{'+' if value >= 0 else '-'}{percent(abs(value)) if abs(value) >= 1e-6 else digits(0.0) + ' %'}"
