"""What `helm test` runs in a pod, against the real pair."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from integration_support import HOST, MODEL, ROOT, Address

FILES = ROOT / "helm" / "saccade" / "files"


def ask(
    address: Address, *, model: str = MODEL, picture: Path = FILES / "chelsea.jpg", label: str = "cat"
) -> tuple[int, str]:
    command = [sys.executable, FILES / "ask.py", f"http://{HOST}:{address.rest}", model, picture, label]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_cat_is_seen(transformer: Address) -> None:
    code, said = ask(transformer)
    assert code == 0, said
    assert "detector is ready" in said
    assert "sees: cat 0." in said


def test_a_label_that_is_not_there_fails_the_test(transformer: Address) -> None:
    code, said = ask(transformer, label="zebra")
    assert code == 1
    assert "shows a zebra, which was not found" in said


def test_any_answer_is_enough_without_a_label(transformer: Address) -> None:
    assert ask(transformer, label="")[0] == 0


def test_what_goes_wrong_is_a_sentence(transformer: Address) -> None:
    code, said = ask(transformer, model="nobody")
    assert code == 1
    assert "/v2/models/nobody/ready: 404" in said
    assert "Traceback" not in said
