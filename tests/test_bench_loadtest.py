"""The load generator's bench: a quick run writes what it measured, and the planted latency is in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_a_quick_run_measures_the_generator_and_the_planted_latency(tmp_path: Path) -> None:
    output = tmp_path / "loadtest.json"
    command = [sys.executable, "bench/loadtest.py", "--quick", "--output", str(output)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    content = json.loads(output.read_text())
    for row in content["reach"]:
        # What a whole core would do; how much of one there is, depends on who else uses the machine.
        assert row["per_core_per_s"] > row["goal_per_s"] / 3
        assert row["answered_per_s"] == pytest.approx(row["offered_per_s"], rel=0.1)
    told = {(row["planted"], row["percentile"]): row for row in content["truth"]}
    assert len(told) == 12
    assert min(told["3 % half a second late", 99.0][who] for who in ("server_ms", "generator_ms")) >= 500
    assert min(told["0.2 % half a second late", 99.9][who] for who in ("server_ms", "generator_ms")) >= 500
    stall = told["a stall of 2 s", 99.0]
    assert stall["generator_ms"] > 1_700
    assert stall["stock_locust_ms"] < 1_000
