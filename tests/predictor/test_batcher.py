"""Dynamic batching: who shares a batch, when it leaves, and that every caller gets its own rows whatever happens.

Requests lie in a real arena that poisons what is given back, and every test ends with its books balanced. That is much
for one file, but all of it stands on one bench.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from fakes import FakeClock, FakeEngine, eventually, settle
from saccade_predictor.batcher import GATHER_S, IN_ENGINE, IN_QUEUE, Batcher
from saccade_predictor.delivery import Outcome
from saccade_predictor.engines.engine import Inputs, LeasedOutputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_serving.connection.deadlines import Deadlines
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.errors import DeadlineExceeded, EngineFailed, Overloaded
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import Tensor
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue, QueuePolicy
from saccade_serving.scheduling.submission import Submission, place

LONG_S = 3600.0


def exchange(timeout_s: float = 60.0) -> Exchange:
    return Exchange.begin("rest", {}, timeout_s)


def rows_of(value: float, rows: int = 1, width: int = 2) -> NDArray[np.float32]:
    """Rows that can be told from any other request's."""
    return np.full((rows, width), value, np.float32)


# The batcher, on one loop with an engine that the test drives.


class Bench:
    """A batcher, its engine, and requests that are told apart by their values: what a connection and a model do.

    Attributes:
        made: all benches of the present test.
        delivered: submissions whose outcome was delivered, in order.
        strangers: those among them that nobody waited for.
    """

    made: ClassVar[list[Bench]] = []

    def __init__(
        self,
        max_rows: int = 4,
        max_delay_s: float = 0.0,
        max_queue_size: int = 100,
        engine: FakeEngine | None = None,
        clock: Callable[[], float] | None = None,
        queue: Queue | None = None,
        slo_s: float = 0.0,
        profile: LatencyProfile | None = None,
        preserve_ordering: bool = False,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.metrics = PredictorMetrics()
        self.arena = Arena(64 * 2**20, poison=True)
        self.deadlines = Deadlines()
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        self.batcher = Batcher(
            self.engine,
            queue if queue is not None else Queue(QueuePolicy(max_queue_size=max_queue_size)),
            BatchingRules(max_rows, max_delay_s=max_delay_s, slo_s=slo_s),
            "m",
            "1",
            self.metrics,
            self.arena,
            self._deliver,
            preserve_ordering=preserve_ordering,
            profile=profile,
            **more,
        )
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        self.delivered: list[int] = []
        self.strangers: list[int] = []
        self._open: dict[int, Exchange] = {}
        self._numbers = itertools.count(1)
        self.made.append(self)

    async def submit(self, inputs: Inputs, rows: int, span: Exchange) -> Mapping[str, NDArray[Any]]:
        """Put one request into the arena and the queue; returns its outputs, which are fresh memory."""
        outcome = await self.outcome(inputs, rows, span)
        assert outcome.outputs is not None
        outputs = {name: np.array(array) for name, array in outcome.outputs.items()}
        if outcome.release is not None:
            outcome.release()
        return outputs

    async def outcome(self, inputs: Inputs, rows: int, span: Exchange) -> Outcome:
        """Likewise; whoever cancels this has left, and takes the request along."""
        end = AwaitedEnd(asyncio.get_running_loop().create_future())
        span.sink = end
        span.check_deadline("before it was queued")
        span.watch(self.deadlines)
        try:
            self.enqueue(inputs, rows, span)
            outcome: Outcome = await end.wait()
            return outcome
        finally:
            span.cancel()

    def enqueue(self, inputs: Inputs, rows: int, span: Exchange) -> int:
        """Submit a request; returns its number."""
        lease, tensors = place([Tensor.of(name, array) for name, array in inputs.items()], None, self.arena)
        number = next(self._numbers)
        self._open[number] = span
        try:
            self.batcher.submit(Submission(number, lease.name, tensors, rows, span.deadline))
        except BaseException:
            del self._open[number]
            lease.release()
            raise
        span.work(partial(self._withdraw, number))
        return number

    def _withdraw(self, number: int) -> str:
        del self._open[number]
        return self.batcher.withdraw(number)

    def _deliver(self, number: int, outcome: Outcome) -> None:
        self.delivered.append(number)
        span = self._open.pop(number, None)
        if span is None:
            self.strangers.append(number)
        elif outcome.error is not None:
            span.fail(outcome.error)
        else:
            span.spent("queue", outcome.queue_s)
            span.spent("compute", outcome.compute_s)
            span.answer(outcome)

    async def ask(
        self, value: float, rows: int = 1, timeout_s: float = 60.0, width: int = 2, spans: Exchange | None = None
    ) -> list[list[float]]:
        """One request; returns the rows of its answer."""
        outputs = await self.submit({"x": rows_of(value, rows, width)}, rows, spans or exchange(timeout_s))
        answer: list[list[float]] = outputs["y"].tolist()
        return answer

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(work)

    async def occupy(self) -> asyncio.Task[Any]:
        """Give the (first free) instance a batch of its own, so that what comes next has to wait."""
        before = len(self.engine.submitted)
        task = self.start(self.ask(-1))
        await eventually(lambda: len(self.engine.submitted) > before, "the instance is busy")
        return task

    def batches(self) -> list[list[float]]:
        """What reached the engine: per batch the value of each request."""
        return [[float(request["x"].flat[0]) for request in batch.seen] for batch in self.engine.submitted]

    def value(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"model": "m", "version": "1"})

    async def end(self) -> None:
        """Whatever happened before: no memory is still leased, and nobody was told what he did not wait for."""
        while self.engine.open or self.batcher.depth:
            self.engine.finish_all()
            await settle()
        await self.batcher.close()
        await settle()
        self.deadlines.close()
        assert self.arena.leases == 0
        states = self.arena.bytes_by_state()
        assert {state: states[state] for state in ("receiving", "queued", "staged")} == {
            "receiving": 0,
            "queued": 0,
            "staged": 0,
        }
        assert self.strangers == []
        assert len(self.delivered) == len(set(self.delivered)), "an outcome is delivered once"


