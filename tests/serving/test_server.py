"""The server of both services, as a process on real sockets: life cycle, outcomes, and books that balance."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes import SOON_S, eventually
from measuring.processes import free_port
from saccade_serving.client import GrpcClient, Refused, RestClient, V2Client
from saccade_serving.listener import bind
from saccade_serving.oip import grpc_codec, proto
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor
from saccade_serving.server import argument_parser
from saccade_serving.settings import ServiceSettings

HOST = "127.0.0.1"
SCRIPT = Path(__file__).resolve().parents[1] / "fake_service.py"
START_S = 60.0
JSON = {"content-type": "application/json"}
LIMIT = 3  # requests in flight, where a test fills them


class FakeService:
    """The process, and how to talk to it."""

    def __init__(
        self, log: Path, models: str = "m", ports: Mapping[str, int] = MappingProxyType({}), **settings: object
    ) -> None:
        self.rest, self.grpc, self.metrics = (free_port() for _ in range(3))
        self.grpc, self.metrics = ports.get("grpc", self.grpc), ports.get("metrics", self.metrics)
        self.url = f"http://{HOST}:{self.rest}"
        self.log = log
        variables = {"HOST": HOST, "METRICS_PORT": self.metrics, "DRAIN_QUIET_S": 0, **settings}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SACCADE_")}
        flags = [f"--model_name={models}", f"--http_port={self.rest}", f"--grpc_port={self.grpc}"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *flags],
                env={
                    **inherited,
                    "PYTHONSAFEPATH": "1",
                    **{f"SACCADE_FAKE_{k}": str(v) for k, v in variables.items()},
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> FakeService:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    async def listening(self) -> None:
        """Wait until it answers anything."""

        def answers() -> bool:
            assert self.process.poll() is None, self.text
            try:
                socket.create_connection((HOST, self.rest), 1).close()
            except OSError:
                return False
            return True

        await eventually(answers, "the service listens", START_S)

    async def started(self, model: str = "m") -> None:
        await self.listening()
        client = RestClient(self.url)
        try:
            deadline = time.monotonic() + START_S
            while not await client.is_ready(model, 2):
                assert self.process.poll() is None, self.text
                assert time.monotonic() < deadline, self.text
                await asyncio.sleep(0.01)
        finally:
            await client.close()

    async def ended(self, within_s: float = 20.0) -> int:
        await eventually(lambda: self.process.poll() is not None, "the process ends", within_s)
        return self.process.returncode

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def events(self) -> list[str]:
        """What the models noted, written when the last of them was closed."""
        return str(re.findall("^events: (.*)$", self.text, re.MULTILINE)[-1]).split()

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


class Asking:
    """Both clients of a service, and its metrics."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.rest = RestClient(service.url)
        self.grpc = GrpcClient(f"{HOST}:{service.grpc}")

    def by(self, protocol: str) -> V2Client:
        return self.rest if protocol == "rest" else self.grpc

    async def do(self, what: str, request_id: str = "", timeout_s: float = SOON_S, protocol: str = "rest") -> Any:
        return await self.by(protocol).infer(asked(what, request_id), timeout_s)

    async def events(self) -> list[str]:
        answer: InferResponse = await self.do("events")
        return [bytes(event).decode() for event in answer.output("events").elements]

    async def noted(self, event: str) -> None:
        """Wait until a model notes something."""
        deadline = time.monotonic() + SOON_S
        while event not in (seen := await self.events()):
            assert time.monotonic() < deadline, f"{event} is not among {seen}"

    async def value(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name with these labels, from ``/metrics``."""
        status, _, body = await self.rest.call("GET", "/metrics", SOON_S)
        assert status == 200
        return sum(
            sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def becomes(self, expected: float, name: str, **labels: str) -> None:
        """Wait until a metric has a value: an answer is on its way before it is counted."""
        deadline = time.monotonic() + SOON_S
        while (found := await self.value(name, **labels)) != expected:
            assert time.monotonic() < deadline, f"{name}{labels} is {found}, not {expected}"

    async def balanced(self) -> None:
        """Nothing is in flight any more."""
        await self.becomes(0, "saccade_inflight_requests")

    async def close(self) -> None:
        await self.rest.close()
        await self.grpc.close()


def asked(what: str, request_id: str = "", model: str = "m") -> InferRequest:
    inputs = [Tensor.of("x", np.arange(3, dtype=np.int32))]
    return InferRequest(model, inputs, id=request_id, parameters={"do": what}, binary_output=True)


@contextlib.asynccontextmanager
async def holding(
    asking: Asking, request_ids: Sequence[str], protocol: str = "rest"
) -> AsyncIterator[list[asyncio.Task[InferResponse]]]:
    """Requests that the model has begun and holds; what is left of them is cancelled at the end."""
    held = [asyncio.create_task(asking.do("hold", one, 30, protocol)) for one in request_ids]
    try:
        yield held
    finally:
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeService]:
    """One service for all tests that leave it as they found it."""
    log = tmp_path_factory.mktemp("fake-service") / "log"
    with FakeService(log, max_inflight_requests=LIMIT, DEFAULT_TIMEOUT_S=20, REQUEST_LOG="true") as running:
        yield running
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0, running.text


@pytest.fixture
async def asking(service: FakeService) -> AsyncIterator[Asking]:
    await service.started()
    asking = Asking(service)
    try:
        yield asking
        await asking.balanced()
    finally:
        await asking.close()


@pytest.fixture(scope="module")
def crew(service: FakeService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FakeService]]:
    """The services that tests of the life cycle end, one for each test; started together, which saves time."""
    folder = tmp_path_factory.mktemp("crew")
    with contextlib.ExitStack() as stack:
        parts: dict[str, dict[str, Any]] = {
            "prepares": {"models": "m,slow,broken"},
            "broken": {"models": "broken,broken2"},
            "drains": {"DRAIN_QUIET_S": 0.3},
            "is hurried": {},
            "is quiet": {"DRAIN_QUIET_S": 0.3},
        }
        yield {name: stack.enter_context(FakeService(folder / f"{name}.log", **part)) for name, part in parts.items()}


PROTOCOLS = ("rest", "grpc")


# Outcomes.


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_inference_is_answered_and_counted(asking: Asking, protocol: str) -> None:
    code = {"rest": "200", "grpc": "OK"}[protocol]
    before = await asking.value("saccade_requests_total", model="m", protocol=protocol, code=code)
    answer = await asking.by(protocol).infer(asked("echo", "r7"), 5)
    assert answer.output("x").array.tolist() == [0, 1, 2]
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "r7")
    await asking.becomes(before + 1, "saccade_requests_total", model="m", protocol=protocol, code=code)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_model_that_raises_is_an_error_without_details(asking: Asking, protocol: str) -> None:
    before = await asking.value("saccade_rejected_requests_total", model="m", reason="engine_failed")
    with pytest.raises(Refused) as caught:
        await asking.do("raise", protocol=protocol)
    assert caught.value.status == 500
    assert "secret" not in str(caught.value)
    assert "RuntimeError" not in str(caught.value)
    await asking.becomes(before + 1, "saccade_rejected_requests_total", model="m", reason="engine_failed")
    assert "cannot open /secret/path" in asking.service.text, "the log has what the client does not"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_models_refusal_keeps_its_status_and_its_retry_time(asking: Asking, protocol: str) -> None:
    with pytest.raises(Refused) as caught:
        await asking.do("overloaded", protocol=protocol)
    assert (caught.value.status, str(caught.value), caught.value.retry_after_s) == (503, "too much", 7.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_unknown_model_and_an_unknown_version_are_not_found(asking: Asking, protocol: str) -> None:
    for name, version in (("nobody", ""), ("m", "9")):
        with pytest.raises(Refused) as caught:
            await asking.by(protocol).infer(InferRequest(name, asked("echo").inputs, version), 5)
        assert caught.value.status == 404


async def test_a_client_that_leaves_cancels_its_rest_request(asking: Asking) -> None:
    before = await asking.value("saccade_rejected_requests_total", model="m", reason="client_left")
    body = json.dumps(
        {
            "id": "rest-leaver",
            "parameters": {"do": "hold"},
            "inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}],
        }
    ).encode()
    _, writer = await asyncio.open_connection(HOST, asking.service.rest)
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await asking.noted("rest-leaver:started")
    writer.close()
    await asking.noted("rest-leaver:cancelled")
    await asking.becomes(before + 1, "saccade_rejected_requests_total", model="m", reason="client_left")
    assert await asking.value("saccade_requests_total", model="m", protocol="rest", code="499") >= 1


async def test_a_client_that_leaves_cancels_its_grpc_request(asking: Asking) -> None:
    before = await asking.value("saccade_rejected_requests_total", model="m", reason="client_left")
    call = asyncio.create_task(asking.do("hold", "grpc-leaver", protocol="grpc"))
    await asking.noted("grpc-leaver:started")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asking.noted("grpc-leaver:cancelled")
    await asking.becomes(before + 1, "saccade_rejected_requests_total", model="m", reason="client_left")
    assert await asking.value("saccade_requests_total", model="m", protocol="grpc", code="499") >= 1


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted_as_left(asking: Asking) -> None:
    before = await asking.value("saccade_rejected_requests_total", model="m", reason="client_left")
    _, writer = await asyncio.open_connection(HOST, asking.service.rest)
    writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
    await asking.becomes(1, "saccade_inflight_requests")
    writer.close()
    await asking.becomes(before + 1, "saccade_rejected_requests_total", model="m", reason="client_left")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_deadline_of_a_request_is_respected(asking: Asking, protocol: str) -> None:
    with pytest.raises(Refused) as caught:
        await asking.by(protocol).infer(asked("late"), SOON_S, {"x-deadline-ms": "50"})
    assert caught.value.status == 504
    assert "the request's 50 ms were over while the fake was late" in str(caught.value)


async def test_a_grpc_deadline_cancels_the_model_or_is_seen_by_it(asking: Asking) -> None:
    with pytest.raises(TimeoutError):
        await asking.do("hold", "grpc-deadline", timeout_s=0.2, protocol="grpc")
    await asking.noted("grpc-deadline:cancelled")


async def test_a_models_time_is_the_shortest_of_what_client_and_server_say(asking: Asking) -> None:
    for client, timeout_s, headers, most_s in (
        (asking.rest, SOON_S, {}, 20),  # the server's own
        (asking.rest, SOON_S, {"x-deadline-ms": "3000"}, 3),
        (asking.grpc, 60, {}, 20),
        (asking.grpc, 7, {}, 7),  # the call's own
        (asking.grpc, 7, {"x-deadline-ms": "3000"}, 3),
    ):
        answer = await client.infer(asked("remaining"), timeout_s, headers)
        assert most_s / 2 < float(answer.output("remaining").array[0]) < most_s + 0.1


async def test_a_bad_deadline_header_is_the_clients_error_by_both_protocols(asking: Asking) -> None:
    for protocol in PROTOCOLS:
        with pytest.raises(Refused, match="x-deadline-ms") as caught:
            await asking.by(protocol).infer(asked("echo"), 5, {"x-deadline-ms": "soon"})
        assert caught.value.status == 400


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_one_request_more_than_the_limit_is_refused_until_one_ends(asking: Asking, protocol: str) -> None:
    async with holding(asking, [f"{protocol}-{n}" for n in range(LIMIT)], protocol) as held:
        await asking.becomes(LIMIT, "saccade_inflight_requests")
        for refused_by in PROTOCOLS:
            with pytest.raises(Refused, match=f"{LIMIT} requests are in flight") as caught:
                await asking.do("echo", protocol=refused_by)
            assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)
        held.pop().cancel()
        await asking.becomes(LIMIT - 1, "saccade_inflight_requests")
        await asking.do("release")
        answers = await asyncio.gather(*held)
    assert [answer.output("x").array.tolist() for answer in answers] == [[0, 1, 2]] * (LIMIT - 1)


async def test_a_full_server_still_answers_probes(asking: Asking) -> None:
    async with holding(asking, [f"full-{n}" for n in range(LIMIT)], "grpc"):
        await asking.becomes(LIMIT, "saccade_inflight_requests")
        assert await asking.rest.is_ready("m", 5)
        assert await asking.grpc.is_ready("m", 5)


async def test_a_refused_body_is_counted_but_not_kept(asking: Asking) -> None:
    status, _, body = await asking.rest.call(
        "POST", "/v2/models/nobody/infer", SOON_S, b"x" * 300_000, {"content-type": "application/json"}
    )
    assert status == 404
    assert "nobody" in json.loads(body)["error"]


async def test_every_answer_carries_the_request_id_the_client_sent_or_a_new_one(asking: Asking) -> None:
    for path in ("/v2/models/m/infer", "/v2/models/nobody/infer"):
        _, headers, _ = await asking.rest.call("POST", path, SOON_S, b"{}", {"x-request-id": "mine"})
        assert headers["x-request-id"] == "mine"
        _, headers, _ = await asking.rest.call("POST", path, SOON_S, b"{}")
        assert re.fullmatch("[0-9a-f]{13,16}", headers["x-request-id"])


async def test_a_request_is_logged_with_its_outcome_and_without_its_payload(asking: Asking) -> None:
    await asking.rest.infer(asked("echo", "id-in-body"), 5, {"x-request-id": "logged-1"})
    await eventually(lambda: "logged-1" in asking.service.text, "the request is logged")
    [event] = [e for e in asking.service.logged("request") if e["request_id"] == "logged-1"]
    assert (event["code"], event["protocol"], event["model"], event["version"]) == ("200", "rest", "m", "2")
    assert event["received_bytes"] > 0
    assert event["compute_ms"] == 1.0
    assert event["total_ms"] >= 0


async def test_stages_reach_kserves_own_histograms_too(asking: Asking) -> None:
    before = await asking.value("request_predict_seconds_count", model_name="m")
    await asking.do("echo")
    await asking.becomes(before + 1, "request_predict_seconds_count", model_name="m")


async def test_metrics_are_on_their_own_port_too(asking: Asking) -> None:
    other = RestClient(f"http://{HOST}:{asking.service.metrics}")
    try:
        status, headers, body = await other.call("GET", "/metrics", SOON_S)
    finally:
        await other.close()
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"saccade_requests_total" in body
    assert b"saccade_loop_lag_seconds" in body


async def test_the_metrics_port_serves_openmetrics_to_who_accepts_it_and_nothing_else(asking: Asking) -> None:
    other = RestClient(f"http://{HOST}:{asking.service.metrics}")
    try:
        accept = {"accept": "application/openmetrics-text;version=1.0.0"}
        status, headers, body = await other.call("GET", "/metrics", SOON_S, None, accept)
        assert (status, headers["content-type"].partition(";")[0]) == (200, "application/openmetrics-text")
        assert body.endswith(b"# EOF\n")
        assert b"saccade_requests_total" in body
        status, _, body = await other.call("GET", "/v2/models/m/ready", SOON_S)
    finally:
        await other.close()
    assert status == 404
    assert json.loads(body) == {"error": "GET /v2/models/m/ready is not served here; expected GET /metrics"}


async def test_silent_connections_to_the_metrics_port_take_no_thread(asking: Asking) -> None:
    process = Path(f"/proc/{asking.service.process.pid}")

    def threads() -> int:
        return int(re.findall(r"^Threads:\s+(\d+)$", (process / "status").read_text(), re.MULTILINE)[0])

    def descriptors() -> int:
        return len(list((process / "fd").iterdir()))

    other = RestClient(f"http://{HOST}:{asking.service.metrics}")
    try:
        descriptors_before = descriptors()  # before the call: its connection is closed in a moment
        assert (await other.call("GET", "/metrics", SOON_S))[0] == 200
        threads_before = threads()
        silent = [await asyncio.open_connection(HOST, asking.service.metrics) for _ in range(100)]
        await eventually(lambda: descriptors() >= descriptors_before + 100, "all are accepted")
        assert (await other.call("GET", "/metrics", SOON_S))[0] == 200
        assert threads() == threads_before
        for _, writer in silent:
            writer.close()
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/m/versions/9/ready", 404),
        ("DELETE", "/v2/models/m/infer", 405),
        ("POST", "/v2/repository/models/m/unload", 501),
        ("POST", "/v2/repository/models/m/load", 501),
        ("POST", "/v1/models/m:predict", 501),
        ("POST", "/v1/models/m:explain", 501),
    ],
)
async def test_whatever_goes_wrong_is_answered_in_the_v2_form(
    asking: Asking, method: str, path: str, status: int
) -> None:
    got, headers, body = await asking.rest.call(method, path, SOON_S, b"{}" if method == "POST" else None)
    assert got == status, body
    assert headers["content-type"] == "application/json"
    assert list(json.loads(body)) == ["error"]
    await asking.do("echo")  # nothing was unloaded


async def test_metadata_and_server_routes_answer(asking: Asking) -> None:
    metadata = await asking.rest.metadata("m", 5)
    assert (metadata.name, metadata.versions, metadata.platform) == ("m", ["1", "2"], "fake")
    assert await asking.grpc.metadata("m", 5) == metadata
    for path, expected in (
        ("/v2", "saccade"),
        ("/v2/health/live", "live"),
        ("/v2/health/ready", "ready"),
        ("/v2/models", "m"),
        ("/v1/models", "m"),
        ("/v1/models/m", "m"),
        ("/v2/models/m/versions/1", '"versions":["1"]'),
    ):
        status, _, body = await asking.rest.call("GET", path, SOON_S)
        assert status == 200, path
        assert expected in body.decode(), path


async def test_grpc_has_the_whole_service_and_names_what_it_does_not_offer(asking: Asking) -> None:
    async with grpc.aio.insecure_channel(f"{HOST}:{asking.service.grpc}") as channel:

        async def call(method: str, **fields: Any) -> Any:
            request, response = proto.METHODS[method]
            stub = channel.unary_unary(f"/{proto.SERVICE}/{method}", request.SerializeToString, response.FromString)
            return await stub(request(**fields), timeout=5)

        assert (await call("ServerLive")).live
        assert (await call("ServerReady")).ready
        assert (await call("ServerMetadata")).name == "saccade"
        assert (await call("ModelReady", name="m", version="1")).ready
        assert not (await call("ModelReady", name="m", version="9")).ready
        for method, fields, code in (
            ("ModelReady", {"name": "nobody"}, grpc.StatusCode.NOT_FOUND),
            ("ModelMetadata", {"name": "nobody"}, grpc.StatusCode.NOT_FOUND),
            ("ModelMetadata", {"name": "m", "version": "9"}, grpc.StatusCode.NOT_FOUND),
            ("RepositoryModelUnload", {"model_name": "m"}, grpc.StatusCode.UNIMPLEMENTED),
            ("RepositoryModelLoad", {"model_name": "m"}, grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(method, **fields)
            assert caught.value.code() == code
            assert dict(caught.value.trailing_metadata())["saccade-reason"]


async def test_a_grpc_message_that_contradicts_itself_is_the_clients_error(asking: Asking) -> None:
    message = grpc_codec.encode_request(asked("echo"))
    message.raw_input_contents[0] = b"\x00"
    async with grpc.aio.insecure_channel(f"{HOST}:{asking.service.grpc}") as channel:
        call = channel.unary_unary(
            f"/{proto.SERVICE}/ModelInfer",
            proto.ModelInferRequest.SerializeToString,
            proto.ModelInferResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(message, timeout=5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "has 1 bytes" in caught.value.details()


# Life cycle: processes of their own, started together where a test needs several.


async def test_a_model_is_ready_only_once_it_is_prepared_and_a_broken_one_never(
    crew: dict[str, FakeService],
) -> None:
    service = crew["prepares"]
    await service.started()
    asking = Asking(service)
    try:
        assert not await asking.rest.is_ready("slow", 5)
        assert not await asking.grpc.is_ready("slow", 5)
        status, _, body = await asking.rest.call("GET", "/v2/models/slow/ready", 5)
        assert (status, json.loads(body)["error"]) == (503, "model 'slow' is not ready: it is still loading")
        for protocol in PROTOCOLS:
            with pytest.raises(Refused) as caught:
                await asking.by(protocol).infer(asked("echo", model="slow"), 5)
            assert caught.value.status == 503
            assert caught.value.retry_after_s == 1.0
        assert (await asking.rest.call("GET", "/v2/health/live", 5))[0] == 200
        assert (await asking.rest.call("GET", "/v2/health/ready", 5))[0] == 503

        await asking.do("release")
        await service.started("slow")
        await asking.rest.infer(asked("echo", model="slow"), 5)

        await eventually(lambda: service.logged("model_failed"), "the broken model is reported")
        [failed] = service.logged("model_failed")
        assert (failed["model"], failed["why"]) == ("broken", "the model file is made of cheese")
        assert "exc_info" not in failed, "a sentence for the operator, no traceback"
        status, _, body = await asking.rest.call("GET", "/v2/models/broken/ready", 5)
        assert status == 503
        assert "could not be loaded" in json.loads(body)["error"]
    finally:
        await asking.close()


async def test_a_service_without_a_single_model_that_loads_ends_with_1(crew: dict[str, FakeService]) -> None:
    service = crew["broken"]
    assert await service.ended(START_S) == 1
    assert len(service.logged("model_failed")) == 2
    assert service.events == ["closed", "closed"]
    assert "Traceback" not in service.text


def test_a_port_in_use_is_an_error_that_names_it_and_says_what_to_do() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on {HOST}:{port}: .*; choose another --http_port"):
            bind(HOST, port, "--http_port")


@pytest.mark.parametrize(("port", "setting"), [("metrics", "SACCADE_FAKE_METRICS_PORT"), ("grpc", "--grpc_port")])
async def test_a_service_whose_port_is_in_use_ends_with_1_and_says_what_to_do(
    tmp_path: Path, port: str, setting: str
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        number = taken.getsockname()[1]
        with FakeService(tmp_path / "log", ports={port: number}) as service:
            assert await service.ended(START_S) == 1
            [why] = [line["why"] for line in service.logged("cannot_listen")]
    assert re.fullmatch(f"cannot listen on {HOST}:{number}: Address already in use.*; choose another {setting}", why)
    assert "Traceback" not in service.text


async def test_a_drain_answers_what_was_accepted_and_then_ends_with_0(crew: dict[str, FakeService]) -> None:
    service = crew["drains"]
    await service.started()
    asking = Asking(service)
    probe = RestClient(service.url)
    body = json.dumps(
        {
            "id": "held-rest",
            "parameters": {"do": "hold"},
            "inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}],
        }
    ).encode()
    try:
        held_rest = asyncio.create_task(asking.rest.call("POST", "/v2/models/m/infer", SOON_S, body, JSON))
        held_grpc = asyncio.create_task(asking.do("hold", "held-grpc", protocol="grpc"))
        for protocol in PROTOCOLS:
            await asking.noted(f"held-{protocol}:started")
        _, headers, _ = await probe.call("GET", "/v2/models/m/ready", 5)
        assert "connection" not in headers, "kept alive until the signal"
        service.process.send_signal(signal.SIGTERM)

        deadline = time.monotonic() + SOON_S
        while await probe.is_ready("m", 5):
            assert time.monotonic() < deadline
        status, headers, answer = await probe.call("GET", "/v2/models/m/ready", 5)
        assert (status, json.loads(answer)["error"]) == (503, "the server is shutting down")
        assert headers["connection"] == "close"
        assert not await asking.grpc.is_ready("m", 5)
        # New requests are still answered: whoever routes has not heard of the shutdown yet.
        for protocol in PROTOCOLS:
            echoed = await asking.by(protocol).infer(asked("echo"), 5)
            assert echoed.output("x").array.tolist() == [0, 1, 2]

        await asking.do("release")
        status, headers, answer = await held_rest
        assert (status, json.loads(answer)["id"]) == (200, "held-rest")
        assert headers["connection"] == "close", "also for a request that came before the signal"
        assert (await held_grpc).id == "held-grpc"
        assert await service.ended() == 0
    finally:
        await asking.close()
        await probe.close()
    assert service.events[-1] == "closed", "the model is closed last"
    assert {"held-rest:ended", "held-grpc:ended"} <= set(service.events)
    assert "Traceback" not in service.text


async def test_calls_on_open_channels_are_answered_or_refused_while_the_ports_close(
    crew: dict[str, FakeService],
) -> None:
    service = crew["is quiet"]
    await service.started()
    message = grpc_codec.encode_request(asked("echo")).SerializeToString()
    codes: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        calls = [
            (await stack.enter_async_context(grpc.aio.insecure_channel(f"{HOST}:{service.grpc}", own))).unary_unary(
                f"/{proto.SERVICE}/ModelInfer"
            )
            for _ in range(12)
        ]
        for call in calls:
            await call(message, timeout=SOON_S)
        reader, writer = await asyncio.open_connection(HOST, service.rest)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        service.process.send_signal(signal.SIGTERM)
        await reader.read()  # until the REST port closes its idle connections

        async def ask(call: Any) -> None:
            code = ""
            while code != "UNAVAILABLE":
                try:
                    await call(message, timeout=SOON_S)
                    code = "OK"
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                codes[code] += 1

        await asyncio.gather(*(ask(call) for call in calls))
        writer.close()
    assert codes.keys() <= {"OK", "UNAVAILABLE"}
    assert await service.ended() == 0


async def test_a_second_signal_ends_the_process_at_once(crew: dict[str, FakeService]) -> None:
    service = crew["is hurried"]
    await service.started()
    asking = Asking(service)
    try:
        held = asyncio.create_task(asking.do("hold", "held", 30))
        await asking.noted("held:started")
        service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: service.logged("draining"), "the drain begins")
        assert service.process.poll() is None, "it waits for the held request"
        service.process.send_signal(signal.SIGINT)
        assert await service.ended(5) == 128 + signal.SIGINT
        with pytest.raises(Exception, match="cannot be reached"):
            await held
    finally:
        await asking.close()


def test_flags_without_effect_say_so_and_the_others_their_default() -> None:
    told = {"predictor_host": "ignored: there is none"}
    parser = argument_parser("fake", ServiceSettings, told, model_name="detector")
    shown = {action.dest: action.help or "" for action in parser._actions}
    for flag in (
        *("workers", "max_threads", "max_asyncio_workers", "enable_latency_logging", "configure_logging"),
        *("log_config_file", "access_log_format", "protocol", "predictor_request_retries", "predictor_host"),
    ):
        assert shown[flag].startswith("ignored: "), flag
    text = " ".join(parser.format_help().split())
    for default in ("(default: 8080)", "(default: 8081)", "(default: 120)", "(default: detector)"):
        assert default in text
    assert "ignored: there is none" not in argument_parser("fake", ServiceSettings).format_help(), "flags are shared"


def test_the_settings_of_a_service_are_in_its_help() -> None:
    shown = argument_parser("fake", ServiceSettings).format_help()
    assert "DRAIN_QUIET_S (default 2.0)" in shown
    assert "--http_port" in shown
    assert "--version" in shown
