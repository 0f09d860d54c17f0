"""``saccade-loadtest judge``, ``report`` and ``compare``: for the records of runs; they end with 0, 1 or 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from saccade_loadtest.commands.sentences import sentences
from saccade_loadtest.judging import comparing, slo
from saccade_loadtest.judging.verdict import judge as judge_run
from saccade_loadtest.record import run_file
from saccade_loadtest.reports import comparison_report, outputs, report, tables

RunFile = Annotated[Path, typer.Argument(help="Record of a run (run.json).", metavar="RUN.json")]
SloFile = Annotated[Path, typer.Option("--slo", help="SLO file (YAML) to judge by.")]

console = Console(markup=False, emoji=False)
_errors = Console(stderr=True, markup=False, emoji=False)

#: As for a run that cannot be judged.
UNUSABLE = 2


def add_to(app: typer.Typer) -> None:
    """Give the commands to a command line."""
    app.command()(judge)
    app.command("report")(write_report)
    app.command()(compare)


def complain(error: Exception) -> NoReturn:
    """Say what is wrong, and end with 2."""
    text = sentences(error) if isinstance(error, ValidationError) else str(error)
    _errors.print(f"error: {text}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(UNUSABLE)


def judge(
    run: RunFile,
    slo_file: SloFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for run.json, verdict.json, junit.xml and report.html.")
    ] = None,
) -> None:
    """Judge the record of a run by an SLO: ends with 0 (pass), 1 (fail) or 2 (invalid)."""
    try:
        objective, record = slo.load(slo_file), run_file.load(run)
        verdict = judge_run(record, objective) if out is None else outputs.write(record, objective, out)
    except (slo.BadSlo, run_file.UnreadableRun, OSError) as error:
        complain(error)
    console.print(tables.verdict_table(record, verdict, objective.name))
    raise typer.Exit(verdict.exit_code)


def write_report(
    run: RunFile,
    slo_file: SloFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path(outputs.REPORT),
) -> None:
    """Write the report of a run as one HTML file; ends with 0 whatever the verdict is."""
    try:
        objective, record = slo.load(slo_file), run_file.load(run)
        out.write_text(report.to_html(record, objective, judge_run(record, objective)), encoding="utf-8")
    except (slo.BadSlo, run_file.UnreadableRun, OSError) as error:
        complain(error)
    console.print(f"wrote {out}", markup=False)


def compare(
    first: Annotated[Path, typer.Argument(help="Record of what was.", metavar="A.json")],
    second: Annotated[Path, typer.Argument(help="Record of what is now.", metavar="B.json")],
    confidence: Annotated[float, typer.Option(min=0.8, max=0.999, help="Of each bound of a change.")] = 0.99,
    worth: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Change of a latency worth telling: 0.05 is 5 %.")
    ] = 0.05,
    force: Annotated[
        bool, typer.Option("--force", help="Conclude also from runs whose generator did not do what was planned.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="HTML file to write.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
) -> None:
    """Compare two runs: ends with 0, 1 if B is worse than A beyond chance, 2 if nothing can be told."""
    try:
        one, other = run_file.load(first), run_file.load(second)
        comparison = comparing.compare(one, other, level=confidence, worth=worth, forced=force)
        if html is not None:
            page = comparison_report.to_html(one, other, (first.name, second.name), comparison)
            html.write_text(page, encoding="utf-8")
        if json_file is not None:
            json_file.write_text(comparison_report.to_json(comparison), encoding="utf-8")
    except (run_file.UnreadableRun, OSError) as error:
        complain(error)
    console.print(comparison_report.to_table(comparison))
    raise typer.Exit(comparison.exit_code)