@pytest.fixture(autouse=True)
async def _balanced() -> AsyncIterator[None]:
    """Every bench of a test ends with its books balanced, and nothing was raised where nobody sees it."""
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
    Bench.made.clear()
    yield
    for bench in Bench.made:
        await asyncio.wait_for(bench.end(), 30)
    assert unseen == []


def arrive(bench: Bench, *turns: int) -> None:
    """Submit ``turns[0]`` requests now, ``turns[1]`` in the loop's next turn, and so on: as sockets are read."""
    if turns[1:]:
        asyncio.get_running_loop().call_soon(arrive, bench, *turns[1:])
    for _ in range(turns[0]):
        bench.enqueue({"x": rows_of(0)}, 1, exchange())


@pytest.mark.parametrize(
    ("turns", "sizes"),
    [
        ([1], [1]),
        ([3], [3]),
        ([1, 1, 1, 1], [4]),
        ([2, 1, 5], [8]),
        ([1, 0, 1], [1, 1]),  # a turn that brings nothing ends it
        ([2, 2, 0, 0, 3], [4, 3]),
        ([7, 5], [8, 4]),  # full: whoever comes later is too late
    ],
)
async def test_what_the_loop_can_read_without_waiting_shares_the_batch(turns: list[int], sizes: list[int]) -> None:
    bench = Bench(max_rows=8, clock=lambda: 0.0)
    arrive(bench, *turns)
    await settle(len(turns) + 3)
    for size in sizes:
        await eventually(lambda: bench.engine.open, "a batch is with the engine")
        assert len(bench.batches()[-1]) == size
        bench.engine.finish_all()
    assert not bench.batcher.depth


async def test_nobody_waits_longer_than_a_moment_for_what_is_still_being_read() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += GATHER_S / 4  # every turn is slow: large bodies
        return now

    bench = Bench(max_rows=64, clock=clock)
    arrive(bench, *[1] * 20)
    await eventually(lambda: bench.engine.open, "the first batch leaves although every turn brings more")
    assert 1 < len(bench.batches()[0]) < 6


async def test_answers_leave_in_the_order_the_requests_came_where_that_is_asked_for() -> None:
    engine = FakeEngine(instances=3)
    bench = Bench(max_rows=1, engine=engine, preserve_ordering=True)
    tasks = [bench.start(bench.ask(value)) for value in range(5)]
    await eventually(lambda: len(engine.open) == 3, "all instances compute")
    engine.open[2].finish()
    await settle()
    assert bench.delivered == []
    tasks[1].cancel()  # who has left keeps nobody back
    await settle()
    engine.open[0].finish()
    await settle()
    assert bench.delivered == [1, 3]
    while engine.open or bench.batcher.depth:
        engine.finish_all()
        await settle()
    assert bench.delivered == [1, 3, 4, 5]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, list)] == [[[v, v]] for v in (0, 2, 3, 4)]


async def test_a_failed_batch_and_a_refusal_keep_their_place_in_the_order() -> None:
    engine = FakeEngine(instances=2)
    queue = Queue(QueuePolicy(default_timeout_s=0.01, max_queue_size=10))
    bench = Bench(max_rows=1, engine=engine, queue=queue, preserve_ordering=True)
    tasks = [bench.start(bench.ask(value)) for value in range(3)]
    await eventually(lambda: len(engine.open) == 2, "both instances compute")
    await eventually(lambda: not bench.batcher.depth, "the third one's time in the queue is over")
    engine.open[1].fail(RuntimeError("broken"))
    await settle()
    assert bench.delivered == []
    engine.open[0].finish()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert bench.delivered == [1, 2, 3]
    assert [type(answer) for answer in answers] == [list, EngineFailed, DeadlineExceeded]


