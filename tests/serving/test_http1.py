"""The data plane's connection on real sockets, on both loops: framing, order, refusals, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
import gzip
import http.client
import itertools
import os
import random
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import eventually, settle
from http1_support import (
    HOST,
    INFER,
    LIVE,
    LOOPS,
    SOON_S,
    Answer,
    Stage,
    chunked,
    make_certificate,
    post,
    scenario,
    serving,
)
from saccade_serving.connection import front, http1
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.head import MAX_HEAD_BYTES, BadHead
from saccade_serving.connection.operation import Reply
from saccade_serving.connection.ordinary import OrdinaryRequests
from saccade_serving.memory.arena import Arena
from saccade_serving.settings import FIRST_SLOT_BYTES

#: Answers that slow readers read while the output buffer they come from is used again.
READS = int(os.environ.get("SACCADE_TEST_SLOW_READS", "2000"))


@pytest.fixture(scope="module", params=list(LOOPS))
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner) -> Iterator[Stage]:
    manager = serving()
    stage = runner.run(manager.__aenter__())
    yield stage
    runner.run(manager.__aexit__(None, None, None))


def body_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


# Framing


@scenario
async def test_a_request_is_answered_with_its_length_and_its_id(stage: Stage) -> None:
    client = await stage.connect()
    answer = await client.ask(post(b"abc", headers="X-Request-Id: mine\r\n"))
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.headers["content-length"] == "3"
    assert answer.headers["x-request-id"] == "mine"
    assert "date" in answer.headers
    assert "connection" not in answer.headers


@pytest.mark.parametrize("request_", [post(b"the body"), LIVE, chunked(b"the", b" body"), post(b"", "size=3")])
@scenario
async def test_a_request_may_come_in_any_two_pieces_and_byte_by_byte(stage: Stage, request_: bytes) -> None:
    client = await stage.connect()
    whole = await client.ask(request_)
    assert whole.status == 200
    for cut in range(1, len(request_)):
        answer = await client.ask(request_[:cut], request_[cut:])
        assert (answer.status, answer.body) == (200, whole.body), f"cut at {cut}: {answer}"
    answer = await client.ask(*(request_[at : at + 1] for at in range(len(request_))))
    assert (answer.status, answer.body) == (200, whole.body)


@pytest.mark.parametrize("pieces", [[b"\r\n\r\n"], [b"\r\n"], [b"\r", b"\n"], [b"\r\n\r", b"\n\r", b"\n"]])
@scenario
async def test_empty_lines_before_a_request_are_passed_over(stage: Stage, pieces: list[bytes]) -> None:
    client = await stage.connect()
    for _ in range(2):
        await client.send(*pieces, b"")
        assert (await client.ask(post(b"abc"))).body == b"abc"
        last = [*pieces[:-1], pieces[-1] + LIVE]
        assert (await client.ask(*last)).body == b"live"


@scenario
async def test_fifty_requests_sent_at_once_are_answered_in_order(stage: Stage) -> None:
    client = await stage.connect()
    kinds = itertools.cycle(["fast", "ordinary", "chunked", "missing", "echo", "fast"])
    sent = [(next(kinds), number) for number in range(50)]

    def of(kind: str, number: int) -> bytes:
        body = f"{kind} {number}".encode()
        match kind:
            case "fast":
                return post(body)
            case "ordinary":
                return LIVE
            case "chunked":
                return chunked(body[:3], body[3:])
            case "missing":
                return post(body, path="/v2/models/missing/infer")
            case _:
                return post(body, path="/echo")

    await client.send(b"".join(of(*one) for one in sent))
    for kind, number in sent:
        answer = await client.answer()
        if kind == "missing":
            assert answer.status == 404
        else:
            expected = "live" if kind == "ordinary" else f"{kind} {number}"
            assert (answer.status, answer.body.decode()) == (200, expected)


@scenario
async def test_what_is_sent_ahead_waits_until_the_model_has_answered(stage: Stage) -> None:
    client = await stage.connect()
    await client.send(post(b"first", "hold"), post(b"second") + LIVE, post(b"third", "hold") + post(b"fourth"))
    (held,) = await stage.holds()
    await settle()
    assert stage.gate.open == {held.exchange}
    held.exchange.answer(Reply(200, {}, [b"held"], 4))
    assert [(await client.answer()).body for _ in range(3)] == [b"held", b"second", b"live"]
    third = (await stage.holds(2))[1]
    assert bytes(third.body) == b"third"
    third.exchange.answer(Reply(200, {}, [b"again"], 5))
    assert [(await client.answer()).body for _ in range(2)] == [b"again", b"fourth"]


def sent_ahead() -> list[tuple[str, bytes, bytes]]:
    """Requests of every kind, each with a request behind it, and the body of the first one's answer."""
    large = body_of(40_000)
    smuggled = post(b"x", path="/v2/models/smuggled/infer")
    zipped = gzip.compress(b"the body")
    return [
        ("fast", post(b"the body"), b"the body"),
        ("fast, larger than a read", post(large), large),
        ("no body", LIVE, b"live"),
        ("chunked", chunked(b"the ", b"body"), b"the body"),
        ("chunked, larger than a read", chunked(large[:20_000], large[20_000:]), large),
        ("ordinary", post(b"the body", path="/echo"), b"the body"),
        ("ordinary, larger than a read", post(large, path="/echo"), large),
        ("compressed", post(zipped, headers="Content-Encoding: gzip\r\n"), b"the body"),
        ("a body that looks like a request", post(smuggled, path="/echo"), smuggled),
        ("chunks that look like a request", chunked(smuggled, path="/echo"), smuggled),
        ("a refused body that looks like a request", post(smuggled, path="/unread"), b"no"),
    ]


