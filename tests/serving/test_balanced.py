"""A client of several servers: who is asked, what is repeated and with which time, hedging; fakes and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import numpy as np
import pytest

from fakes import FakeClock, FakeV2Client, detector_metadata, eventually, settle
from http_stub import HOST, Call, Stub, echo, http, listening, never
from saccade_serving.client import BadAnswer, Balanced, ConnectionFailed, Refused, RestClient
from saccade_serving.client.balance import Balance
from saccade_serving.metrics import Counter
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor

Answer = Callable[[InferRequest], Awaitable[InferResponse]]
HEADERS = {"x-deadline-ms": "10000.000", "x-request-id": "r1"}


def request(number: int = 0) -> InferRequest:
    tensor = Tensor.of("x", np.array([number], np.int32))
    return InferRequest("m", [tensor], parameters={"timeout": 10_000_000}, binary_output=True)


async def good(request: InferRequest) -> InferResponse:
    return InferResponse("m", request.inputs, "1")


async def silent(_request: InferRequest) -> InferResponse:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


def failing(*errors: Exception) -> Answer:
    """Fail so one call after the other, then answer."""
    left = list(errors)

    async def answer(request: InferRequest) -> InferResponse:
        if left:
            raise left.pop(0)
        return await good(request)

    return answer


class Stage:
    """A balanced client over fakes."""

    def __init__(self, *answers: Answer, hedge_after_s: float = 0.0, balance: Balance | None = None) -> None:
        async def describe() -> object:
            return detector_metadata()

        self.fakes = [FakeV2Client(answer, describe) for answer in answers]  # type: ignore[arg-type]
        self.retries = Counter("r", "R.", ("reason",))
        self.hedges = Counter("h", "H.", ("outcome",))
        self.client = Balanced(self.fakes, self.retries, self.hedges, hedge_after_s, balance)

    @property
    def asked(self) -> list[int]:
        return [len(fake.requests) for fake in self.fakes]


NO_ANSWER = ConnectionFailed("refused")
FULL = Refused(503, "full", 0.05)
GONE = Refused(404, "gone")


async def test_one_server_is_asked_with_the_very_request_time_and_headers() -> None:
    stage = Stage(good)
    sent = request()
    await stage.client.infer(sent, 9.5, HEADERS)
    [fake] = stage.fakes
    assert fake.requests[0] is sent
    assert fake.timeouts == [9.5]
    assert fake.headers == [HEADERS]


async def test_calls_are_spread_over_the_servers() -> None:
    stage = Stage(good, good, good)
    for _ in range(30):
        await stage.client.infer(request(), 5)
    assert stage.asked == [10, 10, 10]


async def test_a_connection_that_failed_without_an_answer_is_repeated_elsewhere_with_the_time_that_is_left() -> None:
    async def late(_request: InferRequest) -> InferResponse:
        await asyncio.sleep(0.05)
        raise NO_ANSWER

    stage = Stage(late, late)
    with pytest.raises(ConnectionFailed):
        await stage.client.infer(request(), 10.0, HEADERS)
    assert stage.asked == [1, 1], "each once: a request is repeated at most once"
    assert stage.retries.values == {("connection",): 1}
    second = next(fake for fake in stage.fakes if fake.timeouts[0] != 10.0)
    [timeout_s] = second.timeouts
    assert 9.0 < timeout_s < 9.96
    assert float(second.headers[0]["x-deadline-ms"]) == pytest.approx(timeout_s * 1e3, abs=0.001)
    stated = second.requests[0].parameters["timeout"]
    assert isinstance(stated, int)
    assert 0.98 * timeout_s * 1e6 <= stated <= timeout_s * 1e6
    assert second.headers[0]["x-request-id"] == "r1"


async def test_a_server_without_the_model_is_quick_and_draws_no_traffic() -> None:
    async def without(_request: InferRequest) -> InferResponse:
        raise GONE

    stage = Stage(without, good)
    for _ in range(20):
        await stage.client.infer(InferRequest("m", request().inputs), 5)
    assert stage.asked[1] == 20
    assert stage.asked[0] <= 2, "once before it was known, and once when its pause was over"
    assert set(stage.retries.values) == {("no_model",)}


async def test_a_version_that_a_server_does_not_have_says_nothing_of_the_server() -> None:
    async def without(_request: InferRequest) -> InferResponse:
        raise GONE

    stage = Stage(without, without)
    for _ in range(4):
        with pytest.raises(Refused, match="gone"):
            await stage.client.infer(InferRequest("m", request().inputs, model_version="7"), 5)
    assert stage.asked == [2, 2]
    assert stage.client.balance.states() == (2, 0)


async def test_what_states_no_time_is_repeated_as_it_is() -> None:
    stage = Stage(failing(NO_ANSWER))
    sent = InferRequest("m", request().inputs)
    await stage.client.infer(sent, 5)
    assert stage.fakes[0].requests == [sent, sent]
    assert stage.fakes[0].headers == [{}, {}]


@pytest.mark.parametrize(
    "error",
    [
        Refused(400, "wrong"),
        Refused(413, "too large"),
        Refused(500, "broken"),
        Refused(503, "full"),
        Refused(504, "late", 0.01),
        BadAnswer("garbage"),
        ConnectionFailed("half an answer", answer_began=True),
        TimeoutError(),
    ],
)
async def test_an_answer_is_an_answer_and_no_time_left_is_none(error: Exception) -> None:
    stage = Stage(failing(error), failing(error))
    with pytest.raises(type(error)):
        await stage.client.infer(request(), 5)
    assert sum(stage.asked) == 1
    assert stage.retries.values == {}


async def test_a_busy_server_alone_is_asked_again_when_it_says() -> None:
    stage = Stage(failing(FULL))
    begun = time.monotonic()
    await stage.client.infer(request(), 5, HEADERS)
    assert time.monotonic() - begun >= 0.05
    assert stage.asked == [2]
    assert stage.fakes[0].timeouts[1] < 4.96
    assert stage.retries.values == {("overloaded",): 1}


async def test_a_busy_server_that_has_company_is_not_waited_for() -> None:
    stage = Stage(failing(Refused(503, "full", 3.0), Refused(503, "full", 3.0)), good)
    begun = time.monotonic()
    for _ in range(2):
        await stage.client.infer(request(), 4)
    assert time.monotonic() - begun < 2
    assert stage.retries.values == {("overloaded",): 1}
    assert stage.client.balance.states() == (1, 1)


async def test_an_error_of_the_second_try_is_the_one_that_is_told() -> None:
    stage = Stage(failing(NO_ANSWER, Refused(400, "wrong")))
    with pytest.raises(Refused, match="wrong"):
        await stage.client.infer(request(), 5)


async def test_a_dead_server_costs_one_failed_call_per_pause_and_no_request() -> None:
    clock = FakeClock()
    stage = Stage(failing(*[NO_ANSWER] * 1000), good, balance=Balance(2, clock))
    for _ in range(100):
        await stage.client.infer(request(), 5)
    assert stage.asked == [1, 100]
    clock.now += 0.11
    for _ in range(100):
        await stage.client.infer(request(), 5)
    assert stage.asked == [2, 200]


async def test_a_broken_server_that_is_quick_to_say_500_does_not_draw_the_calls() -> None:
    clock = FakeClock()
    stage = Stage(failing(*[Refused(500, "the GPU is gone")] * 1000), good, balance=Balance(2, clock))
    failed = 0
    for _ in range(100):
        try:
            await stage.client.infer(request(), 5)
        except Refused:
            failed += 1
    assert (failed, stage.asked) == (1, [1, 99]), "not repeated, but set aside"
    clock.now += 0.11
    for _ in range(100):
        with contextlib.suppress(Refused):
            await stage.client.infer(request(), 5)
    assert stage.asked == [2, 198]


async def test_what_is_wrong_with_a_request_sets_no_server_aside() -> None:
    stage = Stage(*[failing(*[Refused(400, "wrong")] * 100) for _ in range(2)])
    for _ in range(100):
        with pytest.raises(Refused):
            await stage.client.infer(request(), 5)
    assert stage.asked == [50, 50]
    assert stage.client.balance.states() == (2, 0)


async def test_a_cancelled_call_is_neither_a_success_nor_a_failure() -> None:
    stage = Stage(silent, silent)
    calls = [asyncio.create_task(stage.client.infer(request(), 60)) for _ in range(4)]
    await settle()
    assert stage.asked == [2, 2]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert stage.client.balance.states() == (2, 0)


async def test_metadata_readiness_and_closing_are_those_of_the_servers() -> None:
    stage = Stage(good, good)
    assert (await stage.client.metadata("m", 5)).name == "detector"
    assert await stage.client.is_ready("m", 1)
    stage.fakes[0].ready = False
    assert await stage.client.is_ready("m", 1), "one is enough"
    stage.fakes[1].ready = False
    assert not await stage.client.is_ready("m", 1)
    await stage.client.close()
    assert [fake.closed for fake in stage.fakes] == [True, True]


# Hedging.


async def slow(request: InferRequest) -> InferResponse:
    await asyncio.sleep(0.1)
    return await good(request)


async def test_no_second_request_is_sent_unless_told() -> None:
    stage = Stage(slow, slow)
    await stage.client.infer(request(), 5)
    assert sum(stage.asked) == 1


async def test_a_slow_server_is_overtaken_by_another_and_its_call_is_cancelled() -> None:
    cancelled = []

    async def hang(request: InferRequest) -> InferResponse:
        try:
            return await silent(request)
        except asyncio.CancelledError:
            cancelled.append(request)
            raise

    stage = Stage(hang, good, hedge_after_s=0.02)
    for _ in range(4):
        await asyncio.wait_for(stage.client.infer(request(), 5, HEADERS), 4)
    hedged = stage.asked[0]
    assert stage.hedges.values == {("won",): hedged}
    assert 1 <= hedged == len(cancelled)
    assert any(timeout_s < 4.99 for timeout_s in stage.fakes[1].timeouts), "with the time that is left"


async def test_the_first_may_still_win() -> None:
    async def overtaken(sent: InferRequest) -> InferResponse:
        await eventually(lambda: stage.asked == [1, 1], "the second is asked, too")
        return await good(sent)

    stage = Stage(overtaken, silent, hedge_after_s=0.02)
    stage.client.balance.begin(1)  # so that the slow one is asked first
    await stage.client.infer(request(), 5)
    assert stage.asked == [1, 1]
    assert stage.hedges.values == {("lost",): 1}


async def test_where_both_fail_the_firsts_error_is_told() -> None:
    async def fail_late(_request: InferRequest) -> InferResponse:
        await asyncio.sleep(0.05)
        raise NO_ANSWER

    stage = Stage(fail_late, fail_late, hedge_after_s=0.01)
    with pytest.raises(ConnectionFailed):
        await stage.client.infer(request(), 5)
    assert stage.asked == [1, 1], "a second request is the one repetition there is"
    assert stage.hedges.values == {("failed",): 1}


async def test_a_first_that_fails_at_once_is_repeated_as_without_hedging() -> None:
    stage = Stage(failing(NO_ANSWER), failing(NO_ANSWER), hedge_after_s=1)
    with pytest.raises(ConnectionFailed):
        await stage.client.infer(request(), 5)
    assert stage.asked == [1, 1]
    assert stage.retries.values == {("connection",): 1}
    assert stage.hedges.values == {}


async def test_whoever_gives_up_on_a_hedged_call_cancels_both() -> None:
    stage = Stage(silent, silent, hedge_after_s=0.01)
    call = asyncio.create_task(stage.client.infer(request(), 60))
    await eventually(lambda: stage.asked == [1, 1], "both are asked")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(asyncio.all_tasks()) == 1


# Real sockets.


async def once_each(call: Call) -> bytes | None:
    return await echo(call) if call.nth == 1 else None


def balanced(*clients: RestClient) -> tuple[Balanced, Counter]:
    retries = Counter("r", "R.", ("reason",))
    return Balanced(clients, retries, Counter("h", "H.", ("outcome",))), retries


async def test_a_kept_alive_connection_that_the_server_closes_is_repeated_on_a_new_one() -> None:
    async with listening(Stub(once_each)) as stub:
        client, retries = balanced(RestClient(stub.url))
        for number in range(5):
            answer = await client.infer(request(number), 5, HEADERS)
            assert answer.output("x").array.tolist() == [number]
        await client.close()
    assert 1 <= retries.values[("connection",)] <= 4
    assert stub.connections == 5


async def test_servers_that_die_and_come_back_cost_no_request() -> None:
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(listening(Stub(echo))) for _ in range(2)]
        clients = [RestClient(stub.url) for stub in (first, second)]
        client, retries = balanced(*clients)

        async def ask(times: int) -> None:
            for number in range(times):
                answer = await client.infer(request(number), 5)
                assert answer.output("x").array.tolist() == [number]

        await ask(10)
        assert (len(first.calls), len(second.calls)) == (5, 5)
        first.answer = lambda _call: asyncio.sleep(0)  # accepts, reads, closes
        first.hang_up()
        await ask(20)
        assert client.balance.states() == (1, 1)
        first.answer = echo
        before = len(first.calls)

        async def back() -> bool:
            await ask(2)
            return client.balance.states() == (2, 0)

        deadline = time.monotonic() + 10
        while not await back():
            assert time.monotonic() < deadline
        assert len(first.calls) > before
        assert sum(retries.values.values()) <= 3
        await client.close()
        for one in clients:
            assert one.pool is not None
            assert one.pool.counts == (0, 0, 0)


async def test_a_hedged_call_closes_the_losers_connection() -> None:
    async with AsyncExitStack() as stack:
        slow_stub = await stack.enter_async_context(listening(Stub(never)))
        quick_stub = await stack.enter_async_context(listening(Stub(echo)))
        clients = [RestClient(stub.url) for stub in (slow_stub, quick_stub)]
        hedges = Counter("h", "H.", ("outcome",))
        client = Balanced(clients, Counter("r", "R.", ("reason",)), hedges, hedge_after_s=0.02)
        for number in range(4):
            answer = await client.infer(request(number), 5)
            assert answer.output("x").array.tolist() == [number]
        await eventually(lambda: slow_stub.open == 0, "the slow one sees the client leave")
        assert hedges.values[("won",)] >= 1
        await client.close()


async def test_one_address_that_refuses_connections_is_no_ones_loss() -> None:
    async with listening(Stub(echo)) as stub:
        dead = RestClient(f"http://{HOST}:1")
        client, retries = balanced(dead, RestClient(stub.url))
        await asyncio.gather(*(client.infer(request(), 5) for _ in range(20)))
        assert sum(retries.values.values()) <= 10
        await client.close()


async def test_a_version_that_changes_from_answer_to_answer_is_told_as_it_is() -> None:
    versions = iter(["1", "2", "1", "3"])

    async def changing(call: Call) -> bytes:
        return (await echo(call)).replace(b'"model_version":"7"', b'"model_version":"%s"' % next(versions).encode())

    async with listening(Stub(changing)) as stub:
        client, _ = balanced(RestClient(stub.url))
        assert [(await client.infer(request(), 5)).model_version for _ in range(4)] == ["1", "2", "1", "3"]
        await client.close()


async def test_busy_over_http_is_waited_for_in_whole_seconds() -> None:
    async def busy_once(call: Call) -> bytes:
        if len(stub.calls) == 1:
            return http(503, b'{"error": "full"}', retry_after="1")
        return await echo(call)

    async with listening(Stub(busy_once)) as stub:
        client, retries = balanced(RestClient(stub.url))
        begun = time.monotonic()
        await client.infer(request(), 5, HEADERS)
        assert 1 <= time.monotonic() - begun < 4
        assert float(stub.calls[1].headers["x-deadline-ms"]) < 4001
        stub.calls.clear()
        with pytest.raises(Refused):
            await client.infer(request(), 0.9)
        await client.close()
    assert retries.values == {("overloaded",): 1}
