"""Knative's real queue-proxy in front of the services: payloads, timeouts, probes, draining, concurrency, refusals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration_support import (
    HOST,
    INFER,
    MODEL,
    SOON_S,
    Address,
    Answer,
    Detection,
    RpcAnswer,
    Samples,
    Service,
    binary_request,
    check_same,
    eventually,
    from_rpc,
    from_v2,
    grey_rows,
    set_parameters,
    v2_binary,
    v2_grpc,
)
from queue_proxy import QUIET_S, FakeService, QueueProxy, alone, need_program
from saccade_serving.oip import binary_codec, proto

Choose = Callable[[], Address]

FAKE = "m"
FAKE_INFER = f"/v2/models/{FAKE}/infer"
PROTOCOLS = ("rest", "grpc")
GOOD: dict[str, int | str] = {"rest": 200, "grpc": "OK"}
#: An image of 640x640 pixels, in random bytes: what a detector of that size is sent.
IMAGE = os.urandom(640 * 640 * 3)


@pytest.fixture(scope="module", autouse=True)
def only_one() -> Iterator[None]:
    """The queue-proxy is there, and nobody else's is running."""
    need_program()
    with alone():
        yield


@pytest.fixture
def front(choose_address: Choose, tmp_path: Path) -> Iterator[Callable[..., QueueProxy]]:
    """Start a queue-proxy in front of a service; only one runs at a time."""
    with contextlib.ExitStack() as stack:

        def begin(
            address: Address, protocol: str = "rest", probe: Mapping[str, Any] | None = None, **environment: str
        ) -> QueueProxy:
            user_port = {"rest": address.rest, "grpc": address.grpc}[protocol]
            proxy = QueueProxy(user_port, choose_address().rest, tmp_path / "queue-proxy.log", probe, environment)
            return stack.enter_context(proxy)

        yield begin


@pytest.fixture
def start_fake(choose_address: Choose, tmp_path: Path) -> Iterator[Callable[..., Fake]]:
    """Start services with models that do what requests tell them."""
    with contextlib.ExitStack() as stack:

        def begin(model: str = FAKE, **settings: str) -> Fake:
            address = choose_address()
            service = FakeService("fake", address, tmp_path / "fake.log", [f"--model_name={model}"], settings)
            stack.enter_context(service)
            started = Fake(service, address)
            if model == FAKE:
                service.wait_ready(model)
            else:
                eventually("it listens", started.is_listening)
            return started

        yield begin


@pytest.fixture(scope="module")
def fake(choose_address: Choose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """One such service for the tests that leave it as they found it."""
    log = tmp_path_factory.mktemp("fake") / "log"
    with FakeService("fake", choose_address(), log, [f"--model_name={FAKE}"]) as service:
        service.wait_ready(FAKE)
        yield Fake(service, service.address)
        assert service.stop() == 0


@dataclass(frozen=True)
class Fake:
    """A running ``fake_service.py``, asked directly or by a way through the queue-proxy."""

    service: Service
    way: Address

    def through(self, proxy: QueueProxy) -> Fake:
        return replace(self, way=proxy.address)

    def is_listening(self) -> bool:
        with contextlib.suppress(OSError):
            return self.way.http("/v2/health/live").status == 200
        return False

    def ask(self, protocol: str, do: str, request_id: str = "", model: str = FAKE) -> Answer | RpcAnswer:
        """Have it do something."""
        if protocol == "grpc":
            return self.way.rpc("ModelInfer", rpc_message(do, request_id, model))
        return self.way.http(f"/v2/models/{model}/infer", rest_body(do, request_id))

    def events(self) -> list[str]:
        """What the models noted."""
        answered = self.service.address.http(FAKE_INFER, rest_body("events"))
        return [str(event) for event in answered.json["outputs"][0]["data"]]

    def wait_noted(self, event: str) -> None:
        eventually(f"it notes {event}", lambda: event in self.events())

    def release(self) -> None:
        assert self.service.address.http(FAKE_INFER, rest_body("release")).status == 200

    def wait_idle(self) -> None:
        metrics = self.service.address
        eventually("nothing is in flight", lambda: metrics.scrape().total("saccade_inflight_requests") == 0)


def rest_body(do: str, request_id: str = "") -> bytes:
    tensor = {"name": "x", "datatype": "INT32", "shape": [1], "data": [7]}
    return json.dumps({"id": request_id, "inputs": [tensor], "parameters": {"do": do}}).encode()


def rpc_message(do: str, request_id: str = "", model: str = FAKE) -> Any:
    message = proto.ModelInferRequest(model_name=model, id=request_id)
    message.inputs.add(name="x", datatype="INT32", shape=[1])
    message.raw_input_contents.append((7).to_bytes(4, "little"))
    set_parameters(message, {"do": do})
    return message


def image_request() -> tuple[bytes, dict[str, str]]:
    """A binary request of 1.2 MB whose answer is as large."""
    size = {"binary_data_size": len(IMAGE)}
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 640, 640, 3], "parameters": size}
    return binary_request({"inputs": [tensor], "parameters": {"binary_data_output": True}}, IMAGE)