@pytest.mark.parametrize("kind", [kind for kind, _, _ in sent_ahead()])
@scenario
async def test_whatever_is_sent_ahead_in_whatever_pieces_is_understood_as_if_it_were_not(
    stage: Stage, kind: str
) -> None:
    request, expected = next((request, body) for name, request, body in sent_ahead() if name == kind)
    client = await stage.connect()
    edges = {1, 40, request.find(b"\r\n\r\n") + 4, request.find(b"\r\n\r\n") + 8, len(request) // 2, len(request) - 1}
    for before in sorted(edge for edge in edges if 0 < edge < len(request)):
        stage.operation.held.clear()
        stage.operation.names.clear()
        # In front: a request that is held, so that the first pieces wait; the last comes when they have been taken.
        await client.send(post(b"first", "hold"))
        (held,) = await stage.holds()
        await client.send(request[: before // 2], request[before // 2 : before])
        await settle(3)
        held.exchange.answer(Reply(200, {}, [b"held"], 4))
        assert (await client.answer()).body == b"held"
        await client.send(request[before:] + post(b"behind it"))
        answer = await client.answer()
        assert answer.body == expected, f"cut at {before}"
        assert (await client.answer()).body == b"behind it"
        assert "smuggled" not in stage.operation.names
    # And all of it before the first is answered, in one piece and byte by byte around the heads.
    for pieces in ([request], [request[:100], *(request[at : at + 7] for at in range(100, 401, 7)), request[401:]]):
        stage.operation.held.clear()
        await client.send(post(b"first", "hold"))
        (held,) = await stage.holds()
        await client.send(*pieces, post(b"behind it"))
        held.exchange.answer(Reply(200, {}, [b"held"], 4))
        for body in (b"held", expected, b"behind it"):
            assert (await client.answer()).body == body
        assert "smuggled" not in stage.operation.names


@pytest.mark.parametrize("size", [0, 1, 15_000, 65_535, 65_536, 65_537, 200_000, 1_200_000, 5_000_000, 9_000_000])
@scenario
async def test_bodies_of_any_size_arrive_as_they_were_sent(stage: Stage, size: int) -> None:
    client = await stage.connect()
    body = body_of(size)
    for query in ("echo", "view"):
        sending = asyncio.create_task(client.send(post(body, query)))
        answer = await client.answer()
        assert answer.status == 200
        assert answer.body == body
        await sending


@pytest.mark.parametrize("seed", range(6))
@scenario
async def test_growing_into_the_whole_slot_keeps_every_byte_whatever_the_pieces(stage: Stage, seed: int) -> None:
    chance = random.Random(seed)
    client = await stage.connect()
    body = body_of(chance.randint(65_537, 300_000), seed)
    json_length = chance.choice([None, 7, 64_000, 70_000])
    headers = "" if json_length is None else f"Inference-Header-Content-Length: {json_length}\r\n"
    data = post(body, headers=headers)
    edges = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(chance.choice([3, 60])))})
    await client.send(*(data[begin:end] for begin, end in itertools.pairwise(edges)))
    assert (await client.answer()).body == body


@pytest.mark.parametrize("json_length", [0, 1, 63, 64, 65, 200, 999, 65_535, 65_600, 99_999])
@pytest.mark.parametrize("size", [1000, 100_000, 5_000_000])
@scenario
async def test_the_first_binary_tensor_lies_on_a_cache_line(stage: Stage, size: int, json_length: int) -> None:
    client = await stage.connect()
    headers = f"Inference-Header-Content-Length: {min(json_length, size)}\r\n"
    assert (await client.ask(post(bytes(size), "address", headers=headers))).body == b"0"


@pytest.mark.parametrize("text", ["-1", "x", "1e3", "99999999999999999999", "٣", "200000"])
@scenario
async def test_a_json_length_that_is_none_is_the_operations_concern(stage: Stage, text: str) -> None:
    client = await stage.connect()
    data = post(b"abc").replace(b"\r\n\r\n", f"\r\nInference-Header-Content-Length: {text}\r\n\r\n".encode())
    assert (await client.ask(data)).body == b"abc"


@scenario
async def test_one_connection_serves_all_kinds_of_routes_in_turn(stage: Stage) -> None:
    client = await stage.connect()
    for number in range(5):
        body = str(number).encode()
        assert (await client.ask(post(body))).body == body
        assert (await client.ask(LIVE)).body == b"live"
        assert (await client.ask(post(body, path="/echo"))).body == body
        assert (await client.ask(chunked(body, body))).body == 2 * body
        assert (await client.ask(post(body, headers="Accept-Encoding: identity\r\n"))).body == body
        assert (await client.ask(post(body, path="/v2/models/m/versions/1/infer"))).body == body
    assert len(stage.front.connections) == 1


@pytest.mark.parametrize("path", [INFER, "/echo"])
@pytest.mark.parametrize("trailers", [b"", b"X-Sum: 1\r\n", b"a: b\r\nc:\r\n"])
@scenario
async def test_a_chunked_body_may_be_split_anywhere_and_another_request_follows(
    stage: Stage, path: str, trailers: bytes
) -> None:
    client = await stage.connect()
    data = chunked(b"one ", b"two\r\n0\r\n\r\n", b"x" * 20, path=path, trailers=trailers)
    expected = b"one two\r\n0\r\n\r\n" + b"x" * 20
    for cut in range(1, len(data), 3):
        await client.send(data[:cut], data[cut:] + post(b"next"))
        assert (await client.answer()).body == expected
        assert (await client.answer()).body == b"next"


@scenario
async def test_a_large_chunked_body_arrives(stage: Stage) -> None:
    client = await stage.connect()
    body = body_of(3_000_000)
    pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
    sending = asyncio.create_task(client.send(chunked(*pieces) + LIVE))
    assert (await client.answer()).body == body
    assert (await client.answer()).body == b"live"
    await sending


@scenario
async def test_a_target_in_absolute_form_is_served_by_every_route(stage: Stage) -> None:
    client = await stage.connect()
    assert (await client.ask(post(b"abc", path=f"http://h{INFER}"))).body == b"abc"
    assert (await client.ask(LIVE.replace(b"/v2", b"http://h/v2"))).body == b"live"
    assert (await client.ask(chunked(b"abc", path=f"http://h{INFER}"))).body == b"abc"
    assert (await client.ask(b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n")).status == 404
    assert (await client.ask(LIVE)).body == b"live"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/models/a%20b/infer", "a b"),
        ("/v2/models/%C3%A9/infer", "é"),
        ("/v2/models/a%2Fb/infer", "a/b"),
        ("/v2/models/%ff/versions/1/infer", "\ufffd"),
        ("/v2/models/a+b/infer", "a+b"),
    ],
)
@scenario
async def test_model_names_are_percent_decoded(stage: Stage, path: str, name: str) -> None:
    client = await stage.connect()
    assert (await client.ask(post(b"abc", path=path))).body == b"abc"
    assert stage.operation.names[-1] == name


@scenario
async def test_an_encoded_route_is_the_same_route(stage: Stage) -> None:
    client = await stage.connect()
    assert (await client.ask(post(b"abc", path="/v2/models/m/%69nfer"))).body == b"abc"


