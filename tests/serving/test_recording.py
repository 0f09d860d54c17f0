"""The recorder: a bounded file, a bounded buffer, and requests that never notice either."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from integration_support import SOON_S, eventually
from saccade_serving import lines
from saccade_serving.connection.exchange import Exchange
from saccade_serving.recording import Recorder
from saccade_serving.scheduling.trace import Recorded, read_trace


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.setattr(lines, "_INTERVAL_S", 0.001)
    with caplog.at_level(logging.INFO, "saccade.lines"):
        yield


def request(**attributes: Any) -> Exchange:
    exchange = Exchange("rest", {"x-request-id": "order-66"}, 30.0, attributes.pop("started", time.monotonic()))
    exchange.model = "m"
    for name, value in attributes.items():
        setattr(exchange, name, value)
    return exchange


def read(path: Path) -> list[Recorded]:
    with path.open("rb") as lines:
        return read_trace(lines)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


class Disk(io.BytesIO):
    """A file whose disk takes its time, or fails."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.lines = 0
        self._error = error

    def write(self, data: Any) -> int:
        self.entered.set()
        assert self.go_on.wait(SOON_S)
        if self._error is not None:
            raise self._error
        self.lines += bytes(data).count(b"\n")
        return len(data)


def test_a_request_is_one_line_with_the_time_since_the_trace_began(tmp_path: Path) -> None:
    with Recorder(tmp_path / "trace", 2**20) as recorder:
        began = time.monotonic()
        recorder.record(request(rows=8, priority=2, queue_timeout_s=0.5, started=began + 1), "3", "503", 0.125)
        left = request(started=began + 0.5)
        left.tighten(2.0)
        recorder.record(left, "3", "499", 0.25)
    second, first = read(tmp_path / "trace")[::-1]
    assert second._replace(at_s=0) == Recorded(0, "m", "3", 8, 30.0, 0.125, "503", 2, 0.5)
    assert first._replace(at_s=0) == Recorded(0, "m", "3", 1, 2.0, 0.25, "499")
    assert second.at_s - first.at_s == pytest.approx(0.5, abs=1e-5)
    assert 1 <= second.at_s < 1 + SOON_S


def test_the_deadline_that_is_written_is_the_clients_own_and_not_the_models(tmp_path: Path) -> None:
    with Recorder(tmp_path / "trace", 2**20) as recorder:
        for parameters in ({"timeout": 2_000_000}, {}):
            exchange = request()
            exchange.keep_slo(0.1)
            exchange.tighten_by_parameter(parameters)
            exchange.keep_slo(0.1)
            assert exchange.deadline - exchange.started == pytest.approx(0.1)
            recorder.record(exchange, "1", "200", 0.05)
    assert sorted(found.deadline_s for found in read(tmp_path / "trace")) == [2.0, 30.0]


def test_nothing_of_the_clients_own_words_is_written(tmp_path: Path) -> None:
    with Recorder(tmp_path / "trace", 2**20) as recorder:
        exchange = request(query="secret=1")
        assert exchange.request_id == "order-66"
        recorder.record(exchange, "1", "200", 0.05)
    [line] = (tmp_path / "trace").read_text().splitlines()
    assert list(json.loads(line)) == ["at_us", "model", "version", "rows", "deadline_us", "total_us", "code"]
    assert "order-66" not in line


def test_lines_are_on_the_disk_before_the_end(tmp_path: Path) -> None:
    with Recorder(tmp_path / "trace", 2**20) as recorder:
        recorder.record(request(), "1", "200", 0.05)
        eventually("the line is written", lambda: len(read(tmp_path / "trace")) == 1)


def test_a_file_that_is_full_becomes_the_old_one_and_no_third_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, bound = tmp_path / "trace", 10_000
    with Recorder(path, bound) as recorder:
        for _ in range(10):
            for _ in range(30):
                recorder.record(request(), "1", "200", 0.05)
            eventually("all are written", lambda: not recorder._waiting)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["trace", "trace.1"]
    assert all(0 < file.stat().st_size <= bound for file in tmp_path.iterdir())
    old, new = read(tmp_path / "trace.1"), read(path)
    assert old[-1].at_s <= new[0].at_s, "times go on"
    assert recorder.written == 300
    assert events(caplog).count("arrival_trace_rotated") >= 2


def test_a_trace_of_an_earlier_process_is_kept_as_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    for code in ("200", "503"):
        with Recorder(path, 2**20) as recorder:
            recorder.record(request(), "1", code, 0.05)
    assert [[found.code for found in read(file)] for file in (tmp_path / "trace.1", path)] == [["200"], ["503"]]


