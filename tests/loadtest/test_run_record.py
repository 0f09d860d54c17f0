"""The record of a run: what the recorder counts where, merging across workers, and the file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from saccade_loadtest.record import run_file
from saccade_loadtest.record.recorder import Recorder
from saccade_loadtest.record.results import MOST_NAMES, OTHER, TIMEOUT, Run, Schedule
from saccade_loadtest.record.server_metrics import Scrape, ServerRecord, StageTimes
from virtual_run import TARGET, virtual_run


def test_a_request_belongs_to_the_second_in_which_it_was_due_and_counts_from_then() -> None:
    run = Run("x", TARGET, "open", Schedule("constant", 1, 10))
    recorder = Recorder(run, "w")
    recorder.sent("jpeg", 2.9, 4.0)
    recorder.answered("jpeg", 2.9, 4.0, 4.5)
    tally = run.series["jpeg"].bins[2]
    assert (tally.sent, tally.answered) == (1, 1)
    assert tally.latency.percentile_us(50) == pytest.approx(1_600_000, rel=1e-3)
    assert tally.service.percentile_us(50) == pytest.approx(500_000, rel=1e-3)
    assert recorder.worker.schedule_error.percentile_us(50) == pytest.approx(1_100_000, rel=1e-3)


def test_what_was_due_in_the_warm_up_counts_nowhere_but_in_the_timeline() -> None:
    run = Run("x", TARGET, "open", Schedule("constant", 1, 10, warmup_s=2))
    recorder = Recorder(run, "w")
    for due_s in (0.5, 1.999, 2.0, 9.5):
        recorder.sent("jpeg", due_s, due_s + 0.001)
        # Answered long after the warm-up: the moment at which it was due decides.
        recorder.answered("jpeg", due_s, due_s, due_s + 5, version="3", cache="miss", agreed=due_s > 9)
    series = run.series["jpeg"]
    assert run.measured().answered == 2
    assert sum(tally.answered for tally in run.timeline().values()) == 4
    assert (series.revisions["3"].answered, series.cache["miss"]) == (2, 2)
    assert (series.agreement_checked, series.agreed) == (2, 1)
    assert recorder.worker.schedule_error.count == 2


def test_what_was_not_sent_is_due_and_what_has_no_end_is_unresolved() -> None:
    run = Run("x", TARGET, "open", Schedule("constant", 1, 10))
    recorder = Recorder(run, "w")
    for number in range(4):
        recorder.sent("jpeg", number, number)
    recorder.answered("jpeg", 0, 0, 0.1)
    recorder.failed("jpeg", 1, TIMEOUT, version="7")
    recorder.not_sent("jpeg", 5)
    total = run.measured()
    assert (total.due, total.sent, total.not_sent, total.failed, total.unresolved) == (5, 4, 1, 1, 2)
    assert run.series["jpeg"].revisions["7"].errors == Counter({TIMEOUT: 1})


def test_names_that_never_end_are_counted_under_one() -> None:
    run = Run("x", TARGET, "open", Schedule("constant", 1, 10))
    recorder = Recorder(run, "w")
    for number in range(3 * MOST_NAMES):
        recorder.failed("jpeg", 1, f"kind {number}")
        recorder.answered("jpeg", 1, 1, 2, version=f"v{number}", cache=f"outcome {number}")
    series = run.series["jpeg"]
    for names in (series.bins[1].errors, series.cache):
        assert len(names) == MOST_NAMES + 1
        assert names[OTHER] == 2 * MOST_NAMES
    assert len(series.revisions) == MOST_NAMES + 1
    assert series.revisions[OTHER].answered == 2 * MOST_NAMES


def test_late_answers_are_counted_in_seconds_that_were_packed_long_ago() -> None:
    run = Run("x", TARGET, "open", Schedule("constant", 1, 100))
    recorder = Recorder(run, "w")
    for number in range(100):
        recorder.sent("jpeg", number, number)
    for number in range(100):
        recorder.answered("jpeg", number, number, 100.0)
    assert run.measured().latency.count == 100
    assert run.series["jpeg"].bins[3].latency.percentile_us(50) == pytest.approx(97e6, rel=1e-3)


def test_records_of_several_workers_merge_into_what_one_would_have_recorded() -> None:
    latencies = [float(1 + number % 97) for number in range(400)]
    parts = [virtual_run(latencies, failures={number: TIMEOUT}, worker=f"w{number}") for number in range(3)]
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(run_file.from_dict(json.loads(json.dumps(run_file.to_dict(part)))))
    total = merged.measured()
    assert (total.sent, total.answered, total.errors[TIMEOUT]) == (1200, 1197, 3)
    single = virtual_run([latency for latency in latencies for _ in range(3)], failures={0: "", 4: "", 8: ""})
    assert total.latency.encode() == single.measured().latency.encode()
    assert [worker.name for worker in merged.workers] == ["w0", "w1", "w2"]


def test_records_of_different_runs_or_of_one_worker_twice_do_not_merge() -> None:
    run = virtual_run([1.0] * 10)
    with pytest.raises(ValueError, match="different runs"):
        run.merge(virtual_run([1.0] * 20, worker="other"))
    with pytest.raises(ValueError, match="worker generator-1 is in the run already"):
        run.merge(virtual_run([1.0] * 10))


def test_a_file_holds_all_of_a_record(tmp_path: Path) -> None:
    run = virtual_run([float(number) for number in range(1, 200)], warmup_s=1, failures={150: TIMEOUT}, version="1")
    run.server = ServerRecord(
        {"predictor/queue": StageTimes((0.1, 0.2), (1, 2, 3), 1.5)}, {"miss": 4}, {}, {"transformer": "was away"}
    )
    run.server.watch("predictor", 3.0, Scrape(gauges={"process_open_fds": 40}))
    run.notes.append("a note")
    run.faults.append("a fault")
    run.machine["cores"] = "2"
    path = tmp_path / "run.json"
    run_file.save(run, path)
    again = run_file.load(path)
    assert run_file.to_dict(again) == run_file.to_dict(run)
    assert again.measured().latency.percentile_us(99) == run.measured().latency.percentile_us(99)
    assert again.schedule == run.schedule
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "saccade-loadtest-run"),
        (b'{"kind": "saccade-loadtest-run", "version": 99}', "version 99, and version 1 is read"),
        (b'{"kind": "saccade-loadtest-run", "version": 1}', "KeyError: 'schedule'"),
    ],
)
def test_a_file_that_holds_no_record_is_refused_with_the_reason(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(run_file.UnreadableRun, match=expected) as refused:
        run_file.load(path)
    assert str(path) in str(refused.value)


def test_a_record_with_a_damaged_histogram_is_refused(tmp_path: Path) -> None:
    found = run_file.to_dict(virtual_run([1.0]))
    found["series"]["jpeg"]["bins"]["0"]["latency"] = "HISTFAAA"
    with pytest.raises(run_file.UnreadableRun, match="encoded histogram cannot be read"):
        run_file.from_dict(found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(run_file.UnreadableRun, match="No such file"):
        run_file.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "schedule",
    [
        {"duration_s": 0},
        {"bin_s": 0},
        {"warmup_s": -1},
        {"warmup_s": 1.5},
        {"warmup_s": 3, "bin_s": 2},
        {"warmup_s": 10},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"schedule needs|whole bins|leaves nothing"):
        Schedule(**{"arrivals": "constant", "offered_per_s": 1.0, "duration_s": 10.0, **schedule})  # type: ignore[arg-type]


def test_judging_loads_neither_locust_nor_gevent() -> None:
    code = (
        "import sys, saccade_loadtest.commands.judging_commands, saccade_loadtest.record.recorder\n"
        "bad = {'locust', 'gevent', 'kserve', 'tritonclient', 'grpc'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & bad))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert ended.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    loadtest = Path(__file__).resolve().parents[2] / "loadtest"
    return {"PYTHONPATH": str(loadtest), "PYTHONSAFEPATH": "1"}