@scenario
async def test_head_and_options_are_answered_and_the_connection_goes_on(stage: Stage) -> None:
    client = await stage.connect()
    await client.send(LIVE.replace(b"GET", b"HEAD"))
    answer = await client.answer(to_head=True)
    assert (answer.status, answer.headers["content-length"]) == (200, "4")
    for request in (f"OPTIONS {INFER}", "OPTIONS *", f"GET {INFER}", f"DELETE {INFER}"):
        answer = await client.ask(f"{request} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert answer.status in (404, 405), request
    await client.send(f"HEAD {INFER} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert (await client.answer(to_head=True)).status == 405
    assert (await client.ask(LIVE)).body == b"live"


@pytest.mark.parametrize("fast", [True, False])
@scenario
async def test_an_upgrade_is_not_taken_and_what_follows_is_a_request(stage: Stage, fast: bool) -> None:
    client = await stage.connect()
    headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    request = post(b"abc", headers=headers, path=INFER if fast else "/echo")
    assert (await client.ask(request)).body == b"abc"
    assert (await client.ask(LIVE[:-2] + headers.encode() + b"\r\n")).body == b"live"
    websocket = headers.replace("h2c", "websocket").encode()
    assert (await client.ask(LIVE[:-2] + websocket + b"\r\n")).body == b"live"
    assert (await client.ask(LIVE)).body == b"live"
    await client.send(LIVE[:-2] + b"Connection: close, upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.end() == b""


# Expect: 100-continue


@pytest.mark.parametrize("request_", [post(length=4, headers="Expect: 100-continue\r\n")])
@pytest.mark.parametrize("path", [INFER, "/echo"])
@scenario
async def test_a_client_that_waits_is_told_to_continue_once(stage: Stage, request_: bytes, path: str) -> None:
    client = await stage.connect()
    request_ = request_.replace(INFER.encode(), path.encode())
    for cut in (len(request_), 10, len(request_) - 1):
        await client.send(request_[:cut], request_[cut:])
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await client.ask(b"bo", b"dy")
        assert (answer.status, answer.body) == (200, b"body")
    assert (await client.ask(LIVE)).body == b"live"


@pytest.mark.parametrize("path", [INFER, "/echo"])
@scenario
async def test_chunked_and_expecting_is_told_to_continue_too(stage: Stage, path: str) -> None:
    client = await stage.connect()
    head, _, body = chunked(b"ab", path=path, headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    await client.send(head + b"\r\n\r\n")
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await client.ask(body)).body == b"ab"


@scenario
async def test_a_client_that_does_not_wait_is_told_nothing(stage: Stage) -> None:
    client = await stage.connect()
    answer = await client.ask(post(b"body", headers="Expect: 100-continue\r\n"))
    assert (answer.status, answer.body) == (200, b"body")
    assert (await client.ask(post(b"", headers="Expect: 100-continue\r\n"))).status == 200


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/v2/models/missing/infer", 2_000_000, 404),
        ("/v2/models/busy/infer", 5, 503),
        (INFER, 65 * 2**20, 413),
        ("/unread", 5, 403),
        ("/unread", 6 * 2**20, 403),
        ("/nowhere", 5, 404),
    ],
)
@scenario
async def test_a_client_that_waits_is_refused_without_its_body_and_the_connection_closed(
    stage: Stage, path: str, length: int, status: int
) -> None:
    client = await stage.connect()
    answer = await client.ask(post(path=path, length=length, headers="Expect: 100-continue\r\n"))
    assert answer.status == status
    assert stage.only._state.name == "LINGERING"
    assert await client.end() == b""  # whether the body follows is not known, so no request may


@pytest.mark.parametrize("name", ["x%2fy", "x%2Fy%2f", "%2f"])
@scenario
async def test_an_encoded_slash_stays_in_the_models_name_on_either_way(stage: Stage, name: str) -> None:
    path = f"/v2/models/{name}/infer"
    for request in (post(b"a", path=path), chunked(b"a", path=path)):
        client = await stage.connect()
        assert (await client.ask(request)).body == b"a"
    assert stage.operation.names[-2:] == [name.lower().replace("%2f", "/")] * 2
    client = await stage.connect()
    assert (await client.ask(chunked(b"a", path=f"/v2/models/m%2f/versions/{name}/more/infer"))).status == 404
    assert (await client.ask(chunked(b"a", path="/v2/models/x%2fy/versions/%2f1/infer"))).status == 200


# What is refused


def bad(text: str) -> bytes:
    return text.encode("latin-1")


MALFORMED = {
    "two equal lengths": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc")),
    "two lengths": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc")),
    "joined lengths": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc")),
    "signed length": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc")),
    "negative length": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -3\r\n\r\nabc")),
    "chunked with length": (
        400,
        bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    "other coding": (501, bad("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")),
    "folded": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nX-A: b\r\n c\r\n\r\n")),
    "space before colon": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc")),
    "bare line feed": (400, bad("POST / HTTP/1.1\nHost: h\r\n\r\n")),
    "bare line feed in a header": (400, bad("POST / HTTP/1.1\r\nHost: h\nContent-Length: 3\r\n\r\nabc")),
    "NUL": (400, bad("POST / HTTP/1.1\r\nHost: h\r\nX-A: \0\r\n\r\n")),
    "no host": (400, bad("GET / HTTP/1.1\r\n\r\n")),
    "two hosts": (400, bad("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\r\n\r\n"),
    "CONNECT": (501, bad("CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n")),
}


@pytest.mark.parametrize("name", list(MALFORMED))
@scenario
async def test_a_head_that_is_not_clear_is_refused_and_nothing_behind_it_is_served(stage: Stage, name: str) -> None:
    status, data = MALFORMED[name]
    data = data.replace(b"POST / ", f"POST {INFER} ".encode())
    started = stage.operation.started
    for pieces in ([data + post(b"smuggled")], [data[:20], data[20:], post(b"smuggled")]):
        client = await stage.connect()
        assert (await client.ask(post(b"first"))).status == 200
        await client.send(*pieces)
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert list(answer.headers).count("content-type") == 1
        assert answer.body.startswith(b'{"error":')
        assert await client.end() == b""
    assert stage.operation.started == started + 2


@scenario
async def test_the_preface_of_http_2_gets_a_sentence(stage: Stage) -> None:
    client = await stage.connect()
    answer = await client.ask(MALFORMED["HTTP/2 preface"][1])
    assert b"HTTP/2.0 is not served on this port; expected HTTP/1.1" in answer.body


@pytest.mark.parametrize("dripping", [False, True])
@pytest.mark.parametrize("ended", [False, True])
@scenario
async def test_a_head_over_the_limit_is_refused_before_it_has_ended(stage: Stage, dripping: bool, ended: bool) -> None:
    client = await stage.connect()
    filler = b"x-a: " + b"a" * (MAX_HEAD_BYTES + 10) + (b"\r\n\r\n" if ended else b"")
    data = LIVE[:-2] + filler
    await client.send(*((data[at : at + 4096] for at in range(0, len(data), 4096)) if dripping else [data]))
    answer = await client.answer()
    assert answer.status == 431
    assert str(MAX_HEAD_BYTES).encode() in answer.body
    assert await client.end() == b""


@scenario
async def test_a_head_of_just_the_limit_is_served(stage: Stage) -> None:
    client = await stage.connect()
    value = b"a" * (MAX_HEAD_BYTES - len(LIVE) - len(b"x-a: "))
    data = LIVE[:-2] + b"x-a: " + value + b"\r\n\r\n"
    assert (await client.ask(data)).body == b"live"
    assert (await client.ask(*(data[at : at + 999] for at in range(0, len(data), 999)))).body == b"live"
    await client.send(post(b"a", "hold") + data + data)
    (held,) = await stage.holds()
    held.exchange.answer(Reply(200, {}, [b"b"], 1))
    assert [(await client.answer()).body for _ in range(3)] == [b"b", b"live", b"live"]


@pytest.mark.parametrize("path", [INFER, "/echo"])
@scenario
async def test_broken_chunks_are_refused_and_nothing_behind_them_is_served(stage: Stage, path: str) -> None:
    started = stage.operation.started
    for broken in (
        b"x\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nContent-Length: 1\r\n\r\n",
    ):
        head = chunked(path=path).removesuffix(b"0\r\n\r\n")
        for pieces in ([head + broken + post(b"smuggled")], [head, broken, post(b"smuggled")]):
            client = await stage.connect()
            answer = await client.ask(*pieces)
            assert answer.status == 400
            assert answer.headers["connection"] == "close"
            assert await client.end() == b""
    assert stage.operation.started == started


@pytest.mark.parametrize("keep", ["", "Connection: keep-alive\r\n"])
@scenario
async def test_http_1_0_is_answered_and_the_connection_closed(stage: Stage, keep: str) -> None:
    for request in (post(b"abc", headers=keep), LIVE[:-2] + keep.encode() + b"\r\n"):
        client = await stage.connect()
        answer = await client.ask(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert answer.status == 200
        assert answer.body in (b"abc", b"live")
        assert answer.headers["connection"] == "close"
        assert await client.end() == b""


@pytest.mark.parametrize(
    "request_", [post(b"abc", headers="Connection: close\r\n"), LIVE[:-2] + b"Connection: close\r\n\r\n"]
)
@scenario
async def test_a_client_that_says_close_is_answered_and_left_with_nothing_behind(
    stage: Stage, request_: bytes
) -> None:
    for behind in (b"", post(b"not served")):
        started = stage.operation.started
        client = await stage.connect()
        answer = await client.ask(request_ + behind)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.end() == b""
        assert stage.operation.started <= started + 1


@pytest.mark.parametrize("draining", [False, True])
@scenario
async def test_an_answer_that_closes_is_not_lost_over_what_was_sent_behind_the_body(
    stage: Stage, draining: bool
) -> None:
    """Closing with unread data makes the client's system throw away what it has received."""
    for _ in range(20):
        client = await stage.connect()
        headers = "" if draining else "Connection: close\r\n"
        await client.send(post(length=4, headers=headers), b"")
        await stage.state("BODY")
        stage.gate.draining = draining
        await client.send(b"body" + 50 * post(bytes(1000)))
        await settle()
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"body", "close")
        assert await client.end() == b""
        await stage.empty()
        stage.gate.draining = False


# Early answers, with the body still to come


@pytest.mark.parametrize(("path", "status"), [("/v2/models/missing/infer", 404), ("/v2/models/busy/infer", 503)])
@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
@scenario
async def test_a_refused_body_is_thrown_away_and_the_connection_goes_on(
    stage: Stage, path: str, status: int, size: int
) -> None:
    client = await stage.connect()
    for _ in range(3):
        sending = asyncio.create_task(client.send(post(bytes(size), path=path) + post(b"next")))
        answer = await client.answer()
        assert answer.status == status
        assert "connection" not in answer.headers
        assert answer.headers.get("retry-after") == ("3" if status == 503 else None)
        assert (await client.answer()).body == b"next"
        await sending


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
@pytest.mark.parametrize("in_chunks", [False, True])
@scenario
async def test_so_is_one_that_an_ordinary_route_does_not_read(stage: Stage, size: int, in_chunks: bool) -> None:
    client = await stage.connect()
    request = chunked(bytes(size), path="/unread") if in_chunks else post(bytes(size), path="/unread")
    for _ in range(3):
        sending = asyncio.create_task(client.send(request + post(b"next")))
        assert (await client.answer()).status == 403
        assert (await client.answer()).body == b"next"
        await sending


@scenario
async def test_a_body_that_does_not_come_in_time_has_the_connection_closed(stage: Stage) -> None:
    client = await stage.connect()
    assert (await client.ask(post(length=1000, path="/v2/models/missing/infer"))).status == 404
    await stage.state("DISCARDING")
    stage.look(http1.DISCARD_S + 0.1)
    await stage.state("LINGERING")
    await client.send(bytes(2000))
    assert await client.end() == b""


@scenario
async def test_broken_chunks_behind_an_answer_are_not_answered_again(stage: Stage) -> None:
    client = await stage.connect()
    assert (await client.ask(chunked(path="/unread").removesuffix(b"0\r\n\r\n"))).status == 403
    await client.send(b"broken\r\n")
    assert await client.end() == b""


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        (INFER, 65 * 2**20, 413),
        ("/v2/models/missing/infer", 20 * 2**20, 404),
        ("/v2/models/busy/infer", 20 * 2**20, 503),
    ],
)
@scenario
async def test_a_common_client_gets_its_answer_though_it_sends_before_it_reads(
    stage: Stage, path: str, length: int, status: int
) -> None:
    body = bytes(length)

    def ask() -> tuple[int, str | None]:
        connection = http.client.HTTPConnection(HOST, stage.port, timeout=SOON_S)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("connection")
        finally:
            connection.close()

    for _ in range(5):
        assert await asyncio.to_thread(ask) == (status, "close")


# Time


@scenario
async def test_a_head_that_does_not_end_is_refused(stage: Stage) -> None:
    client = await stage.connect()
    assert (await client.ask(LIVE)).status == 200
    await client.send(LIVE[:-5])
    await eventually(lambda: stage.front.connections and stage.only._partial, "the head has begun")
    stage.look(http1.HEAD_S - 1)
    await client.send(b"h")
    await settle()
    stage.look(http1.HEAD_S + 0.1)  # what came later does not begin the time anew
    answer = await client.answer()
    assert answer.status == 408
    assert await client.end() == b""


@scenario
async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(stage: Stage) -> None:
    client = await stage.connect()
    await stage.state("HEAD")
    stage.look(121)
    assert await client.end() == b""
    client = await stage.connect()
    await client.ask(post(b"abc"))
    await stage.state("HEAD")
    stage.look(119)
    assert (await client.ask(LIVE)).status == 200
    await stage.state("HEAD")
    stage.look(121)
    assert await client.end() == b""


@pytest.mark.parametrize("size", [1000, 1_000_000])
@scenario
async def test_a_body_that_comes_too_slowly_is_refused(stage: Stage, size: int) -> None:
    client = await stage.connect()
    await client.send(post(b"x" * 10, length=size))
    await stage.state("BODY")
    stage.look(http1.RATE_GRACE_S - 0.5)
    await stage.state("BODY")
    stage.look(http1.RATE_GRACE_S + 0.1)
    answer = await client.answer()
    assert answer.status == 408
    assert f"10 of {size} bytes".encode() in answer.body
    assert answer.headers["connection"] == "close"
    assert await client.end() == b""


@scenario
async def test_a_body_that_comes_fast_enough_has_all_the_time_it_needs(stage: Stage) -> None:
    client = await stage.connect()
    body = body_of(100_000)
    data = post(body)
    await client.send(data[:90_000])
    await eventually(lambda: stage.front.connections and stage.only._at > 80_000, "most of it has come")
    stage.look(6)
    await stage.state("BODY")
    assert (await client.ask(data[90_000:])).body == body


@scenario
async def test_the_clock_is_looked_at_and_one_broken_connection_hides_it_from_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(front, "_LOOK_S", 0.01)
    monkeypatch.setattr(http1, "HEAD_S", 0.05)
    async with serving() as stage:
        broken, slow = await stage.connect(), await stage.connect()
        await broken.send(LIVE[:-2])
        await eventually(lambda: [c._partial for c in stage.front.connections if c._partial], "one head has begun")
        (connection,) = [c for c in stage.front.connections if c._partial]
        refuse = http1.Http1Connection._refuse_head

        def refuse_others(other: http1.Http1Connection, refusal: BadHead) -> None:
            if other is connection:
                raise RuntimeError("a bug")
            refuse(other, refusal)

        monkeypatch.setattr(http1.Http1Connection, "_refuse_head", refuse_others)
        await eventually(lambda: "overdue_failed" in caplog.text, "its end fails")
        answer = await slow.ask(LIVE[:-2])
        assert answer.status == 408
        await stage.reset()


@pytest.mark.parametrize("tail", ["", "Connection: close\r\n"])
@pytest.mark.parametrize("path", [f"{INFER}?size=8000000", "/large"])
@scenario
async def test_a_client_that_does_not_take_its_answer_is_disconnected(stage: Stage, path: str, tail: str) -> None:
    client = await stage.connect(receive_buffer=4096)
    method = "POST" if path.startswith(INFER) else "GET"
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n{tail}\r\n".encode())
    await eventually(lambda: stage.front.connections and stage.only._write_paused, "the answer is not taken")
    released = stage.operation.released
    stage.look(29)
    await settle()
    assert stage.front.connections
    stage.look(31)
    await stage.empty()
    assert stage.operation.released == released + (1 if method == "POST" else 0)


@pytest.mark.parametrize("request_", [post(b"abc", "hold"), post(b"ab", length=3)])
@scenario
async def test_a_deadline_ends_a_request_wherever_it_is(stage: Stage, request_: bytes) -> None:
    client = await stage.connect()
    answer = await client.ask(request_.replace(b"\r\n\r\n", b"\r\nX-Deadline-Ms: 30\r\n\r\n"))
    assert answer.status == 504
    if stage.operation.held:
        assert stage.operation.held[0].cancelled
        assert (await client.ask(LIVE)).body == b"live"
    else:
        assert (await client.ask(b"c" + LIVE)).body == b"live"  # the rest of the body is still one


# Clients that leave

SENT = {
    "small": post(b"body", "hold"),
    "ordinary": post(b"body", path="/echo"),
    "chunked": chunked(b"bo", b"dy", trailers=b"a: b\r\n"),
    "expecting": post(b"body", headers="Expect: 100-continue\r\n"),
    "refused": post(b"body", path="/v2/models/missing/infer"),
    "answered": post(b"body"),
    "two": post(b"", "hold") + LIVE,
}


@pytest.mark.parametrize("dying", [False, True])
@pytest.mark.parametrize("name", list(SENT))
@scenario
async def test_a_client_may_leave_after_any_byte(stage: Stage, name: str, dying: bool) -> None:
    data = SENT[name]
    for sent in range(len(data) + 1):
        client = await stage.connect()
        await client.send(data[:sent], b"")
        if dying:
            client.reset()
        else:
            client.leave()
        await settle(3)
    await stage.empty()
    assert all(held.cancelled for held in stage.operation.held)
    assert stage.count(code="499") >= len(stage.operation.held)


@pytest.mark.parametrize("dying", [False, True])
@pytest.mark.parametrize("sent", [66_000, 130_000, 199_999])
@scenario
async def test_a_client_may_leave_in_the_middle_of_a_large_body(stage: Stage, sent: int, dying: bool) -> None:
    client = await stage.connect()
    await client.send(post(bytes(sent), length=200_000))
    await eventually(lambda: stage.front.connections and stage.only._at == sent, "it has come so far")
    assert stage.gate.arena.leases == 1
    if dying:
        client.reset()
    else:
        client.leave()
    await stage.empty()


@pytest.mark.parametrize("dying", [False, True])
@pytest.mark.parametrize("behind", [b"", LIVE, bytes(50_000)])
@scenario
async def test_the_model_hears_of_a_client_that_has_left(stage: Stage, behind: bytes, dying: bool) -> None:
    client = await stage.connect()
    await client.send(post(b"abc", "hold") + behind)
    (held,) = await stage.holds()
    before = stage.count(code="499")
    if dying:
        client.reset()
    else:
        client.leave()
    await eventually(lambda: held.cancelled, "the model was told to stop")
    await stage.empty()
    assert stage.count(code="499") == before + 1
    held.exchange.answer(Reply(200, {}, [b"late"], 4))  # not heard


@pytest.mark.parametrize("dying", [False, True])
@pytest.mark.parametrize("query", ["size=8000000", "view"])
@scenario
async def test_a_client_may_leave_in_the_middle_of_its_answer(stage: Stage, query: str, dying: bool) -> None:
    client = await stage.connect(receive_buffer=4096)
    released = stage.operation.released
    await client.send(post(bytes(5_000_000), query))
    await stage.state("WRITING")
    await client.receive(1000)
    if dying:
        client.reset()
    else:
        client.leave()
    await stage.empty()
    assert stage.operation.released == released + 1


@pytest.mark.parametrize("dying", [False, True])
@scenario
async def test_an_ordinary_route_hears_of_a_client_that_has_left(stage: Stage, dying: bool) -> None:
    client = await stage.connect()
    request = chunked(b"abc").replace(b"/infer", b"/infer?hold")
    await client.send(request)
    (held,) = await stage.holds()
    if dying:
        client.reset()
    else:
        client.leave()
    await eventually(lambda: held.cancelled, "the model was told to stop")


@pytest.mark.parametrize("size", [1, 200_000])
@scenario
async def test_an_answer_that_nobody_is_left_to_take_is_not_counted_as_one(stage: Stage, size: int) -> None:
    client = await stage.connect()
    await client.send(post(b"abc", "hold"))
    (held,) = await stage.holds()
    sending = asyncio.create_task(client.send(bytes(30_000_000)))
    await eventually(lambda: stage.only._paused, "it is not read from, and so not seen to leave")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    client.reset()
    left, answered = stage.count(code="499"), stage.count(code="200")
    await settle(3)
    held.exchange.answer(Reply(200, {}, [memoryview(bytes(size))], size))
    await stage.empty()
    assert (stage.count(code="499"), stage.count(code="200")) == (left + 1, answered)


@scenario
async def test_an_ordinary_route_that_does_not_read_its_body_leaves_nothing_behind(stage: Stage) -> None:
    gc.collect()
    gc.disable()
    try:
        client = await stage.connect()
        for _ in range(5):
            assert (await client.ask(post(bytes(50_000), path="/unread"))).body == b"no"
            assert (await client.ask(LIVE)).body == b"live"
        client.leave()
        await stage.empty()
        left = [one for one in gc.get_objects() if isinstance(one, OrdinaryRequests)]
        assert len(left) == 0
    finally:
        gc.enable()


# Room for bodies and answers


@scenario
async def test_a_client_that_does_not_read_loses_nothing_and_costs_little(stage: Stage) -> None:
    client = await stage.connect(receive_buffer=4096)
    count = 3000
    requests = [LIVE if n % 7 == 3 else post(b"%06d" % n + bytes(2000), "view") for n in range(count)]
    sending = asyncio.create_task(client.send(b"".join(requests)))
    await eventually(lambda: stage.front.connections and stage.only._paused, "it is not read from any more")
    connection = stage.only
    most = 0
    for n in range(count):
        answer = await client.answer()
        expected = b"live" if n % 7 == 3 else b"%06d" % n + bytes(2000)
        assert answer.body == expected
        assert len(stage.gate.open) <= 1
        most = max(most, len(connection._pending))
    await sending
    assert most <= http1.PENDING_BYTES + len(stage.front.scratch)


@scenario
async def test_a_small_answer_frees_its_memory_at_once_though_nobody_reads_it(stage: Stage) -> None:
    client = await stage.connect(receive_buffer=4096)
    started, released = stage.operation.started, stage.operation.released
    sending = asyncio.create_task(client.send(post(b"", "size=60000") * 500))
    await eventually(lambda: stage.front.connections and stage.only._write_paused, "an answer is not taken")
    assert len(stage.gate.open) == 1
    assert stage.operation.released - released == stage.operation.started - started
    client.leave()
    await asyncio.gather(sending, return_exceptions=True)


@scenario
async def test_behind_the_end_of_the_stream_nothing_is_begun(stage: Stage) -> None:
    client = await stage.connect(receive_buffer=4096)
    await client.send(post(b"", "size=8000000") + 2 * post(b"never begun"))
    await stage.state("WRITING")
    await eventually(lambda: stage.only._pending, "more was sent ahead")
    started = stage.operation.started
    client.raw.shutdown(socket.SHUT_WR)
    assert len((await client.answer()).body) == 8_000_000
    assert await client.end() == b""
    await stage.empty()
    assert stage.operation.started == started


async def slow_reads(stage: Stage, count: int, readers: int = 6) -> int:
    """Have slow clients ask for the one output buffer's content; returns how many answers were wrong."""
    numbers = iter(range(count))
    wrong = 0
    size = len(stage.operation.output)

    async def read(seed: int) -> None:
        nonlocal wrong
        chance = random.Random(seed)
        client = await stage.connect(receive_buffer=16_384)
        for number in numbers:
            await client.send(post(b"", f"shared={number}"))
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            pieces, have = [client.read], len(client.read)
            while have < size:
                pieces.append(await client.receive(chance.choice([20_000, 60_000, 150_000])))
                assert pieces[-1], "the connection was closed"
                have += len(pieces[-1])
            client.read = b""
            wrong += b"".join(pieces) != struct.pack("<Q", number) * (size // 8)

    await asyncio.gather(*(read(seed) for seed in range(readers)))
    return wrong


@scenario
async def test_an_output_buffer_that_is_used_again_never_shows_in_another_answer(stage: Stage) -> None:
    assert await slow_reads(stage, READS) == 0


@pytest.mark.soak
def test_nor_does_it_a_hundred_thousand_times(runner: asyncio.Runner, stage: Stage) -> None:
    assert runner.run(slow_reads(stage, 100_000)) == 0
    runner.run(stage.reset())


@pytest.mark.parametrize("size", [1000, 600_000])
@scenario
async def test_an_answer_from_the_bodys_own_memory_keeps_it_until_it_has_been_sent(stage: Stage, size: int) -> None:
    client = await stage.connect(receive_buffer=4096)
    body = body_of(size)
    await client.send(post(body, "view"))
    answer = await client.answer()  # the arena fills freed slots with other bytes
    assert answer.body == body


@scenario
async def test_a_full_arena_is_a_503_that_says_when_to_come_back() -> None:
    async with serving(Arena(2**20, poison=True)) as stage:
        holder = await stage.connect()
        body = bytes(900_000)
        await holder.send(post(body, "hold"))
        (held,) = await stage.holds()
        client = await stage.connect()
        sending = asyncio.create_task(client.send(post(body) + LIVE))
        answer = await client.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await client.answer()).body == b"live"
        await sending
        assert (await client.ask(post(b"small"))).body == b"small"
        held.exchange.answer(Reply(200, {}, [b"held"], 4))
        assert (await holder.answer()).body == b"held"
        sending = asyncio.create_task(client.send(post(body)))
        assert (await client.answer()).body == body
        await sending
        await stage.reset()


@scenario
async def test_slow_senders_hold_only_the_first_slot() -> None:
    async with serving(Arena(2**20, poison=True)) as stage:
        clients = [await stage.connect() for _ in range(10)]
        for client in clients:
            await client.send(post(b"x", length=900_000))
        await eventually(lambda: stage.gate.arena.leases == 10, "all have begun")
        assert stage.gate.arena.bytes_by_state()["receiving"] == 10 * FIRST_SLOT_BYTES
        await stage.reset()


@pytest.mark.parametrize("chunked_route", [False, True], ids=["plain", "compressed"])
@scenario
async def test_who_states_much_and_sends_little_holds_little(chunked_route: bool) -> None:
    async with serving(max_request_bytes=64 * 2**20) as stage:
        headers = "Content-Encoding: gzip\r\n" if chunked_route else ""
        states = stage.gate.arena.bytes_by_state
        client = await stage.connect()
        await client.send(post(bytes(70_000), length=64 * 2**20, headers=headers))
        await eventually(lambda: states()["receiving"] > FIRST_SLOT_BYTES, "the first slot is full")
        assert states()["receiving"] == 2 * 2**20
        await client.send(bytes(2 * 2**20))
        await eventually(lambda: states()["receiving"] > 2 * 2**20, "the second slot is full")
        assert states()["receiving"] == 64 * 2**20
        await stage.reset()


@pytest.mark.parametrize("size", [2**20 - FIRST_SLOT_BYTES, 700_000])
@scenario
async def test_the_largest_body_of_a_small_arena_grows_into_it(size: int) -> None:
    async with serving(max_inflight_bytes=2**21, max_request_bytes=2**20) as stage:
        client = await stage.connect()
        body = body_of(size)
        sending = asyncio.create_task(client.send(post(body)))
        assert (await client.answer()).body == body
        await sending
        await stage.reset()


@scenario
async def test_one_peer_holds_no_more_than_its_share_while_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Arena(2**20, peer_share=0.5, poison=True)) as stage:
        monkeypatch.setattr(http1, "peer_of", lambda address: "192.0.2.1")
        first, second = await stage.connect(), await stage.connect()
        await first.send(post(bytes(400_000), length=400_001))
        await eventually(lambda: stage.gate.arena.bytes_by_state()["receiving"] >= 400_000, "the first one sends")
        sending = asyncio.create_task(second.send(post(bytes(300_000))))
        answer = await second.answer()
        assert answer.status == 503
        assert b"this client" in answer.body
        await sending
        monkeypatch.setattr(http1, "peer_of", lambda address: "192.0.2.2")
        third = await stage.connect()
        sending = asyncio.create_task(third.send(post(bytes(300_000))))
        assert (await third.answer()).status == 200
        await sending
        assert (await first.ask(b"x")).status == 200
        sending = asyncio.create_task(second.send(post(bytes(300_000))))
        assert (await second.answer()).status == 200
        await sending
        await stage.reset()


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("127.0.0.1", 1), ""),
        (("127.9.9.9", 1), ""),
        (("::1", 1, 0, 0), ""),
        (("::ffff:127.0.0.1", 1, 0, 0), ""),
        (("::ffff:192.0.2.1", 1, 0, 0), "192.0.2.1"),
        (("192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8::1", 1, 0, 0), "2001:db8::1"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::1%eth0"),
        ("/socket", ""),
        (None, ""),
    ],
)
def test_this_machines_own_addresses_have_no_share(address: Any, peer: str) -> None:
    assert front.peer_of(address) == peer


