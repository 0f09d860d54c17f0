"""A verdict as tables for a terminal. Prints nothing itself."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saccade_loadtest.judging.finding import Finding, Outcome, figure
from saccade_loadtest.judging.verdict import Verdict
from saccade_loadtest.record.results import Run

STYLES: Final[dict[Outcome, str]] = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow"}


def verdict_table(run: Run, verdict: Verdict, slo_name: str) -> RenderableType:
    """Objectives with what was measured, what keeps the run from being valid, and the verdict."""
    table = narrow_table(f"{run.scenario} against SLO {slo_name}")
    table.add_column("objective", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for column in ("measured", "limit", "bounds"):
        table.add_column(column, justify="right", no_wrap=True)
    for finding in verdict.findings:
        outcome = Text(finding.outcome, style=STYLES[finding.outcome])
        table.add_row(
            Text(finding.objective),
            outcome,
            figure(finding.measured, finding.unit),
            limit_text(finding),
            bounds_text(finding),
        )
    lines: list[RenderableType] = [table]
    if run.loop == "closed":
        lines.append(Text("closed loop: latencies lack what a slow server held back", style="yellow"))
    lines.extend(Text(f"note: {note}") for note in run.notes)
    remarks = [f"{finding.objective}: {finding.reason}" for finding in verdict.findings if finding.reason]
    lines.extend(Text(remark, style="dim") for remark in remarks if remark not in verdict.reasons)
    lines.append(Text.assemble("verdict: ", (verdict.outcome.upper(), STYLES[verdict.outcome])))
    lines.extend(Text(f"  {reason}") for reason in verdict.reasons)
    return Group(*lines)


def narrow_table(title: str | None = None) -> Table:
    """A table that leaves 80 columns to what is in it."""
    named = None if title is None else Text(title)  # a name with brackets is no markup
    return Table(title=named, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def limit_text(finding: Finding) -> str:
    """As "<= 400 ms"."""
    limit = f"{finding.limit:g} ms" if finding.unit == "ms" else figure(finding.limit, finding.unit)
    return f"{'<=' if finding.at_most else '>='} {limit}"


def bounds_text(finding: Finding) -> str:
    """The confidence bounds, as "95.1 to 120 ms"; empty where none are computed."""
    if finding.low is None or finding.high is None:
        return ""
    low, high = figure(finding.low, finding.unit), figure(finding.high, finding.unit)
    unit = high.rpartition(" ")[2]
    return f"{low.removesuffix(f' {unit}')} to {high}" if " " in high else f"{low} to {high}"
