"""Deadlines of exchanges: all are ended in time, none that was lifted, and one that fails keeps nobody from it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from fakes import eventually, settle
from http1_support import LOOPS
from saccade_serving.connection.deadlines import RESOLUTION_S, Deadlines
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import DeadlineExceeded, SaccadeError


class Ends:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.errors: list[tuple[Exchange, SaccadeError, float]] = []
        self.raises = False

    def answered(self, exchange: Exchange, answer: Any) -> None:
        raise AssertionError("nothing answers here")

    def failed(self, exchange: Exchange, error: SaccadeError) -> None:
        self.errors.append((exchange, error, time.monotonic()))
        if self.raises:
            raise RuntimeError("a bug")

    @property
    def ended(self) -> list[Exchange]:
        return [exchange for exchange, _, _ in self.errors]


def begin(deadlines: Deadlines, sink: Ends, after_s: float) -> Exchange:
    exchange = Exchange.begin("rest", {}, after_s)
    exchange.sink = sink
    exchange.watch(deadlines)
    return exchange


@pytest.fixture(params=list(LOOPS))
def runner(request: pytest.FixtureRequest) -> Any:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


def on(runner: asyncio.Runner, test: Callable[[], Any]) -> None:
    runner.run(test())


def test_each_ends_when_its_time_is_over_and_not_before(runner: asyncio.Runner) -> None:
    async def test() -> None:
        deadlines, sink = Deadlines(), Ends()
        opened = [begin(deadlines, sink, after_s) for after_s in (0.2, 0.05, 0.1, 0.05, 0.0001)]
        await eventually(lambda: len(sink.errors) == 5, "all have ended")
        for exchange, error, when in sink.errors:
            assert isinstance(error, DeadlineExceeded)
            assert when >= exchange.deadline
        assert sorted(sink.ended, key=opened.index) == opened
        ordered = [exchange.deadline for exchange in sink.ended]
        assert all(b - a > -2 * RESOLUTION_S for a, b in itertools.pairwise(ordered))
        deadlines.close()

    on(runner, test)


def test_an_earlier_deadline_is_kept_though_a_later_one_was_set_before(runner: asyncio.Runner) -> None:
    async def test() -> None:
        deadlines, sink = Deadlines(), Ends()
        late = begin(deadlines, sink, 600)
        soon = begin(deadlines, sink, 0.02)
        await eventually(lambda: sink.errors, "the earlier one has ended")
        assert sink.ended == [soon]
        late.tighten(0.001)
        await eventually(lambda: len(sink.errors) == 2, "the other one, brought forward, has ended too")
        assert sink.ended == [soon, late]
        deadlines.close()

    on(runner, test)


def test_who_has_ended_is_not_ended_again(runner: asyncio.Runner) -> None:
    async def test() -> None:
        deadlines, sink = Deadlines(), Ends()
        cancelled = begin(deadlines, sink, 0.02)
        cancelled.cancel()
        last = begin(deadlines, sink, 0.06)
        await eventually(lambda: sink.errors, "the last one has ended")
        assert sink.ended == [last]
        deadlines.close()

    on(runner, test)


def test_the_work_of_the_late_is_stopped_and_the_sentence_says_where_it_stood(runner: asyncio.Runner) -> None:
    async def test() -> None:
        deadlines, sink = Deadlines(), Ends()
        stopped: list[str] = []

        def stop() -> str:
            stopped.append("once")
            return "while it was in the queue"

        begin(deadlines, sink, 0.01).work(stop)
        await eventually(lambda: sink.errors, "it has ended")
        assert stopped == ["once"]
        assert str(sink.errors[0][1]) == "the request's 10 ms were over while it was in the queue"
        deadlines.close()

    on(runner, test)


def test_one_that_cannot_be_ended_keeps_no_other_from_it(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        deadlines, sink, broken = Deadlines(), Ends(), Ends()
        broken.raises = True
        for _ in range(3):
            begin(deadlines, broken, 0.01)
            begin(deadlines, sink, 0.01)
        begin(deadlines, sink, 0.05)
        await eventually(lambda: len(sink.errors) == 4, "all others have ended")
        assert "deadline_failed" in caplog.text
        deadlines.close()

    on(runner, test)


def test_after_closing_nothing_is_ended_any_more(runner: asyncio.Runner) -> None:
    async def test() -> None:
        deadlines, sink = Deadlines(), Ends()
        begin(deadlines, sink, 0.0)
        deadlines.close()
        other = Deadlines()
        begin(other, other_sink := Ends(), 0.03)
        await eventually(lambda: other_sink.errors, "another's deadline has passed")
        await settle()
        assert sink.errors == []
        other.close()

    on(runner, test)


def test_thousands_with_one_deadline_end_in_one_look(runner: asyncio.Runner) -> None:
    async def test() -> None:
        deadlines, sink = Deadlines(), Ends()
        for _ in range(5000):
            begin(deadlines, sink, 0.05)
        assert len(deadlines._slots) < 500
        await eventually(lambda: len(sink.errors) == 5000, "all have ended")
        assert not deadlines._slots
        assert deadlines._timer is None
        deadlines.close()

    on(runner, test)