async def test_who_could_not_be_answered_in_time_is_refused_before_an_engine_sees_it() -> None:
    clock = FakeClock(time.monotonic())
    bench = Bench(max_rows=2, clock=clock, slo_s=1.0, profile=LatencyProfile({1: 0.1, 2: 0.2}))
    bench.batcher.scheduler.refresh()
    first = await bench.occupy()
    spans = [exchange(60), exchange(60)]
    spans[0].deadline = clock.now + 0.35
    tasks = [bench.start(bench.ask(value, spans=span)) for value, span in enumerate(spans)]
    await settle()
    assert bench.batcher.depth == 2
    clock.now += 0.25
    bench.engine.finish_all()
    await settle()
    bench.engine.finish_all()
    answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert isinstance(answers[1], Overloaded)
    assert "could not have been answered in time" in str(answers[1])
    assert answers[2] == [[1, 1]]


async def test_an_idle_instance_takes_a_request_at_once() -> None:
    bench = Bench(max_rows=4, max_delay_s=0.0)
    asking = bench.start(bench.ask(7))
    await settle()
    assert bench.batches() == [[7]]
    bench.engine.finish_all()
    assert await asking == [[7, 7]]


async def test_what_comes_while_the_instance_works_leaves_together_when_it_is_free() -> None:
    bench = Bench(max_rows=4)
    first = await bench.occupy()
    rest = [bench.start(bench.ask(value)) for value in range(6)]
    await settle()
    assert bench.batcher.depth == 6
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[-1], [0, 1, 2, 3]]
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[-1], [0, 1, 2, 3], [4, 5]]
    bench.engine.finish_all()
    assert list(await asyncio.gather(first, *rest)) == [[[v, v]] for v in (-1, 0, 1, 2, 3, 4, 5)]


async def test_every_caller_gets_exactly_its_own_rows() -> None:
    bench = Bench(max_rows=8)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value, rows)) for value, rows in ((1, 3), (2, 1), (3, 4))]
    await settle()
    bench.engine.finish_all()
    await settle()
    assert [batch.rows for batch in bench.engine.submitted] == [1, 8]
    bench.engine.finish_all()
    assert list(await asyncio.gather(*tasks)) == [[[1, 1]] * 3, [[2, 2]], [[3, 3]] * 4]
    await first


async def test_a_full_batch_leaves_before_the_delay_is_over() -> None:
    bench = Bench(max_rows=3, max_delay_s=LONG_S)
    tasks = [bench.start(bench.ask(value)) for value in (1, 2)]
    await settle()
    assert bench.batches() == []
    tasks.append(bench.start(bench.ask(3)))
    await settle()
    assert bench.batches() == [[1, 2, 3]]
    bench.engine.finish_all()
    await asyncio.gather(*tasks)


async def test_a_batch_that_nobody_else_fits_into_leaves_before_the_delay_is_over() -> None:
    bench = Bench(max_rows=4, max_delay_s=LONG_S)
    tasks = [bench.start(bench.ask(1, rows=3)), bench.start(bench.ask(2, rows=2))]
    await settle()
    assert bench.batches() == [[1]], "the second does not fit, so waiting longer would bring nobody"
    assert bench.batcher.depth == 1
    tasks.append(bench.start(bench.ask(3, rows=2)))
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[1], [2, 3]]
    bench.engine.finish_all()
    await asyncio.gather(*tasks)


async def test_a_batch_that_does_not_fill_leaves_when_the_oldest_has_waited_long_enough() -> None:
    clock = FakeClock()
    delay_s = 2**-8  # an exact number, as are its halves
    bench = Bench(max_rows=4, max_delay_s=delay_s, clock=clock)
    tasks = [bench.start(bench.ask(value)) for value in (1, 2)]
    for _ in range(2):
        await asyncio.sleep(2 * delay_s)  # real time passes and the timer fires: the batcher's clock decides
        assert bench.batches() == []
        clock.now += delay_s / 2
    await eventually(lambda: bench.batches() == [[1, 2]], "the delay is over")
    bench.engine.finish_all()
    await asyncio.gather(*tasks)


async def test_the_delay_counts_from_the_oldest_request_not_from_the_last() -> None:
    clock = FakeClock()
    bench = Bench(max_rows=4, max_delay_s=10, clock=clock)
    tasks = [bench.start(bench.ask(1))]
    await settle()
    clock.now += 10
    tasks.append(bench.start(bench.ask(2)))
    await settle()
    assert bench.batches() == [[1, 2]]
    bench.engine.finish_all()
    await asyncio.gather(*tasks)