@scenario
async def test_more_requests_than_may_be_in_flight_are_refused() -> None:
    async with serving(max_inflight_requests=1) as stage:
        holder, client = await stage.connect(), await stage.connect()
        await holder.send(post(b"abc", "hold"))
        await stage.holds()
        answer = await client.ask(post(b"abc"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert stage.count(code="503", protocol="rest") == 1
        await stage.reset()


@scenario
async def test_a_bug_in_the_operation_is_a_500_and_the_connection_goes_on(stage: Stage) -> None:
    client = await stage.connect()
    answer = await client.ask(post(b"abc", "unknown"))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert (await client.ask(post(b"abc"))).body == b"abc"


@scenario
async def test_what_is_counted_is_what_was_answered() -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.ask(post(b"abc"))
        await client.ask(post(b"abc", path="/v2/models/missing/infer"))
        await client.ask(chunked(b"abc"))
        await client.ask(b"nonsense\r\n\r\n")
        await eventually(lambda: stage.count() == 4, "all are counted")
        assert [stage.count(code=code) for code in ("200", "404", "400")] == [2, 1, 1]
        assert stage.gate.metrics.received_bytes == 3 + 0 + 3
        await stage.reset()


# Compression


@scenario
async def test_compressed_bodies_and_answers_take_the_other_way_to_the_same_operation(stage: Stage) -> None:
    client = await stage.connect()
    body = b"compress me " * 10_000
    packed = gzip.compress(body)
    for _ in range(3):
        assert (await client.ask(post(packed, headers="Content-Encoding: gzip\r\n"))).body == body
        answer = await client.ask(post(body, headers="Accept-Encoding: gzip\r\n"))
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(answer.body) == body
        answer = await client.ask(post(body, headers="Accept-Encoding: gzip, deflate, br\r\n"))
        assert "content-encoding" not in answer.headers
        assert answer.body == body
        both = "Content-Encoding: gzip\r\nAccept-Encoding: gzip\r\n"
        assert gzip.decompress((await client.ask(post(packed, headers=both))).body) == body
    assert (await client.ask(post(b"not gzip", headers="Content-Encoding: gzip\r\n"))).status == 400
    assert (await client.ask(post(body))).body == body


# The end of the service


@pytest.mark.parametrize(
    "request_", [post(b"abc"), LIVE, chunked(b"abc"), post(b"abc", path="/v2/models/missing/infer")]
)
@scenario
async def test_while_it_drains_every_answer_closes_its_connection(stage: Stage, request_: bytes) -> None:
    client = await stage.connect()
    await client.ask(request_)
    stage.gate.draining = True
    assert (await client.ask(request_)).headers["connection"] == "close"
    assert await client.end() == b""


@scenario
async def test_ordinary_requests_are_known_to_be_in_flight(stage: Stage) -> None:
    client = await stage.connect()
    await client.send(post(b"ab", length=3, path="/echo"))
    await eventually(lambda: stage.front.ordinary_inflight == 1, "a drain waits for it")
    assert (await client.ask(b"c")).body == b"abc"
    await eventually(lambda: stage.front.ordinary_inflight == 0, "it is answered")


@scenario
async def test_when_the_listener_closes_idle_connections_go_and_busy_ones_answer_first() -> None:
    async with serving() as stage:
        idle, fresh, begun, busy, body, discarding = [await stage.connect() for _ in range(6)]
        await idle.ask(LIVE)
        await begun.send(LIVE[:10])
        await busy.send(post(b"abc", "hold"))
        await body.send(post(b"ab", length=3))
        assert (await discarding.ask(post(b"ab", length=3, path="/v2/models/missing/infer"))).status == 404
        await eventually(lambda: len(stage.front.connections) == 6, "all are accepted")
        await eventually(lambda: len(stage.gate.open) == 2, "two are in flight")
        (held,) = await stage.holds()
        assert stage.front.ordinary_inflight == 0
        stopping = asyncio.create_task(stage.listener.stop(10))
        for client in (idle, fresh, begun):
            assert await client.end() == b""
        held.exchange.answer(Reply(200, {}, [b"held"], 4))
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"held", "close")
        answer = await body.ask(b"c")
        assert (answer.body, answer.headers["connection"]) == (b"abc", "close")
        await discarding.send(b"c")
        for client in (busy, body, discarding):
            assert await client.end() == b""
        await stopping
        assert not stage.front.connections


@pytest.mark.parametrize(("peer", "patience_s"), [("10.0.0.1", http1.FIRST_BYTE_S), ("", 120)])
@scenario
async def test_a_new_connection_that_says_nothing_is_closed_sooner_if_it_is_from_another_machine(
    peer: str, patience_s: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1, "peer_of", lambda _: peer)  # tests are on this machine
        async with serving() as stage:
            silent, asking = await stage.connect(), await stage.connect()
            assert (await asking.ask(LIVE)).status == 200
            await eventually(lambda: len(stage.front.connections) == 2, "both are accepted")
            stage.look(patience_s - 1)
            await settle()
            assert len(stage.front.connections) == 2
            stage.look(patience_s + 1)
            assert await silent.end() == b""
            if peer:
                assert (await asking.ask(LIVE)).status == 200, "keep-alive holds after the first request"
            asking.leave()


UNFINISHED = {
    "chunked": chunked(b"abc", b"def")[:-9],
    "compressed": post(gzip.compress(b"abcdef"), headers="Content-Encoding: gzip\r\n")[:-9],
    "plain": post(b"abc", length=12),
}
REST = {"chunked": chunked(b"abc", b"def")[-9:], "compressed": gzip.compress(b"abcdef")[-9:], "plain": b"defghijkl"}


@pytest.mark.parametrize("kind", list(UNFINISHED))
@scenario
async def test_when_the_listener_closes_an_inference_whose_body_is_coming_is_waited_for(kind: str) -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.send(UNFINISHED[kind])
        await eventually(lambda: stage.gate.open, "it is in flight")
        stopping = asyncio.create_task(stage.listener.stop(10))
        await eventually(lambda: stage.only._closing, "the listener closes")
        answer = await client.ask(REST[kind])
        assert (answer.status, answer.body[:6]) == (200, b"abcdef")
        assert await client.end() == b""
        await stopping


@pytest.mark.parametrize("kind", list(UNFINISHED))
@scenario
async def test_when_the_grace_is_over_an_inference_whose_body_is_coming_is_answered_503(kind: str) -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.send(UNFINISHED[kind])
        await eventually(lambda: stage.gate.open, "it is in flight")
        stopping = asyncio.create_task(stage.listener.stop(10))
        await eventually(lambda: stage.only._closing, "the listener closes")
        stage.gate.abort()
        answer = await client.answer()
        assert answer.status == 503
        assert b"shutting down" in answer.body
        client.leave()
        await stopping


@scenario
async def test_when_the_listener_closes_no_other_body_that_is_coming_is_waited_for() -> None:
    async with serving() as stage:
        client = await stage.connect()
        await client.send(chunked(b"abc", path="/echo")[:-5])
        await eventually(lambda: stage.front.ordinary_inflight, "it is in flight")
        stopping = asyncio.create_task(stage.listener.stop(10))
        assert await client.end() == b""
        await stopping


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class TlsClient:
    """A client over TLS; blocking calls in a thread, so that the server's loop goes on."""

    def __init__(self, port: int, certificate: Path) -> None:
        context = ssl.create_default_context(cafile=str(certificate))
        self.connection = http.client.HTTPSConnection(HOST, port, timeout=SOON_S, context=context)

    async def ask(self, body: bytes, path: str = INFER, **headers: str) -> Answer:
        def ask() -> Answer:
            self.connection.request("POST", path, body, headers)
            answer = self.connection.getresponse()
            content = answer.read()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, content)

        return await asyncio.to_thread(ask)


