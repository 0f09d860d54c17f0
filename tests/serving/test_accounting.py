"""What is counted for answers nobody takes, and what one client's requests may cost all others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from fakes import eventually, settle
from http1_support import HOST, INFER, LOOPS, Client, Stage, make_certificate, post, scenario
from http1_support import serving as serving_until_idle
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.infer import Infer
from saccade_serving.connection.operation import Reply, Router
from saccade_serving.errors import InvalidRequest, PayloadTooLarge
from saccade_serving.model import ServedModel
from saccade_serving.oip import binary_codec, proto, wire
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata
from saccade_serving.settings import FIRST_SLOT_BYTES, ServiceSettings, explain

#: More than the system's buffers take.
LARGE = 32 * 2**20
#: One small message after another costs this many seconds at most, on a busy machine too.
QUICKLY_S = 5.0


@pytest.fixture(scope="module", params=list(LOOPS))
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Stage]:
    """Serve until the block ends; then all clients leave."""
    async with serving_until_idle(**settings) as stage:
        try:
            yield stage
        finally:
            await stage.reset()


def rejected(stage: Stage, reason: str) -> float:
    return sum(value for labels, value in stage.gate.metrics.rejected.values.items() if labels[1] == reason)


async def a_slow_reader(stage: Stage) -> Client:
    """A client that has asked for a large answer and taken a little of it."""
    client = await stage.connect(receive_buffer=4096)
    await client.send(post(b"abc", f"size={LARGE}"))
    await stage.state("WRITING")
    assert await client.receive(1000)
    return client


# Answers nobody takes


@scenario
async def test_a_client_that_resets_in_the_middle_of_its_answer_has_left() -> None:
    async with serving() as stage:
        client = await a_slow_reader(stage)
        client.reset()
        await stage.empty()
        assert stage.count() == stage.count(code="499", protocol="rest") == 1
        assert rejected(stage, "client_left") == 1
        assert stage.gate.metrics.sent_bytes == 0
        assert stage.gate.metrics.received_bytes == 3
        assert stage.operation.released == 1


@scenario
async def test_a_client_that_resets_while_it_waits_has_left_once() -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.send(post(b"abc", "hold"))
        (held,) = await stage.holds()
        client.reset()
        await stage.empty()
        held.exchange.answer(Reply(200, {}, [b"late"], 4))
        assert held.cancelled
        assert stage.count() == stage.count(code="499") == 1
        assert rejected(stage, "client_left") == 1


@scenario
async def test_an_answer_that_is_taken_whole_counts_with_its_bytes() -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.send(post(b"abc", f"size={LARGE}"))
        await stage.state("WRITING")
        assert stage.count() == 0
        assert len((await client.answer()).body) == LARGE
        await stage.idle()
        assert stage.count() == stage.count(code="200") == 1
        assert stage.gate.metrics.sent_bytes == LARGE


@pytest.mark.parametrize("path", [INFER, "/echo"], ids=["an operation", "another route"])
@pytest.mark.parametrize("behind", [b"zz\r\n", b"3\r\nabcd"], ids=["a size", "a chunk"])
@scenario
async def test_a_malformed_chunk_is_counted_once_as_what_was_answered(path: str, behind: bytes) -> None:
    async with serving() as stage:
        client = await stage.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        await client.send(head + b"5\r\nabcde\r\n")
        await stage.state("ORDINARY")
        await client.send(behind)
        assert (await client.answer()).status == 400
        await stage.idle()
        assert stage.count() == stage.count(code="400") == 1
        assert rejected(stage, "bad_head") == 1
        assert rejected(stage, "client_left") == 0


@scenario
async def test_a_malformed_chunk_behind_an_answer_is_not_counted_beside_it() -> None:
    async with serving() as stage:
        client = await stage.connect()
        head = b"POST /v2/models/missing/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + b"5\r\nabcde\r\n")
        assert (await client.answer()).status == 404
        await client.send(b"zz\r\n")
        assert await ended(client) == b""
        await stage.idle()
        assert stage.count() == stage.count(code="404") == 1


@scenario
async def test_bytes_of_a_chunked_body_that_is_left_midway_are_counted() -> None:
    async with serving() as stage:
        client = await stage.connect()
        head = f"POST {INFER} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        await client.send(head + b"5\r\nabcde\r\n5\r\nabc")
        await stage.state("ORDINARY")
        await settle()
        client.leave()
        await eventually(lambda: stage.count(code="499") == 1, "it is counted")
        assert stage.gate.metrics.received_bytes == 8


@scenario
async def test_a_reader_that_is_too_slow_is_dropped_and_counted_as_such() -> None:
    async with serving(write_timeout_s=5.0) as stage:
        await a_slow_reader(stage)
        stage.look(4)
        assert rejected(stage, "slow_reader") == 0
        await stage.state("WRITING")
        stage.look(6)
        await stage.empty()
        assert rejected(stage, "slow_reader") == 1
        assert stage.count() == stage.count(code="499") == 1
        assert stage.gate.metrics.sent_bytes == 0


@scenario
async def test_a_reader_that_is_too_slow_and_has_ended_its_half_is_dropped_too() -> None:
    async with serving(write_timeout_s=5.0) as stage:
        client = await a_slow_reader(stage)
        connection = stage.only
        client.raw.shutdown(1)
        await eventually(lambda: connection._closing, "its end was seen")
        stage.look(6)
        await stage.empty()
        assert stage.count(code="200") == 0
        assert stage.count(code="499") == 1


# Who waits behind others


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in pieces"])
@scenario
async def test_a_request_sent_ahead_has_its_deadline_from_when_it_was_sent(in_pieces: bool) -> None:
    async with serving() as stage:
        client = await stage.connect()
        behind = post(b"second", headers="X-Deadline-Ms: 50\r\n")
        await client.send(post(b"first", "hold"))
        (held,) = await stage.holds()
        await client.send(*([behind[:20], behind[20:-2], behind[-2:]] if in_pieces else [behind]))
        size = len(behind)
        await eventually(lambda: stage.only._pending_bytes == size, "it is kept")
        kept = time.monotonic()
        await eventually(lambda: time.monotonic() > kept + 0.06, "its time is over")
        held.exchange.answer(Reply(200, {}, [b"held"], 4))
        assert (await client.answer()).body == b"held"
        answer = await client.answer()
        assert answer.status == 504
        assert b"the request's 50 ms were over" in answer.body
        assert stage.operation.started == 1
        assert (await client.ask(post(b"third"))).body == b"third"


@scenario
async def test_heads_without_bodies_take_no_place_from_others() -> None:
    async with serving(max_inflight_requests=5) as stage:
        for _ in range(8):
            await (await stage.connect()).send(post(length=1000))
        await eventually(lambda: len(stage.gate.open) == 8, "eight bodies are waited for")
        ninth = await stage.connect()
        assert (await ninth.ask(post(b"small"))).body == b"small"
        for _ in range(5):
            await (await stage.connect()).send(post(b"held", "hold"))
        for held in await stage.holds(5):
            assert held.exchange.working
        assert (await ninth.ask(post(b"small"))).status == 503
        await stage.clients[0].send(bytes(1000))
        assert (await stage.clients[0].answer()).status == 503
        for held in stage.operation.held:
            held.exchange.answer(Reply(200, {}, [b"held"], 4))
        assert (await ninth.ask(post(b"small"))).body == b"small"
        await stage.reset()
        assert stage.gate._working == 0


@pytest.mark.parametrize(("path", "model"), [(INFER, "m"), ("/v2/models/nobody/infer", "")])
@scenario
async def test_a_refusal_at_full_load_is_counted_on_the_model_also_at_the_head(path: str, model: str) -> None:
    async with serving(max_inflight_requests=1) as stage:
        stage.gate.models = {"m": Silent()}
        stage.front.router = Router([Infer(stage.gate)])
        stage.gate._working = 1
        client = await stage.connect()
        status = (await client.ask(post(b"{}", path=path))).status
        assert status == (503 if model else 404)
        await stage.idle()
        assert stage.count(model=model, code=str(status)) == stage.count() == 1
        stage.gate._working = 0


# What is small to send and large to read


class Silent(ServedModel):
    """Takes no request that could be read."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    async def prepare(self) -> None: ...

    def metadata(self, version: str = "") -> ModelMetadata:
        return ModelMetadata("m", ["1"], "fake", [], [])

    def versions(self) -> list[str]:
        return ["1"]

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        raise AssertionError("this request was to be refused")

    async def close(self) -> None: ...


