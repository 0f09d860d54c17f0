"""Engines that hang: who waits is answered, memory that may still be read is not used again, and others go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import onnx_graphs as graphs
from fakes import FakeEngine, answer_of, eventually, finds, settle
from saccade_predictor.batcher import MAX_RENEWALS
from saccade_predictor.batchingconfig import DynamicBatching
from saccade_predictor.engines.engine import EngineBroken, Inputs, Outputs
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.runner import RunnerInstance
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import LoadedEngine, Surroundings
from saccade_predictor.watchdog import Watchdog
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.errors import DeadlineExceeded, EngineFailed, Overloaded
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor
from saccade_serving.settings import ServiceSettings

LIMIT_S = 0.15


class Stage:
    """A model on an engine that the test drives, which counts as hanging soon."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.arena = Arena(2**20, poison=True)
        config = ModelConfig(
            name="m",
            backend="onnxruntime",
            max_batch_size=2,
            inputs=(TensorConfig("x", "FP32", (2,)),),
            outputs=(TensorConfig("y", "FP32", (2,)),),
            default_model_filename="",
            dynamic_batching=DynamicBatching(),
        )
        directory = ModelDirectory("m", Path("nowhere"))
        shared = Surroundings(PredictorMetrics(), self.arena, 100, LIMIT_S)
        self.model = PredictorModel(directory, finds(LoadedEngine("1", config, engine)), shared)

    async def start(self) -> None:
        preparing = asyncio.create_task(self.model.prepare())

        def step() -> bool:
            self.engine.finish_all()
            return preparing.done()

        await eventually(step, "the model is ready")
        await preparing

    def ask(self, value: float, timeout_s: float = 60) -> asyncio.Task[InferResponse]:
        tensor = Tensor.of("x", np.full((1, 2), value, np.float32))
        exchange = Exchange.begin("rest", {}, timeout_s)
        return asyncio.create_task(answer_of(self.model, InferRequest("m", [tensor]), exchange))


async def test_requests_of_a_hanging_instance_are_answered_and_its_successor_goes_on() -> None:
    stage = Stage(FakeEngine())
    await stage.start()
    hanging = stage.ask(1)
    await eventually(lambda: stage.engine.open, "the engine has it")
    (stuck,) = stage.engine.open
    waiting = stage.ask(2)
    with pytest.raises(DeadlineExceeded, match="the engine does not answer"):
        await hanging
    await eventually(lambda: stage.engine.given_up and stage.engine.lanes[0].open, "the new instance has the next")
    # The hanging one may still read: its memory is nobody else's.
    assert stage.arena.bytes_by_state()["staged"] == 2 * 4096
    assert stuck.requests[0]["x"].flat[0] == 1
    stage.engine.finish_all()
    assert (await waiting).output("y").array.tolist() == [[2, 2]]
    assert stage.arena.leases == 1
    stuck.finish()  # after all: nobody is told, and the memory comes back
    await eventually(lambda: not stage.arena.leases, "the memory is free")
    assert stage.model.ready
    await stage.model.close()


async def test_the_other_instances_are_not_concerned() -> None:
    stage = Stage(FakeEngine(instances=2))
    stage.engine.renewable = False
    await stage.start()
    hanging = stage.ask(1)
    await eventually(lambda: stage.engine.open, "the first instance has it")
    for value in range(2, 6):
        asked = stage.ask(value)
        await eventually(lambda: len(stage.engine.open) == 2, "the second instance has it")
        stage.engine.open[1].finish()
        assert (await asked).output("y").array.flat[0] == value
    with pytest.raises(DeadlineExceeded):
        await hanging
    await stage.model.close()


async def test_an_engine_that_hangs_again_and_again_is_broken_and_the_process_not_live() -> None:
    stage = Stage(FakeEngine())
    await stage.start()
    for _ in range(MAX_RENEWALS + 1):
        asked = stage.ask(1)
        await eventually(lambda: stage.engine.lanes[0].open, "the instance has it")
        with pytest.raises(DeadlineExceeded):
            await asked
    await eventually(lambda: not stage.model.ready, "the model is not ready any more")
    assert len(stage.engine.given_up) == MAX_RENEWALS
    assert stage.model.must_restart
    with pytest.raises(Overloaded, match="the engine of version 1 does not answer any more"):
        stage.model.check_ready()
    gate = Gate({"m": stage.model}, ServiceSettings(), PredictorMetrics(), stage.arena)
    with pytest.raises(EngineFailed, match="model 'm' needs a new process"):
        gate.check_live()


