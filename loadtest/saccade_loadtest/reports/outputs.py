"""What a run leaves behind in a folder: its record, the verdict as JSON and JUnit XML, and the report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.judging.verdict import Verdict, judge
from saccade_loadtest.record import run_file
from saccade_loadtest.record.results import Run
from saccade_loadtest.reports import report, verdict_files

RUN: Final = "run.json"
VERDICT: Final = "verdict.json"
JUNIT: Final = "junit.xml"
REPORT: Final = "report.html"


def prepare(folder: Path) -> None:
    """Make the folder and see, before a run, whether files can be written into it.

    Raises:
        OSError: they cannot; the sentence says why.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder for the record and the report (--out)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_file(path: Path) -> None:
    """See, before a run, whether a file can be written; its folder is made.

    Raises:
        OSError: it cannot; the sentence says why.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file to write (--out)")
    prepare(path.absolute().parent)


def write(run: Run, slo: Slo, folder: Path) -> Verdict:
    """Judge a run and write all files.

    Args:
        run: complete, with all workers merged.
        slo: to judge it by.
        folder: made if it is not there; files of an earlier run in it are replaced.

    Raises:
        OSError: the folder cannot be written to.
    """
    verdict = judge(run, slo)
    folder.mkdir(parents=True, exist_ok=True)
    run_file.save(run, folder / RUN)
    (folder / VERDICT).write_text(verdict_files.to_json(run, slo, verdict), encoding="utf-8")
    (folder / JUNIT).write_text(verdict_files.to_junit(run, slo, verdict), encoding="utf-8")
    (folder / REPORT).write_text(report.to_html(run, slo, verdict), encoding="utf-8")
    return verdict
