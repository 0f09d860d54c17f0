"""Bounded threads for images: refuse rather than queue without end, and leave the event loop free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from fakes import eventually, settle
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import InvalidImage, Overloaded
from saccade_serving.memory.arena import Arena
from saccade_transformers.workers import ImageWorkers


class Door:
    """Work that waits in its thread until the test opens the door."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered: list[int] = []

    def work(self, number: int) -> int:
        self.entered.append(number)
        assert self.opened.wait(30)
        return number


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    yield door
    door.opened.set()


async def test_work_runs_in_another_thread_and_its_result_comes_back() -> None:
    workers = ImageWorkers(1, 1)
    assert await workers.admit(threading.get_ident) != threading.get_ident()
    assert workers.pending == 0
    await asyncio.to_thread(workers.close)


async def test_what_the_work_raises_is_raised() -> None:
    workers = ImageWorkers(1, 1)

    def work() -> None:
        raise InvalidImage("damaged")

    with pytest.raises(InvalidImage, match="damaged"):
        await workers.admit(work)
    assert workers.pending == 0
    await asyncio.to_thread(workers.close)


async def test_no_more_calls_than_threads_run_at_once(door: Door) -> None:
    workers = ImageWorkers(2, 10)
    tasks = [asyncio.create_task(workers.admit(lambda n=n: door.work(n))) for n in range(6)]  # type: ignore[misc]
    await eventually(lambda: len(door.entered) == 2, "both threads work")
    assert workers.pending == 6
    await settle()
    assert len(door.entered) == 2
    door.opened.set()
    assert await asyncio.gather(*tasks) == list(range(6))
    assert workers.pending == 0
    await asyncio.to_thread(workers.close)


async def test_a_call_over_the_limit_is_refused_until_one_is_done(door: Door) -> None:
    workers = ImageWorkers(1, 2)
    tasks = [asyncio.create_task(workers.admit(lambda n=n: door.work(n))) for n in range(3)]  # type: ignore[misc]
    await eventually(lambda: workers.pending == 3, "one runs, two wait")
    with pytest.raises(Overloaded, match="3 images are waiting to be decoded, which is the limit"):
        await workers.admit(lambda: 9)
    door.opened.set()
    assert await asyncio.gather(*tasks) == [0, 1, 2]
    assert await workers.admit(lambda: 9) == 9
    await asyncio.to_thread(workers.close)


async def test_a_request_that_was_admitted_before_is_not_refused_at_its_second_step(door: Door) -> None:
    workers = ImageWorkers(1, 0)
    task = asyncio.create_task(workers.admit(lambda: door.work(0)))
    await eventually(lambda: door.entered, "the thread works")
    with pytest.raises(Overloaded):
        await workers.admit(lambda: 1)
    second = asyncio.create_task(workers.run(lambda: 2))
    await settle()
    assert workers.pending == 2
    door.opened.set()
    assert list(await asyncio.gather(task, second)) == [0, 2]
    await asyncio.to_thread(workers.close)


async def test_a_caller_who_leaves_while_waiting_costs_no_thread_time(door: Door) -> None:
    workers = ImageWorkers(1, 5)
    running = asyncio.create_task(workers.admit(lambda: door.work(0)))
    await eventually(lambda: door.entered, "the thread works")
    leaver = asyncio.create_task(workers.admit(lambda: door.work(1)))
    stayer = asyncio.create_task(workers.admit(lambda: door.work(2)))
    await settle()
    leaver.cancel()
    await settle()
    assert workers.pending == 2
    door.opened.set()
    assert list(await asyncio.gather(running, stayer)) == [0, 2]
    assert door.entered == [0, 2]
    await asyncio.to_thread(workers.close)


async def test_a_caller_who_leaves_while_the_work_runs_leaves_the_thread_to_the_next(door: Door) -> None:
    workers = ImageWorkers(1, 5)
    leaver = asyncio.create_task(workers.admit(lambda: door.work(0)))
    await eventually(lambda: door.entered, "the thread works")
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    door.opened.set()
    assert await workers.admit(lambda: 7) == 7
    assert workers.pending == 0
    await asyncio.to_thread(workers.close)