async def test_a_request_that_was_waiting_while_the_instance_worked_has_used_up_its_delay() -> None:
    clock = FakeClock()
    bench = Bench(max_rows=1, max_delay_s=10, clock=clock)
    first = await bench.occupy()
    second = bench.start(bench.ask(1))
    await settle()
    clock.now += 11
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[-1], [1]]
    bench.engine.finish_all()
    await asyncio.gather(first, second)


async def test_a_caller_who_leaves_the_head_of_the_queue_does_not_hold_up_the_next() -> None:
    clock = FakeClock()
    bench = Bench(max_rows=4, max_delay_s=0.005, clock=clock)
    leaver = bench.start(bench.ask(1))
    stayer = bench.start(bench.ask(2))
    await settle()
    leaver.cancel()
    await settle()
    clock.now += 1
    await eventually(lambda: bench.batches() == [[2]], "the timer finds the one that is left")
    bench.engine.finish_all()
    assert await stayer == [[2, 2]]


async def test_a_caller_who_leaves_the_queue_never_reaches_the_engine() -> None:
    bench = Bench(max_rows=4)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value)) for value in (1, 2, 3)]
    await settle()
    tasks[1].cancel()
    await settle()
    assert bench.batcher.depth == 2
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[-1], [1, 3]]
    bench.engine.finish_all()
    assert list(await asyncio.gather(tasks[0], tasks[2], first)) == [[[1, 1]], [[3, 3]], [[-1, -1]]]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_a_caller_who_leaves_a_running_batch_costs_the_others_nothing() -> None:
    bench = Bench(max_rows=4)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value, rows)) for value, rows in ((1, 1), (2, 2), (3, 1))]
    await settle()
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[-1], [1, 2, 3]]
    tasks[1].cancel()
    await settle()
    bench.engine.finish_all()
    assert list(await asyncio.gather(tasks[0], tasks[2], first)) == [[[1, 1]], [[3, 3]], [[-1, -1]]]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_when_everybody_has_left_a_running_batch_the_instance_goes_on() -> None:
    bench = Bench()
    leaver = await bench.occupy()
    leaver.cancel()
    await settle()
    waiting = bench.start(bench.ask(1))
    await settle()
    assert bench.batches() == [[-1]], "the engine cannot be interrupted"
    bench.engine.finish_all()
    await settle()
    bench.engine.finish_all()
    assert await waiting == [[1, 1]]


async def test_an_engine_that_raises_fails_its_batch_and_serves_the_next() -> None:
    bench = Bench(max_rows=2)
    tasks = [bench.start(bench.ask(value)) for value in range(4)]
    await settle()
    first, *_ = bench.engine.open
    first.fail(RuntimeError("CUDA error 700 at /opt/engine"))
    await settle()
    bench.engine.finish_all()
    await settle()
    bench.engine.finish_all()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert outcomes[0] is failed[0]
    assert all(isinstance(error, EngineFailed) for error in failed)
    assert len(failed) == len(first.requests)
    assert "CUDA" not in str(failed[0]), "the cause is for the log"
    assert "model 'm'" in str(failed[0])


async def test_every_caller_of_a_failed_batch_has_an_error_of_its_own() -> None:
    # One exception object raised in several tasks would grow a traceback with each.
    bench = Bench(max_rows=2)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value)) for value in (1, 2)]
    await settle()
    bench.engine.finish_all()
    await settle()
    bench.engine.open[0].fail(RuntimeError("broken"))
    one, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(one, EngineFailed)
    assert one is not other
    await first


async def test_an_engine_whose_submit_raises_fails_that_batch_and_keeps_its_instance() -> None:
    bench = Bench(max_rows=2)
    [lane] = bench.engine.lanes
    lane.refuses = RuntimeError("out of streams")
    for value in (1, 2, 3):
        with pytest.raises(EngineFailed):
            await asyncio.wait_for(bench.ask(value), 5)
    assert bench.batcher.depth == 0
    lane.refuses = None
    asking = bench.start(bench.ask(4))
    await settle()
    bench.engine.finish_all()
    assert await asking == [[4, 4]]


async def test_an_engine_that_cancels_its_answer_fails_the_batch() -> None:
    bench = Bench()
    asking = bench.start(bench.ask(1))
    await settle()
    [batch] = bench.engine.open
    batch.free_inputs()
    batch.ticket.done.cancel()
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(asking, 5)
    again = bench.start(bench.ask(2))
    await settle()
    bench.engine.finish_all()
    assert await again == [[2, 2]]


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": rows_of(0, rows=1)},  # n - 1 rows
        {"y": rows_of(0, rows=3)},  # n + 1
        {"y": rows_of(0, rows=2), "z": rows_of(0, rows=1)},  # one of two outputs
        {"y": np.float32(1)},  # no rows at all
        {"y": np.array(1.0)},
        {"y": None},  # no array at all
        None,
    ],
    ids=["n-1 rows", "n+1 rows", "one short output", "a scalar", "no dimension", "no array", "no outputs"],
)
async def test_an_engine_that_breaks_its_contract_gives_nobody_somebody_elses_rows(outputs: Any) -> None:
    bench = Bench(max_rows=2)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value)) for value in (1, 2)]
    await settle()
    bench.engine.finish_all()
    await settle()
    [batch] = bench.engine.open
    batch.free_inputs()
    batch.ticket.done.set_result(outputs)
    for task in tasks:
        with pytest.raises(EngineFailed):
            await asyncio.wait_for(task, 5)
    after = bench.start(bench.ask(3))
    await settle()
    bench.engine.finish_all()
    assert await after == [[3, 3]], "the instance serves on"
    await first