def test_a_file_that_somebody_has_taken_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with Recorder(path, 100) as recorder:
        for count in (1, 2):
            recorder.record(request(), "1", "200", 0.05)
            eventually("it is written", partial(lambda count: recorder.written == count, count))
            path.rename(tmp_path / f"taken {count}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["taken 1", "taken 2"]


def test_a_slow_disk_costs_lines_and_keeps_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    with Recorder(tmp_path / "trace", 2**20, room=3) as recorder:
        recorder._file.close()
        recorder._file = disk
        recorder.record(request(), "1", "200", 0.05)
        assert disk.entered.wait(SOON_S)
        for _ in range(5):
            recorder.record(request(), "1", "200", 0.05)  # returns, though the disk does not
        assert recorder.dropped == 2
        assert len(recorder._waiting) == 3
        disk.go_on.set()
    assert disk.lines == recorder.written == 4
    assert events(caplog) == ["arrival_trace_drops", "arrival_trace_closed"]
    assert vars(caplog.records[-1])["dropped"] == 2


def test_a_disk_that_fails_is_said_once_and_costs_what_finds_no_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(OSError(28, "No space left on device"))
    path = tmp_path / "trace"
    with Recorder(path, 2**20, room=3) as recorder:
        recorder._file.close()
        recorder._file = disk
        recorder.record(request(), "1", "200", 0.05)
        disk.go_on.set()
        eventually("it has failed", lambda: recorder._is_failing)
        path.unlink()
        path.mkdir()  # nothing can be written there at the end either
        for _ in range(5):
            recorder.record(request(), "1", "200", 0.05)
        assert len(recorder._waiting) == 3
    assert events(caplog) == ["arrival_trace_failed", "arrival_trace_closed"]
    assert "No space left on device" in vars(caplog.records[0])["why"]
    assert vars(caplog.records[-1])["dropped"] == 6


def test_a_disk_that_has_room_again_is_written_on_after_the_last_whole_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace"
    with Recorder(path, 2**20) as recorder:
        recorder.record(request(), "1", "200", 0.05)
        eventually("it is written", lambda: recorder.written == 1)
        disk = Disk(OSError(28, "No space left on device"))
        recorder._file.close()
        recorder._file = disk
        recorder.record(request(), "2", "200", 0.05)
        assert disk.entered.wait(SOON_S)
        with path.open("ab") as file:
            file.write(b'{"at_us":')  # the part for which there was room
        disk.go_on.set()
        eventually("it has failed", lambda: recorder._is_failing)
        recorder.record(request(), "3", "200", 0.05)
        assert recorder.written == 1, "the disk is left alone for a while"
        recorder._retry_at = 0.0
        eventually("it goes on", lambda: recorder.written == 3)
    assert [one.version for one in read(path)] == ["1", "2", "3"]
    assert events(caplog) == ["arrival_trace_failed", "arrival_trace_resumed", "arrival_trace_closed"]
    assert vars(caplog.records[-1])["dropped"] == 0


def test_a_disk_that_failed_is_tried_once_more_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with Recorder(path, 2**20) as recorder:
        disk = Disk(OSError(5, "Input/output error"))
        recorder._file.close()
        recorder._file = disk
        recorder.record(request(), "1", "200", 0.05)
        disk.go_on.set()
        eventually("it has failed", lambda: recorder._is_failing)
    assert [one.version for one in read(path)] == ["1"]


def test_a_line_that_cannot_be_encoded_ends_the_writing_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: int) -> bytes:
        raise ValueError("what is this")

    with lines.LineWriter("trace", refuse, tmp_path / "trace", 2**20) as writer:
        writer.put(1)
        writer._thread.join(SOON_S)
        assert not writer.has_room()
    assert events(caplog) == ["trace_failed", "trace_closed"]


def test_a_disk_that_hangs_does_not_keep_the_process_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CLOSE_S", 0.01)
    disk = Disk()
    recorder = Recorder(tmp_path / "trace", 2**20)
    recorder._file.close()
    recorder._file = disk
    recorder.record(request(), "1", "200", 0.05)
    assert disk.entered.wait(SOON_S)
    recorder.close()
    assert vars(caplog.records[-1])["dropped"] == 1
    assert recorder._thread.daemon
    disk.go_on.set()
    recorder._thread.join(SOON_S)


def test_what_cannot_be_a_trace_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="No such file or directory"):
        Recorder(tmp_path / "absent" / "trace", 2**20)
    with pytest.raises(OSError, match="Not a directory"):
        Recorder(tmp_path / "file" / "trace", 2**20)
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="no regular file"):
            Recorder(path, 2**20)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
