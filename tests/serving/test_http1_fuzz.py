"""A live connection under random bytes: it never hangs, never leaks, refuses or closes, and serves whoever is next."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fakes import settle
from fuzz_seeds import SEED_HEADS
from http1_support import LIVE, LOOPS, Stage, chunked, post, serving
from saccade_serving.connection.operation import Reply

#: The shared server outlives the examples, as it should.
FUZZ = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

WHOLE = st.sampled_from(
    [
        LIVE,
        post(b"body"),
        post(b"body", "view"),
        post(b"", "size=70000"),
        post(b"body", path="/echo"),
        post(b"body", path="/unread"),
        post(b"body", path="/v2/models/missing/infer"),
        post(b"body", headers="Expect: 100-continue\r\n"),
        post(b"body", headers="Connection: close\r\n"),
        post(b"body", headers="Accept-Encoding: gzip\r\n"),
        post(b"body", headers="Content-Encoding: gzip\r\n"),
        post(b"body", "unknown"),
        post(bytes(70_000)),
        chunked(b"bo", b"dy"),
        chunked(b"bo", b"dy", path="/unread", trailers=b"a: b\r\n"),
        chunked(b"bo", headers="Expect: 100-continue\r\n"),
        chunked(bytes(40_000), path="/echo"),
        post(post(b"x", path="/v2/models/missing/infer"), path="/echo"),
        chunked(post(b"x", path="/v2/models/missing/infer"), path="/unread"),
        LIVE[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n",
    ]
)
JUNK = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([data + b"\r\n" for data, _ in SEED_HEADS.values()]),
    st.sampled_from(
        [
            b"\r\n\r\n",
            b"\n",
            b"0\r\n\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"POST / HTTP/1.1\r\n",
            b" ",
            b"\0",
        ]
    ),
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Requests and junk, with some bytes changed, in random pieces."""
    parts = draw(st.lists(st.one_of(WHOLE, WHOLE, JUNK), min_size=1, max_size=6))
    data = bytearray(b"".join(parts))
    for at, value, how in draw(
        st.lists(
            st.tuples(st.integers(0, 1000), st.integers(0, 255), st.sampled_from(["set", "insert", "cut"])), max_size=3
        )
    ):
        at %= max(1, len(data))
        if how == "cut":
            del data[at : at + value]
        else:
            data[at : at + (how == "set")] = bytes([value])
    cuts = sorted({cut % (len(data) + 1) for cut in draw(st.lists(st.integers(0, 2000), max_size=6))})
    edges = [0, *cuts, len(data)]
    return [bytes(data[begin:end]) for begin, end in itertools.pairwise(edges)]


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


async def bother(stage: Stage, pieces: list[bytes], dying: bool) -> None:
    async with asyncio.timeout(60):
        client = await stage.connect()
        try:
            await client.send(*pieces, b"")
        except (ConnectionResetError, BrokenPipeError):
            pass  # it was refused, and that was that
        else:
            await settle(3)
            if not dying:
                client.raw.shutdown(socket.SHUT_WR)  # nothing more will come, so that nothing may be waited for
                read = await client.end()
                assert set(re.findall(rb"HTTP/1\.1 (\d+) ", read)) <= {
                    b"100",
                    b"200",
                    b"400",
                    b"403",
                    b"404",
                    b"405",
                    b"413",
                    b"415",
                    b"417",
                    b"431",
                    b"500",
                    b"501",
                    b"505",
                }
                assert read[:9] in (b"", b"HTTP/1.1 ")
        finally:
            if dying and client.raw.fileno() >= 0:
                client.reset()
            client.leave()
        await stage.reset()
        following = await stage.connect()
        assert (await following.ask(post(b"abc"))).body == b"abc"
        assert (await following.ask(LIVE)).body == b"live"
        following.leave()
        await stage.reset()


@FUZZ
@given(pieces=streams(), dying=st.booleans())
@example(pieces=[post(b"body", "unknown") * 3], dying=False)
@example(pieces=[LIVE[:-2] + b"a" * 70_000], dying=False)
def test_whatever_is_sent_the_next_client_is_served(
    runner: asyncio.Runner, stage: Stage, pieces: list[bytes], dying: bool
) -> None:
    runner.run(bother(stage, pieces, dying))


@settings(FUZZ, max_examples=60)
@given(
    data=st.lists(
        WHOLE.filter(lambda one: b"close" not in one and not one.startswith(b"PRI")), min_size=1, max_size=6
    ),
    cuts=st.lists(st.integers(0, 100_000), max_size=8),
    ahead=st.integers(0, 9),
)
@example(data=[chunked(bytes(40_000), path="/echo")], cuts=[20_000], ahead=2)
@example(data=[post(post(b"x", path="/v2/models/missing/infer"), path="/echo")], cuts=[60], ahead=1)
def test_what_is_answered_does_not_depend_on_the_pieces_nor_on_what_is_sent_ahead(
    runner: asyncio.Runner, stage: Stage, data: list[bytes], cuts: list[int], ahead: int
) -> None:
    async def statuses(pieces: list[bytes], ahead: int = 0) -> list[int]:
        """The statuses of the answers; the first ``ahead`` pieces are sent while another request is held."""
        async with asyncio.timeout(60):
            client = await stage.connect()
            if ahead:
                await client.send(post(b"", "hold"))
                (held,) = await stage.holds()
                await client.send(*pieces[:ahead], b"")
                held.exchange.answer(Reply(200, {}, [], 0))
                await client.answer()
                pieces = pieces[ahead:]
            sending = asyncio.create_task(client.send(*pieces, LIVE))
            found = []
            while True:
                answer = await client.answer()
                if answer.status != 100:
                    found.append(answer.status)
                if answer.body == b"live" and len(found) == sum(one != b"\r\n" for one in data) + 1:
                    break
            await sending
            client.leave()
            await stage.reset()
            return found

    async def both() -> None:
        whole = b"".join(data)
        edges = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
        pieces = [whole[begin:end] for begin, end in itertools.pairwise(edges)]
        assert await statuses(pieces, ahead) == await statuses([whole])

    runner.run(both())
