"""Operations as ASGI routes: bodies in pieces, limits found at the earliest byte, compression, clients that leave."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import random
import threading
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Router

from fakes import eventually, settle
from saccade_serving.connection import rest
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.infer import Infer
from saccade_serving.connection.operation import Operation, Reply, json_reply
from saccade_serving.connection.rest import OperationRoutes
from saccade_serving.errors import InvalidRequest, Overloaded, SaccadeError
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.model import ServedModel
from saccade_serving.oip import binary_codec
from saccade_serving.oip.binary_codec import decode_request
from saccade_serving.oip.compression import fill
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor
from saccade_serving.settings import ServiceSettings

LIMIT = 200_000
GONE = {"type": "http.disconnect"}


class Held:
    """An answer in lent memory, and how often that came back."""

    def __init__(self, reply: Reply | SaccadeError) -> None:
        self.reply = reply
        self.released = 0

    def release(self) -> None:
        self.released += 1


class Probe(Operation):
    """Does with each request what the test says."""

    protocol: ClassVar[str] = "probe"
    paths: ClassVar[tuple[str, ...]] = ("/probe", "/probe/{name}")

    def __init__(self) -> None:
        self.on_admit: Callable[[Exchange], None] = lambda exchange: None
        self.on_start: Callable[[Exchange, memoryview], None] = lambda exchange, body: exchange.answer(
            json_reply({"bytes": body.nbytes, "sum": zlib.crc32(body)})
        )
        self.exchanges: list[Exchange] = []
        self.bodies = 0

    def admit(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.on_admit(exchange)

    def start(self, exchange: Exchange, body: memoryview) -> None:
        self.bodies += 1
        self.on_start(exchange, body)

    def encode(self, exchange: Exchange, answer: Any) -> Reply:
        if isinstance(answer, Held):
            if isinstance(answer.reply, SaccadeError):
                raise answer.reply
            return answer.reply
        return super().encode(exchange, answer)


class Doubling(ServedModel):
    """``y`` is twice ``x``."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    async def prepare(self) -> None: ...

    async def close(self) -> None: ...

    def versions(self) -> list[str]:
        return ["1"]

    def metadata(self, version: str = "") -> ModelMetadata:
        return ModelMetadata("m", ["1"], "fake", [], [])

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        await asyncio.sleep(0)
        return InferResponse("m", [Tensor.of("y", 2 * request.input("x").array)], "1", request.id)


class FakeReceive:
    """An ASGI ``receive`` that hands out prepared messages and then waits for ever, as a silent client does."""

    def __init__(self, messages: Iterable[Mapping[str, Any]]) -> None:
        self.messages = list(messages)
        self.calls = 0

    async def __call__(self) -> Any:
        self.calls += 1
        if not self.messages:
            await asyncio.get_running_loop().create_future()
        return self.messages.pop(0)


def pieces(*chunks: bytes, end: bool = True) -> list[dict[str, Any]]:
    """Request messages; ``end`` says that the last one is the last."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end:
        messages[-1]["more_body"] = False
    return messages


@dataclass
class Answer:
    """What was sent; status 0 for nothing."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert set(self.json) == {"error"}
        return str(self.json["error"])


