"""The bench of parity: its pictures, and a whole run on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from measuring import parity_pictures
from measuring.targets import BENCH


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "parity.py"), *map(str, options)]
    # No GPU, whatever the machine has.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twenty frames, each of its own grey level: ten times its number."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    return path


def test_a_run_tells_what_each_precision_finds_again_and_keeps_its_pictures(tmp_path: Path) -> None:
    output, folder = tmp_path / "parity.json", tmp_path / "pictures"
    ended = run("--pictures", 8, "--precision", "fp16", "--cpu", "--folder", folder, "--output", output)
    assert ended.returncode == 0, ended.stderr
    assert "detections of the reference; 1,000 are wanted" in ended.stdout
    assert "99%: not judged" in ended.stdout
    [judged] = json.loads(output.read_text())["judged"]
    assert (judged["precision"], judged["report"]["samples"]) == ("fp16", 8)
    detections = judged["report"]["detections"]
    assert detections["iou"] == 0.9
    assert detections["reference"] > 0
    assert 0.9 <= detections["recall"]["share"] <= detections["recall"]["high"]
    again = run("--pictures-only", "--folder", folder)
    assert again.returncode == 0
    assert f"{folder / 'judged'} is there already" in again.stderr


def test_frames_are_of_the_half_that_was_asked_for(video: Path) -> None:
    first, second = (
        [round(float(frame.mean()) / 10) for frame in parity_pictures.frames_of(video, 5, half)] for half in (0, 1)
    )
    assert (first, second) == ([0, 2, 4, 6, 8], [10, 12, 14, 16, 18])


def test_both_sets_of_crops_are_the_same_each_time_and_unlike_each_other() -> None:
    one, again, other = (list(parity_pictures.crops(5, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--pictures", 3], "--pictures is 3; expected 8 or more"),
        (["--pictures-only"], "--pictures-only needs --folder"),
        (["--video", "nowhere.avi"], "nowhere.avi is not a file"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: list[object], sentence: str) -> None:
    ended = run(*options)
    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_a_video_with_too_few_frames_is_refused(video: Path, tmp_path: Path) -> None:
    ended = run("--video", video, "--pictures", 300, "--output", tmp_path / "out.json")
    assert ended.returncode == 1
    assert "has 20 frames that can be read; 360 are needed" in ended.stderr
