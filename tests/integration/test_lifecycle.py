"""Starting, losing and finding the predictor, draining, failing to start, leaving clients, TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration_support import (
    HOST,
    INFER,
    MODEL,
    PREDICT,
    SOON_S,
    Address,
    Answer,
    Detection,
    RpcAnswer,
    Service,
    ask_all,
    check_rounded,
    check_same,
    eventually,
    from_detect,
    from_rpc,
    grey_rows,
    v1_json,
    v2_binary,
    v2_grpc,
)
from saccade_serving.oip import proto
from saccade_serving.oip.messages import InferRequest
from stub_predictor import Reply, StubPredictor, answer

READY = f"/v2/models/{MODEL}/ready"

Choose = Callable[[], Address]


def predictor_flags(address: Address, protocol: str = "v2") -> list[str]:
    port = address.rest if protocol == "v2" else address.grpc
    return [f"--predictor_host={HOST}:{port}", f"--predictor_protocol={protocol}"]


def check_all(answers: dict[str, Answer | RpcAnswer], status: int, code: str, words: str = "") -> None:
    for route, answered in answers.items():
        if isinstance(answered, RpcAnswer):
            assert answered.code == code, (route, answered)
            assert words in answered.details
        else:
            assert answered.status == status, (route, answered.body)
            assert words in answered.body.decode()


def load(count: int, work: Callable[[], Any]) -> list[Future[Any]]:
    """Start the same work in so many threads of their own."""
    pool = ThreadPoolExecutor(count)
    futures = [pool.submit(work) for _ in range(count)]
    pool.shutdown(wait=False)
    return futures


@dataclass
class Chain:
    """One predictor, and a transformer for each protocol towards it; what those said before there was a predictor."""

    predictor: Service
    transformers: dict[str, Service]
    alone: dict[str, dict[str, Any]] = field(default_factory=dict)

    def wait_served(self, image: bytes) -> None:
        def found() -> bool:
            return all(one.address.http("/detect", image).status == 200 for one in self.transformers.values())

        eventually("the predictor is found again", found)


@pytest.fixture(scope="module")
def running_chain(choose_address: Choose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    logs = tmp_path_factory.mktemp("chain")
    switched_on = {"REQUEST_LOG": "true"}
    predictor = Service("predictor", choose_address(), logs / "predictor.log", (), switched_on)
    transformers = {
        "v2": Service(
            "transformer", choose_address(), logs / "v2.log", predictor_flags(predictor.address), switched_on
        ),
        "grpc-v2": Service(
            "transformer",
            choose_address(),
            logs / "grpc-v2.log",
            [*predictor_flags(predictor.address, "grpc-v2"), "--enable_predictor_health_check"],
            switched_on,
        ),
    }
    chain = Chain(predictor, transformers)
    with contextlib.ExitStack() as stack:
        for service in transformers.values():
            stack.enter_context(service)
        for name, service in transformers.items():
            chain.alone[name] = what_it_says_alone(service)
        stack.enter_context(predictor)
        for service in (predictor, *transformers.values()):
            service.wait_ready()
        yield chain
        for service in (*transformers.values(), predictor):
            assert service.stop() == 0


def what_it_says_alone(service: Service) -> dict[str, Any]:
    """Answers of a transformer whose predictor is not there yet."""
    address = service.address

    def listening() -> bool:
        with contextlib.suppress(OSError):
            return "cannot be reached" in address.http(READY).error
        return False

    eventually("it says that it waits for its predictor", listening)
    return {
        "ready": address.http(READY),
        "server ready": address.http("/v2/health/ready"),
        "live": address.http("/v2/health/live"),
        "metadata": address.http(f"/v2/models/{MODEL}"),
        "rpc ready": address.rpc("ModelReady", proto.ModelReadyRequest(name=MODEL)),
        "rpc live": address.rpc("ServerLive", proto.ServerLiveRequest()),
        "answers": ask_all(address, b"any"),
        "unknown": address.http("/v2/models/absent/ready"),
    }


@pytest.fixture
def chain(running_chain: Chain, photos: dict[str, bytes]) -> Chain:
    """The chain, whole."""
    if running_chain.predictor.process.poll() is not None:
        running_chain.predictor.start()
    running_chain.wait_served(photos["coffee.jpg"])
    return running_chain


class TestChain:
    @pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
    def test_before_its_predictor_a_transformer_is_live_but_not_ready_and_says_why(
        self, chain: Chain, protocol: str
    ) -> None:
        alone = chain.alone[protocol]
        sentence = "model 'detector' is not ready: the predictor cannot be reached; try again later"
        for name in ("ready", "server ready", "metadata"):
            assert (alone[name].status, alone[name].error) == (503, sentence)
            assert int(alone[name].headers["retry-after"]) >= 1
        check_all(alone["answers"], 503, "UNAVAILABLE", sentence)
        assert alone["rpc ready"].message.ready is False
        assert alone["rpc live"].message.live is True
        assert alone["live"].json == {"live": True}
        assert alone["unknown"].status == 404

    @pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
    def test_both_protocols_to_the_predictor_give_the_same_detections(
        self, chain: Chain, photos: dict[str, bytes], expected: dict[str, list[Detection]], protocol: str
    ) -> None:
        address = chain.transformers[protocol].address
        for name, image in photos.items():
            check_same(from_rpc(address.rpc("ModelInfer", v2_grpc(image)).message)[0], expected[name])

    def test_a_killed_predictor_is_502_in_time_and_found_again_when_it_is_back(
        self, chain: Chain, photos: dict[str, bytes], expected: dict[str, list[Detection]]
    ) -> None:
        image = photos["chelsea.jpg"]
        pids = [service.process.pid for service in chain.transformers.values()]
        chain.predictor.kill()
        for service in chain.transformers.values():
            begun = time.monotonic()
            answers = ask_all(service.address, image, timeout_ms=5_000)
            assert time.monotonic() - begun < 5  # all four of them
            check_all(answers, 502, "UNAVAILABLE", "the predictor cannot be reached; try again later")
        # Only the one that was asked to look at its predictor says so in its readiness.
        watching, other = chain.transformers["grpc-v2"].address, chain.transformers["v2"].address
        eventually("readiness follows the predictor", lambda: watching.http(READY).status == 503)
        assert "the predictor is not ready" in watching.http(READY).error
        assert other.http(READY).status == 200

        chain.predictor.start()
        chain.wait_served(image)
        eventually("readiness follows the predictor", lambda: watching.http(READY).status == 200)
        for service in chain.transformers.values():
            check_rounded(from_detect(service.address.http("/detect", image).json), expected["chelsea.jpg"])
        assert [service.process.pid for service in chain.transformers.values()] == pids

    def test_requests_in_flight_when_the_predictor_is_killed_are_all_answered(
        self, chain: Chain, photos: dict[str, bytes]
    ) -> None:
        image = photos["coffee.jpg"]
        addresses = [service.address for service in chain.transformers.values()]
        waiting = [one for address in addresses for one in load(8, partial(address.http, "/detect", image))]
        eventually(
            "requests are in the predictor",
            lambda: chain.predictor.address.scrape().total("saccade_inflight_requests") >= 4,
        )
        chain.predictor.kill()
        statuses = [one.result(SOON_S).status for one in waiting]
        assert set(statuses) <= {200, 502}
        assert 502 in statuses
        for address in addresses:
            assert address.scrape().total("saccade_inflight_requests") == 0

    def test_a_predictor_that_hangs_is_504_in_time(self, chain: Chain, photos: dict[str, bytes]) -> None:
        image = photos["coffee.jpg"]
        chain.predictor.send(signal.SIGSTOP)
        try:
            for service in chain.transformers.values():
                begun = time.monotonic()
                check_all(ask_all(service.address, image, timeout_ms=400), 504, "DEADLINE_EXCEEDED")
                assert time.monotonic() - begun < 4 * 0.4 + 3
        finally:
            chain.predictor.send(signal.SIGCONT)
        chain.wait_served(image)

    @pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
    def test_one_request_has_one_log_line_in_each_service_under_one_id(
        self, chain: Chain, photos: dict[str, bytes], protocol: str
    ) -> None:
        transformer = chain.transformers[protocol]
        ids = [f"{protocol}-{i}-{time.monotonic_ns()}" for i in range(3)]
        for i in ids:
            assert transformer.address.http("/detect", photos["astronaut.jpg"], {"x-request-id": i}).status == 200
        refused = transformer.address.http("/detect", b"text", {"x-request-id": f"bad-{ids[0]}"})
        assert refused.status == 415

        def lines(service: Service, request_id: str) -> list[dict[str, Any]]:
            return [event for event in service.events("request") if event["request_id"] == request_id]

        for service, own in ((transformer, "detect"), (chain.predictor, "rest" if protocol == "v2" else "grpc")):
            for i in ids:
                # It is written after the answer.
                [line] = eventually("there is a line", partial(lines, service, i))
                assert line["protocol"] == own
                assert line["model"] == MODEL
                assert line["code"] in ("200", "OK")
                assert line["total_ms"] > 0
                assert line["received_bytes"] > 10_000
        [line] = eventually("there is a line", partial(lines, transformer, f"bad-{ids[0]}"))
        assert line["code"] == "415"
        assert not [event for event in chain.predictor.events("request") if event["request_id"].startswith("bad-")]

    def test_logs_are_json_and_hold_no_pictures(self, chain: Chain, photos: dict[str, bytes]) -> None:
        for service in (chain.predictor, *chain.transformers.values()):
            text = service.log.read_text()
            lines = text[: text.rindex("\n")].split("\n")  # the service goes on writing
            assert all(isinstance(json.loads(line), dict) for line in lines)
            assert max(map(len, lines)) < 1000
            assert "JFIF" not in text
            assert "/9j/" not in text


class Stage:
    """A stub that holds all requests until it is told to go on."""

    def __init__(self, stub: StubPredictor) -> None:
        self.stub = stub
        self.go = threading.Event()
        stub.reply = self._reply

    def _reply(self, request: InferRequest) -> Reply:
        self.go.wait(SOON_S)
        return answer(request)


def stub_flag(stub: StubPredictor) -> str:
    return f"--predictor_host={HOST}:{stub.port}"


@dataclass
class Load:
    """A client on one connection that asks until it is told to go away."""

    address: Address
    path: str
    body: bytes
    headers: dict[str, str]
    statuses: list[int] = field(default_factory=list)

    def run(self) -> str:
        """Return how it ended: "close" when the server asked for it, else what was lost."""
        connection = http.client.HTTPConnection(HOST, self.address.rest, timeout=SOON_S)
        with contextlib.closing(connection):
            while True:
                try:
                    connection.request("POST", self.path, self.body, self.headers)
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    return f"lost after {len(self.statuses)} answers: {error!r}"
                self.statuses.append(response.status)
                if response.getheader("connection") == "close":
                    return "close"


def ask_by_grpc_until_not_ready(address: Address, image: bytes, codes: list[str]) -> None:
    while address.rpc("ModelReady", proto.ModelReadyRequest(name=MODEL)).message.ready:
        codes.append(address.rpc("ModelInfer", v2_grpc(image)).code)


class TestDraining:
    def test_a_transformer_under_load_answers_everything_it_accepted(
        self, stub: StubPredictor, start: Callable[..., Service], photos: dict[str, bytes]
    ) -> None:
        service = start("transformer", stub_flag(stub), DRAIN_QUIET_S="1")
        image = photos["chelsea.jpg"]
        clients = [Load(service.address, "/detect", image, {}) for _ in range(20)]
        codes: list[str] = []
        with ThreadPoolExecutor(22) as pool:
            running = [pool.submit(client.run) for client in clients]
            by_grpc = [pool.submit(ask_by_grpc_until_not_ready, service.address, image, codes) for _ in range(2)]
            eventually("every client has had an answer", lambda: codes and all(one.statuses for one in clients))
            service.send(signal.SIGTERM)
            eventually("readiness turns false", lambda: service.address.http(READY).status == 503)
            refused = service.address.http(READY)
            assert refused.error == "the server is shutting down"
            assert refused.headers["connection"] == "close"
            assert [one.result(SOON_S) for one in running] == ["close"] * 20
            for one in by_grpc:
                one.result(SOON_S)
        assert {status for client in clients for status in client.statuses} == {200}
        assert set(codes) == {"OK"}
        assert service.ended() == 0
        assert "Traceback" not in service.log.read_text()
        counted = sum(len(client.statuses) for client in clients) + len(codes)
        assert counted == len(stub.asked) - 1  # the other is the warm-up

    def test_a_predictor_under_load_answers_everything_it_accepted(self, start: Callable[..., Service]) -> None:
        service = start("predictor", DRAIN_QUIET_S="0.5")
        body, headers = grey_rows(1)
        clients = [Load(service.address, INFER, body, headers) for _ in range(20)]
        with ThreadPoolExecutor(20) as pool:
            running = [pool.submit(client.run) for client in clients]
            eventually("every client has had an answer", lambda: all(one.statuses for one in clients))
            service.send(signal.SIGTERM)
            assert [one.result(SOON_S) for one in running] == ["close"] * 20
        assert {status for client in clients for status in client.statuses} == {200}
        assert service.ended() == 0
        assert "Traceback" not in service.log.read_text()

    def test_requests_in_flight_and_late_ones_are_answered_before_it_ends(
        self, stub: StubPredictor, start: Callable[..., Service], photos: dict[str, bytes]
    ) -> None:
        service = start("transformer", stub_flag(stub), METRICS_ON_HTTP="false")
        address, image = service.address, photos["chelsea.jpg"]
        assert address.http("/metrics").error == "GET /metrics is not served here: metrics are on the metrics port"
        stage, warmups = Stage(stub), len(stub.asked)
        early = load(3, lambda: address.http("/detect", image))
        early_rpc = load(3, lambda: address.rpc("ModelInfer", v2_grpc(image)))
        eventually("all wait for the predictor", lambda: len(stub.asked) == warmups + 6)
        service.send(signal.SIGINT)  # as Ctrl-C does; the same as SIGTERM
        eventually("readiness turns false", lambda: address.http(READY).status == 503)
        late = load(2, lambda: address.http("/detect", image))
        late_rpc = load(2, lambda: address.rpc("ModelInfer", v2_grpc(image)))
        eventually("the late ones wait too", lambda: len(stub.asked) == warmups + 10)
        assert service.process.poll() is None
        stage.go.set()
        for one in (*early, *late):
            answered = one.result(SOON_S)
            assert (answered.status, answered.headers["connection"]) == (200, "close")
        for one in (*early_rpc, *late_rpc):
            assert one.result(SOON_S).code == "OK"
        assert service.ended() == 0

    def test_after_the_grace_it_ends_whatever_still_runs(
        self, stub: StubPredictor, start: Callable[..., Service], photos: dict[str, bytes]
    ) -> None:
        service = start("transformer", stub_flag(stub), DRAIN_GRACE_S="1", METRICS_PORT="0")
        with pytest.raises(OSError, match="refused"):
            service.address.scrape()
        stage, warmups = Stage(stub), len(stub.asked)

        def ask() -> str:
            try:
                return str(service.address.http("/detect", photos["chelsea.jpg"]).status)
            except (OSError, http.client.HTTPException):
                return "cut off"

        stuck = load(2, ask)
        eventually("they wait for the predictor", lambda: len(stub.asked) == warmups + 2)
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < 15
        for one in stuck:
            assert one.result(SOON_S) in ("cut off", "500", "503")
        stage.go.set()
        assert service.events("drain_grace_over")[0]["inflight"] == 2

    def test_a_second_signal_ends_it_at_once(
        self, stub: StubPredictor, start: Callable[..., Service], photos: dict[str, bytes]
    ) -> None:
        service = start("transformer", stub_flag(stub), DRAIN_QUIET_S="60")
        service.send(signal.SIGTERM)
        eventually("it drains", lambda: service.address.http(READY).status == 503)
        service.send(signal.SIGTERM)
        assert service.ended(5) == 128 + signal.SIGTERM

    def test_a_signal_while_it_still_waits_for_its_predictor_ends_it(
        self, choose_address: Choose, tmp_path: Path
    ) -> None:
        nowhere = predictor_flags(choose_address())
        with Service("transformer", choose_address(), tmp_path / "log", nowhere) as service:
            eventually(
                "it waits for its predictor", lambda: service.log.exists() and service.events("waiting_for_predictor")
            )
            assert service.stop() == 0
            assert "Traceback" not in service.log.read_text()


class TestClientsWhoLeave:
    def test_the_predictor_drops_their_work_and_serves_the_others(self, predictor: Address) -> None:
        before = predictor.scrape()
        body, headers = grey_rows(8)
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        leaving = [socket.create_connection((HOST, predictor.rest)) for _ in range(5)]
        for client in leaving:
            client.sendall(head.encode() + body)
        eventually("their work waits", lambda: predictor.scrape().total("saccade_queue_depth") >= 2)
        staying = load(4, lambda: predictor.http(INFER, *grey_rows(1)))
        for client in leaving:
            client.close()
        for one in staying:
            answered = one.result(SOON_S)
            assert answered.status == 200
            assert answered.json["outputs"][0]["shape"] == [1, 1000, 6]

        def settled() -> bool:
            now = predictor.scrape()
            return now.total("saccade_inflight_requests") == 0 and now.total("saccade_queue_depth") == 0

        eventually("nothing is in flight", settled)
        after = predictor.scrape()

        def grew(name: str, **labels: str) -> float:
            return after.total(name, **labels) - before.total(name, **labels)

        left = grew("saccade_rejected_requests_total", reason="client_left")
        assert 2 <= left <= 5  # one or two may have been computed before they left
        assert grew("saccade_requests_total", code="499") == left
        assert grew("saccade_requests_total", code="200") == 9 - left
        # What had not begun was never computed.
        assert grew("saccade_batch_size_sum") <= 8 * 3 + 4

    @pytest.mark.parametrize("route", ["detect", "v2", "v1", "grpc"])
    def test_the_transformer_forgets_them_at_once(
        self, slow_transformer: tuple[Service, Stage], photos: dict[str, bytes], route: str
    ) -> None:
        service, stage = slow_transformer
        address, image = service.address, photos["coffee.jpg"]
        asked = len(stage.stub.asked)
        before = address.scrape().total("saccade_rejected_requests_total", reason="client_left")
        with leaving(address, route, image):
            eventually("it waits for the predictor", lambda: len(stage.stub.asked) == asked + 1)
            assert address.scrape().total("saccade_inflight_requests") == 1
        eventually("nothing is in flight", lambda: address.scrape().total("saccade_inflight_requests") == 0)
        after = address.scrape().total("saccade_rejected_requests_total", reason="client_left")
        assert after == before + 1

    def test_their_places_are_free_for_others(
        self, slow_transformer: tuple[Service, Stage], photos: dict[str, bytes]
    ) -> None:
        service, stage = slow_transformer
        address, image = service.address, photos["coffee.jpg"]
        asked = len(stage.stub.asked)
        with leaving(address, "detect", image), leaving(address, "v2", image), leaving(address, "grpc", image):
            eventually("all places are taken", lambda: len(stage.stub.asked) == asked + 3)
            body, headers = v2_binary(image)
            for refused in (address.http("/detect", image), address.http(INFER, body, headers)):
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
                assert refused.error == "3 requests are in flight, which is the limit"
            assert address.rpc("ModelInfer", v2_grpc(image)).code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
            assert address.http(READY).status == 200
        eventually("nothing is in flight", lambda: address.scrape().total("saccade_inflight_requests") == 0)
        with leaving(address, "detect", image):
            eventually("there is a place again", lambda: len(stage.stub.asked) == asked + 4)

    def test_half_a_body_and_then_nothing(
        self, slow_transformer: tuple[Service, Stage], photos: dict[str, bytes]
    ) -> None:
        address, image = slow_transformer[0].address, photos["coffee.jpg"]
        before = address.scrape()

        def grew(name: str, **labels: str) -> float:
            return address.scrape().total(name, **labels) - before.total(name, **labels)

        head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode()
        with socket.create_connection((HOST, address.rest), SOON_S) as silent:
            silent.sendall(head + image[:1000])
            with socket.create_connection((HOST, address.rest), SOON_S) as gone:
                gone.sendall(head + image[:1000])
                eventually("both are received", lambda: grew("saccade_inflight_requests") == 2)
            eventually("one has left", lambda: grew("saccade_requests_total", code="499") == 1)
            answered = b""
            while b"per second" not in answered and (piece := silent.recv(4096)):
                answered += piece
        assert answered.startswith(b"HTTP/1.1 408 ")
        assert b"1000 of %d bytes of the request body came in" % len(image) in answered
        eventually("nothing is in flight", lambda: address.scrape().total("saccade_inflight_requests") == 0)


@pytest.fixture(scope="module")
def slow_transformer(
    choose_address: Choose, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Stage]]:
    """A transformer of few places, whose predictor answers only when all tests are over."""
    stub = StubPredictor()
    log = tmp_path_factory.mktemp("slow") / "log"
    settings = {"MAX_INFLIGHT_REQUESTS": "3"}
    with Service("transformer", choose_address(), log, [stub_flag(stub)], settings) as service:
        service.wait_ready()
        stage = Stage(stub)
        yield service, stage
        stage.go.set()
    stub.close()


@contextlib.contextmanager
def leaving(address: Address, route: str, image: bytes) -> Iterator[None]:
    """A client that leaves at the end of the block, without its answer."""
    if route == "grpc":
        with grpc.insecure_channel(f"{HOST}:{address.grpc}") as channel:
            call = channel.unary_unary(
                f"/{proto.SERVICE}/ModelInfer", request_serializer=proto.ModelInferRequest.SerializeToString
            ).future(v2_grpc(image))
            yield
            call.cancel()
        return
    body, headers = {
        "detect": (image, {}),
        "v2": v2_binary(image),
        "v1": (v1_json(image), {}),
    }[route]
    path = {"detect": "/detect", "v2": INFER, "v1": PREDICT}[route]
    connection = http.client.HTTPConnection(HOST, address.rest)
    connection.request("POST", path, body, headers)
    yield
    connection.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
class TestTls:
    def test_https(
        self,
        stub: StubPredictor,
        start: Callable[..., Service],
        choose_address: Choose,
        tmp_path: Path,
        photos: dict[str, bytes],
    ) -> None:
        certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=saccade"),
                *("-addext", f"subjectAltName=IP:{HOST}"),
            ],
            check=True,
            capture_output=True,
        )
        flags = (stub_flag(stub), f"--ssl_certfile={certificate}", f"--ssl_keyfile={key}")
        with Service("transformer", choose_address(), tmp_path / "log", flags) as service:
            trusting = ssl.create_default_context(cafile=str(certificate))

            def ready() -> bool:
                with contextlib.suppress(ConnectionError):
                    return service.address.http(READY, tls=trusting).status == 200
                return False

            eventually("it is ready by HTTPS", ready)
            answered = service.address.http("/detect", photos["coffee.jpg"], tls=trusting)
            assert answered.status == 200
            assert len(answered.json["detections"]) == 1
            with pytest.raises(ssl.SSLCertVerificationError):
                service.address.http(READY, tls=ssl.create_default_context())
            with pytest.raises((OSError, http.client.HTTPException)):
                service.address.http(READY)
            assert service.stop() == 0
            assert "Traceback" not in service.log.read_text()
