"""The checker of races and the fake device are right: planted bugs are caught, each kind of them.

First by hand on the layer alone, then in the engine, which is changed to forget one thing at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cuda_fake import FakeCuda, FakeEvent, FakeStream
from fakes import eventually
from hazards import Checker, HazardError, me
from plan_stage import Stage, doubled
from saccade_predictor.engines import planinstance
from saccade_predictor.engines.cuda import DeviceError
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.planexecutor import Executor


class Layer:
    """A device with two streams, a buffer, and page-locked memory of 64 bytes, all of it current."""

    def __init__(self, seed: int = 0) -> None:
        self.cuda = FakeCuda(seed)
        self.device = self.cuda.devices[0]
        self.checker = self.cuda.checker
        with self.device.current():
            self.one, self.two = self.device.stream(), self.device.stream()
            self.event, self.other = self.device.event(), self.device.event()
            self.buffer = self.device.allocate(64)
            self.block = self.device.pinned(64)
        self.source = np.arange(64, dtype=np.uint8)
        self.device.register(self.address, 64)

    @property
    def address(self) -> int:
        return int(self.source.ctypes.data)

    def copy_in(self, stream: FakeStream) -> None:
        stream.copy_in(self.buffer.address, self.address, 64)

    def copy_out(self, stream: FakeStream) -> None:
        stream.copy_out(self.block.address, self.buffer.address, 64)

    def read(self) -> list[int]:
        """The host reads what came back."""
        self.checker.access(me(), self.block.address, 64, False, "an output is read")
        return self.block.array.tolist()

    def write(self) -> None:
        """The host writes into the slot."""
        self.checker.access(me(), self.address, 64, True, "a slot is used again")
        self.source[:] = 0


def test_what_is_ordered_is_no_hazard_and_computes_rightly() -> None:
    for seed in range(20):
        layer = Layer(seed)
        with layer.device.current():
            for _ in range(3):
                layer.copy_in(layer.one)
                layer.event.record(layer.one)
                layer.two.wait(layer.event)
                layer.copy_out(layer.two)
                layer.other.record(layer.two)
                layer.event.wait()
                kept = layer.source.tolist()
                layer.write()
                layer.other.wait()
                assert layer.read() == kept
                layer.source[:] = np.arange(64)
            layer.device.unregister(layer.address)
            layer.buffer.free()
            layer.block.free()
        layer.checker.check()


def read_too_early(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.copy_out(layer.one)
    layer.event.record(layer.one)
    layer.read()


def wait_for_the_wrong_event(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.event.record(layer.one)
    layer.copy_out(layer.one)
    layer.other.record(layer.one)
    layer.event.wait()
    layer.read()


def use_the_slot_too_early(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.write()


def copy_over_a_block_that_is_read(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.copy_out(layer.one)
    layer.copy_out(layer.two)


def forget_the_wait_between_streams(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.event.record(layer.one)
    layer.copy_out(layer.two)


def wait_before_the_record(layer: Layer) -> None:
    layer.two.wait(layer.event)
    layer.copy_in(layer.one)
    layer.event.record(layer.one)
    layer.copy_out(layer.two)


def two_writers_of_one_buffer(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.copy_in(layer.two)


def free_in_flight(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.buffer.free()


def free_page_locked_memory_in_flight(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.copy_out(layer.one)
    layer.block.free()


def unregister_in_flight(layer: Layer) -> None:
    layer.copy_in(layer.one)
    layer.device.unregister(layer.address)


def read_what_nobody_wrote(layer: Layer) -> None:
    layer.copy_out(layer.one)


def close_a_stream_with_work(layer: Layer) -> None:
    layer.device.held.set()
    layer.copy_in(layer.one)
    layer.one.close()


BUGS: dict[Callable[[Layer], None], str] = {
    read_too_early: r"an output is read \(read\) races with copy_out",
    wait_for_the_wrong_event: r"an output is read \(read\) races with copy_out",
    use_the_slot_too_early: r"a slot is used again \(write\) races with copy_in \(read\)",
    copy_over_a_block_that_is_read: r"copy_out \(write\) races with copy_out \(write\)",
    forget_the_wait_between_streams: r"copy_out \(read\) races with copy_in \(write\)",
    wait_before_the_record: r"copy_out \(read\) races with copy_in \(write\)",
    two_writers_of_one_buffer: r"copy_in \(write\) races with copy_in \(write\)",
    free_in_flight: r"free \(write\) races with copy_in",
    free_page_locked_memory_in_flight: r"free of page-locked memory \(write\) races with copy_out",
    unregister_in_flight: r"unregister \(write\) races with copy_in",
    read_what_nobody_wrote: r"copy_out reads memory that nobody has written",
    close_a_stream_with_work: r"is closed with work to do",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_is_caught_in_every_order(bug: Callable[[Layer], None]) -> None:
    for seed in range(10):
        layer = Layer(seed)
        with layer.device.current():
            bug(layer)
        with pytest.raises(HazardError, match=BUGS[bug]):
            layer.checker.check()


def test_a_missing_wait_also_gives_wrong_numbers_in_some_order() -> None:
    seen = set()
    for seed in range(50):
        layer = Layer(seed)
        with layer.device.current():
            layer.copy_in(layer.one)
            layer.copy_out(layer.two)
            layer.event.record(layer.two)
            layer.event.wait()
        seen.add(layer.block.array[1])
    assert seen == {1, 0xAB}


def test_what_a_thread_knows_another_does_not_before_it_is_told() -> None:
    checker = Checker()
    checker.access("a", 0, 4, True, "a writes")
    known = checker.step("a")
    checker.learn("b", known)
    checker.access("b", 0, 4, False, "b reads")
    checker.check()
    checker.access("c", 2, 8, True, "c writes")
    with pytest.raises(HazardError, match=r"c: c writes \(write\) races with b reads"):
        checker.check()


def test_ranges_that_only_touch_do_not_race() -> None:
    checker = Checker()
    checker.access("a", 0, 4, True, "a")
    checker.access("b", 4, 4, True, "b")
    checker.check()


# The engine, with one thing forgotten


def no_wait_on_the_host(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    patch.setattr(FakeEvent, "wait", lambda self: None)


def no_wait_before_the_execution(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    executor = stage.engine.instances()[0].executor
    patch.setattr(executor._stream, "wait", lambda event: None)


def no_wait_before_the_copy_out(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    for own in stage.engine.instances()[0].executor.sets:
        patch.setattr(own.stream, "wait", lambda event: None)


def inputs_said_to_be_free_at_once(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    issue = Executor.issue

    def hasty(self: Executor, own: Any, requests: Any, rows: int) -> Any:
        patch.setattr(own.copied, "wait", lambda: None)
        return issue(self, own, requests, rows)

    patch.setattr(Executor, "issue", hasty)


def blocks_used_again_while_they_are_lent(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    handed_out = planinstance.PlanInstance._handed_out

    def hasty(self: Any, issued: Any) -> Any:
        outputs = handed_out(self, issued)
        self.executor.blocks.give(issued.block)
        return outputs

    patch.setattr(planinstance.PlanInstance, "_handed_out", hasty)


def both_sets_write_into_one(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    one, two = stage.engine.instances()[0].executor.sets
    two.outputs.update(one.outputs)


def addresses_of_the_other_set(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    executor = stage.engine.instances()[0].executor
    one, two = executor.sets
    address = executor._address
    patch.setattr(executor, "_address", lambda context, own: address(context, two if own is one else one))


def failures_are_not_waited_for(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    patch.setattr(Executor, "settle", lambda self, own: None)
    stage.trt.refuses = 1000


def once_copied(patch: pytest.MonkeyPatch, stage: Stage, bug: Callable[[], None]) -> None:
    """Have the host do something as soon as a batch's copies have been given to the device."""
    instance = stage.engine.instances()[0]
    real = instance.submit

    def submit(requests: Any, rows: int) -> Any:
        before = len(stage.device.calls)
        ticket = real(requests, rows)
        ends = time.monotonic() + 5
        while len(stage.device.calls) == before and time.monotonic() < ends:
            time.sleep(0.0001)
        bug()
        return ticket

    patch.setattr(instance, "submit", submit)