async def test_many_callers_who_leave_leave_nothing_behind(door: Door) -> None:
    workers = ImageWorkers(1, 5000)
    running = asyncio.create_task(workers.admit(lambda: door.work(0)))
    await eventually(lambda: door.entered, "the thread works")
    leavers = [asyncio.create_task(workers.admit(lambda: door.work(1))) for _ in range(1000)]
    await settle()
    for leaver in leavers:
        leaver.cancel()
    await asyncio.gather(*leavers, return_exceptions=True)
    assert workers.pending == 1
    assert workers._executor._work_queue.qsize() == 0
    running.cancel()
    await settle()
    assert workers.pending == 1, "the thread is still busy"
    door.opened.set()
    await eventually(lambda: workers.pending == 0, "the thread is free")
    await asyncio.to_thread(workers.close)


async def test_closing_waits_for_what_runs_and_refuses_what_waits(door: Door) -> None:
    workers = ImageWorkers(1, 5)
    running = asyncio.create_task(workers.run(lambda: door.work(0)))
    await eventually(lambda: door.entered, "the thread works")
    waiting = asyncio.create_task(workers.run(lambda: door.work(1)))
    await settle()
    closing = asyncio.create_task(asyncio.to_thread(workers.close))
    await settle()
    assert not closing.done()
    door.opened.set()
    await closing
    assert await running == 0
    with pytest.raises(Overloaded, match="shutting down"):
        await waiting
    assert door.entered == [0]


# Turns.


def a_request() -> Exchange:
    return Exchange.begin("rest", {}, 30.0)