async def test_a_full_queue_refuses_and_says_so() -> None:
    bench = Bench(max_queue_size=2)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value)) for value in (1, 2)]
    await settle()
    with pytest.raises(Overloaded, match="2 requests are waiting for this model, which is the limit") as caught:
        await bench.ask(3)
    assert caught.value.retry_after_s
    tasks[0].cancel()
    await settle()
    fits = bench.start(bench.ask(4))
    await settle()
    assert bench.batcher.depth == 2
    bench.engine.finish_all()
    await settle()
    bench.engine.finish_all()
    assert list(await asyncio.gather(tasks[1], fits, first)) == [[[2, 2]], [[4, 4]], [[-1, -1]]]


async def test_an_idle_instance_is_no_reason_to_refuse_what_comes_in_the_same_turn() -> None:
    bench = Bench(max_rows=1, max_queue_size=1, engine=FakeEngine(instances=2))
    tasks = [bench.start(bench.ask(value)) for value in range(4)]
    await settle()
    assert sorted(bench.batches()) == [[0], [1]]
    assert bench.batcher.depth == 1
    with pytest.raises(Overloaded):
        await tasks[3]
    for _ in range(2):
        bench.engine.finish_all()
        await settle()
    assert list(await asyncio.gather(*tasks[:3])) == [[[v, v]] for v in range(3)]


async def test_a_deadline_that_passed_before_is_not_queued() -> None:
    bench = Bench()
    with pytest.raises(DeadlineExceeded, match="before it was queued"):
        await bench.ask(1, timeout_s=-1)
    assert bench.batches() == []


async def test_a_deadline_that_passes_in_the_queue_takes_the_request_out() -> None:
    bench = Bench()
    first = await bench.occupy()
    with pytest.raises(DeadlineExceeded, match="while it waited in the queue"):
        await bench.ask(1, timeout_s=0.5)
    assert bench.batcher.depth == 0
    bench.engine.finish_all()
    await settle()
    assert bench.batches() == [[-1]]
    await first


async def test_a_deadline_that_passes_in_the_engine_says_so_and_leaves_the_others_alone() -> None:
    bench = Bench(max_rows=2)
    first = await bench.occupy()
    late = bench.start(bench.ask(1, timeout_s=0.05))
    patient = bench.start(bench.ask(2))
    await settle()
    bench.engine.finish_all()
    with pytest.raises(DeadlineExceeded, match="while the engine computed"):
        await late
    bench.engine.finish_all()
    assert list(await asyncio.gather(patient, first)) == [[[2, 2]], [[-1, -1]]]


async def test_different_shapes_never_share_a_batch_and_none_is_forgotten() -> None:
    bench = Bench(max_rows=8)
    first = await bench.occupy()
    tasks = [bench.start(bench.ask(value, width=2 + value % 2)) for value in range(6)]
    await settle()
    for _ in range(3):
        bench.engine.finish_all()
        await settle()
    assert bench.batches() == [[-1], [0, 2, 4], [1, 3, 5]]
    answers = await asyncio.gather(*tasks)
    assert answers == [[[value] * (2 + value % 2)] for value in range(6)]
    await first


async def test_a_model_without_batches_runs_each_request_alone_with_its_arrays_as_they_are() -> None:
    bench = Bench(max_rows=0)
    first = await bench.occupy()
    inputs: list[Inputs] = [{"x": np.arange(3.0)}, {"x": np.arange(3.0)}]
    tasks = [bench.start(bench.submit(one, 1, exchange())) for one in inputs]
    await settle()
    for _ in range(3):
        for batch in bench.engine.open:
            batch.finish({"y": np.array(len(bench.engine.submitted))})  # not even a dimension
        await settle()
    assert [batch.rows for batch in bench.engine.submitted] == [1, 1, 1]
    for one, batch in zip(inputs, bench.engine.submitted[1:], strict=True):
        assert batch.seen[0]["x"].shape == one["x"].shape
        assert batch.seen[0]["x"].tolist() == one["x"].tolist()
    assert [answer["y"] for answer in await asyncio.gather(*tasks)] == [2, 3]
    assert await first == 1


