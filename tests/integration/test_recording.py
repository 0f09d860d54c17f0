"""A predictor records its traffic, and the replay reads what it has written."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from integration_support import HOST, INFER, MODEL, ROOT, Service, eventually, grey_rows, set_parameters
from saccade_serving.oip import proto
from saccade_serving.scheduling.trace import read_trace

#: In every place where a client may write what it likes.
SECRET = "hush-hush"


def grey_message(rows: int, **parameters: str | int) -> proto.ModelInferRequest:
    message = proto.ModelInferRequest(model_name=MODEL, id=SECRET)
    message.inputs.add(name="image", datatype="UINT8", shape=[rows, 416, 416, 3])
    message.raw_input_contents.append(bytes(rows * 416 * 416 * 3))
    set_parameters(message, parameters)
    return message


def leave(service: Service) -> None:
    """Send a head and some of its body, and go."""
    body, headers = grey_rows(1)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((HOST, service.address.rest), 30) as client:
        head = f"POST {INFER} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
        client.sendall(head.encode() + body[:1000])
    left = "saccade_requests_total"
    eventually("the client has left", lambda: service.address.scrape().total(left, model=MODEL, code="499") == 1)


@pytest.fixture
def trace(start: Callable[..., Service], tmp_path: Path) -> Path:
    """Some traffic, recorded by a process that has ended."""
    path = tmp_path / "arrivals.jsonl"
    service = start("predictor", ARRIVAL_TRACE=str(path))
    address = service.address
    body, headers = grey_rows(2)
    own = {**headers, "x-request-id": SECRET, "x-deadline-ms": "20000", "authorization": SECRET}
    assert [address.http(INFER, body, own).status for _ in range(3)] == [200] * 3
    assert address.rpc("ModelInfer", grey_message(1, priority=2, timeout=10_000_000, note=SECRET)).code == "OK"
    assert address.http(INFER, SECRET.encode(), {"x-request-id": SECRET}).status == 400
    assert address.http(f"/v2/models/{SECRET}/infer", body, headers).status == 404
    assert address.http(INFER, body, {**headers, "x-deadline-ms": "0.001"}).status == 504
    leave(service)
    assert service.stop() == 0
    [closed] = service.events("arrival_trace_closed")
    assert (closed["written"], closed["dropped"]) == (7, 0)
    return path


def test_a_predictor_records_its_traffic_and_the_replay_reads_it(trace: Path) -> None:
    assert SECRET not in trace.read_text()
    with trace.open("rb") as lines:
        found = read_trace(lines)
    assert [one.code for one in found] == ["200", "200", "200", "OK", "400", "504", "499"], (
        "whoever came to no model is not in it"
    )
    assert {(one.model, one.version) for one in found} == {(MODEL, "1")}
    assert [one.rows for one in found[:4]] == [2, 2, 2, 1]
    assert [one.deadline_s for one in found[:5]] == [20.0, 20.0, 20.0, 10.0, 30.0]
    assert (found[3].priority, found[3].timeout_s) == (2, 10.0)
    assert all(0 < one.total_s < 90 for one in found)
    allowed = {"at_us", "model", "version", "rows", "deadline_us", "total_us", "code", "priority", "timeout_us"}
    assert all(set(json.loads(line)) <= allowed for line in trace.read_text().splitlines())

    command = [sys.executable, str(ROOT / "bench" / "replay.py"), "--trace", str(trace), "--profile", "1:8,8:12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line.split() for line in done.stdout.splitlines() if line.startswith("│ re")}
    assert rows["recorded"][3] == rows["replayed"][3] == "6"
    assert rows["recorded"].count("4") == 2, "answered, and all of them in time"
    assert "left out: 1 " in done.stdout
