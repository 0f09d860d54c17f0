"""The bench of frames measures what it says: equal frames and requests, a stub that answers, ratios, one small run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import frames
from measuring import frames_table, pictures
from measuring.frames_table import Memory
from measuring.samples import Sample
from measuring.targets import BENCH
from saccade_serving.oip import binary_codec, json_codec
from saccade_transformers.form import read_form
from saccade_transformers.predictor import PredictorContract
from saccade_transformers.tasks.detection import DetectionTask
from servers import stub_predictor


def sample(cpu_ms: float, per_second: float, count: int = 4) -> Sample:
    return Sample([0.01] * count, count / per_second, cpu_ms * count / 1e3, 0.0)


def test_a_frame_is_the_same_each_time_and_about_as_large_as_it_shall_be() -> None:
    first, second = (pictures.jpeg(1280, 720, 150_000) for _ in range(2))
    assert first == second
    assert 140_000 < len(first) < 160_000
    picture = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (720, 1280, 3)
    quarters = [picture[y : y + 360, x : x + 640].mean() for y in (0, 360) for x in (0, 640)]
    assert len({round(mean) for mean in quarters}) == 4, "four photos"


def test_both_forms_of_the_request_carry_the_same_image() -> None:
    image = pictures.jpeg(64, 48)
    raw = frames.request(image, key="saccade-raw")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body == image
    assert f"Content-Length: {len(image)}".encode() in head
    head, _, body = frames.request(image, key="seeds").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    content_type = next(line for line in head.decode().split("\r\n") if line.startswith("Content-Type: "))
    found, fields = read_form(content_type.removeprefix("Content-Type: "), memoryview(body))
    assert bytes(found) == image
    assert fields == {}


def test_the_stub_answers_what_a_ready_graph_would() -> None:
    inference, told = stub_predictor.answers(640)
    head, _, body = inference.partition(b"\r\n\r\n")
    [length] = [line.split(b": ")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"inference-header")]
    response = binary_codec.decode_response(body, length.decode())
    metadata = json_codec.decode_metadata(json.loads(told.partition(b"\r\n\r\n")[2]))
    contract = PredictorContract.of(metadata)
    assert contract.input_size == (640, 640)
    task = DetectionTask(contract.labels, stub_predictor.ROWS, 0.05, 0.4, 0.5, 100)
    answer = task.read({"candidates": response.outputs[0].array[0]}, task.options({}))
    assert len(answer) == stub_predictor.OBJECTS
    assert not answer.full


def test_ratios_are_those_to_the_baseline_under_the_same_load() -> None:
    rows = frames_table.summarise(
        {
            ("seeds", "small", 1): [sample(20, 20), sample(50, 10), sample(20, 20)],
            ("saccade", "small", 1): [sample(10, 60), sample(9, 70), sample(11, 50)],
            ("saccade", "large", 4): [sample(10, 60)],
        }
    )
    by_key = {(row.key, row.frame): row for row in rows}
    assert [row.key for row in rows] == ["saccade", "seeds", "saccade"]
    ours = by_key["saccade", "small"]
    assert ours.cpu_ms == pytest.approx(10)
    assert ours.times_cpu == pytest.approx(1 / 3)
    assert ours.times_per_second == pytest.approx(3)
    assert by_key["saccade", "large"].times_cpu is None
    judged = frames_table.judge(rows, [Memory("saccade", [(100, 1000), (1000, 1060)])])
    assert [(goal.row, goal.reached) for goal in judged] == [
        ("small", True),
        ("small", True),
        ("large", None),
        ("large", None),
        ("1,000 frames", False),
    ]


def test_a_quick_run_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "frames.json"
    # Its first run installs the baseline's packages.
    ended = subprocess.run(
        [
            sys.executable,
            str(BENCH / "frames.py"),
            "--quick",
            "--frames",
            "40",
            "--side",
            "416",
            "--output",
            str(file),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for shown in ("A frame in the transformer, model input 416 x 416", "Resident memory", "too few frames to judge"):
        assert shown in ended.stdout
    content = json.loads(file.read_text())
    assert content["bench"] == "frames"
    rows = {(row["key"], row["frame"].split(",")[0], row["connections"]): row for row in content["lines"]}
    assert {key for key, _, _ in rows} >= {"saccade", "saccade-raw"}
    for (key, _, _), row in rows.items():
        assert row["frames"] == (1 if key == "seeds-json" else frames.QUICK.frames)
        assert row["cpu_ms"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    if not content["skipped"]:
        assert {key for key, _, _ in rows} == set(frames_table.LABELS)
        for goal in content["goals"]:
            assert goal["measured"] is not None
    [memory] = content["memory"]
    assert memory["rss_bytes"][-1][0] == 40
    assert content["load"]["cores_used_by_bench"] > 0


def test_the_decoders_are_measured_with_and_without_kept_memory(tmp_path: Path) -> None:
    file = tmp_path / "decoders.json"
    ended = subprocess.run(
        [sys.executable, str(BENCH / "decoders.py"), "--quick", "--output", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "OpenCV 1/2" in ended.stdout
    lines = json.loads(file.read_text())["lines"]
    assert {line["kept"] for line in lines} == {True, False}
    assert all(line["cpu_ms_min"] > 0 for line in lines)