async def test_several_instances_work_at_the_same_time() -> None:
    bench = Bench(max_rows=1, engine=FakeEngine(instances=3))
    tasks = [bench.start(bench.ask(value)) for value in range(5)]
    await settle()
    assert [len(lane.open) for lane in bench.engine.lanes] == [1, 1, 1]
    assert bench.batcher.depth == 2
    bench.engine.lanes[1].open[0].finish()
    await settle()
    assert [len(lane.submitted) for lane in bench.engine.lanes] == [1, 2, 1]
    for _ in range(3):
        bench.engine.finish_all()
        await settle()
    assert list(await asyncio.gather(*tasks)) == [[[v, v]] for v in range(5)]


async def test_an_instance_of_depth_two_holds_two_batches_and_never_three() -> None:
    bench = Bench(max_rows=1, engine=FakeEngine(depth=2))
    [lane] = bench.engine.lanes
    tasks = [bench.start(bench.ask(value)) for value in range(5)]
    await settle()
    assert len(lane.open) == 2
    while any(not task.done() for task in tasks):
        lane.open[-1].finish()  # the second may end before the first
        await settle()
    assert lane.most_open == 2
    assert list(await asyncio.gather(*tasks)) == [[[v, v]] for v in range(5)]


async def test_closing_refuses_who_waits_and_awaits_what_runs() -> None:
    bench = Bench(max_rows=1)
    running = await bench.occupy()
    waiting = [bench.start(bench.ask(value)) for value in (1, 2)]
    await settle()
    closing = bench.start(bench.batcher.close())
    await settle()
    for task in waiting:
        with pytest.raises(Overloaded, match="being unloaded"):
            await task
    assert not closing.done()
    with pytest.raises(Overloaded, match="being unloaded"):
        await bench.ask(3)
    bench.engine.finish_all()
    await closing
    assert await running == [[-1, -1]]
    assert bench.batches() == [[-1]]


async def test_closing_ends_a_timer_that_still_waits_for_company() -> None:
    bench = Bench(max_rows=4, max_delay_s=0.01)
    waiting = bench.start(bench.ask(1))
    await settle()
    await bench.batcher.close()
    with pytest.raises(Overloaded):
        await waiting
    await asyncio.sleep(0.03)
    assert bench.batches() == []


async def test_an_idle_batcher_closes_at_once() -> None:
    await asyncio.wait_for(Bench().batcher.close(), 5)


async def test_queue_and_compute_time_are_booked_on_every_request_of_the_batch() -> None:
    clock = FakeClock()
    bench = Bench(max_rows=4, clock=clock)
    first = await bench.occupy()
    spans = [exchange(), exchange()]
    tasks = [bench.start(bench.ask(value, spans=span)) for value, span in enumerate(spans)]
    await settle()
    clock.now += 2
    assert bench.batcher.oldest_s() == 2
    bench.engine.finish_all()
    await settle()
    clock.now += 3
    bench.engine.finish_all()
    await asyncio.gather(first, *tasks)
    assert [span.stages for span in spans] == [{"queue": 2, "compute": 3}] * 2
    assert bench.batcher.oldest_s() == 0
    assert bench.value("saccade_engine_busy_seconds_total") == 5
    assert bench.value("saccade_batch_size_count") == 2
    assert bench.value("saccade_batch_size_sum") == 3


async def test_only_batches_that_the_engine_ran_are_in_the_models_statistics() -> None:
    bench = Bench(max_rows=4)
    tasks = []
    for value in range(2):
        tasks.append(bench.start(bench.ask(value, rows=3)))
        await settle()
        bench.engine.open[0].finish() if value else bench.engine.open[0].fail(RuntimeError("broken"))
        await settle()
    await asyncio.gather(*tasks, return_exceptions=True)
    counted = bench.metrics.statistics.of("m", "1")
    assert (counted.execution_count, {rows: batch.count for rows, batch in counted.batches.items()}) == (1, {3: 1})


@pytest.mark.parametrize("seed", range(4))
async def test_under_any_schedule_every_answer_carries_its_requests_pattern(seed: int) -> None:
    chance = random.Random(seed)
    engine = FakeEngine(instances=chance.choice((1, 2, 3)), depth=chance.choice((1, 2)))
    bench = Bench(max_rows=8, max_delay_s=chance.choice((0.0, 0.001)), max_queue_size=10_000, engine=engine)
    left: set[int] = set()
    failed = 0
    total = 500

    async def client(number: int) -> None:
        rows, width = chance.randint(1, 8), chance.choice((2, 2, 2, 3))
        for _ in range(chance.randint(0, 40)):
            await asyncio.sleep(0)
        nonlocal failed
        try:
            answer = await bench.ask(number, rows, width=width)
        except EngineFailed:
            failed += 1
            return
        assert answer == [[number] * width] * rows

    async def drive() -> None:
        while True:
            await asyncio.sleep(0)
            for batch in list(engine.open):
                match chance.randrange(12):
                    case 0 | 1 | 2 | 3 | 4:
                        batch.finish()
                    case 5 if chance.random() < 0.1:
                        batch.fail(RuntimeError("by chance"))
            for _ in range(2):
                candidate = chance.randrange(total)
                if chance.random() < 0.05 and not tasks[candidate].done():
                    tasks[candidate].cancel()
                    left.add(candidate)

    tasks = [asyncio.create_task(client(number)) for number in range(total)]
    driving = asyncio.create_task(drive())
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    driving.cancel()
    wrong = [
        outcome for outcome in outcomes if outcome is not None and not isinstance(outcome, asyncio.CancelledError)
    ]
    assert wrong == []
    assert {number for number, outcome in enumerate(outcomes) if outcome is not None} <= left
    assert bench.batcher.depth == 0
    assert all(lane.most_open <= lane.depth for lane in engine.lanes)
    assert all(batch.rows == sum(len(r["x"]) for r in batch.requests) <= 8 for batch in engine.submitted)
    engine.finish_all()
    await bench.batcher.close()


