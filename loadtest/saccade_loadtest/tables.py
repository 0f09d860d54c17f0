"""A verdict as tables for a terminal. Prints nothing itself."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saccade_loadtest.finding import Finding, Outcome, figure
from saccade_loadtest.results import Run
from saccade_loadtest.verdict import Verdict

STYLES: Final[dict[Outcome, str]] = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow"}


def verdict_table(run: Run, verdict: Verdict, slo_name: str) -> RenderableType:
    """Objectives with what was measured, what keeps the run from being valid, and the verdict."""
    table = Table(
        title=f"{run.scenario} against SLO {slo_name}", title_justify="left", show_edge=False, pad_edge=False
    )
    table.add_column("objective", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for column in ("measured", "limit", "bounds", "of"):
        table.add_column(column, justify="right", no_wrap=True)
    for finding in verdict.findings:
        outcome = Text(finding.outcome, style=STYLES[finding.outcome])
        table.add_row(
            finding.objective,
            outcome,
            figure(finding.measured, finding.unit),
            limit_text(finding),
            bounds_text(finding),
            f"{finding.requests:,}",
        )
    lines: list[RenderableType] = [table]
    if run.loop == "closed":
        lines.append(Text("closed loop: latencies lack what a slow server held back", style="yellow"))
    lines.extend(Text(f"note: {note}") for note in run.notes)
    lines.extend(
        Text(f"{finding.objective}: {finding.reason}", style="dim")
        for finding in verdict.findings
        if finding.outcome == "pass" and finding.reason
    )
    lines.append(Text.assemble("verdict: ", (verdict.outcome.upper(), STYLES[verdict.outcome])))
    lines.extend(Text(f"  {reason}") for reason in verdict.reasons)
    return Group(*lines)


def limit_text(finding: Finding) -> str:
    """As "<= 400 ms"."""
    limit = f"{finding.limit:g} ms" if finding.unit == "ms" else figure(finding.limit, finding.unit)
    return f"{'<=' if finding.at_most else '>='} {limit}"


def bounds_text(finding: Finding) -> str:
    """The confidence bounds, as "95.1 ms to 120 ms"; empty where none are computed."""
    if finding.low is None or finding.high is None:
        return ""
    return f"{figure(finding.low, finding.unit)} to {figure(finding.high, finding.unit)}"
