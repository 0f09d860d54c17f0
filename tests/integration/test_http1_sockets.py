"""The HTTP/1.1 port of a real process: early answers to common clients, clients that leave, drain, TLS, memory."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from http1_support import make_certificate
from integration_support import HOST, ROOT, SOON_S, Address, Answer, binary_request, eventually, watching_memory
from saccade_serving.oip import binary_codec

ECHO = "/v2/models/m/infer"
#: A body of 1.2 MB, more than one read, one slot and one write.
VALUES = np.random.default_rng(0).integers(0, 2**31, 300_000, np.int32)


class Process:
    """``fake_service.py`` on free ports."""

    def __init__(self, log: Path, flags: Sequence[str] = (), **settings: object) -> None:
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(3)]
            self.address = Address(*(probe.getsockname()[1] for probe in probes))
        self.log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SACCADE_")}
        variables = {"HOST": HOST, "METRICS_PORT": self.address.metrics, "DRAIN_QUIET_S": 0, **settings}
        ports = [f"--http_port={self.address.rest}", f"--grpc_port={self.address.grpc}"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "fake_service.py"), "--model_name=m,slow", *ports, *flags],
                env={**inherited, **{f"SACCADE_FAKE_{name}": str(value) for name, value in variables.items()}},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Process:
        def listens() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                socket.create_connection((HOST, self.address.rest), 1).close()
            except OSError:
                return False
            return True

        try:
            eventually("the service listens", listens, 90)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask(self, what: str, request_id: str = "") -> Answer:
        return self.address.http(ECHO, *asked(what, request_id))

    def events(self) -> list[str]:
        answer = self.ask("events")
        header = int(answer.headers["inference-header-content-length"])
        response = binary_codec.decode_response(answer.body, str(header))
        return [bytes(event).decode() for event in response.output("events").elements]

    def balanced(self) -> None:
        """Wait until nothing is in flight and no memory is leased."""

        def nothing() -> bool:
            samples = self.address.scrape()
            leased = [samples.total("saccade_arena_bytes", state=state) for state in ("receiving", "queued", "staged")]
            return not samples.total("saccade_inflight_requests") and not any(leased)

        eventually("nothing is in flight", nothing)


def asked(what: str = "echo", request_id: str = "", values: Any = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request."""
    array = np.arange(3, dtype=np.int32) if values is None else values
    size = {"binary_data_size": array.nbytes}
    tensor = {"name": "x", "datatype": "INT32", "shape": list(array.shape), "parameters": size}
    parameters = {"do": what, "binary_data_output": True}
    return binary_request({"id": request_id, "inputs": [tensor], "parameters": parameters}, array.tobytes())


