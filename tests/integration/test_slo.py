"""A predictor with an SLO under more load than it can bear: it answers in time, or refuses at once."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from integration_support import HOST, INFER, MODEL, REPOSITORY, Answer, Service, grey_rows

#: Long enough for a batch on a machine that is busy with other tests.
SLO_MS = 3000
#: Of each request, which fills a batch: half of the example's, so that all takes half the time.
ROWS = 4


@pytest.fixture
def service(start: Callable[..., Service], tmp_path: Path) -> Service:
    copied = tmp_path / "models" / MODEL
    shutil.copytree(REPOSITORY / MODEL, copied)
    config = (copied / "config.pbtxt").read_text()
    assert "max_batch_size: 8" in config
    config = config.replace("max_batch_size: 8", f"max_batch_size: {ROWS}")
    slo = f'parameters {{ key: "slo_ms" value {{ string_value: "{SLO_MS}" }} }}'
    (copied / "config.pbtxt").write_text(f"{config}\n{slo}\n")
    return start("predictor", MODEL_REPOSITORY=str(tmp_path / "models"))


def test_overload_is_refused_at_the_head_and_the_rest_is_answered_in_time(service: Service) -> None:
    body, headers = grey_rows(ROWS)
    answers: list[tuple[Answer, float]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            answer = service.address.http(INFER, body, headers)
            answers.append((answer, time.monotonic() - begun))
            if answer.status == 503:
                stop.wait(min(float(answer.headers["retry-after"]), 0.2))

    clients = [threading.Thread(target=ask) for _ in range(48)]
    for client in clients:
        client.start()
    try:
        deadline = time.monotonic() + 120
        while not (any(a.status == 503 for a, _ in answers) and sum(a.status == 200 for a, _ in answers) > 20):
            assert time.monotonic() < deadline, [a.status for a, _ in answers]
            time.sleep(0.05)
        refused = _refused_before_the_body(service)
    finally:
        stop.set()
        for client in clients:
            client.join()
    statuses = {answer.status for answer, _ in answers}
    assert statuses <= {200, 503, 504}
    sentences = {json.loads(answer.body)["error"] for answer, _ in answers if answer.status == 503}
    assert any(re.search(r"an answer would take \S+ ms; \S+ ms are left", sentence) for sentence in sentences)
    # Whoever was told to come back was told a whole number of seconds, as HTTP wants it.
    assert all(int(answer.headers["retry-after"]) >= 1 for answer, _ in answers if answer.status == 503)
    assert refused
    log = service.log.read_text()
    assert "measured" in log


def _refused_before_the_body(service: Service) -> bool:
    """Ask with ``Expect: 100-continue`` until the door refuses; whether it ever did, without a byte of the body."""
    body, headers = grey_rows(ROWS)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {INFER} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n{lines}\r\n"
    for _ in range(300):
        with socket.create_connection((HOST, service.address.rest), 30) as client:
            client.sendall(head.encode())
            if client.recv(12) == b"HTTP/1.1 503":
                return True
    return False
