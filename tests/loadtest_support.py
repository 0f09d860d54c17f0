"""What the load generator's tests share: servers of known behaviour as processes, plans for them, runs."""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from measuring.processes import HOST, Server, free_port
from saccade_loadtest.__main__ import app
from saccade_loadtest.load.arrivals import Profile
from saccade_loadtest.load.loads import ClientsLoad
from saccade_loadtest.load.plan import Pictures, Plan

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
WIDTH, HEIGHT = 64, 48
START_S = 60.0


@contextmanager
def served(module: str, *arguments: str) -> Iterator[str]:
    """A server of bench/servers on a free port; gives its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"servers.{module}", str(port), str(WIDTH), str(HEIGHT), *arguments]
        with Server(module, command, {"PYTHONPATH": str(BENCH)}, BENCH, Path(folder) / "log") as server:
            server.wait_ready([port], {}, START_S)
            yield f"http://{HOST}:{port}"


def plan_for(url: str, profile: Profile, **changes: Any) -> Plan:
    """Small pictures by chance at a rate, to a server that needs no asking."""
    content: dict[str, Any] = {
        "scenario": "test",
        "url": url,
        "model": "detector",
        "cache": "bypass",
        "load": ClientsLoad.of(profile, "even", "even"),
        "warmup_s": 0.0,
        "pictures": Pictures(folder=str(ROOT / "examples" / "images"), width=WIDTH, height=HEIGHT, scenes=4, noises=1),
    }
    return Plan(**{**content, **changes})


def truth_of(url: str) -> dict[int, tuple[float, float]]:
    """What ``servers.planted`` has seen: number of the request -> when it came, when it was answered."""
    with urllib.request.urlopen(f"{url}/truth", timeout=START_S) as answer:
        return {number: (came, answered) for number, came, answered in json.load(answer)}


def invoke(*arguments: str | Path) -> tuple[int, str]:
    """Run ``saccade-loadtest`` in this process; its exit code, and what it printed, in one line."""
    environment = {"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.output.split())
