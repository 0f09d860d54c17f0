"""The REST client against a tiny real server: answers, errors, connections that break at every possible moment."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from fakes import eventually
from http_stub import HOST, Answer, Call, Stub, always, echo, http, listening, never, request
from saccade_serving.client import BadAnswer, ConnectionFailed, Refused, RestClient
from saccade_serving.client.rest import MAX_JSON_BYTES
from saccade_serving.oip import json_codec
from saccade_serving.oip.messages import InferRequest, ModelMetadata, Tensor, TensorMetadata


@asynccontextmanager
async def client_of(answer: Answer, **options: int | bool) -> AsyncIterator[tuple[RestClient, Stub]]:
    async with listening(Stub(answer)) as stub:
        client = RestClient(stub.url + "/", **options)  # type: ignore[arg-type]
        try:
            yield client, stub
        finally:
            await client.close()


async def test_an_inference_goes_out_and_comes_back_as_binary() -> None:
    async with client_of(echo) as (client, stub):
        answer = await client.infer(request(id="r1"), 5, {"x-request-id": "abc", "x-deadline-ms": "12.5"})
    assert answer.output("x").array.tolist() == [0, 1, 2, 3, 4, 5]
    assert (answer.model_version, answer.id) == ("7", "r1")
    [call] = stub.calls
    assert (call.method, call.path) == ("POST", "/v2/models/m/infer")
    assert call.headers["content-type"] == "application/octet-stream"
    assert call.headers["x-request-id"] == "abc"
    assert call.headers["x-deadline-ms"] == "12.5"
    assert call.body.endswith(np.arange(6, dtype=np.int32).tobytes())


async def test_without_binary_an_inference_is_all_json() -> None:
    async with client_of(echo, binary=False) as (client, stub):
        answer = await client.infer(InferRequest("m", request().inputs), 5)
    assert answer.output("x").array.tolist() == [0, 1, 2, 3, 4, 5]
    [call] = stub.calls
    assert call.headers["content-type"] == "application/json"
    assert json.loads(call.body)["inputs"][0]["data"] == [0, 1, 2, 3, 4, 5]


async def test_a_body_of_several_megabytes_arrives_whole() -> None:
    big = Tensor.of("x", np.random.default_rng(1).integers(0, 255, (4, 1024, 1024), np.uint8))
    async with client_of(echo) as (client, stub):
        answer = await client.infer(InferRequest("m", [big], binary_output=True), 30)
    assert (answer.output("x").array == big.array).all()
    assert int(stub.calls[0].headers["content-length"]) == len(stub.calls[0].body)


async def test_names_with_odd_characters_stay_one_segment_of_the_path() -> None:
    async with client_of(echo) as (client, stub):
        await client.infer(InferRequest("a/../b?c", request().inputs, model_version="1/2", binary_output=True), 5)
    assert stub.calls[0].path == "/v2/models/a%2F..%2Fb%3Fc/versions/1%2F2/infer"


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with client_of(echo) as (client, stub):
        for _ in range(5):
            await client.infer(request(), 5)
    assert stub.connections == 1


async def test_more_calls_than_connections_wait_for_one() -> None:
    async with client_of(echo, connections=2) as (client, stub):
        answers = await asyncio.gather(*(client.infer(request(n + 1), 10) for n in range(12)))
    assert [len(answer.output("x").array) for answer in answers] == list(range(1, 13))
    assert stub.connections == 2


async def test_a_refused_connection_is_a_failed_connection() -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    client = RestClient(f"http://{HOST}:{port}")
    try:
        with pytest.raises(ConnectionFailed, match=f"http://{HOST}:{port} cannot be reached"):
            await client.infer(request(), 5)
        assert await client.is_ready("m", 1) is False
    finally:
        await client.close()


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", "not a url", "http://127.0.0.1:99999"])
async def test_an_address_that_cannot_be_one_is_a_failed_connection(url: str) -> None:
    client = RestClient(url)
    try:
        with pytest.raises(ConnectionFailed):
            await client.infer(request(), 5)
    finally:
        await client.close()


async def only_once(call: Call) -> bytes | None:
    return await echo(call) if call.nth == 1 else None  # the second request meets the closing connection


async def test_an_inference_is_sent_once_and_says_that_no_answer_had_begun() -> None:
    async with client_of(only_once) as (client, stub):
        await client.infer(request(3), 5)
        with pytest.raises(ConnectionFailed) as caught:
            await client.infer(request(4), 5)
    assert (caught.value.reused, caught.value.answer_began) == (True, False)
    assert [call.nth for call in stub.calls] == [1, 2]


async def test_any_other_call_on_a_kept_alive_connection_that_the_server_closes_is_sent_again_on_a_new_one() -> None:
    async def once(call: Call) -> bytes | None:
        return http(200, call.body) if call.nth == 1 else None

    async with client_of(once) as (client, stub):
        for body in (b"one", b"two"):
            assert (await client.call("POST", "/x", 5, body))[2] == body
    assert [(call.nth, call.body) for call in stub.calls] == [(1, b"one"), (2, b"two"), (1, b"two")]


async def test_one_dead_connection_takes_the_other_idle_ones_along() -> None:
    async with client_of(only_once) as (client, stub):
        await asyncio.gather(*(client.infer(request(), 5) for _ in range(4)))
        with pytest.raises(ConnectionFailed):
            await client.infer(request(), 5)
        await client.infer(request(), 5)
    assert stub.connections == 5


async def test_a_new_connection_that_is_hung_up_on_is_not_tried_again() -> None:
    async with client_of(always(None)) as (client, stub):
        for call in (client.infer(request(), 5), client.call("GET", "/x", 5)):
            with pytest.raises(ConnectionFailed):
                await call
    assert len(stub.calls) == 2


async def test_the_second_attempt_gets_only_the_time_that_the_first_has_left() -> None:
    async def late(call: Call) -> bytes | None:
        if call.nth == 1 and len(stub.calls) == 1:
            return http(200)
        if call.nth == 1:
            return await never(call)
        await asyncio.sleep(0.8)
        return None

    async with client_of(late) as (client, stub):
        await client.call("GET", "/x", 5)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await client.call("GET", "/x", 1.0)
        assert time.monotonic() - begun < 1.5
    assert len(stub.calls) == 3


async def test_the_client_finds_a_server_again_that_was_restarted_on_the_same_port() -> None:
    async with listening(Stub(echo)) as first:
        client = RestClient(first.url)
        await client.infer(request(), 5)
        first.hang_up()
    with pytest.raises(ConnectionFailed):
        await client.infer(request(), 5)
    async with listening(Stub(echo, first.port)) as second:
        answer = await client.infer(request(), 5)
        await client.close()
    assert answer.model_version == "7"
    assert len(second.calls) == 1


async def test_a_call_that_is_not_answered_ends_with_the_timeout_and_its_connection() -> None:
    async with client_of(never) as (client, stub):
        with pytest.raises(TimeoutError):
            await client.infer(request(), 0.05)
        assert await client.is_ready("m", 0.05) is False
        await eventually(lambda: stub.open == 0, "the connections are closed")


async def test_an_answer_that_stops_in_the_middle_ends_with_the_timeout() -> None:
    async def half(call: Call) -> bytes:
        return http(200, b"x" * 100)[:-50]

    async with client_of(half) as (client, _):
        with pytest.raises(TimeoutError):
            await client.infer(request(), 0.1)


async def test_a_caller_who_gives_up_takes_the_connection_along() -> None:
    async with client_of(never) as (client, stub):
        call = asyncio.create_task(client.infer(request(), 60))
        await eventually(lambda: stub.calls, "the request arrived")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: stub.open == 0, "the server sees the client leave")


async def test_an_answer_that_breaks_off_is_a_failed_connection() -> None:
    breaking: list[asyncio.Task[None]] = []

    async def cut(_call: Call) -> bytes:
        breaking.append(asyncio.create_task(hang_up()))
        return http(200, b"x" * 100)[:-50]

    async def hang_up() -> None:
        await eventually(lambda: stub.sent, "half of the answer is sent")
        for writer in stub.writers:
            writer.close()

    async with client_of(cut) as (client, stub):
        with pytest.raises(ConnectionFailed):
            await client.infer(request(), 5)
    assert len(stub.calls) == 1, "half an answer is not asked for again"


@pytest.mark.parametrize(
    ("status", "body", "headers", "message", "retry_after_s"),
    [
        (400, b'{"error": "input \'x\' is missing"}', {}, "input 'x' is missing", None),
        (503, b'{"error": "full"}', {"retry_after": "3"}, "full", 3.0),
        (503, b'{"error": "full"}', {"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "full", None),
        (503, b'{"error": "full"}', {"retry_after": "-1"}, "full", None),
        (404, b'{"detail": "Not Found"}', {}, "HTTP status 404", None),
        (502, b"<html>Bad Gateway</html>", {}, "HTTP status 502", None),
        (500, b'["error"]', {}, "HTTP status 500", None),
        (500, b"", {}, "HTTP status 500", None),
        (302, b"", {"location": "http://elsewhere.invalid/"}, "HTTP status 302", None),
        (204, b"", {}, "HTTP status 204", None),
    ],
)
async def test_an_error_is_refused_with_its_status_sentence_and_retry_time(
    status: int, body: bytes, headers: dict[str, str], message: str, retry_after_s: float | None
) -> None:
    async with client_of(always(http(status, body, **headers))) as (client, stub):
        for call in (client.infer(request(), 5), client.metadata("m", 5)):
            with pytest.raises(Refused) as caught:
                await call
            assert (caught.value.status, str(caught.value)) == (status, message)
            assert caught.value.retry_after_s == retry_after_s
    assert len(stub.calls) == 2, "an error is an answer: nothing is repeated"


@pytest.mark.parametrize(
    "raw",
    [
        http(200, b"not json"),
        http(200, b"[]"),
        http(200, b"{}"),
        http(200, b'{"outputs": [{"name": "y", "datatype": "FP33", "shape": [1], "data": [1]}]}'),
        http(200, b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1]}]}'),
        http(200, b"{}", inference_header_content_length="999"),
        http(200, b"{}", inference_header_content_length="many"),
        http(200, b""),
        b"HTTP/1.1 200 OK\r\ncontent-length: nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ],
)
async def test_an_answer_that_cannot_be_read_is_a_failed_connection(raw: bytes) -> None:
    async with client_of(always(raw)) as (client, _):
        with pytest.raises(ConnectionFailed):
            await client.infer(request(), 5)


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"versions": 5, "name": "m"}', b'{"name": 7}', b"\xff\xfe"])
async def test_metadata_that_cannot_be_read_is_a_failed_connection(body: bytes) -> None:
    async with client_of(always(http(200, body))) as (client, _):
        with pytest.raises(ConnectionFailed, match="metadata cannot be read"):
            await client.metadata("m", 5)


async def test_metadata_comes_back_as_it_was_said() -> None:
    said = ModelMetadata(
        "m", ["1", "2"], "fake", [TensorMetadata("x", "FP32", (-1, 2))], [], {"saccade.input": "rgb_nhwc"}
    )
    body = json.dumps(json_codec.encode_metadata(said)).encode()
    async with client_of(always(http(200, body))) as (client, stub):
        assert await client.metadata("m", 5) == said
    assert stub.calls[0].path == "/v2/models/m"


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (404, False), (500, False)])
async def test_ready_is_what_the_ready_route_says(status: int, ready: bool) -> None:
    async with client_of(always(http(status, b"{}"))) as (client, stub):
        assert await client.is_ready("m", 5) is ready
    assert stub.calls[0].path == "/v2/models/m/ready"


async def test_a_closed_client_opens_again_when_it_is_used() -> None:
    async with client_of(echo) as (client, stub):
        await client.infer(request(), 5)
        await client.close()
        await client.close()
        await client.infer(request(), 5)
    assert stub.connections == 2


async def test_an_answer_to_another_request_is_none_and_its_connection_is_closed() -> None:
    async def another(call: Call) -> bytes:
        raw = await echo(call)
        return raw if call.nth == 1 else raw.replace(b'"id":"r2"', b'"id":"r1"')

    async with client_of(another) as (client, stub):
        await client.infer(request(id="r1"), 5)
        with pytest.raises(BadAnswer, match="belongs to another request: it has another id"):
            await client.infer(request(id="r2"), 5)
        await client.infer(request(id="r2"), 5)
    assert [call.nth for call in stub.calls] == [1, 2, 1]


async def test_a_second_answer_that_comes_with_the_next_request_is_not_its_answer() -> None:
    answers: list[bytes] = []

    async def one_behind(call: Call) -> bytes:
        answers.append(await echo(call))
        return answers[-1] if call.nth == 1 else answers[-2]

    async with client_of(one_behind, connections=1) as (client, stub):
        results = await asyncio.gather(
            *(client.infer(request(id=f"r{n}"), 5) for n in range(4)), return_exceptions=True
        )
    assert [getattr(result, "id", type(result)) for result in results] == ["r0", BadAnswer, "r2", BadAnswer]
    assert stub.connections == 2


async def test_an_answer_of_another_model_is_none_and_one_without_an_id_is_good() -> None:
    async def answer(call: Call) -> bytes:
        raw = await echo(call)
        return raw.replace(b'"model_name":"m"', b'"model_name":"n"') if call.nth == 2 else raw.replace(b"id", b"ix")

    async with client_of(answer) as (client, _):
        assert (await client.infer(request(id="r1"), 5)).id == ""
        with pytest.raises(BadAnswer, match="names another model"):
            await client.infer(request(id="r2"), 5)


async def test_a_408_on_a_kept_connection_is_a_connection_that_the_server_closed() -> None:
    async def idle_too_long(call: Call) -> bytes:
        return http(408) if call.nth == 2 or call.path == "/new" else http(200)

    async with client_of(idle_too_long) as (client, stub):
        await client.call("GET", "/x", 5)
        assert (await client.call("GET", "/x", 5))[0] == 200, "asked again on a new connection"
        with pytest.raises(ConnectionFailed) as caught:
            await client.infer(request(), 5)
        assert (caught.value.reused, caught.value.answer_began) == (True, False)
        assert (await client.call("GET", "/new", 5))[0] == 408
    assert [call.nth for call in stub.calls] == [1, 2, 1, 2, 1]


async def test_json_over_the_limit_is_not_parsed_where_binary_outputs_were_asked_for() -> None:
    text = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1]}]}'
    raw = http(200, text + b" " * (MAX_JSON_BYTES - len(text) + 1))
    async with client_of(always(raw)) as (client, _):
        with pytest.raises(BadAnswer, match="JSON of the response is 1048577 bytes; the limit is 1048576 bytes"):
            await client.infer(request(), 5)
        with pytest.raises(BadAnswer, match="JSON of the metadata is 1048577 bytes; the limit is 1048576 bytes"):
            await client.metadata("m", 5)
        assert (await client.infer(InferRequest("m", request().inputs), 5)).output("y").array.tolist() == [1]


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 300 + "..."),
        ("a\r\n\x1b[31m\u2028b", r"a\r\n\x1b[31m\u2028b"),
        ("\n" * 200, r"\n" * 150),
        ("x" * 70_000, "HTTP status 500"),
    ],
)
async def test_a_servers_sentence_is_passed_on_in_bounds(said: str, passed_on: str) -> None:
    async with client_of(always(http(500, json.dumps({"error": said}).encode()))) as (client, _):
        with pytest.raises(Refused) as caught:
            await client.infer(request(), 5)
    assert str(caught.value) == passed_on
