"""The REST client's connections against servers that misbehave, on both event loops: no leak, no answer to another."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from fakes import eventually
from http1_support import LOOPS, make_certificate, scenario
from http_stub import HOST, Call, Stub, echo, http, listening, never, request
from saccade_serving.client import BadAnswer, ConnectionFailed, RestClient
from saccade_serving.client.pool import Pool
from saccade_serving.oip.messages import InferRequest, Tensor

LIMIT = 2**20
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module", params=list(LOOPS))
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@asynccontextmanager
async def pool_of(serve: Serve, connections: int = 4, idle_s: float = 60.0) -> AsyncIterator[Pool]:
    """A pool in front of a server that does as it likes with each connection."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, HOST, 0)
    pool = Pool(HOST, server.sockets[0].getsockname()[1], False, connections, LIMIT, idle_s)
    try:
        yield pool
    finally:
        pool.close()
        assert pool.counts == (0, 0, 0)
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


async def ask(pool: Pool, body: bytes = b"x", timeout_s: float = 5.0) -> bytes:
    head = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body)
    return await pool.request([head, memoryview(body)], timeout_s, lambda answer: bytes(answer.body))


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


def answering(raw: bytes, close: bool = False) -> Serve:
    """Send these bytes for every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(raw)
            if close:
                return

    return serve


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what was sent."""
    while True:
        writer.write(http(200, await read_request(reader)))


async def stay_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    await asyncio.get_running_loop().create_future()


async def read_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.get_running_loop().create_future()


async def accept_and_close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    return


async def reset_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(http(200, b"x" * 1000)[:-500])
    await writer.drain()
    # Not before the client has it, or its system throws it away.
    reset = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    writer.transport.abort()


@scenario
async def test_a_connection_is_used_again_and_idle_meanwhile() -> None:
    async with pool_of(repeat) as pool:
        for body in (b"one", b"two" * 100_000, b"", b"three"):
            assert await ask(pool, body) == body
            assert pool.counts == (1, 1, 0)


@scenario
async def test_the_pool_never_has_more_connections_than_its_limit_and_calls_wait_in_order() -> None:
    order: list[int] = []
    most = 0

    async def call(number: int) -> None:
        nonlocal most
        body = b"%d" % number
        assert await ask(pool, body) == body
        most = max(most, pool.counts[0])
        order.append(number)

    async with pool_of(repeat, connections=2) as pool:
        await asyncio.gather(*(call(number) for number in range(40)))
        assert most == 2
        assert pool.counts == (2, 2, 0)
        assert all(abs(number - place) <= 4 for place, number in enumerate(order))


@scenario
async def test_waiting_for_a_connection_ends_with_the_time_of_the_call() -> None:
    async with pool_of(stay_silent, connections=1) as pool:
        first = asyncio.create_task(ask(pool, timeout_s=60))
        await eventually(lambda: pool.counts[0] == 1, "the first has the connection")
        with pytest.raises(TimeoutError):
            await ask(pool, timeout_s=0.05)
        assert pool.counts[2] == 0
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert pool.counts == (0, 0, 0)


