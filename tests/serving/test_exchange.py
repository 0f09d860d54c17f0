"""What accompanies a request: whichever deadline is the shortest, what is forwarded, where its time went."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from fakes import eventually, settle
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.errors import DeadlineExceeded, EngineFailed, InvalidRequest, Overloaded, SaccadeError
from saccade_serving.memory.arena import Arena


def begin(headers: dict[str, str] | None = None, timeout_s: float = 30.0, started: float = 100.0) -> Exchange:
    return Exchange.begin("rest", headers or {}, timeout_s, started)


def test_without_a_word_from_the_client_the_default_timeout_holds() -> None:
    assert begin(timeout_s=30.0, started=100.0).deadline == 130.0


def test_time_counts_from_now_when_the_first_byte_is_not_known() -> None:
    before = time.monotonic()
    exchange = Exchange.begin("rest", {}, 5.0)
    assert before <= exchange.started <= time.monotonic()
    assert 4.0 < exchange.remaining_s() <= 5.0


def test_the_deadline_header_brings_the_deadline_forward() -> None:
    assert begin({"x-deadline-ms": "250"}).deadline == 100.25
    assert begin({"x-deadline-ms": "0.5"}).deadline == pytest.approx(100.0005)


def test_the_deadline_header_cannot_buy_more_time_than_the_server_gives() -> None:
    assert begin({"x-deadline-ms": "3600000"}, timeout_s=30.0).deadline == 130.0


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "-inf", "1e999", "0x10", "1,5"])
def test_a_deadline_header_that_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="x-deadline-ms") as caught:
        begin({"x-deadline-ms": text})
    assert text in str(caught.value)


def test_tightening_never_moves_a_deadline_back() -> None:
    exchange = begin()
    exchange.tighten(2.0)
    exchange.tighten(9.0)
    assert exchange.deadline == 102.0


@pytest.mark.parametrize(("value", "deadline"), [(500_000, 100.5), ("500000", 100.5), (0, 130.0), ("0", 130.0)])
def test_tritons_timeout_parameter_is_in_microseconds_and_zero_is_none(value: int | str, deadline: float) -> None:
    exchange = begin()
    exchange.tighten_by_parameter({"timeout": value})
    assert exchange.deadline == deadline


def test_no_timeout_parameter_changes_nothing() -> None:
    exchange = begin()
    exchange.tighten_by_parameter({"priority": 3})
    assert exchange.deadline == 130.0


@pytest.mark.parametrize("value", [-1, 1.5, True, "-1", "1.5", "soon", "", "\u0661\u0662"])
def test_a_timeout_parameter_that_is_no_whole_number_is_refused(value: int | float | str | bool) -> None:
    with pytest.raises(InvalidRequest, match="parameter 'timeout'"):
        begin().tighten_by_parameter({"timeout": value})


def test_a_timeout_parameter_of_a_thousand_digits_is_no_work_and_no_deadline() -> None:
    exchange = begin()
    exchange.tighten_by_parameter({"timeout": "9" * 1000})
    assert exchange.deadline == 130.0


def test_a_passed_deadline_is_an_error_that_says_how_much_and_where() -> None:
    exchange = Exchange.begin("rest", {"x-deadline-ms": "40"}, 30.0, time.monotonic() - 1)
    assert exchange.remaining_s() < 0
    with pytest.raises(DeadlineExceeded) as caught:
        exchange.check_deadline("before it was queued")
    assert str(caught.value) == "the request's 40 ms were over before it was queued"


def test_a_deadline_that_is_still_to_come_is_no_error() -> None:
    Exchange.begin("rest", {}, 30.0).check_deadline("anywhere")


def test_the_clients_request_id_is_kept_and_forwarded() -> None:
    exchange = begin({"x-request-id": "order-66"})
    assert exchange.request_id == "order-66"
    assert exchange.forwarded["x-request-id"] == "order-66"


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    first, second = begin(), begin({"x-request-id": ""})
    assert re.fullmatch("[0-9a-f]{13,24}", first.request_id)
    assert first.request_id != second.request_id
    assert first.forwarded == {"x-request-id": first.request_id}


def test_a_request_id_is_cut_before_it_fills_the_log() -> None:
    assert begin({"x-request-id": "x" * 5000}).request_id == "x" * 128


def test_trace_context_and_authorization_are_forwarded_and_nothing_else_is() -> None:
    sent = {"traceparent": "00-1-2-01", "tracestate": "a=b", "x-b3-traceid": "3", "authorization": "Bearer t"}
    exchange = begin({**sent, "cookie": "secret", "x-deadline-ms": "100", "host": "h", "x-request-id": "i"})
    assert exchange.forwarded == {**sent, "x-request-id": "i"}


def test_a_stage_entered_twice_adds_up() -> None:
    exchange = begin()
    exchange.spent("decode", 0.5)
    exchange.spent("decode", 0.25)
    assert exchange.stages == {"decode": 0.75}


def test_a_stage_that_fails_is_still_timed() -> None:
    exchange = begin()
    with pytest.raises(ValueError, match="bad"), exchange.stage("decode"):
        raise ValueError("bad")
    assert exchange.stages["decode"] >= 0


# Its end: once, told to one, whoever is later is not heard.


class Told:
    """A sink that takes note."""

    def __init__(self) -> None:
        self.ends: list[object] = []

    def answered(self, exchange: Exchange, answer: object) -> None:
        self.ends.append(answer)

    def failed(self, exchange: Exchange, error: SaccadeError) -> None:
        self.ends.append(error)


class Lent:
    """An answer in lent memory."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


