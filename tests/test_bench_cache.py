"""The benches of the frame cache run, and write what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import shared_cache
from measuring.targets import BENCH


def quick(script: str, output: Path) -> tuple[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), "--quick", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(output.read_text())


def test_a_quick_run_of_the_caches_quality(tmp_path: Path) -> None:
    shown, written = quick("cache.py", tmp_path / "found.json")
    assert written["bench"] == "cache"
    still = {point["policy"]: point for point in written["points"] if point["camera"] == "still scene 640x480"}
    assert still["cache"]["hits"] >= 0.8
    assert still["cache"]["f1"] > 0.9
    assert {found["inserted"] for found in written["found"]["still scene 640x480"]} == {1}
    assert "too few frames to judge" in shown


def test_a_quick_run_of_the_shared_cache(tmp_path: Path) -> None:
    shown, written = quick("shared_cache.py", tmp_path / "found.json")
    assert written["bench"] == "shared_cache"
    assert [row["failed"] for row in written["arms"] + written["faults"]] == [0] * 9
    assert [row["name"] for row in written["faults"]] == ["as ever", "killed", "started again", "frozen", "thawed"]
    assert all(row["frames"] for row in written["arms"] + written["faults"])
    assert "answers older than one given" in shown


def test_the_stubs_answers_are_told_apart_by_a_width() -> None:
    told = {"detections": [{"box": [8, 0, 33, 25]}, {"box": [8, 30, 33.42, 55]}]}
    assert shared_cache.number_of(told) == 42
    assert shared_cache.number_of({"detections": []}) == 0