@scenario
async def test_the_place_of_a_call_that_ends_badly_goes_to_one_that_waits() -> None:
    async with pool_of(stay_silent, connections=1) as pool:
        outcomes = await asyncio.gather(*(ask(pool, timeout_s=0.2 * n) for n in (1, 2, 3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3
        assert pool.counts == (0, 0, 0)


@pytest.mark.parametrize("serve", [accept_and_close, answering(b"", close=True)])
@scenario
async def test_a_server_that_accepts_and_closes_is_a_failed_connection_without_an_answer(serve: Serve) -> None:
    async with pool_of(serve) as pool:
        for _ in range(20):
            with pytest.raises(ConnectionFailed) as caught:
                await ask(pool)
            assert not caught.value.answer_began
            assert not caught.value.reused
            assert pool.counts == (0, 0, 0)


@pytest.mark.parametrize(
    "serve",
    [
        reset_in_the_middle,
        answering(http(200, b"x" * 1000)[:-500], close=True),
        answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", close=True),
    ],
    ids=["reset", "half a body", "no last chunk"],
)
@scenario
async def test_an_answer_that_breaks_off_is_a_failed_connection(serve: Serve) -> None:
    async with pool_of(serve) as pool:
        with pytest.raises(ConnectionFailed):
            await ask(pool)
        assert pool.counts == (0, 0, 0)


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\n", http(200, b"x" * 100_000)[:-5]], ids=["nothing", "half a head", "half a body"]
)
@scenario
async def test_an_answer_that_stops_ends_with_the_time_and_its_connection(raw: bytes) -> None:
    async with pool_of(answering(raw)) as pool:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await ask(pool, timeout_s=0.1)
        assert time.monotonic() - begun < 2
        assert pool.counts == (0, 0, 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        http(200, b"x")[:20] + b"\r\n\r\n",
        http(200, b"x" * (LIMIT + 1)),
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * (LIMIT + 1),
    ],
    ids=["ssh", "tls", "no length", "too large", "endless"],
)
@scenario
async def test_what_is_no_answer_is_told_at_once_and_costs_the_connection(raw: bytes) -> None:
    async with pool_of(answering(raw)) as pool:
        with pytest.raises(BadAnswer):
            await ask(pool)
        assert pool.counts == (0, 0, 0)


@scenario
async def test_what_comes_behind_an_answer_is_never_the_next_calls() -> None:
    async def two_for_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = await read_request(reader)
            writer.write(http(200, body) + http(200, b"poison"))

    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, await read_request(reader)))
        await answered.wait()
        writer.write(http(200, b"poison"))
        await reader.read()

    async with pool_of(two_for_one, connections=1) as pool:
        for number in range(20):
            assert await ask(pool, b"%d" % number) == b"%d" % number
            await eventually(lambda: pool.counts == (0, 0, 0), "the connection is not used again")
    async with pool_of(later, connections=1) as pool:
        for number in range(20):
            answered = asyncio.Event()
            assert await ask(pool, b"%d" % number) == b"%d" % number
            assert pool.counts == (1, 1, 0)
            answered.set()
            await eventually(lambda: pool.counts == (0, 0, 0), "what comes while it is idle ends it")


@scenario
async def test_an_early_answer_to_a_request_that_is_not_read_counts_and_costs_the_connection() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(413, b"too large"))
        await asyncio.get_running_loop().create_future()

    async with pool_of(refuse) as pool:
        assert await ask(pool, b"x" * 2**24) == b"too large"
        assert pool.counts == (0, 0, 0)


@scenario
async def test_a_server_that_never_reads_costs_the_calls_time_and_its_memory_is_not_read_afterwards() -> None:
    received = bytearray()
    go_on = asyncio.Event()
    ended = asyncio.Event()

    async def read_late(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        try:
            while data := await reader.read(2**16):
                received.extend(data)
        finally:
            ended.set()

    async with pool_of(read_late) as pool:
        body = bytearray(b"a" * 2**24)
        head = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await pool.request([head, memoryview(body)], 0.2, lambda answer: answer)
        assert time.monotonic() - begun < 3
        body[:] = b"b" * len(body)  # its owner uses it for something else
        go_on.set()
        await asyncio.wait_for(ended.wait(), 10)
    assert b"a" in received, "something was sent"
    assert len(received) < len(body)
    assert b"b" not in received


@scenario
async def test_a_call_that_is_cancelled_while_sending_or_waiting_takes_its_connection_along() -> None:
    for serve, body in ((read_nothing, b"x" * 2**24), (stay_silent, b"x")):
        async with pool_of(serve) as pool:
            call = asyncio.create_task(ask(pool, body, 60))
            await eventually(lambda pool=pool: pool.counts[0] == 1, "connected")  # type: ignore[misc]
            await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert pool.counts == (0, 0, 0)


@scenario
async def test_closing_the_pool_ends_what_is_under_way_and_what_waits() -> None:
    async with pool_of(stay_silent, connections=1) as pool:
        calls = [asyncio.create_task(ask(pool, timeout_s=60)) for _ in range(3)]
        await eventually(lambda: pool.counts == (1, 0, 2), "one has the connection, two wait")
        pool.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionFailed] * 3
        assert pool.counts == (0, 0, 0)


@scenario
async def test_closing_the_pool_ends_a_call_that_is_still_connecting() -> None:
    async with pool_of(stay_silent, connections=1) as pool:
        call = asyncio.create_task(ask(pool, timeout_s=60))
        await asyncio.sleep(0)
        assert pool.counts == (1, 0, 0), "connecting takes longer than a turn of the loop"
        pool.close()
        with pytest.raises(ConnectionFailed, match="the client was closed"):
            await call
        assert pool.counts == (0, 0, 0)


