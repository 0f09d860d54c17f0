"""The command's end where nobody foresaw what happened: 2, as for a run that says nothing, never 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from saccade_loadtest import __main__ as command


def test_what_nobody_foresaw_ends_with_2_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(command, "app", fail)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero\n"


def test_a_usage_error_ends_with_2(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "saccade_loadtest", "run", "no-such-scenario", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert "no-such-scenario" in ended.stderr