def check_image(answered: Answer) -> None:
    assert answered.status == 200, answered.body[:200]
    # Should its time end now, the queue-proxy writes "request timeout" into the middle of this answer, a 200. Only
    # the length tells the client.
    assert answered.headers["content-length"] == str(len(answered.body))
    header = int(answered.headers["inference-header-content-length"])
    assert answered.body[header:] == IMAGE


def outcome(answered: Answer | RpcAnswer) -> int | str:
    return answered.code if isinstance(answered, RpcAnswer) else answered.status


def ready_probe(address: Address, model: str = MODEL, **fields: int) -> dict[str, Any]:
    """A probe of the model's readiness: asked once per question, unless ``periodSeconds`` is 0."""
    path = f"/v2/models/{model}/ready"
    action = {"path": path, "port": address.rest, "host": HOST, "scheme": "HTTP"}
    return {"httpGet": action, "periodSeconds": 1, "timeoutSeconds": 5, "successThreshold": 1, **fields}


def started(*work: Callable[[], Any]) -> list[Future[Any]]:
    """Do each in a thread of its own."""
    pool = ThreadPoolExecutor(len(work))
    futures = [pool.submit(one) for one in work]
    pool.shutdown(wait=False)
    return futures


class Load:
    """Threads that keep asking; ``stop`` ends them and returns all outcomes."""

    def __init__(self, ask: Callable[[], Answer | RpcAnswer], threads: int = 4) -> None:
        self._ask = ask
        self._go_on = True
        self.outcomes: list[int | str] = []
        self._threads = started(*[self._run] * threads)

    def _run(self) -> None:
        while self._go_on:
            self.outcomes.append(outcome(self._ask()))

    def wait_more(self, count: int) -> None:
        """Wait until so many more are answered."""
        enough = len(self.outcomes) + count
        eventually(f"{count} more answers", lambda: len(self.outcomes) >= enough)

    def stop(self) -> list[int | str]:
        self._go_on = False
        for thread in self._threads:
            thread.result(SOON_S)
        return self.outcomes