async def test_an_engine_that_cannot_be_renewed_is_broken_at_once_and_who_waits_is_told() -> None:
    stage = Stage(FakeEngine())
    stage.engine.renewable = False
    await stage.start()
    hanging, waiting = stage.ask(1), stage.ask(2)
    await eventually(lambda: stage.engine.open, "the engine has them")
    late = stage.ask(3)
    for task, error in ((hanging, DeadlineExceeded), (waiting, DeadlineExceeded), (late, EngineFailed)):
        with pytest.raises(error):
            await task
    assert stage.model.must_restart
    with pytest.raises((EngineFailed, Overloaded)):
        await stage.ask(4)


async def test_a_renewal_that_fails_counts_and_is_not_the_end_while_others_work() -> None:
    class Stubborn(FakeEngine):
        def renew(self, index: int) -> None:
            raise RuntimeError("out of memory")

    stage = Stage(Stubborn(instances=2))
    await stage.start()
    hanging = stage.ask(1)
    await eventually(lambda: stage.engine.open, "the engine has it")
    with pytest.raises(DeadlineExceeded):
        await hanging
    await settle()
    asked = stage.ask(2)
    await eventually(lambda: stage.engine.lanes[1].open, "the other one has it")
    stage.engine.lanes[1].open[0].finish()
    await asked
    assert stage.model.ready


async def test_an_onnx_session_is_renewed_with_a_thread_of_its_own(tmp_path: Path) -> None:
    engine = OnnxEngine(graphs.identity(tmp_path / "model.onnx"), 1, 1)
    release = threading.Event()

    def hang(_requests: Sequence[Inputs], _rows: int) -> Outputs:
        release.wait(30)
        return {}

    engine._runners[0] = RunnerInstance(hang, "hangs")
    stuck = engine.instances()[0].submit([{"x": np.zeros((1, 2), np.float32)}], 1)
    fresh = await asyncio.to_thread(engine.renew, 0)
    ticket = fresh.submit([{"x": np.ones((1, 2), np.float32)}], 1)
    assert (await ticket.done)["y"].tolist() == [[1, 1]]
    assert not stuck.done.done()
    release.set()
    await asyncio.to_thread(engine.close)


def test_a_watchdog_knows_each_instance_and_counts_from_the_batch_that_computes() -> None:
    now = 0.0
    told: list[int] = []

    async def watch() -> None:
        nonlocal now
        dog = Watchdog(10.0, lambda: now, told.append)
        dog.began(0)
        dog.began(0)
        dog.began(1)
        now = 9.0
        dog.ended(0)  # its second batch begins now
        now = 10.0
        dog._look()
        assert told == [1]
        now = 18.0
        dog._look()
        assert told == [1]
        now = 19.0
        dog._look()
        assert told == [1, 0]
        dog.close()

    asyncio.run(watch())


async def test_an_engine_that_says_it_is_broken_makes_the_process_not_live_at_once() -> None:
    stage = Stage(FakeEngine(instances=2))
    await stage.start()
    asked = stage.ask(1)
    await eventually(lambda: stage.engine.open, "the engine has it")
    stage.engine.open[0].fail(EngineBroken("an illegal memory access was encountered"))
    with pytest.raises(EngineFailed, match="failed on this batch"):
        await asked
    assert stage.model.must_restart
    with pytest.raises((EngineFailed, Overloaded)):
        await stage.ask(2)
    assert stage.arena.leases == 0
    await stage.model.close()


async def test_an_engine_that_is_found_broken_when_it_is_asked_is_no_better() -> None:
    stage = Stage(FakeEngine())
    await stage.start()
    stage.engine.lanes[0].refuses = EngineBroken("the device is broken")
    asked = [stage.ask(value) for value in (1, 2, 3)]
    for task in asked:
        with pytest.raises(EngineFailed):
            await task
    assert stage.model.must_restart
    assert stage.arena.leases == 0
    await stage.model.close()
