"""The plan engine behind the real batcher, in random schedules: nothing races, nobody gets another's rows or none.

A schedule is a seed: batch sizes, arrivals, clients that leave, readers that take their time, calls that fail, a close
in the midst of it, and the order in which the device does what it was given. Threads add an order of their own, so a
seed that fails may not fail again; what the checker finds does not depend on that luck.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from functools import partial

import numpy as np
import pytest

from cuda_fake import fails_once
from fakes import eventually
from hazards import me
from plan_stage import WIDTH, Stage, doubling
from saccade_predictor.batcher import Batcher
from saccade_predictor.delivery import Outcome
from saccade_predictor.engines.cuda import DeviceBroken, DeviceError, DeviceOutOfMemory
from saccade_predictor.engines.engine import LeasedOutputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_serving.errors import DeadlineExceeded, EngineFailed, Overloaded
from saccade_serving.oip.messages import Tensor
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.queue import Queue, QueuePolicy
from saccade_serving.scheduling.submission import Submission, place


class Service:
    """A batcher over a plan; requests by number, each with rows of values of its own.

    Attributes:
        told: outcomes by number.
        broken: whether the batcher said that the process must go.
    """

    def __init__(self, stage: Stage, max_rows: int = 8, hang_limit_s: float = 30.0) -> None:
        self.stage = stage
        self.told: dict[int, list[Outcome]] = {}
        self.rows: dict[int, int] = {}
        self.withdrawn: set[int] = set()
        self.broken = False
        self.batcher = Batcher(
            stage.engine,
            Queue(QueuePolicy(max_queue_size=1000)),
            BatchingRules(max_rows),
            "m",
            "1",
            PredictorMetrics(),
            stage.arena,
            self._deliver,
            hang_limit_s=hang_limit_s,
            broken=self._break,
        )

    def ask(self, number: int, rows: int = 1) -> None:
        """Queue a request.

        Raises:
            SaccadeError: it was refused.
        """
        x = np.full((rows, WIDTH), number, np.float32) + np.arange(rows, dtype=np.float32)[:, None] / 16
        lease, tensors = place([Tensor.of("x", x)], None, self.stage.arena)
        self.stage.checker.access(me(), lease.address, lease.size, True, "a request is received")
        self.rows[number] = rows
        self.told[number] = []
        try:
            self.batcher.submit(Submission(number, lease.name, tensors, rows, 1e12))
        except BaseException:
            lease.release()
            del self.told[number]
            raise

    def leave(self, number: int) -> None:
        """The client has gone."""
        if not self.told[number] and number not in self.withdrawn:
            self.withdrawn.add(number)
            self.batcher.withdraw(number)

    @property
    def open(self) -> list[int]:
        return [number for number, told in self.told.items() if not told and number not in self.withdrawn]

    def check(self, number: int, outcome: Outcome) -> None:
        """Read an answer and compare it."""
        assert outcome.outputs is not None
        for array in outcome.outputs.values():
            if outcome.release is not None:
                self.stage.checker.access(me(), array.ctypes.data, array.nbytes, False, "an output is sent")
        rows = self.rows[number]
        expected = 2 * (number + np.arange(rows) / 16)
        assert (outcome.outputs["y"] == expected[:, None]).all(), (number, outcome.outputs["y"])
        assert outcome.outputs["s"].ravel().tolist() == np.rint(expected / 2 * WIDTH).tolist()
        if outcome.release is not None:
            outcome.release()

    def _deliver(self, number: int, outcome: Outcome) -> None:
        self.told[number].append(outcome)

    def _break(self) -> None:
        self.broken = True


def plant(stage: Stage, rng: random.Random) -> bool:
    """Perhaps have a call fail; returns whether the device is then broken for good."""
    kind = rng.random()
    if kind < 0.6:
        return False
    if kind < 0.7:
        stage.trt.refuses = rng.randint(1, 3)
        return False
    call = rng.choice(["copy_in", "copy_out", "record", "stream_wait", "wait", "pinned", "execute"])
    if kind < 0.95:
        error = rng.choice([DeviceError("invalid argument"), DeviceOutOfMemory(5, 4, 3)])
        left = [rng.randint(0, 20)]
        once = fails_once(error)

        def later() -> Exception | None:
            left[0] -= 1
            return once() if left[0] < 0 else None

        stage.device.fails[call] = later
        # A wait that fails and a device that works: only the end of the batch is unknown, which is taken for broken.
        return call == "wait"
    after = time.monotonic() + rng.random() * 0.01
    stage.device.fails[call] = lambda: DeviceBroken("planted") if time.monotonic() > after else None
    return True


async def schedule(seed: int) -> None:
    """One schedule, from the loading of the plan to its end."""
    rng = random.Random(seed)
    network = doubling(8)
    if rng.random() < 0.3:
        network.profiles = [{"x": ((1, WIDTH), (2, WIDTH))}, {"x": ((1, WIDTH), (8, WIDTH))}]
    recorded = frozenset(rng.sample(range(1, 9), 2)) if rng.random() < 0.3 else frozenset()
    with pytest.MonkeyPatch.context() as patch:
        places = rng.choice([(0,), (0,), (0, 0), (0, 1)])
        stage = Stage(patch, network, seed, places, recorded)
        service = Service(stage)
        may_break = plant(stage, rng)
        lent: list[tuple[int, Outcome]] = []
        number = 0
        closing: asyncio.Task[None] | None = None
        for _ in range(rng.randint(5, 25)):
            for _ in range(rng.choice((0, 1, 1, 2, 5))):
                number += 1
                with contextlib.suppress(EngineFailed, Overloaded):
                    service.ask(number, rng.choice((1, 1, 1, 2, 3, 8)))
            if service.open and rng.random() < 0.2:
                service.leave(rng.choice(service.open))
            if closing is None and rng.random() < 0.02:
                closing = asyncio.create_task(service.batcher.close())
            await asyncio.sleep(rng.choice((0, 0, 0, 0.0005)))
            for done, told in service.told.items():
                if told and told[0].outputs is not None and done not in service.withdrawn:
                    lent.append((done, told[0]))
                    told[0] = told[0]._replace(outputs=None)
            while lent and rng.random() < 0.7:
                service.check(*lent.pop(rng.randrange(len(lent))))
        await eventually(partial(settled, service), f"schedule {seed}: everybody is told")
        if closing is None:
            closing = asyncio.create_task(service.batcher.close())
        await asyncio.wait_for(closing, 20)
        for done, told in service.told.items():
            assert len(told) == (0 if done in service.withdrawn else 1), f"{done} was told {len(told)} times"
            for outcome in told:
                if outcome.outputs is not None:
                    lent.append((done, outcome))
                elif outcome.error is not None:
                    assert isinstance(outcome.error, EngineFailed | Overloaded | DeadlineExceeded), outcome.error
        broken = any(device.broken for device in stage.cuda.devices) or service.broken
        assert may_break or not broken
        if broken:
            # It must be restarted; what is in flight stays as it is. Nothing raced until then.
            for item in lent:
                service.check(*item)
            stage.checker.check()
            patch.undo()
            for device in stage.cuda.devices:
                device.fails.clear()
                device.broken = ""
            await asyncio.to_thread(stage.engine.close)
            return
        stage.device.fails.clear()
        rng.shuffle(lent)
        before, after = lent[: len(lent) // 2], lent[len(lent) // 2 :]
        for item in before:
            service.check(*item)
        if after:  # the process ends before they are sent: their memory is theirs until then
            await asyncio.to_thread(stage.engine.close)
        for item in after:
            service.check(*item)
        await stage.close()


def settled(service: Service) -> bool:
    """Whether nobody waits any more."""
    return not service.open and not service.batcher._tickets


CHUNK = 30


@pytest.mark.parametrize("chunk", range(10))
async def test_random_schedules(chunk: int) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        await schedule(seed)


@pytest.mark.soak
async def test_ten_thousand_random_schedules() -> None:
    began = time.monotonic()
    for seed in range(10_000):
        await schedule(seed)
    print(f"10,000 schedules in {time.monotonic() - began:.0f} s")


# The batcher and the engine together, one thing at a time


async def test_two_batches_are_in_flight_and_both_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    service = Service(stage, max_rows=2)
    stage.device.stalled.add("execute")
    for number in (1, 2):
        service.ask(number)
    await eventually(lambda: len(service.batcher._tickets) == 1, "the first batch is in flight")
    for number in (3, 4, 5):
        service.ask(number)
    await eventually(lambda: len(service.batcher._tickets) == 2, "the second batch is in flight")
    await eventually(lambda: stage.arena.bytes_by_state()["staged"] == 0, "both are copied")
    assert service.batcher.depth == 1
    assert not any(service.told.values())
    stage.device.stalled.clear()
    await eventually(lambda: not service.open, "all are answered")
    for number, (outcome,) in service.told.items():
        service.check(number, outcome)
    await service.batcher.close()
    await stage.close()


async def test_a_client_that_leaves_costs_its_batch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    service = Service(stage)
    stage.device.stalled.add("execute")
    for number in (1, 2, 3):
        service.ask(number)
    await eventually(lambda: service.batcher._tickets, "the batch is in flight")
    service.leave(2)
    stage.device.stalled.clear()
    await eventually(lambda: not service.open, "the others are answered")
    for number in (1, 3):
        service.check(number, *service.told[number])
    assert service.told[2] == []
    await service.batcher.close()
    await stage.close()


async def test_a_failure_is_the_batchs_and_the_next_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    service = Service(stage)
    stage.trt.refuses = 1
    service.ask(1)
    await eventually(lambda: service.told[1], "the first is told")
    assert isinstance(service.told[1][0].error, EngineFailed)
    service.ask(2)
    await eventually(lambda: service.told[2], "the second is answered")
    service.check(2, *service.told[2])
    assert not service.broken
    await service.batcher.close()
    await stage.close()


async def test_a_sticky_error_breaks_the_batcher_and_who_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    service = Service(stage, max_rows=1)
    stage.device.fails["wait"] = lambda: DeviceBroken("an illegal memory access was encountered")
    for number in range(1, 6):
        service.ask(number)
    await eventually(lambda: not service.open, "all are told")
    assert service.broken
    assert all(isinstance(told[0].error, EngineFailed) for told in service.told.values())
    with pytest.raises(EngineFailed):
        service.ask(6)
    await service.batcher.close()


async def test_an_instance_that_hangs_breaks_the_batcher_and_keeps_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    service = Service(stage, hang_limit_s=0.1)
    stage.device.held.set()
    service.ask(1)
    await eventually(lambda: service.broken, "the process must go")
    assert isinstance(service.told[1][0].error, DeadlineExceeded)
    assert stage.arena.bytes_by_state()["staged"]  # the device may still read it
    with pytest.raises(EngineFailed):
        service.ask(2)
    stage.device.held.clear()
    await eventually(lambda: stage.arena.leases == 0, "it has come back after all")
    await service.batcher.close()
    await stage.close()


async def test_large_outputs_are_the_engines_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    ticket = stage.submit(stage.request(1))
    outputs = await ticket.done
    assert isinstance(outputs, LeasedOutputs)
    (block,) = stage.device.pinned_at.values()
    assert block.address <= outputs["y"].ctypes.data < block.address + block.size
    stage.read(outputs)
    await stage.close()