class Service:
    """A gate, the routes and what is sent to them."""

    def __init__(self, arena_bytes: int = 2**22, **settings: Any) -> None:
        self.arena = Arena(arena_bytes, poison=True)
        self.metrics = Metrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        chosen = ServiceSettings(**{"max_request_bytes": LIMIT, "max_json_bytes": LIMIT, **settings})
        self.gate = Gate({"m": Doubling()}, chosen, self.metrics, self.arena)
        self.probe = Probe()
        self.app = Router(OperationRoutes(self.gate, [self.probe, Infer(self.gate)]).routes())

    async def post(
        self,
        messages: Iterable[Mapping[str, Any]] | FakeReceive,
        headers: Mapping[str, object] | None = None,
        path: str = "/probe",
    ) -> Answer:
        receive = messages if isinstance(messages, FakeReceive) else FakeReceive(messages)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), str(value).encode("utf-8")) for name, value in (headers or {}).items()],
        }
        await asyncio.wait_for(self.app(scope, receive, send), 30)
        if not sent:
            return Answer(0, {}, b"")
        begin, *rest = sent
        answered = {name.decode(): value.decode() for name, value in begin["headers"]}
        body = b"".join(message.get("body", b"") for message in rest)
        assert int(answered["content-length"]) == len(body)
        return Answer(begin["status"], answered, body)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A service whose books balance in the end, whatever the test did, and which raised nothing unseen."""
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
    made = Service()
    yield made
    await settle()
    assert made.arena.leases == 0
    assert made.gate.open == set()
    assert all(exchange.over for exchange in made.probe.exchanges)
    gc.collect()
    assert unseen == []


# Bodies.


@pytest.mark.parametrize("declared", [9, None])
@pytest.mark.parametrize(
    "messages",
    [pieces(b"abcdefghi"), pieces(b"abc", b"", b"defg", b"hi"), pieces(b"abcdefghi", b"")],
    ids=["one piece", "pieces", "an empty last piece"],
)
async def test_a_body_is_received_whole(
    service: Service, messages: list[dict[str, Any]], declared: int | None
) -> None:
    answer = await service.post(messages, {} if declared is None else {"content-length": declared})
    assert (answer.status, answer.json) == (200, {"bytes": 9, "sum": zlib.crc32(b"abcdefghi")})
    assert service.value("saccade_requests_total", model="", protocol="probe", code="200") == 1
    assert service.value("saccade_network_bytes_total", direction="received") == 9
    assert service.value("saccade_network_bytes_total", direction="sent") == len(answer.body)


async def test_a_request_without_a_body_reads_as_empty(service: Service) -> None:
    assert (await service.post([{"type": "http.request"}])).json["bytes"] == 0


@pytest.mark.parametrize("declared", [LIMIT, None])
async def test_a_body_of_exactly_the_limit_passes_and_grows_without_losing_a_byte(
    service: Service, declared: int | None
) -> None:
    body = bytes(np.random.default_rng(1).integers(0, 256, LIMIT, np.uint8))
    chunks = [body[at : at + 7_001] for at in range(0, LIMIT, 7_001)]
    answer = await service.post(pieces(*chunks), {} if declared is None else {"content-length": declared})
    assert answer.json == {"bytes": LIMIT, "sum": zlib.crc32(body)}


async def test_a_declared_size_over_the_limit_is_refused_before_a_byte_is_read(service: Service) -> None:
    receive = FakeReceive(pieces(b"x"))
    answer = await service.post(receive, {"content-length": LIMIT + 1})
    assert answer.status == 413
    assert f"{LIMIT + 1} bytes; the limit is {LIMIT}" in answer.error
    assert receive.calls == 0
    assert service.value("saccade_rejected_requests_total", model="", reason="payload_too_large") == 1


async def test_a_chunked_body_is_refused_at_the_piece_that_goes_over_the_limit(service: Service) -> None:
    receive = FakeReceive(pieces(b"x" * 150_000, b"x" * 50_001, b"x" * 50_000))
    answer = await service.post(receive)
    assert (answer.status, receive.calls) == (413, 2)
    assert f"the limit is {LIMIT} bytes" in answer.error


async def test_a_small_declared_size_does_not_open_the_limit(service: Service) -> None:
    assert (await service.post(pieces(b"x" * 150_000, b"x" * 150_000), {"content-length": 10})).status == 413


@pytest.mark.parametrize("declared", ["-1", "1e3", "abc", "+5", "1,2", "\u0661", ""])
async def test_a_declared_size_that_is_no_number_is_refused(service: Service, declared: str) -> None:
    receive = FakeReceive(pieces(b"x"))
    answer = await service.post(receive, {"content-length": declared})
    assert answer.status == 400
    assert "content-length" in answer.error
    assert receive.calls == 0


async def test_a_declared_size_of_many_digits_is_too_large_and_no_arithmetic(service: Service) -> None:
    assert (await service.post(pieces(b"x"), {"content-length": "9" * 5000})).status == 413


async def test_what_is_refused_at_its_head_is_not_received(service: Service) -> None:
    def refuse(exchange: Exchange) -> None:
        raise Overloaded("too much", 7.0)

    service.probe.on_admit = refuse
    receive = FakeReceive(pieces(b"x"))
    answer = await service.post(receive)
    assert (answer.status, answer.error, answer.headers["retry-after"]) == (503, "too much", "7")
    assert receive.calls == 0
    assert service.probe.bodies == 0


async def test_placeholders_and_the_query_reach_the_operation_and_the_request_id_comes_back(
    service: Service,
) -> None:
    answer = await service.post(pieces(b""), {"x-request-id": "mine"}, "/probe/of%20mine?a=b&c=%20")
    [exchange] = service.probe.exchanges
    assert exchange.query == "a=b&c=%20"
    assert "name" in exchange.params
    assert answer.headers["x-request-id"] == "mine"


# Who leaves, and who is late.


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_not_answered(service: Service) -> None:
    answer = await service.post([*pieces(b"abc", end=False), GONE], {"content-length": 10})
    assert answer.status == 0
    assert service.probe.bodies == 0
    assert service.value("saccade_requests_total", model="", protocol="probe", code="499") == 1
    assert service.value("saccade_rejected_requests_total", model="", reason="client_left") == 1


async def test_a_client_that_leaves_while_the_model_works_stops_the_work(service: Service) -> None:
    stopped: list[bool] = []

    def stop() -> str:
        stopped.append(True)
        return "somewhere"

    service.probe.on_start = lambda exchange, body: exchange.work(stop)
    answer = await service.post([*pieces(b"abc"), GONE])
    assert answer.status == 0
    assert stopped == [True]
    assert service.value("saccade_requests_total", model="", protocol="probe", code="499") == 1


async def test_a_client_that_stays_is_waited_for(service: Service) -> None:
    service.probe.on_start = lambda exchange, body: None
    asking = asyncio.create_task(service.post(pieces(b"abc")))
    await settle()
    assert not asking.done()
    service.probe.exchanges[0].answer(json_reply("late"))
    assert (await asking).json == "late"


async def test_a_server_that_cancels_a_request_leaves_nothing_behind(service: Service) -> None:
    service.probe.on_start = lambda exchange, body: None
    asking = asyncio.create_task(service.post(pieces(b"abc")))
    await settle()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_body_that_does_not_arrive_in_time_is_given_up(service: Service) -> None:
    answer = await service.post(pieces(b"abc", end=False), {"content-length": 10, "x-deadline-ms": "200"})
    assert answer.status == 504
    assert answer.error == "the request's 200 ms were over before its body was received"


async def test_a_deadline_that_passes_while_the_model_works_stops_the_work_and_says_where(service: Service) -> None:
    service.probe.on_start = lambda exchange, body: exchange.work(lambda: "while it slept")
    answer = await service.post(pieces(b"abc"), {"x-deadline-ms": "10"})
    assert (answer.status, answer.error) == (504, "the request's 10 ms were over while it slept")


async def test_a_deadline_that_cannot_be_read_is_the_clients_error(service: Service) -> None:
    answer = await service.post(pieces(b"abc"), {"x-deadline-ms": "soon"})
    assert answer.status == 400
    assert service.gate.open == set()


# Memory.


async def test_a_body_that_is_announced_but_never_comes_holds_one_small_slot(service: Service) -> None:
    asking = asyncio.create_task(service.post([], {"content-length": LIMIT, "x-deadline-ms": "50"}))
    await settle()
    assert service.arena.bytes_by_state()["receiving"] == 64 * 2**10
    assert (await asking).status == 504


async def test_bodies_over_the_memory_of_all_are_refused_as_overload_and_give_back_what_they_had() -> None:
    service = Service(arena_bytes=300_000)
    service.probe.on_start = lambda exchange, body: None
    first = asyncio.create_task(service.post(pieces(b"x" * 150_000)))
    await settle()
    held = service.arena.bytes_by_state()["receiving"]
    answer = await service.post(pieces(b"x" * 50_000, b"x" * 150_000))
    assert answer.status == 503
    assert "retry-after" in answer.headers
    assert service.arena.bytes_by_state()["receiving"] == held
    assert service.value("saccade_rejected_requests_total", model="", reason="arena_full") == 1
    service.probe.exchanges[0].answer(json_reply(1))
    await first
    assert service.arena.leases == 0


async def test_what_is_refused_keeps_neither_its_body_nor_its_frames(service: Service) -> None:
    kept: list[weakref.ref[memoryview]] = []

    def refuse(exchange: Exchange, body: memoryview) -> None:
        part = body[:5]
        kept.extend([weakref.ref(body), weakref.ref(part)])
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise InvalidRequest("not like this") from error

    service.probe.on_start = refuse
    gc.collect()
    gc.disable()
    try:
        assert (await service.post(pieces(b"abcdefghi"))).status == 400
        assert [view() for view in kept] == [None, None]
    finally:
        gc.enable()


# Lent answers come back exactly once.


async def test_a_lent_answer_is_given_back_once_it_is_copied(service: Service) -> None:
    held = Held(json_reply("mine"))
    service.probe.on_start = lambda exchange, body: exchange.answer(held)
    assert (await service.post(pieces(b"abc"))).json == "mine"
    assert held.released == 1


async def test_a_lent_answer_that_cannot_be_encoded_is_given_back(service: Service) -> None:
    held = Held(InvalidRequest("no such output"))
    service.probe.on_start = lambda exchange, body: exchange.answer(held)
    answer = await service.post(pieces(b"abc"))
    assert (answer.status, answer.error) == (400, "no such output")
    assert held.released == 1


async def test_a_lent_answer_after_the_client_has_left_is_given_back(service: Service) -> None:
    held = Held(json_reply("mine"))
    service.probe.on_start = lambda exchange, body: None
    await service.post([*pieces(b"abc"), GONE])
    service.probe.exchanges[0].answer(held)
    assert held.released == 1


@pytest.mark.parametrize("first", ["answer", "cancel"])
async def test_a_lent_answer_to_a_request_that_is_cancelled_in_the_same_turn_is_given_back(
    service: Service, first: str
) -> None:
    held = Held(json_reply("mine"))
    service.probe.on_start = lambda exchange, body: None
    asking = asyncio.create_task(service.post(pieces(b"abc")))
    await settle()
    running = [task for task in asyncio.all_tasks() if "Router" in repr(task) or "__call__" in repr(task)]
    assert running
    steps: list[Callable[[], object]] = [
        lambda: service.probe.exchanges[0].answer(held),
        lambda: [task.cancel() for task in running],
    ]
    for step in steps if first == "answer" else reversed(steps):
        step()
    await asyncio.gather(asking, return_exceptions=True)
    assert held.released == 1


async def test_a_lent_answer_and_a_client_that_leaves_in_the_same_turn_end_in_one_release(service: Service) -> None:
    held = Held(json_reply("mine"))
    leave = asyncio.Event()

    class Leaving(FakeReceive):
        async def __call__(self) -> Any:
            if not self.messages:
                await leave.wait()
                return GONE
            return await super().__call__()

    service.probe.on_start = lambda exchange, body: None
    asking = asyncio.create_task(service.post(Leaving(pieces(b"abc"))))
    await settle()
    leave.set()
    service.probe.exchanges[0].answer(held)
    await asking
    assert held.released == 1


# Compression.


BODY = b"saccade " * 1000


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),  # without the time, since the bytes are in the test's name
        ("GZIP", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("gzip", gzip.compress(BODY[:5], mtime=0) + gzip.compress(BODY[5:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("identity", BODY),
    ],
)
async def test_a_compressed_body_reaches_the_operation_decompressed(
    service: Service, coding: str, packed: bytes
) -> None:
    answer = await service.post(pieces(packed[:7], packed[7:]), {"content-encoding": coding})
    assert answer.json == {"bytes": len(BODY), "sum": zlib.crc32(BODY)}
    assert service.value("saccade_network_bytes_total", direction="received") == len(packed)


@pytest.mark.parametrize(
    ("coding", "packed", "status"),
    [
        ("br", BODY, 415),
        ("gzip, gzip", BODY, 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY, mtime=0)[:-4], 400),
        ("gzip", b"", 400),
        ("deflate", zlib.compress(BODY) + b"more", 400),
        ("gzip", gzip.compress(bytes(LIMIT + 1), mtime=0), 413),
    ],
    ids=["brotli", "twice", "not gzip", "cut off", "empty", "more behind", "a bomb"],
)
async def test_a_body_that_cannot_be_decompressed_is_refused(
    service: Service, coding: str, packed: bytes, status: int
) -> None:
    answer = await service.post(pieces(packed), {"content-encoding": coding})
    assert (answer.status, bool(answer.error)) == (status, True)
    assert service.probe.bodies == 0


async def test_a_client_that_leaves_while_its_body_is_decompressed_leaves_it_to_the_thread(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def slow(room: memoryview, pieces: Iterator[bytes], first: bytes = b"") -> tuple[int, bytes]:
        entered.set()
        assert go_on.wait(30)
        size, left = fill(room, pieces, first)
        seen.append(bytes(room[:size]))
        return size, left

    monkeypatch.setattr(rest, "fill", slow)
    packed = gzip.compress(BODY)
    asking = asyncio.create_task(service.post(pieces(packed), {"content-encoding": "gzip", "x-deadline-ms": "30"}))
    await eventually(entered.is_set, "the thread works")
    await eventually(lambda: service.probe.exchanges[0].over, "the deadline is over")
    assert service.arena.leases == 2
    go_on.set()
    assert (await asking).status == 504
    await eventually(lambda: not service.arena.leases, "the thread is done with both")
    assert seen == [BODY]
    assert service.probe.bodies == 0


@pytest.mark.parametrize(
    ("choice", "accepts", "coding"),
    [
        ("asked", "gzip", "gzip"),
        ("asked", "deflate", "deflate"),
        ("asked", "gzip, deflate, br", None),
        ("asked", "gzip;q=0", None),
        ("accepted", "gzip, deflate, br", "gzip"),
        ("accepted", "br", None),
        ("off", "gzip", None),
        ("asked", "", None),
    ],
)
async def test_an_answer_is_compressed_for_who_asks_for_it(choice: str, accepts: str, coding: str | None) -> None:
    service = Service(response_compression=choice)
    service.probe.on_start = lambda exchange, body: exchange.answer(json_reply("abc" * 1000))
    answer = await service.post(pieces(b""), {"accept-encoding": accepts})
    assert answer.headers.get("content-encoding") == coding
    body = answer.body if coding is None else zlib.decompress(answer.body, 47)
    assert json.loads(body) == "abc" * 1000
    assert ("vary" in answer.headers) is (coding is not None)
    assert service.value("saccade_network_bytes_total", direction="sent") == len(answer.body)


async def test_a_picture_is_not_compressed_once_more(service: Service) -> None:
    picture = Reply(200, {"content-type": "image/jpeg"}, [b"\xff\xd8", b"abc"], 5)
    service.probe.on_start = lambda exchange, body: exchange.answer(picture)
    answer = await service.post(pieces(b""), {"accept-encoding": "gzip"})
    assert answer.body == b"\xff\xd8abc"
    assert "content-encoding" not in answer.headers


# Inference, through a real client.


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://here") as opened:
        yield opened


def json_request(values: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}]}


async def chunks_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_json_in_chunks_is_inferred(client: httpx.AsyncClient) -> None:
    body = json.dumps(json_request([1, 2, 3])).encode()
    answer = await client.post("/v2/models/m/infer", content=chunks_of(body, 10))
    assert answer.json()["outputs"][0]["data"] == [2, 4, 6]


async def test_binary_tensors_in_compressed_chunks_are_inferred(client: httpx.AsyncClient) -> None:
    values = np.arange(10_000, dtype=np.float32)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [10_000],
                    "parameters": {"binary_data_size": values.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    packed = gzip.compress(head + values.tobytes())
    for _ in range(3):  # what is remembered of such a request serves the next
        answer = await client.post(
            "/v2/models/m/versions/1/infer",
            content=chunks_of(packed, 1000),
            headers={"inference-header-content-length": str(len(head)), "content-encoding": "gzip"},
        )
        length = int(answer.headers["inference-header-content-length"])
        assert np.frombuffer(answer.content[length:], np.float32).tolist() == (2 * values).tolist()


async def test_much_json_is_read_beside_the_event_loop_and_inferred() -> None:
    service = Service(max_request_bytes=2**22, max_json_bytes=2**22)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://here") as client:
        values = [0.5] * 100_000
        answer = await client.post("/v2/models/m/infer", json=json_request(values))
        assert answer.json()["outputs"][0]["data"] == [1.0] * 100_000
        wrong = await client.post("/v2/models/m/infer", content=b'{"inputs": [' + b" " * 300_000)
        assert wrong.status_code == 400
    await settle()
    assert service.arena.leases == 0


async def test_much_json_is_read_by_one_thread_and_not_at_all_for_who_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service(max_request_bytes=2**22, max_json_bytes=2**22)
    body = json.dumps(json_request([0.5] * 100_000)).encode()
    reading, entered, opened = set(), threading.Semaphore(0), threading.Semaphore(0)

    def decode(*arguments: Any) -> Any:
        entered.release()
        reading.add(threading.get_ident())
        assert opened.acquire(timeout=30)
        return decode_request(*arguments)

    monkeypatch.setattr(binary_codec, "decode_request", decode)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://here") as client:
        first, leaver, last = (asyncio.create_task(client.post("/v2/models/m/infer", content=body)) for _ in range(3))
        await asyncio.to_thread(entered.acquire)
        await eventually(lambda: len(service.gate.open) == 3, "all are received")
        await settle()
        assert len(reading) == 1
        assert not entered.acquire(blocking=False)
        leaver.cancel()
        await settle()
        for _ in range(2):
            opened.release()
        assert [(await task).status_code for task in (first, last)] == [200, 200]
    assert len(reading) == 1
    await eventually(lambda: service.arena.leases == 0, "nothing is kept")


@pytest.mark.parametrize(
    ("path", "content", "headers", "status"),
    [
        ("/v2/models/nobody/infer", b"{}", {}, 404),
        ("/v2/models/m/versions/9/infer", b"{}", {}, 404),
        ("/v2/models/m/infer", b"", {}, 400),
        ("/v2/models/m/infer", b"{", {}, 400),
        ("/v2/models/m/infer", b"{}", {"content-type": "text/html"}, 415),
        ("/v2/models/m/infer", b"{}", {"content-type": "application/octet-stream"}, 400),
        ("/v2/models/m/infer", b"{}", {"inference-header-content-length": "3"}, 400),
        ("/v2/models/m/infer", b"{}", {"inference-header-content-length": "x"}, 400),
        ("/v2/models/m/infer", b"{}", {"inference-header-content-length": "\u00b2"}, 400),
        ("/v2/models/m/infer", b"{}", {"inference-header-content-length": "9" * 30}, 400),
    ],
)
async def test_what_is_no_inference_is_refused_in_the_v2_form(
    client: httpx.AsyncClient, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    answer = await client.post(path, content=content, headers=encoded)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


async def test_a_refusal_at_full_load_is_counted_on_the_model_before_its_body_is_received(service: Service) -> None:
    service.gate._working = service.gate._limit
    receive = FakeReceive(pieces(b"{}"))
    assert (await service.post(receive, path="/v2/models/m/infer")).status == 503
    assert receive.calls == 0
    assert service.value("saccade_requests_total", model="m", protocol="rest", code="503") == 1


async def test_what_comes_out_of_a_compressed_body_counts_against_the_arena() -> None:
    service = Service(max_request_bytes=2**20, arena_bytes=2**21)
    held: list[Exchange] = []
    service.probe.on_start = lambda exchange, body: held.append(exchange)
    packed = gzip.compress(bytes(2**20))
    asking = [asyncio.create_task(service.post(pieces(packed), {"content-encoding": "gzip"})) for _ in range(4)]
    await eventually(lambda: len(held) + sum(task.done() for task in asking) == 4, "all are decided")
    refused = [(await task) for task in asking if task.done()]
    assert {answer.status for answer in refused} == {503}
    assert 1 <= len(held) <= 2
    assert service.arena.mapped_bytes <= service.arena.bound_bytes
    for exchange in held:
        exchange.answer(json_reply("done"))
    assert {(await task).status for task in asking} == {200, 503}
    assert service.arena.leases == 0


async def test_a_body_that_outgrows_its_memory_while_it_is_decompressed_loses_nothing() -> None:
    service = Service(max_request_bytes=2**22, arena_bytes=2**23)
    body = b"".join(index.to_bytes(2, "big") * 16 for index in range(2**16))
    answer = await service.post(pieces(gzip.compress(body)), {"content-encoding": "gzip"})
    assert answer.json == {"bytes": len(body), "sum": zlib.crc32(body)}
    assert service.arena.leases == 0


async def test_what_comes_out_of_a_compressed_body_counts_against_its_senders_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service(max_request_bytes=2**22, arena_bytes=7 * 2**20)
    packed = gzip.compress(bytes(3 * 2**20))
    assert (await service.post(pieces(packed), {"content-encoding": "gzip"})).status == 200
    monkeypatch.setattr(rest, "peer_of", lambda address: "192.0.2.1")
    answer = await service.post(pieces(packed), {"content-encoding": "gzip"})
    assert answer.status == 503
    assert "this client's unfinished requests" in answer.error
    assert service.arena.leases == 0


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 199_999, LIMIT])
async def test_a_compressed_body_of_any_size_arrives_on_a_cache_line(service: Service, size: int) -> None:
    body = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    seen: list[tuple[bytes, int]] = []

    def on_start(exchange: Exchange, view: memoryview) -> None:
        assert exchange.lease is not None
        seen.append((bytes(view), (exchange.lease.address + 40) % 64))
        exchange.answer(json_reply("done"))

    service.probe.on_start = on_start
    headers = {"content-encoding": "gzip", "inference-header-content-length": "40"}
    assert (await service.post(pieces(gzip.compress(body)), headers)).status == 200
    assert seen == [(body, 0)]