class TestPayloads:
    def test_rest_inferences_are_answered_as_without_it(
        self,
        transformer: Address,
        front: Callable[..., QueueProxy],
        photos: dict[str, bytes],
        expected: dict[str, list[Detection]],
    ) -> None:
        proxy = front(transformer)
        for name, image in photos.items():
            answered = proxy.address.http(INFER, *v2_binary(image))
            assert answered.status == 200, answered.body
            header = answered.headers["inference-header-content-length"]
            [found] = from_v2(binary_codec.decode_response(answered.body, header))
            check_same(found, expected[name])

    def test_grpc_inferences_are_answered_as_without_it(
        self,
        transformer: Address,
        front: Callable[..., QueueProxy],
        photos: dict[str, bytes],
        expected: dict[str, list[Detection]],
    ) -> None:
        proxy = front(transformer, "grpc")
        for name, image in photos.items():
            answered = proxy.address.rpc("ModelInfer", v2_grpc(image))
            assert answered.code == "OK", answered
            [found] = from_rpc(answered.message)
            check_same(found, expected[name])

    def test_large_requests_of_the_predictor_binary_and_json(
        self, predictor: Address, front: Callable[..., QueueProxy]
    ) -> None:
        pixels = [0] * (416 * 416 * 3)
        tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 416, 416, 3], "data": pixels}
        requests: list[tuple[bytes, dict[str, str]]] = [grey_rows(3), (json.dumps({"inputs": [tensor]}).encode(), {})]
        proxy = front(predictor)
        for body, headers in requests:
            assert len(body) > 1.2e6
            direct = predictor.http(INFER, body, headers)
            answered = proxy.address.http(INFER, body, headers)
            assert (answered.status, direct.status) == (200, 200)
            assert answered.json["outputs"] == direct.json["outputs"]

    def test_an_answer_of_1_2_mb(self, fake: Fake, front: Callable[..., QueueProxy]) -> None:
        proxy = front(fake.service.address)
        cut = 0
        for _ in range(10):
            # On a busy machine the queue-proxy now and then closes its own connection to us in the middle of an answer
            # ("read error during body copy: ... use of closed network connection"; seen 4 times in 3,854).
            try:
                check_image(proxy.address.http(FAKE_INFER, *image_request()))
            except http.client.IncompleteRead:
                cut += 1
        assert cut <= 3, proxy.log.read_text()

    def test_an_answer_of_1_2_mb_by_grpc(self, fake: Fake, front: Callable[..., QueueProxy]) -> None:
        proxy = front(fake.service.address, "grpc")
        message = proto.ModelInferRequest(model_name=FAKE)
        message.inputs.add(name="x", datatype="UINT8", shape=[1, 640, 640, 3])
        message.raw_input_contents.append(IMAGE)
        for _ in range(10):
            answered = proxy.address.rpc("ModelInfer", message)
            assert answered.code == "OK", answered
            assert answered.message.raw_output_contents[0] == IMAGE

    def test_a_body_whose_length_is_not_known(self, fake: Fake, front: Callable[..., QueueProxy]) -> None:
        # The queue-proxy passes chunks on as chunks.
        proxy = front(fake.service.address)
        body, headers = image_request()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1000], body[1000:]))
        with socket.create_connection((HOST, proxy.port), SOON_S) as client:
            client.sendall(post_head(headers, "transfer-encoding: chunked") + chunks + b"0\r\n\r\n")
            check_image(read_answer(client))

    def test_a_body_that_asks_before_it_is_sent(self, fake: Fake, front: Callable[..., QueueProxy]) -> None:
        # curl does from 1 MB on. The queue-proxy asks us in turn, and gives us a second before it sends all the same.
        proxy = front(fake.service.address)
        body, headers = image_request()
        waited_s = []
        for _ in range(3):
            with socket.create_connection((HOST, proxy.port), SOON_S) as client:
                asked = time.monotonic()
                client.sendall(post_head(headers, f"content-length: {len(body)}\r\nexpect: 100-continue"))
                assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
                waited_s.append(time.monotonic() - asked)
                client.sendall(body)
                check_image(read_answer(client))
        assert min(waited_s) < 0.9


def post_head(headers: Mapping[str, str], *more: str) -> bytes:
    """Head of an infer request on a connection of its own."""
    lines = [f"POST {FAKE_INFER} HTTP/1.1", "host: x", "connection: close", *more]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def read_answer(client: socket.socket) -> Answer:
    """The one answer of a connection that is then closed."""
    answered = b"".join(iter(lambda: client.recv(1 << 16), b""))
    head, _, body = answered.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), headers, body)