def raw(body: bytes, headers: dict[str, str], path: str = ECHO) -> bytes:
    """The same as bytes for a socket."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def values_of(answer: Answer) -> Any:
    """The echoed tensor."""
    assert answer.status == 200, answer.body[:500]
    return np.frombuffer(answer.body, np.int32, offset=int(answer.headers["inference-header-content-length"]))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("http1") / "log", WRITE_TIMEOUT_S=1) as running:
        eventually("the model is ready", lambda: running.address.is_ready("m"))
        yield running
        running.balanced()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0, running.log.read_text()
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def connection(service: Process) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, service.address.rest), SOON_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [(ECHO, 65 * 2**20, 413), ("/v2/models/absent/infer", 8 * 2**20, 404), ("/v2/models/slow/infer", 8 * 2**20, 503)],
)
def test_a_client_that_sends_all_before_it_reads_gets_its_refusal_fifty_times_of_fifty(
    service: Process, path: str, size: int, status: int
) -> None:
    body = bytes(size)
    answers = [service.address.http(path, body) for _ in range(50)]
    assert [answer.status for answer in answers] == [status] * 50
    assert all(answer.error for answer in answers)
    if status == 503:
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    service.balanced()


def test_a_tensor_comes_back_whatever_way_it_was_sent(service: Process) -> None:
    body, headers = asked(values=VALUES)
    ways: dict[str, tuple[Any, dict[str, str]]] = {
        "whole": (body, headers),
        "compressed": (gzip.compress(body, 1), {**headers, "content-encoding": "gzip"}),
    }
    for name, (content, fields) in ways.items():
        assert np.array_equal(values_of(service.address.http(ECHO, content, fields)), VALUES), name
    connection = http.client.HTTPConnection(HOST, service.address.rest, timeout=SOON_S)
    with contextlib.closing(connection):
        for _ in range(3):
            pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
            connection.request("POST", ECHO, pieces, headers, encode_chunked=True)
            response = connection.getresponse()
            assert len(response.read()) > VALUES.nbytes
            connection.request("GET", "/v2/health/live")
            assert connection.getresponse().read() is not None
    packed = service.address.http(ECHO, body, {**headers, "accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    plain = gzip.decompress(packed.body)
    assert np.array_equal(values_of(Answer(200, packed.headers, plain)), VALUES)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("path", "status"), [(ECHO, "200"), ("/v2/models/absent/infer", "404")])
def test_curl_which_expects_to_be_told_is_told(service: Process, tmp_path: Path, path: str, status: str) -> None:
    body, headers = asked(values=VALUES)
    (tmp_path / "body").write_bytes(body)
    fields = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    ended = subprocess.run(
        [
            *("curl", "-sv", "-o", str(tmp_path / "answer"), "-w", "%{http_code} %{time_total}", *fields),
            *("-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path / 'body'}", service.address.url + path),
        ],
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=True,
    )
    code, seconds = ended.stdout.split()
    assert code == status
    assert float(seconds) < 0.9  # curl waits a second if nobody tells it
    assert ("100 Continue" in ended.stderr) == (status == "200")


def test_fifty_requests_sent_at_once_are_answered_in_order(service: Process, connection: socket.socket) -> None:
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
    sent = [live if n % 5 == 4 else raw(*asked(request_id=f"number {n}")) for n in range(50)]
    connection.sendall(b"".join(sent))
    with connection.makefile("rb") as reader:
        for n in range(50):
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = http.client.parse_headers(reader)
            content = reader.read(int(headers["content-length"]))
            if n % 5 != 4:
                header = int(headers["inference-header-content-length"])
                assert json.loads(content[:header])["id"] == f"number {n}"


def test_a_request_may_come_byte_by_byte(service: Process, connection: socket.socket) -> None:
    data = raw(*asked())
    for at in range(len(data)):
        connection.sendall(data[at : at + 1])
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == 200
    response.read()


@pytest.mark.parametrize("dying", [False, True])
def test_a_model_is_told_of_a_client_that_has_left(service: Process, dying: bool) -> None:
    name = f"left {dying}"
    connection = socket.create_connection((HOST, service.address.rest), SOON_S)
    connection.sendall(raw(*asked("hold", name)))
    eventually("the model holds it", lambda: f"{name}:started" in service.events())
    if dying:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    eventually("the model was told", lambda: f"{name}:cancelled" in service.events())
    service.balanced()


@pytest.mark.parametrize("dying", [False, True])
def test_clients_that_leave_anywhere_leave_nothing_behind(service: Process, dying: bool) -> None:
    body, headers = asked(values=VALUES)
    data = raw(body, headers)
    for sent in [*range(0, 400, 7), 70_000, 400_000, len(data) - 1, len(data)]:
        with socket.create_connection((HOST, service.address.rest), SOON_S) as connection:
            connection.sendall(data[:sent])
            if dying:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    service.balanced()
    assert service.ask("echo").status == 200


def test_a_client_that_never_reads_is_disconnected_and_costs_little_memory(service: Process) -> None:
    data = raw(*asked(values=VALUES))
    with watching_memory(service.process.pid) as grown_mib, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SOON_S)
        connection.connect((HOST, service.address.rest))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(data * 100)
        assert grown_mib() < 30
    service.balanced()


def test_a_drain_answers_what_is_in_flight_and_says_close(tmp_path: Path) -> None:
    with Process(tmp_path / "log") as service:
        eventually("the model is ready", lambda: service.address.is_ready("m"))
        holding = socket.create_connection((HOST, service.address.rest), SOON_S)
        idle = http.client.HTTPConnection(HOST, service.address.rest, timeout=SOON_S)
        idle.request("GET", "/v2/health/live")
        idle.getresponse().read()
        with holding, contextlib.closing(idle):
            holding.sendall(raw(*asked("hold", "last")))
            eventually("the model holds it", lambda: "last:started" in service.events())
            service.process.send_signal(signal.SIGTERM)
            eventually("it drains", lambda: not service.address.is_ready("m"))
            for path, body, headers in (("/v2/health/live", None, {}), (ECHO, *asked())):
                answer = service.address.http(path, body, headers)
                assert (answer.status, answer.headers["connection"]) == (200, "close")
            idle.request("POST", ECHO, *asked("release"))
            released = idle.getresponse()
            released.read()
            assert (released.status, released.getheader("connection")) == (200, "close")
            response = http.client.HTTPResponse(holding)
            response.begin()
            response.read()
            assert (response.status, response.getheader("connection")) == (200, "close")
            assert holding.recv(1) == b""
        assert service.process.wait(30) == 0


def test_all_of_it_works_over_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    flags = [f"--ssl_certfile={certificate}", f"--ssl_keyfile={key}"]
    context = ssl.create_default_context(cafile=str(certificate))
    with Process(tmp_path / "log", flags) as service:
        connection = http.client.HTTPSConnection(HOST, service.address.rest, timeout=SOON_S, context=context)

        def ready() -> bool:
            return service.address.http("/v2/models/m/ready", tls=context).status == 200

        eventually("the model is ready", ready)
        with contextlib.closing(connection):
            for values in (None, VALUES, None, VALUES):
                body, headers = asked(values=values)
                connection.request("POST", ECHO, body, headers)
                response = connection.getresponse()
                answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
                assert np.array_equal(values_of(answer), np.arange(3) if values is None else values)
        leaving = http.client.HTTPSConnection(HOST, service.address.rest, timeout=SOON_S, context=context)
        leaving.connect()
        leaving.sock.sendall(raw(*asked(values=VALUES))[:500_000])
        leaving.sock.close()
        service.balanced()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