@scenario
async def test_all_of_it_works_over_tls(certificate: tuple[Path, Path]) -> None:
    async with serving(certificate=certificate) as stage:
        client = TlsClient(stage.port, certificate[0])
        for size in (3, 1_200_000, 0, 70_000, 1_200_000):
            body = body_of(size)
            for query in ("echo", "view"):
                answer = await client.ask(body, f"{INFER}?{query}")
                assert answer.status == 200
                assert answer.body == body
            assert (await client.ask(body, "/echo")).body == body
        assert (await client.ask(bytes(3_000_000), "/v2/models/missing/infer")).status == 404
        assert (await client.ask(b"abc")).body == b"abc"
        assert len(stage.front.connections) == 1
        refused = TlsClient(stage.port, certificate[0])
        assert (await refused.ask(bytes(20 * 2**20), "/v2/models/missing/infer")).status == 404
        refused.connection.close()
        client.connection.close()
        await stage.empty()


@scenario
async def test_heads_in_pieces_and_pipelined_requests_over_tls(certificate: tuple[Path, Path]) -> None:
    async with serving(certificate=certificate) as stage:
        client = TlsClient(stage.port, certificate[0])
        await asyncio.to_thread(client.connection.connect)

        def talk() -> list[bytes]:
            secured = client.connection.sock
            request = post(b"the body")
            for cut in range(1, len(request), 9):
                secured.sendall(request[:cut])
                secured.sendall(request[cut:])
            secured.sendall(b"".join(request for _, request, _ in sent_ahead()))
            bodies = []
            for _ in range(len(range(1, len(request), 9)) + len(sent_ahead())):
                assert reader.readline().startswith(b"HTTP/1.1 ")
                headers = http.client.parse_headers(reader)
                bodies.append(reader.read(int(headers["content-length"])))
            return bodies

        reader = client.connection.sock.makefile("rb")
        bodies = await asyncio.to_thread(talk)
        assert bodies[-len(sent_ahead()) :] == [body for _, _, body in sent_ahead()]
        assert set(bodies[: -len(sent_ahead())]) == {b"the body"}
        assert "smuggled" not in stage.operation.names
        reader.close()
        client.connection.close()
        await stage.empty()