def millions(of: str) -> bytes:
    many = ",".join([of] * 2_000_000)
    return f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1], "data": [{many}]}}]}}'.encode()


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever parses this JSON has failed already."""

    def never(_: Any) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(orjson, "loads", never)


@pytest.mark.parametrize("of", ["[]", "{}", "[{}]"])
@pytest.mark.parametrize("with_header", [False, True], ids=["json", "binary"])
def test_json_of_millions_of_arrays_is_not_even_parsed(of: str, with_header: bool, no_parser: None) -> None:
    body = millions(of)
    with pytest.raises(PayloadTooLarge, match="values; the limit is 2097152"):
        binary_codec.decode_request("m", "", body, len(body) if with_header else None, 16 * 2**20)


@pytest.mark.parametrize("behind", [None, b"", b"\x00" * 4], ids=["json", "binary, none", "binary"])
@scenario
async def test_json_of_millions_of_arrays_is_refused_quickly(behind: bytes | None) -> None:
    body = millions("[]")
    headers = "" if behind is None else f"Inference-Header-Content-Length: {len(body)}\r\n"
    async with serving() as stage:
        stage.gate.models = {"m": Silent()}
        stage.front.router = Router([Infer(stage.gate)])
        client = await stage.connect()
        begun = time.monotonic()
        answer = await client.ask(post(body + (behind or b""), headers=headers))
        assert answer.status == 413
        assert b"values; the limit is" in answer.body
        assert time.monotonic() - begun < QUICKLY_S
        assert rejected(stage, "payload_too_large") + rejected(stage, "too_large") == 1


def entry(number: int, data: bytes) -> bytes:
    """A field that is a message, text or bytes."""
    size, length = len(data), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


PARAMETER = entry(4, b"")
OUTPUT_PARAMETER = entry(2, b"")
ELEMENT = entry(8, b"")  # of bytes_contents


@pytest.mark.parametrize(
    "message",
    [
        PARAMETER * 2_000_000,
        entry(5, PARAMETER * 2_000_000),
        entry(6, OUTPUT_PARAMETER * 2_000_000),
        entry(5, entry(5, ELEMENT * 2_000_000)),
        entry(5, b"") * 2_000_000,
    ],
    ids=["of the request", "of an input", "of an output", "elements", "inputs"],
)
def test_a_message_of_millions_of_fields_is_refused_quickly(message: bytes) -> None:
    begun = time.monotonic()
    with pytest.raises(InvalidRequest, match="fields, the limit"):
        wire.check_request(message)
    assert time.monotonic() - begun < QUICKLY_S


@pytest.mark.parametrize(
    "message",
    [
        entry(5, PARAMETER * 4000) * 500,
        entry(6, OUTPUT_PARAMETER * 4000) * 500,
        entry(5, entry(5, ELEMENT * 60_000)) * 30,
        entry(5, entry(5, ELEMENT * 500) * 4000),
    ],
    ids=["of inputs", "of outputs", "elements", "contents"],
)
def test_millions_of_fields_in_many_messages_are_refused_too(message: bytes) -> None:
    assert len(message) < ServiceSettings().max_json_bytes
    with pytest.raises(InvalidRequest):
        wire.check_request(message)


def test_an_ordinary_message_passes() -> None:
    message = proto.ModelInferRequest()
    message.model_name = "m"
    for name in "ab":
        tensor = message.inputs.add()
        tensor.name, tensor.datatype = name, "BYTES"
        tensor.shape.extend([1000])
        tensor.parameters["one"].int64_param = 1
        tensor.contents.bytes_contents.extend([b"element"] * 1000)
    message.outputs.add().name = "y"
    wire.check_request(message.SerializeToString())


# Settings that contradict each other


@pytest.mark.parametrize(
    "values",
    [
        {"max_inflight_bytes": 2**20, "max_peer_share": 0.01},
        {"max_inflight_bytes": 2**20, "max_peer_share": 0.12},
        {"max_peer_share": 1e-9},
    ],
)
def test_settings_that_leave_no_room_for_a_request_are_refused_with_a_sentence(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ServiceSettings(**values)
    (line,) = explain(caught.value, "SACCADE_").splitlines()
    assert "leave no room for a request; expected a product of at least 131072" in line
    assert f"max_peer_share={values['max_peer_share']:g}" in line


def test_settings_that_leave_just_room_are_taken() -> None:
    assert ServiceSettings(max_inflight_bytes=2**20, max_peer_share=0.125).largest_body_bytes == FIRST_SLOT_BYTES


@pytest.mark.parametrize("size", [1024, FIRST_SLOT_BYTES - 1])
def test_small_bodies_only_are_a_choice_and_no_contradiction(size: int) -> None:
    assert ServiceSettings(max_request_bytes=size).largest_body_bytes == size


# Ordinary requests whose body never comes


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
WAITING = "Expect: 100-continue\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        post(length=10, path="/echo"),
        post(b"12345", length=10, path="/echo"),
        post(length=10, path="/echo", headers=WAITING),
        CHUNKED,
        CHUNKED + b"5\r\n123",
        CHUNKED.replace(b"/echo", INFER.encode()),
    ],
    ids=["none", "half", "asked for", "no chunk", "half a chunk", "an operation's"],
)
@scenario
async def test_an_ordinary_body_that_never_comes_is_not_waited_for(request_: bytes) -> None:
    async with serving() as stage:
        stage.front.body_s = 3.0
        client = await stage.connect()
        await client.send(request_)
        await stage.state("ORDINARY")
        stage.look(2)
        await stage.state("ORDINARY")
        stage.look(4)
        await stage.empty()
        assert b"HTTP/1.1 200" not in await ended(client)


@scenario
async def test_a_body_that_was_asked_for_over_tls_and_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    async with serving(certificate=certificate) as stage:
        stage.front.body_s = 3.0
        reader, writer = await asyncio.open_connection(HOST, stage.port, ssl=trusting)
        writer.write(post(length=10, path="/echo", headers=WAITING))
        await reader.readuntil(b"100 Continue\r\n\r\n")
        try:
            stage.look(40)
            await eventually(lambda: not stage.front.connections, "the connection is closed", 3)
        finally:
            writer.transport.abort()
            await settle()


@scenario
async def test_an_ordinary_request_whose_body_came_may_take_its_time() -> None:
    async with serving() as stage:
        stage.front.body_s = 3.0
        client = await stage.connect()
        request = post(b"0123456789", path="/echo")
        await client.send(request[:-5])
        await stage.state("ORDINARY")
        await client.send(request[-5:])
        assert (await client.answer()).body == b"0123456789"
        stage.look(4)
        assert (await client.ask(request)).status == 200


async def ended(client: Client) -> bytes:
    """What the client still reads."""
    try:
        return await client.end()
    except ConnectionResetError:
        return client.read


def test_the_json_of_these_tests_is_json() -> None:
    assert len(json.loads(millions("[]"))["inputs"][0]["data"]) == 2_000_000