class TestRefusals:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_errors_and_when_to_come_back_are_those_without_it(
        self, fake: Fake, front: Callable[..., QueueProxy], protocol: str
    ) -> None:
        through = fake.through(front(fake.service.address, protocol))
        for do, model in (("overloaded", FAKE), ("raise", FAKE), ("echo", "nobody")):
            expected = fake.ask(protocol, do, model=model)
            answered = through.ask(protocol, do, model=model)
            assert outcome(answered) == outcome(expected) != GOOD[protocol]
            if isinstance(answered, Answer) and isinstance(expected, Answer):
                assert answered.body == expected.body
                assert (answered.headers.get("retry-after") == "7") == (do == "overloaded")
            if isinstance(answered, RpcAnswer) and isinstance(expected, RpcAnswer):
                assert answered.details == expected.details
                assert answered.trailing.items() >= expected.trailing.items()  # it adds a date and a length
                assert (answered.trailing.get("retry-after") == "7") == (do == "overloaded")

    def test_a_request_id_goes_both_ways(self, fake: Fake, front: Callable[..., QueueProxy]) -> None:
        proxy = front(fake.service.address)
        answered = proxy.address.http(FAKE_INFER, rest_body("echo"), {"x-request-id": "r-77"})
        assert (answered.status, answered.headers["x-request-id"]) == (200, "r-77")

    def test_a_body_that_is_too_large_is_refused_while_it_is_still_sent(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        # A server that refuses and closes at once makes this a 502: the queue-proxy reports that it could not write.
        proxy = front(start_fake(MAX_REQUEST_BYTES=str(2**20)).service.address)
        body = bytes(3 * 2**20)
        for _ in range(20):
            answered = proxy.address.http(FAKE_INFER, body, {"inference-header-content-length": "10"})
            assert answered.status == 413, answered.body
            assert str(2**20) in answered.error
        with socket.create_connection((HOST, proxy.port), SOON_S) as client:
            asks = f"content-length: {len(body)}\r\nexpect: 100-continue"
            client.sendall(post_head({"inference-header-content-length": "10"}, asks))
            assert read_answer(client).status == 413, "without a byte of the body"


class TestTimeouts:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize(
        "limits",
        [
            {"REVISION_TIMEOUT_SECONDS": "1"},
            {"REVISION_RESPONSE_START_TIMEOUT_SECONDS": "1", "REVISION_TIMEOUT_SECONDS": "300"},
        ],
        ids=["timeout", "response-start"],
    )
    def test_what_takes_too_long_ends_there_and_here(
        self, fake: Fake, front: Callable[..., QueueProxy], protocol: str, limits: dict[str, str]
    ) -> None:
        through = fake.through(front(fake.service.address, protocol, **limits))
        before, request_id = fake.service.address.scrape(), f"late-{protocol}-{len(limits)}"
        answered = through.ask(protocol, "hold", request_id)
        if isinstance(answered, RpcAnswer):
            # The 504 is no gRPC answer, so that the client's library makes one of it.
            assert (answered.code, "504" in answered.details) == ("UNAVAILABLE", True)
        else:
            assert (answered.status, answered.body) == (504, b"request timeout")
        check_noticed(fake, before, protocol, request_id)
        assert outcome(through.ask(protocol, "echo")) == GOOD[protocol]

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_client_who_leaves_it_leaves_us(
        self, fake: Fake, front: Callable[..., QueueProxy], protocol: str
    ) -> None:
        proxy = front(fake.service.address, protocol)
        before, request_id = fake.service.address.scrape(), f"leaver-{protocol}"
        with leaving(proxy.address, protocol, request_id):
            fake.wait_noted(f"{request_id}:started")
        check_noticed(fake, before, protocol, request_id)

    def test_the_deadline_of_a_grpc_call_reaches_the_model(self, fake: Fake, front: Callable[..., QueueProxy]) -> None:
        proxy = front(fake.service.address, "grpc")
        answered = proxy.address.rpc("ModelInfer", rpc_message("remaining"), timeout_s=7)
        assert answered.code == "OK", answered
        [raw] = answered.message.raw_output_contents
        [remaining_s] = struct.unpack("<d", raw)
        assert 3 < remaining_s < 7

    def test_our_own_deadline_is_told_before_that_of_the_queue_proxy(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        proxy = front(start_fake(DEFAULT_TIMEOUT_S="0.1").service.address, REVISION_TIMEOUT_SECONDS="20")
        answered = proxy.address.http(FAKE_INFER, rest_body("late"))
        assert answered.status == 504
        assert "were over while the fake was late" in answered.error


def check_noticed(fake: Fake, before: Samples, protocol: str, request_id: str) -> None:
    """The model was told that nobody waits any more, and the request is counted as one whose client left."""
    fake.wait_noted(f"{request_id}:cancelled")
    fake.wait_idle()

    def grew(name: str, **labels: str) -> float:
        return fake.service.address.scrape().total(name, **labels) - before.total(name, **labels)

    eventually("it is counted", lambda: grew("saccade_requests_total", protocol=protocol, code="499") == 1)
    eventually("so is why", lambda: grew("saccade_rejected_requests_total", reason="client_left") == 1)


@contextlib.contextmanager
def leaving(address: Address, protocol: str, request_id: str) -> Iterator[None]:
    """A client that leaves at the end of the block, without its answer."""
    if protocol == "rest":
        body = rest_body("hold", request_id)
        with socket.create_connection((HOST, address.rest), SOON_S) as client:
            client.sendall(post_head({}, f"content-length: {len(body)}") + body)
            yield
        return
    with grpc.insecure_channel(f"{HOST}:{address.grpc}") as channel:
        call = channel.unary_unary(
            f"/{proto.SERVICE}/ModelInfer", request_serializer=proto.ModelInferRequest.SerializeToString
        ).future(rpc_message("hold", request_id))
        yield
        call.cancel()


class TestProbes:
    def test_ready_only_once_the_model_is(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        direct = start_fake(f"{FAKE},slow")
        address = direct.service.address
        proxy = front(address, probe=ready_probe(address, "slow"))
        assert not proxy.is_ready()
        assert not proxy.is_ready()
        direct.release()
        eventually("it is ready", proxy.is_ready)
        assert proxy.ready("Knative-Activator-Probe").status == 200

    def test_the_default_way_to_probe_waits_for_the_model(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        # Without a period it asks every 50 ms, with 100 ms for an answer, up to 10 s for one question.
        direct = start_fake(f"{FAKE},slow")
        address = direct.service.address
        proxy = front(address, probe=ready_probe(address, "slow", periodSeconds=0, timeoutSeconds=0))
        [answered] = started(proxy.ready)
        assert proxy.address.http(f"/v2/models/{FAKE}/ready").status == 200
        assert not answered.done()
        direct.release()
        assert answered.result(SOON_S).status == 200

    def test_without_a_probe_of_ours_it_says_ready_while_the_model_loads(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        # What Knative fills in where a service states no probe: whether the port is open. So a chart has to state one.
        address = start_fake(f"{FAKE},slow").service.address
        tcp = {"tcpSocket": {"port": address.rest, "host": HOST}, "successThreshold": 1}
        proxy = front(address, probe=tcp)
        assert proxy.is_ready()
        assert proxy.address.http("/v2/models/slow/ready").status == 503

    def test_a_probe_that_tries_http_2_first_finds_us_ready(
        self, fake: Fake, front: Callable[..., QueueProxy]
    ) -> None:
        service = fake.service
        before = service.log.read_text().count("Traceback")
        probe = ready_probe(service.address, FAKE)
        proxy = front(service.address, probe=probe, ENABLE_HTTP2_AUTO_DETECTION="true")
        for _ in range(5):
            assert proxy.is_ready()
        assert proxy.address.http(FAKE_INFER, rest_body("echo")).status == 200
        assert service.log.read_text().count("Traceback") == before

    def test_not_ready_once_we_drain_though_requests_are_answered(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        direct = start_fake(DRAIN_QUIET_S="60")
        proxy = front(direct.service.address, probe=ready_probe(direct.service.address, FAKE))
        assert proxy.is_ready()
        direct.service.send(signal.SIGTERM)
        eventually("it is not ready", lambda: not proxy.is_ready())
        assert proxy.address.http(FAKE_INFER, rest_body("echo")).status == 200

    def test_the_queue_proxys_own_drain_is_not_ready_either(
        self, fake: Fake, front: Callable[..., QueueProxy]
    ) -> None:
        address = fake.service.address
        proxy = front(address, probe=ready_probe(address, FAKE))
        proxy.terminate()
        eventually("it is not ready", lambda: not proxy.is_ready())
        assert address.is_ready(FAKE)
        assert proxy.address.http(FAKE_INFER, rest_body("echo")).status == 200


class TestDraining:
    """The kubelet calls the preStop hook of our container, which waits in the queue-proxy, and ends the queue-proxy.

    The hook returns when no request has come for 30 s; then the kubelet ends our process. Those 30 s are skipped here
    but in the last test: we are told to end while requests still come, which is worse than what Kubernetes does.
    """

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_no_request_is_lost_by_the_predictor(
        self, start: Callable[..., Service], front: Callable[..., QueueProxy], protocol: str
    ) -> None:
        service = start("predictor", DRAIN_QUIET_S="0.5")
        proxy = front(service.address, protocol, ready_probe(service.address))
        body, headers = grey_rows(1)
        message = proto.ModelInferRequest(model_name=MODEL)
        message.inputs.add(name="image", datatype="UINT8", shape=[1, 416, 416, 3])
        message.raw_input_contents.append(bytes(416 * 416 * 3))

        def ask() -> Answer | RpcAnswer:
            if protocol == "grpc":
                return proxy.address.rpc("ModelInfer", message)
            return proxy.address.http(INFER, body, headers)

        check_nothing_is_lost(service, proxy, Load(ask), GOOD[protocol], 20)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_what_runs_when_we_are_told_to_end_is_answered(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy], protocol: str
    ) -> None:
        direct = start_fake(DRAIN_QUIET_S="0.5")
        proxy = front(direct.service.address, protocol, ready_probe(direct.service.address, FAKE))
        through = direct.through(proxy)
        [held] = started(lambda: through.ask(protocol, "hold", "held"))
        direct.wait_noted("held:started")
        load = Load(lambda: through.ask(protocol, "echo"))
        check_nothing_is_lost(direct.service, proxy, load, GOOD[protocol], 300, direct.release)
        assert outcome(held.result(SOON_S)) == GOOD[protocol]

    def test_a_restart_of_our_container_alone_is_not_held_up(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        # The queue-proxy tells it from the end of the pod by the SIGTERM that it does not get within a second.
        direct = start_fake()
        service = direct.service
        proxy = front(service.address, probe=ready_probe(service.address, FAKE))
        begun = time.monotonic()
        assert proxy.wait_for_drain() == 200
        assert time.monotonic() - begun < QUIET_S / 2
        assert service.stop() == 0
        assert not proxy.is_ready()
        assert proxy.address.http(FAKE_INFER, rest_body("echo")).status == 502
        service.start()
        eventually("it is ready again", proxy.is_ready, 60)
        assert proxy.address.http(FAKE_INFER, rest_body("echo")).status == 200

    @pytest.mark.soak
    def test_the_whole_of_it_in_its_own_time(
        self, start_fake: Callable[..., Fake], front: Callable[..., QueueProxy]
    ) -> None:
        direct = start_fake(DEFAULT_TIMEOUT_S="120")
        service = direct.service
        proxy = front(service.address, probe=ready_probe(service.address, FAKE))
        through = direct.through(proxy)
        [held] = started(lambda: proxy.address.http(FAKE_INFER, rest_body("hold", "held"), timeout_s=120))
        direct.wait_noted("held:started")
        [hook] = started(proxy.wait_for_drain)
        proxy.terminate()
        eventually("it drains", lambda: not proxy.is_ready())
        load = Load(lambda: through.ask("rest", "echo"))
        load.wait_more(100)
        assert set(load.stop()) == {200}
        quiet_since = time.monotonic()
        assert hook.result(4 * QUIET_S) == 200
        assert time.monotonic() - quiet_since > QUIET_S / 2
        service.send(signal.SIGTERM)
        eventually("we drain", lambda: service.events("draining"))
        assert not held.done()
        direct.release()
        assert held.result(SOON_S).status == 200
        assert (service.ended(), proxy.process.wait(SOON_S)) == (0, 0)


def check_nothing_is_lost(
    service: Service,
    proxy: QueueProxy,
    load: Load,
    good: int | str,
    more: int,
    release: Callable[[], None] = lambda: None,
) -> None:
    """End a pod under load: all is answered, so many ``more`` after the signal; and the service ends cleanly."""
    load.wait_more(10)
    [hook] = started(proxy.wait_for_drain)
    proxy.terminate()
    eventually("it drains", lambda: not proxy.is_ready())
    load.wait_more(10)
    service.send(signal.SIGTERM)
    eventually("we drain", lambda: service.events("draining"))
    load.wait_more(more)
    outcomes = load.stop()
    release()
    assert set(outcomes) == {good}
    assert service.ended() == 0
    assert "Traceback" not in service.log.read_text()
    assert not service.events("drain_grace_over")
    assert not hook.done(), "the hook waits for 30 s without a request"
    proxy.kill()
    with pytest.raises(OSError, match=r"closed|reset|refused"):
        hook.result(SOON_S)


class TestConcurrency:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_limit_of_one_lets_ten_wait_and_serves_them_one_after_another(
        self, fake: Fake, front: Callable[..., QueueProxy], protocol: str
    ) -> None:
        through = fake.through(front(fake.service.address, protocol, CONTAINER_CONCURRENCY="1"))
        request_id = f"limited-{protocol}"
        asked = started(*[lambda: through.ask(protocol, "hold", request_id)] * 14)

        def refused() -> list[Answer | RpcAnswer]:
            return [one.result() for one in asked if one.done()]

        def begun(number: int) -> bool:
            return fake.events().count(f"{request_id}:started") == number

        eventually("three are too many", lambda: len(refused()) == 3)
        for answered in refused():
            if isinstance(answered, RpcAnswer):
                assert (answered.code, "503" in answered.details) == ("UNAVAILABLE", True)
            else:
                # Its own refusal, without our form and without a time to come back.
                assert (answered.status, answered.body) == (503, b"pending request queue full\n")
                assert "retry-after" not in answered.headers
        for number in range(1, 12):
            eventually("another one runs", partial(begun, number))
            fake.release()
        results = [one.result(SOON_S) for one in asked]
        assert [outcome(one) for one in results].count(GOOD[protocol]) == 11
        of_these = [event for event in fake.events() if event.startswith(request_id)]
        assert of_these == [f"{request_id}:started", f"{request_id}:ended"] * 11