@scenario
async def test_what_is_idle_for_too_long_is_closed_by_the_client() -> None:
    left: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await repeat(reader, writer)
        finally:
            left.append(1)

    async with pool_of(serve, idle_s=0.05) as pool:
        await asyncio.gather(*(ask(pool) for _ in range(3)))
        assert pool.counts == (3, 3, 0)
        await eventually(lambda: pool.counts == (0, 0, 0), "the idle ones are closed")
        await eventually(lambda: len(left) == 3, "the server has seen it")
        assert await ask(pool, b"again") == b"again"


@scenario
async def test_a_server_that_closes_idle_connections_is_noticed_before_the_next_call() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await repeat(reader, writer)

    async with pool_of(serve) as pool:
        for _ in range(5):
            assert await ask(pool, b"x") == b"x"
            writers.pop().close()
            await eventually(lambda: pool.counts == (0, 0, 0), "it is gone")


@scenario
async def test_connecting_where_nobody_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade_serving.client.pool.CONNECT_S", 0.1)
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        for _ in range(3):  # the queue of the listener is full: a further connection is not even refused
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        pool = Pool(HOST, address[1], False, 4, LIMIT)
        with pytest.raises(ConnectionFailed, match="connecting took too long"):
            await ask(pool)
        assert pool.counts == (0, 0, 0)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("seed", range(2))
@scenario
async def test_thousands_of_calls_with_cancellations_never_get_each_others_answers(seed: int) -> None:
    dice = random.Random(seed)

    async def unsteady(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = await read_request(reader)
            if dice.random() < 0.2:
                await asyncio.sleep(dice.random() * 0.004)
            raw = http(200, body)
            what = dice.random()
            if what < 0.02:
                return
            if what < 0.04:
                writer.write(raw[: dice.randrange(len(raw))])
                return
            if what < 0.3:
                cut = dice.randrange(len(raw))
                writer.write(raw[:cut])
                await writer.drain()
                await asyncio.sleep(0)
                raw = raw[cut:]
            writer.write(raw)

    answered = 0

    async def call(number: int) -> None:
        nonlocal answered
        body = b"%d|" % number * dice.choice((1, 100, 30_000))
        with suppress(TimeoutError, ConnectionFailed):
            assert await ask(pool, body, dice.choice((0.003, 5, 5, 5))) == body
            answered += 1

    async with pool_of(unsteady, connections=5) as pool:
        begun = 0
        running: set[asyncio.Task[None]] = set()
        while begun < 1000:
            while len(running) < 12:
                running.add(asyncio.create_task(call(begun)))
                begun += 1
            for task in list(running):
                if dice.random() < 0.03:
                    task.cancel()
            done, running = await asyncio.wait(running, timeout=dice.random() * 0.002)
            for task in done:
                if not task.cancelled():
                    task.result()
        await asyncio.gather(*running)
        assert answered > 300
        open_, idle, waiting = pool.counts
        assert (open_, waiting) == (idle, 0)


@scenario
async def test_it_all_works_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    stub = Stub(echo)
    server = await asyncio.start_server(stub.serve, HOST, 0, ssl=context, limit=2**24)
    client = RestClient(f"https://localhost:{server.sockets[0].getsockname()[1]}")
    big = InferRequest("m", [Tensor.of("x", request(500_000).inputs[0].array)], binary_output=True)
    for sent in (request(6), big, request(7)):
        answer = await client.infer(sent, 20)
        assert (answer.output("x").array == sent.inputs[0].array).all()
    assert stub.connections == 1

    stub.answer = never
    with pytest.raises(TimeoutError):
        await client.infer(request(), 0.1)
    assert client.pool is not None
    assert client.pool.counts == (0, 0, 0)
    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = RestClient(f"https://localhost:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(ConnectionFailed, match="certificate"):
        await stranger.infer(request(), 5)
    await client.close()
    await stranger.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("headers", [{"a": "b\r\nc: d"}, {"a\nb": "c"}, {"a": "\r"}, {"a": "b\0"}])
@scenario
async def test_a_header_cannot_smuggle_another(headers: dict[str, str]) -> None:
    async def answer(call: Call) -> bytes:
        return http(200)

    async with listening(Stub(answer)) as stub:
        client = RestClient(stub.url)
        for call in (client.infer(request(), 5, headers), client.call("GET", "/x", 5, None, headers)):
            with pytest.raises(ConnectionFailed, match="line break"):
                await call
        for path in ("/a b", "/a\r\nx: y", "/ä"):
            with pytest.raises(ConnectionFailed, match="no path"):
                await client.call("GET", path, 5)
        await client.close()
    assert not stub.calls