# Memory: who holds it, and until when.


async def test_a_slot_is_not_used_again_before_the_engine_has_read_it() -> None:
    bench = Bench(max_rows=1)
    asking = bench.start(bench.ask(5, rows=3))
    await settle()
    [batch] = bench.engine.open
    asking.cancel()  # nobody waits any more, but the engine still reads
    await settle()
    assert bench.arena.bytes_by_state()["staged"] > 0
    taken = [bench.arena.lease(4096) for _ in range(100)]
    for lease in taken:
        lease.view[:] = bytes(4096)
    assert batch.requests[0]["x"].tolist() == rows_of(5, 3).tolist()
    batch.free_inputs()
    await settle()
    assert batch.requests[0]["x"].tobytes() == b"\xdd" * 24, "given back, and poisoned"
    for lease in taken:
        lease.release()


async def test_an_answer_does_not_wait_for_the_engine_to_let_go_of_its_inputs() -> None:
    bench = Bench()
    asking = bench.start(bench.ask(5))
    await settle()
    [batch] = bench.engine.open
    batch.ticket.done.set_result({"y": rows_of(6)})
    assert await asking == [[6, 6]]
    assert bench.arena.leases == 1
    assert batch.requests[0]["x"].tolist() == [[5, 5]]
    batch.free_inputs()
    await settle()
    assert bench.arena.leases == 0


async def test_a_slot_is_free_as_soon_as_the_inputs_are_though_the_answer_takes_its_time() -> None:
    bench = Bench()
    asking = bench.start(bench.ask(5))
    await settle()
    [batch] = bench.engine.open
    batch.free_inputs()
    await settle()
    assert bench.arena.leases == 0
    assert bench.delivered == []
    batch.ticket.done.set_result({"y": rows_of(6)})
    assert await asking == [[6, 6]]


async def test_bytes_in_the_queue_and_in_the_engine_are_told_apart() -> None:
    bench = Bench(max_rows=1)
    tasks = [bench.start(bench.ask(value)) for value in range(3)]
    await settle()
    states = bench.arena.bytes_by_state()
    assert (states["receiving"], states["queued"], states["staged"]) == (0, 2 * 4096, 4096)
    for _ in range(3):
        bench.engine.finish_all()
        await settle()
    await asyncio.gather(*tasks)


async def leave_the_queue(bench: Bench) -> None:
    first = await bench.occupy()
    waiting = bench.start(bench.ask(1))
    await settle()
    waiting.cancel()
    await settle()
    assert bench.arena.leases == 1, "that of the first"
    bench.engine.finish_all()
    await first


async def leave_the_engine(bench: Bench) -> None:
    running = await bench.occupy()
    running.cancel()
    await settle()
    assert bench.arena.leases == 1, "the engine still reads it"
    bench.engine.finish_all()
    await settle()


async def refuse_at_submit(bench: Bench) -> None:
    bench.engine.lanes[0].refuses = RuntimeError("out of streams")
    with pytest.raises(EngineFailed):
        await bench.ask(1)


async def fail_in_the_engine(bench: Bench) -> None:
    running = await bench.occupy()
    bench.engine.open[0].fail(RuntimeError("broken"))
    with pytest.raises(EngineFailed):
        await running


async def refuse_at_the_queue(bench: Bench) -> None:
    first = await bench.occupy()
    waiting = [bench.start(bench.ask(value)) for value in range(2)]
    await settle()
    with pytest.raises(Overloaded):
        await bench.ask(9)
    for _ in range(3):
        bench.engine.finish_all()
        await settle()
    await asyncio.gather(first, *waiting)


async def expire_in_the_queue(bench: Bench) -> None:
    first = await bench.occupy()
    with pytest.raises(DeadlineExceeded):
        await bench.ask(1, timeout_s=0.01)
    bench.engine.finish_all()
    await first


