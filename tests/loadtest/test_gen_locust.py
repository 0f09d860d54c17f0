"""Stock Locust commands with our users: one process, a master with two workers, a worker that dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest_support import HEIGHT, ROOT, WIDTH
from measuring.processes import free_port
from saccade_loadtest.record import run_file
from saccade_loadtest.record.results import Run

LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
SOON_S = 90.0
SLO = """
name: test
errors: {at_most: 0.001}
generator: {schedule_error_p99_ms: 10000}
"""


def command(*arguments: str) -> list[str]:
    size = ("--size", f"{WIDTH}x{HEIGHT}")
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", *size, *arguments]


@contextmanager
def started(arguments: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Locust process, which ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until_answers(log: Path) -> None:
    """Wait until the first answers are in Locust's table."""
    deadline = time.monotonic() + SOON_S
    while "jpeg" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def records_of(out: Path) -> tuple[Run, dict[str, Any]]:
    """The record of a run, and the verdict."""
    return run_file.load(out / "run.json"), json.loads((out / "verdict.json").read_text())


@pytest.fixture
def slo(tmp_path: Path) -> Path:
    path = tmp_path / "slo.yaml"
    path.write_text(SLO)
    return path


def test_a_user_is_a_camera_and_locusts_statistics_are_those_of_the_record(
    url: str, slo: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ["--host", url, "-u", "4", "-r", "4", "-t", "10s", "--warmup", "2", "--fps", "20", "--slo", str(slo)]
    more = ["--out", str(out), "--json-file", str(tmp_path / "stats"), "JpegUser", "V2BinaryUser"]
    with started([*arguments, *more], log) as locust:
        assert locust.wait(SOON_S) == 0, log.read_text()
    run, verdict = records_of(out)
    assert verdict["verdict"] == "pass"
    assert run.loop == "open"
    assert set(run.series) == {"jpeg", "v2-binary"}
    total = sum(tally.answered for series in run.series.values() for tally in series.bins.values())
    told = json.loads(next(tmp_path.glob("stats*")).read_text())
    assert sum(entry["num_requests"] for entry in told) == total > 0
    # Four cameras at 20 frames a second, whatever the answers do: planned and due differ by the ends of seconds.
    assert run.measured().due == pytest.approx(run.schedule.offered_per_s * run.schedule.measured_s, rel=0.1)


def test_a_master_merges_the_histograms_of_its_workers(url: str, slo: Path, tmp_path: Path) -> None:
    out, logs = tmp_path / "out", [tmp_path / name for name in ("master", "worker-1", "worker-2")]
    port = str(free_port())
    master = ["--master", "--expect-workers", "2", "--master-bind-port", port, "--host", url]
    load = ["-u", "6", "-r", "6", "-t", "8s", "--warmup", "2", "--fps", "20", "--slo", str(slo), "--out", str(out)]
    with ExitStack() as stack:
        process = stack.enter_context(started([*master, *load, "JpegUser"], logs[0]))
        for log in logs[1:]:
            stack.enter_context(started(["--worker", "--master-port", port, "JpegUser"], log))
        assert process.wait(SOON_S) == 0, "\n".join(log.read_text() for log in logs)
    run, verdict = records_of(out)
    assert verdict["verdict"] == "pass"
    assert len(run.workers) == run.workers_expected == 2
    assert all(worker.schedule_error.count > 0 and not worker.lost for worker in run.workers)
    # Every answer after the warm-up is in the merged histogram, and each was sent by one of the two.
    total = run.measured()
    assert total.latency.count == total.answered == sum(worker.schedule_error.count for worker in run.workers)


def test_workers_that_die_or_leave_make_the_run_invalid(url: str, slo: Path, tmp_path: Path) -> None:
    out, logs = tmp_path / "out", [tmp_path / name for name in ("master", "worker-1", "worker-2", "worker-3")]
    port = str(free_port())
    master = ["--master", "--expect-workers", "3", "--master-bind-port", port, "--host", url]
    load = ["-u", "4", "-r", "4", "-t", "16s", "--warmup", "1", "--fps", "10", "--slo", str(slo), "--out", str(out)]
    with ExitStack() as stack:
        process = stack.enter_context(started([*master, *load, "JpegUser"], logs[0]))
        workers = [
            stack.enter_context(started(["--worker", "--master-port", port, "JpegUser"], log)) for log in logs[1:]
        ]
        until_answers(logs[0])
        workers[1].send_signal(signal.SIGKILL)
        workers[2].send_signal(signal.SIGTERM)  # as Kubernetes ends a pod: it tells what it has, and goes
        assert process.wait(SOON_S) == 2, "\n".join(log.read_text() for log in logs)
    run, verdict = records_of(out)
    assert verdict["verdict"] == "invalid"
    assert sorted(bool(worker.lost) for worker in run.workers) == [False, False, True]
    assert any("lost" in reason for reason in verdict["reasons"])
    assert any(re.search(r"worker \S+ left at \d+ s, before the run ended", reason) for reason in verdict["reasons"])


def test_a_run_that_is_ended_before_its_time_is_invalid(url: str, slo: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ["--host", url, "-u", "2", "-r", "2", "-t", "600s", "--warmup", "0", "--slo", str(slo)]
    with started([*arguments, "--out", str(out), "JpegUser"], log) as locust:
        until_answers(log)
        locust.send_signal(signal.SIGINT)
        assert locust.wait(SOON_S) == 2, log.read_text()
    run, verdict = records_of(out)
    assert verdict["verdict"] == "invalid"
    assert any("cut short: 600 s were asked for, and it ended after" in reason for reason in verdict["reasons"])
    assert run.measured().answered > 0


def test_a_closed_loop_says_that_it_is_one(url: str, slo: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ["--host", url, "-u", "2", "-r", "2", "-t", "5s", "--warmup", "1", "--loop", "closed"]
    with started([*arguments, "--slo", str(slo), "--out", str(out), "JpegUser"], log) as locust:
        assert locust.wait(SOON_S) == 2, log.read_text()
    run, verdict = records_of(out)
    assert run.loop == "closed"
    assert run.measured().answered > 0
    assert any("closed loop" in reason for reason in verdict["reasons"])


def test_the_number_of_cameras_follows_a_shape(url: str, slo: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ["--host", url, "-u", "8", "-t", "12s", "--warmup", "0", "--fps", "10"]
    more = ["--slo", str(slo), "--out", str(out), "JpegUser"]
    with started([*arguments, *more], log, SACCADE_SHAPE="step") as locust:
        assert locust.wait(SOON_S) in (0, 2), log.read_text()
    run, _ = records_of(out)
    due = [tally.due for tally in run.timeline().values()]
    # A quarter of the cameras in the first quarter of the time, all in the last.
    assert sum(due[:3]) * 2 < sum(due[-4:-1])


def test_users_play_the_cameras_of_a_trace(url: str, slo: Path, tmp_path: Path) -> None:
    out, log, trace = tmp_path / "out", tmp_path / "log", tmp_path / "trace.csv"
    # From 4 s on, when all users are there; the fourth camera has no user.
    frames = [(4 + number / 20, number % 4) for number in range(80)]
    trace.write_text("due_s,camera\n" + "".join(f"{due_s},{camera}\n" for due_s, camera in frames))
    arguments = ["--host", url, "-u", "3", "-r", "3", "-t", "16s", "--warmup", "1", "--trace", str(trace)]
    with started([*arguments, "--slo", str(slo), "--out", str(out), "JpegUser"], log) as locust:
        assert locust.wait(SOON_S) == 0, log.read_text()
    run, _ = records_of(out)
    assert run.measured().answered == 60
    assert run.schedule.offered_per_s * run.schedule.measured_s == pytest.approx(60)


@pytest.mark.parametrize(
    ("content", "users", "sentence"),
    [
        ("erors: {at_most: 0.1}", ("JpegUser",), "did you mean errors?"),
        ("growth: {descriptors_per_hour: 5}", ("JpegUser",), "no metrics are asked; Locust asks for none"),
        ("errors: {at_most: 0.1}", ("JpegUser", "V1User"), "1 camera cannot speak 2 protocols"),
    ],
)
def test_what_cannot_be_judged_or_sent_is_refused_before_anything_is_sent(
    url: str, tmp_path: Path, content: str, users: Sequence[str], sentence: str
) -> None:
    log, slo, out = tmp_path / "log", tmp_path / "slo.yaml", tmp_path / "out"
    slo.write_text(f"name: test\n{content}\n")
    common = ["--host", url, "-u", "1", "-t", "60s", "--slo", str(slo), "--out", str(out)]
    with started([*common, *users], log) as locust:
        assert locust.wait(SOON_S) == 2, log.read_text()
    assert sentence in log.read_text()
    assert not out.exists()


def test_a_target_that_is_not_there_ends_locust_with_2_and_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    nobody = f"http://127.0.0.1:{free_port()}"
    with started(
        ["--host", nobody, "-u", "1", "-t", "60s", "--out", str(tmp_path / "out"), "JpegUser"], log
    ) as locust:
        assert locust.wait(SOON_S) == 2, log.read_text()
    assert f"{nobody} cannot be reached" in log.read_text()
