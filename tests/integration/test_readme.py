"""The README followed literally: every snippet that calls the pair is run, with the ports of the test's pair."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from saccade_cli.pair import Pair

ROOT = Path(__file__).resolve().parents[2]


def snippets(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def here(snippet: str, pair: Pair, tmp_path: Path) -> str:
    """Put in the ports of the pair that runs, and keep files out of the checkout."""
    return (
        snippet.replace("127.0.0.1:8080", f"{pair.host}:{pair.ports.rest}")
        .replace("127.0.0.1:8081", f"{pair.host}:{pair.ports.grpc}")
        .replace("-o boxes.jpg", f"-o {tmp_path / 'boxes.jpg'}")
    )


def numberless(text: str) -> str:
    """Without what differs in the last digit from machine to machine, and the spaces that align it."""
    return " ".join(re.sub(r"-?\d+\.\d+(?:e[+-]\d+)?", "N", text).split())


@pytest.mark.parametrize("index", range(2))
def test_each_curl_line_answers(index: int, pair: Pair, tmp_path: Path) -> None:
    command = here(snippets("bash")[index], pair, tmp_path)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=True)
    if "-o" in command:
        assert (tmp_path / "boxes.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    else:
        assert b'"label":"person"' in done.stdout


@pytest.mark.parametrize("index", range(3))
def test_each_client_example_runs(index: int, pair: Pair, tmp_path: Path) -> None:
    program = here(snippets("python")[index], pair, tmp_path)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    shown = snippets("text")[(0, 0, 1)[index]]
    assert numberless(done.stdout.decode()) == numberless(shown)


def test_the_answer_the_readme_shows_is_the_answer(pair: Pair, tmp_path: Path) -> None:
    command = here(snippets("bash")[0], pair, tmp_path)
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert numberless(done.stdout.decode()) == numberless(snippets("json")[0])


def test_there_are_no_snippets_that_no_test_runs() -> None:
    assert [len(snippets(language)) for language in ("bash", "python", "json", "text")] == [2, 3, 1, 2]