async def close_the_batcher(bench: Bench) -> None:
    running = await bench.occupy()
    waiting = bench.start(bench.ask(1))
    await settle()
    closing = bench.start(bench.batcher.close())
    with pytest.raises(Overloaded):
        await waiting
    assert bench.arena.leases == 1, "the engine still reads it"
    bench.engine.finish_all()
    await asyncio.gather(running, closing)
    with pytest.raises(Overloaded):
        await bench.ask(2)


@pytest.mark.parametrize(
    "path",
    [
        leave_the_queue,
        leave_the_engine,
        refuse_at_submit,
        fail_in_the_engine,
        refuse_at_the_queue,
        expire_in_the_queue,
        close_the_batcher,
    ],
    ids=lambda path: path.__name__,
)
async def test_whatever_becomes_of_a_request_its_memory_is_given_back_once(
    path: Callable[[Bench], Coroutine[Any, Any, None]],
) -> None:
    bench = Bench(max_rows=1, max_queue_size=2)
    await path(bench)
    await settle()
    assert bench.arena.leases == 0


async def test_who_has_been_withdrawn_is_told_nothing_and_the_batcher_says_where_it_stood() -> None:
    bench = Bench(max_rows=1)
    running = bench.enqueue({"x": rows_of(1)}, 1, exchange())
    await settle()
    waiting = bench.enqueue({"x": rows_of(2)}, 1, exchange())
    await settle()
    assert bench.batcher.withdraw(waiting) == IN_QUEUE
    assert bench.batcher.withdraw(running) == IN_ENGINE
    bench.engine.finish_all()
    await settle()
    assert bench.delivered == []
    assert bench.batches() == [[1]]


# Outputs in the engine's own memory.


class Lent:
    """Outputs that are lent, and how often they came back."""

    def __init__(self, *values: float) -> None:
        self.freed = 0
        self.outputs = LeasedOutputs({"y": np.concatenate([rows_of(value) for value in values])}, self._free)

    def _free(self) -> None:
        self.freed += 1


async def batch_of(bench: Bench, count: int) -> list[asyncio.Task[Outcome]]:
    """Requests 1, 2, ... that the engine has got as one batch."""
    first = await bench.occupy()
    tasks = [bench.start(bench.outcome({"x": rows_of(v)}, 1, exchange())) for v in range(1, count + 1)]
    await settle()
    bench.engine.finish_all()
    await settle()
    await first
    return tasks


async def test_lent_outputs_go_back_once_when_the_last_who_got_rows_of_them_is_done() -> None:
    bench = Bench()
    tasks = await batch_of(bench, 2)
    lent = Lent(10, 20)
    bench.engine.open[0].finish(lent.outputs)
    first, second = await asyncio.gather(*tasks)
    assert first.outputs is not None
    assert second.outputs is not None
    assert first.release is not None
    assert second.release is not None
    assert [first.outputs["y"].tolist(), second.outputs["y"].tolist()] == [[[10, 10]], [[20, 20]]]
    assert np.shares_memory(second.outputs["y"], lent.outputs["y"]), "lent, not copied"
    second.release()
    assert lent.freed == 0
    first.release()
    assert lent.freed == 1


async def test_lent_outputs_of_a_request_that_runs_alone_go_back_once() -> None:
    bench = Bench()
    [task] = await batch_of(bench, 1)
    lent = Lent(10)
    bench.engine.open[0].finish(lent.outputs)
    outcome = await task
    assert lent.freed == 0
    assert outcome.release is not None
    outcome.release()
    assert lent.freed == 1


@pytest.mark.parametrize("leavers", [[0], [1], [0, 1]], ids=["the first", "the second", "both"])
async def test_lent_outputs_do_not_wait_for_those_who_have_left(leavers: list[int]) -> None:
    bench = Bench()
    tasks = await batch_of(bench, 2)
    for index in leavers:
        tasks[index].cancel()
    await settle()
    lent = Lent(10, 20)
    bench.engine.open[0].finish(lent.outputs)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Outcome):
            assert outcome.release is not None
            assert lent.freed == 0
            outcome.release()
    assert lent.freed == 1


async def test_lent_outputs_that_break_the_contract_go_back_at_once() -> None:
    bench = Bench()
    tasks = await batch_of(bench, 2)
    lent = Lent(10, 20, 30)
    bench.engine.open[0].finish(lent.outputs)
    for task in tasks:
        with pytest.raises(EngineFailed):
            await task
    assert lent.freed == 1


async def test_a_client_that_leaves_between_its_answer_and_its_turn_gives_the_outputs_back() -> None:
    bench = Bench()
    [task] = await batch_of(bench, 1)
    lent = Lent(10)
    [batch] = bench.engine.open
    batch.ticket.done.add_done_callback(lambda _: task.cancel())  # after the outcome was delivered, before it is taken
    batch.finish(lent.outputs)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lent.freed == 1