@scenario
async def test_an_output_buffer_that_is_used_again_never_shows_in_another_answer_over_tls(
    certificate: tuple[Path, Path],
) -> None:
    async with serving(certificate=certificate) as stage:
        clients = [TlsClient(stage.port, certificate[0]) for _ in range(4)]

        async def read(client: TlsClient, numbers: range) -> None:
            for number in numbers:
                answer = await client.ask(b"", f"{INFER}?shared={number}")
                assert answer.body == struct.pack("<Q", number) * (len(answer.body) // 8)

        await asyncio.gather(*(read(client, range(n, 100, len(clients))) for n, client in enumerate(clients)))
        for client in clients:
            client.connection.close()
        await stage.empty()


@pytest.mark.parametrize("dying", [False, True])
@scenario
async def test_a_client_over_tls_may_leave_at_any_time(certificate: tuple[Path, Path], dying: bool) -> None:
    async with serving(certificate=certificate) as stage:
        for sent in (
            b"",
            post(b"")[:20],
            post(b"ab", length=1000),
            post(bytes(100_000), length=200_000),
            post(b"abc", "hold"),
        ):
            client = TlsClient(stage.port, certificate[0])
            await asyncio.to_thread(client.connection.connect)
            await asyncio.to_thread(client.connection.sock.sendall, sent)
            if sent.startswith(b"POST") and b"hold" in sent:
                await stage.holds()
            if dying:
                client.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connection.sock.close()
            await stage.empty()
        assert [held.cancelled for held in stage.operation.held] == [True]


@scenario
async def test_a_reader_over_tls_that_never_reads_is_disconnected_too(certificate: tuple[Path, Path]) -> None:
    async with serving(certificate=certificate) as stage:
        client = TlsClient(stage.port, certificate[0])
        await asyncio.to_thread(client.connection.connect)
        requests = post(b"", "size=8000000") * 3
        await asyncio.to_thread(client.connection.sock.sendall, requests)
        await stage.state("WRITING")
        stage.look(31)
        await stage.empty()
        client.connection.sock.close()


# Inside


@scenario
async def test_one_byte_that_is_not_taken_keeps_an_answer_unfinished(stage: Stage) -> None:
    """A transport pauses only above its upper mark, so that mark has to be none."""
    await stage.connect()
    await eventually(lambda: stage.front.connections, "it is accepted")
    low, high = stage.only._transport.get_write_buffer_limits()
    assert (low, high) == (0, 0)


def test_an_exchange_that_ends_twice_is_answered_once(runner: asyncio.Runner, stage: Stage) -> None:
    async def test() -> None:
        client = await stage.connect()
        await client.send(post(b"abc", "hold"))
        (held,) = await stage.holds()
        exchange: Exchange = held.exchange
        exchange.answer(Reply(200, {}, [b"one"], 3))
        exchange.answer(Reply(200, {}, [b"two"], 3))
        exchange.fail(RuntimeError("late"))
        assert (await client.answer()).body == b"one"
        assert (await client.ask(LIVE)).body == b"live"
        await stage.reset()

    runner.run(test())


def test_the_client_of_these_tests_sends_pieces(runner: asyncio.Runner, stage: Stage) -> None:
    """Else the tests of split heads would test nothing."""

    async def test() -> None:
        client = await stage.connect()
        sizes: list[int] = []
        await eventually(lambda: stage.front.connections, "it is accepted")
        feed = http1.Http1Connection._feed

        def noting(connection: http1.Http1Connection, data: bytes, came: float) -> None:
            sizes.append(len(data))
            feed(connection, data, came)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http1.Http1Connection, "_feed", noting)
            await client.ask(*(LIVE[at : at + 1] for at in range(len(LIVE))))
        assert sizes.count(1) > len(LIVE) * 0.9
        await stage.reset()

    runner.run(test())
