"""What only shows after a while or in a crowd: memory that grows, idle connections, a drain under load.

All against the predictor's path with an engine that does nothing (``bench/servers/saccade_noop.py``), as a process.
The long variants are marked ``soak`` (``make soak``); they print what they saw.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration_support import HOST, ROOT, SOON_S, Address, Samples, eventually
from measuring import rest_client
from measuring.memory import allow_files, ask, idle_connections, open_files, rss_bytes
from measuring.payload import GRPC_METHOD, grpc_request, is_right, rest_body, rest_request
from measuring.processes import Server, free_port
from measuring.samples import Load

MODEL = "noop_batched"
INFER = f"/v2/models/{MODEL}/infer"
SMALL, LARGE = "353B", "1.2MB"
MIB = 2**20


@dataclass(frozen=True)
class Noop:
    """The server as a process."""

    process: Server
    address: Address
    log: Path

    def samples(self) -> Samples:
        answer = self.address.http("/metrics")
        assert answer.status == 200
        return Samples(answer.body.decode())

    def leased_bytes(self) -> float:
        samples = self.samples()
        return sum(samples.total("saccade_arena_bytes", state=one) for one in ("receiving", "queued", "staged"))

    def load(self, connections: int, *, own_ids: bool = False) -> Load:
        """Small requests, for ``rest_client.connect``."""
        request = rest_request(MODEL, SMALL, own_ids)
        return Load(
            protocol="rest",
            port=self.address.rest,
            server_pid=self.process.pid,
            request=request,
            connections=connections,
            warmup=0,
            requests=0,
            limit_s=SOON_S,
            timeout_s=SOON_S,
            own_ids=own_ids,
        )


@pytest.fixture
def start_noop(tmp_path: Path) -> Iterator[Callable[..., Noop]]:
    """Start servers that end with the test."""
    with contextlib.ExitStack() as stack:

        def begin(drain_quiet_s: float = 0.0) -> Noop:
            ports = free_port(), free_port()
            command = [sys.executable, "-m", "servers.saccade_noop", f"--drain-quiet-s={drain_quiet_s}"]
            log = tmp_path / f"noop-{ports[0]}.log"
            process = Server("noop", [*command, *map(str, ports)], {}, ROOT / "bench", log)
            stack.enter_context(process)
            process.wait_ready(ports, {ports[0]: [f"/v2/models/{MODEL}/ready"]}, 90)
            return Noop(process, Address(*ports, 0), log)

        yield begin


# Memory and files


@dataclass(frozen=True)
class Point:
    """What a process holds at one moment."""

    requests: int
    seconds: float
    rss: int
    files: int

    def __str__(self) -> str:
        return f"{self.requests:7} requests, {self.seconds:4.0f} s: RSS {self.rss / MIB:.2f} MiB, {self.files} files"


def come_and_go(noop: Noop, count: int) -> int:
    """Connections that ask once and close, or reset, or leave in the middle of their body; how many left."""
    request = rest_request(MODEL, SMALL)
    left = 0
    for number in range(count):
        with socket.create_connection((HOST, noop.address.rest), SOON_S) as client:
            if number % 4 == 3:
                client.sendall(request[:-100])
                left += 1
            else:
                ask(client, request)
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    return left


@pytest.mark.soak
def test_two_hundred_thousand_requests_leave_nothing_behind(start_noop: Callable[..., Noop]) -> None:
    noop = start_noop()
    total, points, chunk = 200_000, 5, 4_000
    begun = time.monotonic()
    seen: list[Point] = []
    done = left = 0
    with rest_client.connect(noop.load(8)) as equal, rest_client.connect(noop.load(8, own_ids=True)) as different:
        while done < total:
            for client in (equal, different):
                done += len(client.send(chunk // 2, SOON_S).latencies_s)
            left += come_and_go(noop, 40)
            if done % (total // points) == 0:
                eventually("nothing is leased", lambda: noop.leased_bytes() == 0)
                seen.append(
                    Point(done, time.monotonic() - begun, rss_bytes(noop.process.pid), open_files(noop.process.pid))
                )
                print(f"\n{seen[-1]}", end="", flush=True)
    samples = noop.samples()
    churned = done // chunk * 40
    print(f"\n{churned} connections came and went, {left} of them in the middle of a body")
    assert samples.total("saccade_requests_total", code="200") == total + churned - left
    assert samples.total("saccade_requests_total", code="499") == left
    assert samples.total("saccade_requests_total") == total + churned
    assert samples.total("saccade_inflight_requests") == 0
    assert len(seen) == points
    assert seen[-1].rss - seen[1].rss < 3 * MIB
    assert {point.files for point in seen} == {seen[0].files}
    assert "Traceback" not in noop.log.read_text()


# Idle connections


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.soak)])
def test_idle_connections_are_in_nobodys_way_and_stay_usable(start_noop: Callable[..., Noop], count: int) -> None:
    allow_files(count)
    noop = start_noop()
    request = rest_request(MODEL, SMALL)
    with rest_client.connect(noop.load(16)) as client:
        client.send(2000, SOON_S)  # what a process allocates once
        before = Point(0, 0, rss_bytes(noop.process.pid), open_files(noop.process.pid))
        begun = time.monotonic()
        with idle_connections(noop.address.rest, count, request) as idle:
            held = rss_bytes(noop.process.pid) - before.rss
            assert len(client.send(10 * count, 10 * SOON_S).latencies_s) == 10 * count
            assert open_files(noop.process.pid) == before.files + count
            for connection in idle:
                ask(connection, request)
            now = Point(12 * count, time.monotonic() - begun, rss_bytes(noop.process.pid), before.files + count)
            print(f"\n{now}; {held / count:.0f} bytes for each of {count} idle connections")
        eventually("they are gone", lambda: open_files(noop.process.pid) == before.files)
    assert noop.samples().total("saccade_requests_total") == 2000 + 12 * count
    assert noop.leased_bytes() == 0


# The end


@dataclass
class Clients:
    """Clients who go to a new connection when one ends, until they are told to stop: as behind a load balancer.

    Attributes:
        answers: "REST 200" and "gRPC OK" are the good ones.
    """

    address: Address
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[str] = field(default_factory=list)  # whose append needs no lock

    def by_rest(self, size: str) -> None:
        body, json_length = rest_body(size)
        headers = {"inference-header-content-length": str(json_length)}
        while not self.stop.is_set():
            with contextlib.closing(HTTPConnection(HOST, self.address.rest, timeout=SOON_S)) as connection:
                for _ in range(50):
                    try:
                        connection.request("POST", INFER, body, headers)
                        answer = connection.getresponse()
                        right = is_right(answer.read())
                    except (OSError, HTTPException) as error:
                        self.answers.append(f"REST {error!r}")
                        break
                    self.answers.append(f"REST {answer.status}" if right else f"REST {answer.status}, wrong")
                    if answer.will_close or self.stop.is_set():
                        break

    def by_grpc(self, size: str) -> None:
        request = grpc_request(MODEL, size)
        # Without a pool of its own, a channel would get another's connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not self.stop.is_set():
            with grpc.insecure_channel(f"{HOST}:{self.address.grpc}", options) as channel:
                call: Any = channel.unary_unary(GRPC_METHOD, request_serializer=None, response_deserializer=None)
                for _ in range(50):
                    try:
                        right = is_right(call(request, timeout=SOON_S))
                        self.answers.append("gRPC OK" if right else "gRPC OK, wrong")
                    except grpc.RpcError as error:
                        self.answers.append(f"gRPC {error.code()}: {error.details()}")
                        break
                    if self.stop.is_set():
                        break


def end_under_load(noop: Noop, clients: int, before_s: float, after_s: float) -> Counter[str]:
    """SIGTERM in the middle of requests, which go on for a while, as they do until all know that a pod ends.

    Returns:
        The answers that clients got, all of them good, and as many as the server says it gave.
    """
    load = Clients(noop.address)
    sizes = itertools.cycle([SMALL, SMALL, SMALL, LARGE])
    ways = itertools.cycle([load.by_rest, load.by_rest, load.by_grpc])
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(next(ways), next(sizes)) for _ in range(clients)]
        try:
            eventually("both protocols are answered", lambda: {"REST 200", "gRPC OK"} <= set(load.answers))
            load.stop.wait(before_s)
            noop.process.terminate()
            eventually("it drains", lambda: noop.address.http(f"/v2/models/{MODEL}/ready").status == 503)
            drained_from = len(load.answers)
            load.stop.wait(after_s)
        finally:
            load.stop.set()
        for one in running:
            one.result(2 * SOON_S)
    assert len(load.answers) > drained_from, "while it drains it answers"
    answers = Counter(load.answers)
    assert set(answers) == {"REST 200", "gRPC OK"}, answers
    samples = noop.samples()  # it ends only after a while of quiet
    assert samples.total("saccade_requests_total", protocol="rest", code="200") == answers["REST 200"]
    assert samples.total("saccade_requests_total", protocol="grpc", code="OK") == answers["gRPC OK"]
    assert samples.total("saccade_requests_total") == len(load.answers)
    assert noop.process.ended(SOON_S) == 0
    assert "Traceback" not in noop.log.read_text()
    return answers


def test_at_the_end_no_accepted_request_is_lost(start_noop: Callable[..., Noop]) -> None:
    end_under_load(start_noop(drain_quiet_s=3), clients=6, before_s=0.3, after_s=0.5)


@pytest.mark.soak
def test_nor_is_one_in_ten_ends_with_more_clients(start_noop: Callable[..., Noop]) -> None:
    begun = time.monotonic()
    total: Counter[str] = Counter()
    for number in range(10):
        total += end_under_load(start_noop(drain_quiet_s=3), clients=24, before_s=1 + number / 10, after_s=2)
        print(f"\nend {number + 1} of 10, {time.monotonic() - begun:4.0f} s: {dict(total)}", end="", flush=True)