def unregistered_while_a_batch_is_copied(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    once_copied(patch, stage, lambda: stage.arena.unwatch(stage.pages))


def freed_before_the_threads_have_ended(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    def free() -> None:
        with stage.device.current():
            for own in stage.engine.instances()[0].executor.sets:
                for buffer in own.inputs.values():
                    buffer.free()

    once_copied(patch, stage, free)


async def use(stage: Stage) -> None:
    """Several batches, two at a time, outputs read late; errors do not matter here."""
    await asyncio.gather(*(stage.run(value) for value in range(2)), return_exceptions=True)
    for value in range(0, 12, 2):
        stage.device.stalled.add("execute")  # else the first may be done, and in order, before the second begins
        tickets = [stage.submit(stage.request(value))]
        first = tickets[0]
        await eventually(lambda: first.inputs_free.done() or first.done.done(), "it is copied")  # noqa: B023
        tickets.append(stage.submit(stage.request(value + 1)))  # in the same slot, maybe
        stage.device.stalled.clear()
        read = [asyncio.wait_for(asyncio.shield(ticket.done), 5) for ticket in tickets]
        outputs = await asyncio.gather(*read, return_exceptions=True)
        await asyncio.gather(*(stage.run(50 + value) for value in range(2)), return_exceptions=True)
        for found in outputs:
            if isinstance(found, dict):
                stage.read(found)


MUTANTS = [
    no_wait_on_the_host,
    no_wait_before_the_execution,
    no_wait_before_the_copy_out,
    inputs_said_to_be_free_at_once,
    blocks_used_again_while_they_are_lent,
    both_sets_write_into_one,
    addresses_of_the_other_set,
    failures_are_not_waited_for,
    unregistered_while_a_batch_is_copied,
    freed_before_the_threads_have_ended,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
async def test_an_engine_that_forgets_something_is_caught(
    mutant: Callable[[pytest.MonkeyPatch, Stage], None],
) -> None:
    for seed in range(10):
        with pytest.MonkeyPatch.context() as patch:
            stage = Stage(patch, seed=seed)
            mutant(patch, stage)
            await use(stage)
            found = bool(stage.checker.hazards)
            patch.undo()
            await asyncio.to_thread(stage.engine.close)
        if found:
            return
    raise AssertionError("not caught")


async def test_the_engine_itself_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    await use(stage)
    assert (await stage.run(7))["y"].tolist() == doubled([7])
    await stage.close()


def test_page_locks_are_given_back_by_the_last_who_holds_them() -> None:
    from saccade_serving.memory.arena import Arena

    cuda, arena = FakeCuda(), Arena(2**20)
    cuda.devices[0].fails["unregister"] = lambda: None
    pages = PageLocks(arena, cuda.devices[0])
    lease = arena.lease(100)
    pages.hold()
    pages.hold()
    (begin,) = cuda.registered
    assert pages.together(begin, begin + cuda.registered[begin] - 1)
    assert not pages.together(begin, begin + cuda.registered[begin])
    assert not pages.together(begin - 1, begin)
    pages.release()
    assert cuda.registered
    pages.release()
    assert not cuda.registered
    assert not pages.together(begin, begin)
    lease.release()
    arena.close()


def test_an_error_of_the_layer_says_what_was_free() -> None:
    layer = Layer()
    layer.device.limit = layer.device.used + 10
    with layer.device.current(), pytest.raises(DeviceError, match="no room for 11 bytes: 10 of its 74 bytes are free"):
        layer.device.allocate(11)
