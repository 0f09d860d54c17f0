"""The README and docs/models.md followed literally: what calls or starts services is run, on ports of the test."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integration_support import MODEL, REPOSITORY, Address, Service
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


def test_each_service_by_itself_as_the_models_page_starts_it(
    choose_address: Callable[[], Address], images: Path, tmp_path: Path
) -> None:
    """The two lines of docs/models.md, on ports of the test's own, with the example model under the page's name."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    behind, front = choose_address(), choose_address()
    ports = {"8080": behind.rest, "8081": behind.grpc, "8180": front.rest, "8181": front.grpc, "9096": front.metrics}
    shutil.copytree(REPOSITORY / MODEL, tmp_path / "my-models" / "mine", ignore=shutil.ignore_patterns("*.pbtxt"))
    with contextlib.ExitStack() as stack:
        for name, address in (("predictor", behind), ("transformer", front)):
            [line] = re.findall(rf"^(SACCADE_\S+) \.venv/bin/saccade-{name} (.*)$", text, re.MULTILINE)
            variable, flags = (re.sub(r"\b(8080|8081|8180|8181|9096)\b", lambda m: str(ports[m[0]]), x) for x in line)
            setting, _, value = variable.removeprefix(f"SACCADE_{name.upper()}_").partition("=")
            value = str(tmp_path / value) if setting == "MODEL_REPOSITORY" else value
            service = Service(name, address, tmp_path / f"{name}.log", flags.split(), {setting: value})
            stack.enter_context(service).wait_ready("mine")
        answer = front.http("/detect", (images / "astronaut.jpg").read_bytes(), {"content-type": "image/jpeg"})
        assert answer.json["model"]["name"] == "mine"
        assert front.scrape().total("saccade_requests_total", code="200") == 1


def test_there_are_no_snippets_that_no_test_runs() -> None:
    assert [len(snippets(language)) for language in ("bash", "python", "json", "text")] == [2, 3, 1, 2]
