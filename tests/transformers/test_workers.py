"""Bounded threads for images: refuse rather than queue without end, and leave the event loop free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from fakes import eventually, settle
from saccade_serving.errors import InvalidImage, Overloaded
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
