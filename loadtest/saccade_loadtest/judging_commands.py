"""``saccade-loadtest judge``, ``report`` and ``compare``: for the records of runs; they end with 0, 1 or 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from saccade_loadtest import outputs, report, run_file, slo, tables
from saccade_loadtest.verdict import judge as judge_run

RunFile = Annotated[Path, typer.Argument(help="Record of a run (run.json).", metavar="RUN.json")]
SloFile = Annotated[Path, typer.Option("--slo", help="SLO file (YAML) to judge by.")]

console = Console()
_errors = Console(stderr=True)

#: As for a run that cannot be judged.
UNUSABLE = 2


def add_to(app: typer.Typer) -> None:
    """Give the commands to a command line."""
    app.command()(judge)
    app.command("report")(write_report)


def complain(error: Exception) -> NoReturn:
    """Say what is wrong, and end with 2."""
    _errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
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