class Steps:
    """Work that notes its name and lets the test decide when it ends."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.on = threading.Semaphore(0)

    def work(self, name: str) -> None:
        self.order.append(name)
        assert self.on.acquire(timeout=30)


@pytest.fixture
async def steps() -> AsyncIterator[Steps]:
    steps = Steps()
    yield steps
    steps.on.release(1000)


def many(workers: ImageWorkers, steps: Steps, name: str, count: int) -> list[asyncio.Task[None]]:
    exchange = a_request()
    return [
        asyncio.create_task(workers.admit(lambda n=n: steps.work(f"{name}{n}"), exchange))  # type: ignore[misc]
        for n in range(count)
    ]


async def end(workers: ImageWorkers, steps: Steps, tasks: list[asyncio.Task[None]]) -> None:
    steps.on.release(1000)
    await asyncio.gather(*tasks)
    assert workers.pending == 0
    assert not workers._under_way
    await asyncio.to_thread(workers.close)


async def test_a_request_of_one_image_waits_for_what_runs_and_not_for_what_is_queued(steps: Steps) -> None:
    workers = ImageWorkers(1, 100)
    tasks = many(workers, steps, "a", 9)
    await eventually(lambda: steps.order == ["a0"], "the first one runs")
    tasks += many(workers, steps, "b", 1)
    await settle()
    steps.on.release()
    await eventually(lambda: steps.order == ["a0", "b0"], "the other one is next")
    await end(workers, steps, tasks)


async def test_requests_take_turns_and_not_their_images(steps: Steps) -> None:
    workers = ImageWorkers(1, 100)
    tasks = [task for name in "abc" for task in many(workers, steps, name, 3)]
    await eventually(lambda: len(steps.order) == 1, "the first one runs")
    await settle()
    await end(workers, steps, tasks)
    assert steps.order == ["a0", "b0", "a1", "c0", "b1", "c1", "a2", "b2", "c2"]


async def test_a_stream_of_single_images_does_not_keep_a_request_of_many_from_its_end(steps: Steps) -> None:
    workers = ImageWorkers(1, 100)
    tasks = many(workers, steps, "a", 3)
    await eventually(lambda: steps.order == ["a0"], "the first one runs")
    for number in range(8):
        tasks += many(workers, steps, f"single{number}.", 1)
    await settle()
    await end(workers, steps, tasks)
    assert steps.order.index("a2") == 4


async def test_a_request_of_many_images_does_not_use_up_the_room_of_others(steps: Steps) -> None:
    workers = ImageWorkers(1, 4)
    large = a_request()
    tasks = [asyncio.create_task(workers.admit(lambda: steps.work("large"), large)) for _ in range(5)]
    await settle()
    with pytest.raises(Overloaded, match="5 images are waiting"):
        await workers.admit(lambda: None, large)
    for number in range(4):
        tasks += many(workers, steps, f"single{number}.", 1)
    await settle()
    with pytest.raises(Overloaded, match="9 images are waiting"):
        await workers.admit(lambda: None, a_request())
    await end(workers, steps, tasks)


async def test_who_leaves_in_the_turn_that_is_given_to_it_passes_it_on(steps: Steps) -> None:
    workers = ImageWorkers(1, 100)
    [running] = many(workers, steps, "a", 1)
    await eventually(lambda: steps.order == ["a0"], "it runs")
    leavers = [task for name in "bcd" for task in many(workers, steps, name, 3)]
    [last] = many(workers, steps, "e", 1)
    await settle()
    # Cancelled now, they take note of it only in the loop's next step; the turn is given away before that.
    for leaver in leavers:
        leaver.cancel()
    workers._free, turn = 0, workers._turns.next()
    assert turn is not None
    assert not turn.cancelled()
    turn.set_result(None)
    await asyncio.gather(*leavers, return_exceptions=True)
    workers._free = 0
    await end(workers, steps, [running, last])
    assert steps.order == ["a0", "e0"]


# The body a thread reads.


def received(arena: Arena) -> Exchange:
    """A request whose body lies in the arena."""
    exchange = Exchange.begin("detect", {}, 30.0)
    exchange.lease = arena.lease(5)
    exchange.lease.view[:] = b"image"
    return exchange


async def test_a_body_is_kept_until_the_thread_that_reads_it_has_returned_whoever_has_left(door: Door) -> None:
    workers = ImageWorkers(1, 5)
    arena = Arena(2**20, poison=True)
    exchange = received(arena)
    assert exchange.lease is not None
    body = exchange.lease.view
    seen: list[bytes] = []

    def work() -> None:
        door.work(0)
        seen.append(bytes(body))

    task = asyncio.create_task(workers.admit(work, exchange))
    await eventually(lambda: door.entered, "the thread works")
    task.cancel()
    exchange.cancel()
    exchange.close()
    await settle()
    assert arena.leases == 1
    door.opened.set()
    await eventually(lambda: arena.leases == 0, "the thread has returned")
    assert seen == [b"image"]
    assert workers.pending == 0
    await asyncio.to_thread(workers.close)


async def test_a_body_that_waits_for_a_thread_is_not_kept_when_its_caller_leaves(door: Door) -> None:
    workers = ImageWorkers(1, 5)
    arena = Arena(2**20, poison=True)
    running = asyncio.create_task(workers.admit(lambda: door.work(0)))
    await eventually(lambda: door.entered, "the thread works")
    exchange = received(arena)
    waiting = asyncio.create_task(workers.admit(lambda: door.work(1), exchange))
    await settle()
    waiting.cancel()
    await settle()
    exchange.close()
    assert arena.leases == 0
    door.opened.set()
    await running
    await asyncio.to_thread(workers.close)


@pytest.mark.parametrize("failing", [False, True])
async def test_a_body_is_let_go_once_whatever_the_work_does(failing: bool) -> None:
    workers = ImageWorkers(1, 5)
    arena = Arena(2**20, poison=True)
    exchange = received(arena)

    def work() -> int:
        if failing:
            raise InvalidImage("damaged")
        return 1

    await asyncio.gather(workers.admit(work, exchange), return_exceptions=True)
    await eventually(lambda: workers.pending == 0, "the thread is free")
    assert arena.leases == 1, "the connection's own"
    exchange.close()
    assert arena.leases == 0
    await asyncio.to_thread(workers.close)


async def test_a_closed_pool_refuses_and_keeps_no_body() -> None:
    workers = ImageWorkers(1, 5)
    arena = Arena(2**20, poison=True)
    exchange = received(arena)
    await asyncio.to_thread(workers.close)
    with pytest.raises(Overloaded, match="shutting down"):
        await workers.run(lambda: 1, exchange)
    exchange.close()
    assert arena.leases == 0