class Work:
    """Notes whether it was stopped."""

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> str:
        self.stops += 1
        return "while it worked"


def opened() -> tuple[Exchange, Told, Work]:
    exchange, told, work = Exchange.begin("rest", {}, 30.0), Told(), Work()
    exchange.sink = told
    exchange.work(work.stop)
    return exchange, told, work


def end_by(exchange: Exchange, how: str) -> None:
    match how:
        case "answer":
            exchange.answer("answer")
        case "fail":
            exchange.fail(EngineFailed("broken"))
        case "cancel":
            exchange.cancel()
        case "abandon":
            exchange.abandon(Overloaded("over"))
        case "expire":
            exchange.expire()


ENDS = {"answer": (1, 0), "fail": (1, 0), "cancel": (0, 1), "abandon": (1, 1), "expire": (1, 1)}


@pytest.mark.parametrize("later", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_an_exchange_ends_once_and_its_work_is_stopped_at_most_once(first: str, later: str) -> None:
    exchange, told, work = opened()
    end_by(exchange, first)
    assert exchange.over
    assert (len(told.ends), work.stops) == ENDS[first]
    end_by(exchange, later)
    assert (len(told.ends), work.stops) == ENDS[first]


@pytest.mark.parametrize("first", ENDS)
def test_an_answer_that_comes_too_late_gives_its_memory_back_at_once(first: str) -> None:
    exchange, told, _ = opened()
    end_by(exchange, first)
    lent = Lent()
    exchange.answer(lent)
    assert lent.released == 1
    assert lent not in told.ends


def test_an_answer_in_time_keeps_its_memory() -> None:
    exchange, told, _ = opened()
    lent = Lent()
    exchange.answer(lent)
    assert (lent.released, told.ends) == (0, [lent])


def test_whatever_fails_is_told_as_an_error_of_ours() -> None:
    exchange, told, _ = opened()
    exchange.fail(RuntimeError("/secret/path"))
    [error] = told.ends
    assert isinstance(error, EngineFailed)
    assert "secret" not in str(error)


def test_who_waits_too_long_is_told_where_the_request_stood() -> None:
    exchange, told, _ = opened()
    exchange.expire()
    assert [str(end) for end in told.ends] == ["the request's 30000 ms were over while it worked"]


async def test_a_task_does_the_work_and_its_result_is_the_answer() -> None:
    exchange, told, _ = opened()

    async def work() -> str:
        return "done"

    exchange.run(work())
    await settle()
    assert told.ends == ["done"]


async def test_a_task_that_raises_is_told_as_an_error() -> None:
    exchange, told, _ = opened()

    async def work() -> None:
        raise Overloaded("too much")

    exchange.run(work())
    await settle()
    assert [str(end) for end in told.ends] == ["too much"]


@pytest.mark.parametrize("how", ["cancel", "expire", "abandon"])
async def test_a_task_nobody_waits_for_is_cancelled_and_its_body_kept_until_it_has_ended(how: str) -> None:
    arena = Arena(2**20, poison=True)
    exchange, told, _ = opened()
    lease = exchange.lease = arena.lease(5)
    lease.view[:] = b"image"
    seen: list[bytes] = []
    may_end = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await may_end.wait()
            seen.append(bytes(lease.view))

    exchange.run(work())
    await settle()
    end_by(exchange, how)
    await eventually(lambda: exchange.over, "a task has a moment past its deadline to end it in its own words")
    exchange.close()
    assert arena.leases == 1
    may_end.set()
    await eventually(lambda: not arena.leases, "the task has ended")
    assert seen == [b"image"]
    assert len(told.ends) == (how != "cancel")


def test_a_body_is_given_back_once_by_whoever_has_it() -> None:
    arena = Arena(2**20)
    exchange, _, _ = opened()
    exchange.lease = arena.lease(5)
    exchange.close()
    exchange.close()
    assert arena.leases == 0
    exchange.lease = arena.lease(5)
    lease = exchange.take_lease()
    exchange.close()
    assert lease is not None
    assert arena.leases == 1
    lease.release()


async def test_a_caller_that_awaits_the_end_gets_answer_or_error() -> None:
    for end, expected in (("answer", "answer"), ("fail", None)):
        exchange = begin()
        awaited = AwaitedEnd(asyncio.get_running_loop().create_future())
        exchange.sink = awaited
        end_by(exchange, end)
        if expected is None:
            with pytest.raises(EngineFailed):
                await awaited.wait()
        else:
            assert await awaited.wait() == expected


@pytest.mark.parametrize("first", ["answer", "cancel"])
async def test_a_caller_that_is_cancelled_around_its_answer_gives_the_memory_back_once(first: str) -> None:
    exchange = begin()
    awaited = AwaitedEnd(asyncio.get_running_loop().create_future())
    exchange.sink = awaited
    waiting = asyncio.create_task(awaited.wait())
    await settle()
    lent = Lent()
    if first == "answer":
        exchange.answer(lent)
        waiting.cancel()
    else:
        waiting.cancel()
        exchange.answer(lent)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert lent.released == 1
