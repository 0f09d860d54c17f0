"""Instances and their batches, deliveries that go wrong, and what a warm-up leaves behind."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import FakeEngine, answer_of, eventually, finds, settle
from saccade_predictor import warmup
from saccade_predictor.batcher import Batcher
from saccade_predictor.batchingconfig import DynamicBatching
from saccade_predictor.delivery import Outcome
from saccade_predictor.engines.engine import EngineDescription, LeasedOutputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import LoadedEngine, Surroundings
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import EngineFailed, SaccadeError
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor, TensorMetadata
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.queue import Queue, QueuePolicy
from saccade_serving.scheduling.submission import Submission, place
from saccade_serving.statistics import ModelStatistics


class Bench:
    """A batcher whose outcomes are kept, and whose delivery fails for some."""

    def __init__(self, engine: FakeEngine, max_rows: int = 1, fails_for: frozenset[int] = frozenset()) -> None:
        self.engine = engine
        self.arena = Arena(2**20, poison=True)
        self.outcomes: dict[int, Outcome] = {}
        self.asked: list[int] = []
        self._fails_for = fails_for
        queue, rules = Queue(QueuePolicy(max_queue_size=100)), BatchingRules(max_rows)
        self.batcher = Batcher(engine, queue, rules, "m", "1", PredictorMetrics(), self.arena, self._deliver)

    def submit(self, number: int) -> None:
        lease, tensors = place([Tensor.of("x", np.full((1, 2), number, np.float32))], None, self.arena)
        self.batcher.submit(Submission(number, lease.name, tensors, 1, 1e9))

    def _deliver(self, number: int, outcome: Outcome) -> None:
        self.asked.append(number)
        if number in self._fails_for:
            raise RuntimeError("a bug of whoever is told")
        self.outcomes[number] = outcome

    def open(self) -> list[list[float]]:
        """The first number of each batch, by instance."""
        return [[float(batch.seen[0]["x"].flat[0]) for batch in lane.open] for lane in self.engine.lanes]

    async def end(self) -> None:
        while self.engine.open or self.batcher.depth:
            self.engine.finish_all()
            await settle()
        await self.batcher.close()
        assert self.arena.leases == 0
        assert self.batcher._running == {}


# Lanes


async def test_two_instances_get_one_batch_each_before_any_gets_a_second() -> None:
    bench = Bench(FakeEngine(instances=2, depth=2))
    bench.submit(1)
    bench.submit(2)
    await settle()
    assert bench.open() == [[1], [2]]
    bench.submit(3)
    bench.submit(4)
    bench.submit(5)
    await settle()
    assert bench.open() == [[1, 3], [2, 4]]
    assert bench.batcher.depth == 1
    bench.engine.lanes[1].open[0].finish()
    await settle()
    assert bench.open() == [[1, 3], [4, 5]]
    await bench.end()
    assert sorted(bench.outcomes) == [1, 2, 3, 4, 5]
    assert [lane.most_open for lane in bench.engine.lanes] == [2, 2]


async def test_an_instance_that_has_nothing_is_preferred_whichever_it_is() -> None:
    bench = Bench(FakeEngine(instances=3, depth=2))
    for number in (1, 2, 3):
        bench.submit(number)
    await settle()
    for number, lane in ((4, 1), (5, 2), (6, 0)):
        bench.engine.lanes[lane].open[0].finish()
        await settle()
        bench.submit(number)
        await settle()
        assert bench.open()[lane] == [number]
    await bench.end()


async def test_an_instance_that_refuses_does_not_lose_its_place() -> None:
    bench = Bench(FakeEngine(instances=2, depth=1))
    bench.engine.lanes[0].refuses = RuntimeError("out of memory")
    bench.submit(1)
    await settle()
    assert isinstance(bench.outcomes[1].error, EngineFailed)
    assert bench.arena.leases == 0
    bench.engine.lanes[0].refuses = None
    bench.submit(2)
    bench.submit(3)
    await settle()
    assert bench.open() == [[2], [3]]
    await bench.end()


# Deliveries


@pytest.mark.parametrize("fails_for", [{1}, {2}, {3}, {1, 2, 3}], ids=str)
async def test_a_delivery_that_raises_leaves_its_batch_mates_answered(
    fails_for: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(FakeEngine(), 4, frozenset(fails_for))
    for number in (1, 2, 3):
        bench.submit(number)
    await settle()
    (batch,) = bench.engine.open
    with caplog.at_level(logging.ERROR, "saccade.batcher"):
        batch.finish()
        await settle()
    assert bench.asked == [1, 2, 3]
    assert [record.message for record in caplog.records] == ["delivery_failed"] * len(fails_for)
    for number in {1, 2, 3} - fails_for:
        outcome = bench.outcomes[number]
        assert outcome.error is None
        assert outcome.outputs is not None
        assert outcome.outputs["y"].tolist() == [[number, number]]
    bench.submit(4)
    await settle()
    await bench.end()
    assert bench.outcomes[4].error is None


async def test_the_engines_memory_comes_back_from_a_delivery_that_raises() -> None:
    bench = Bench(FakeEngine(), 4, frozenset({1}))
    bench.submit(1)
    bench.submit(2)
    await settle()
    freed: list[bool] = []
    bench.engine.open[0].finish(LeasedOutputs({"y": np.zeros((2, 2), np.float32)}, lambda: freed.append(True)))
    await settle()
    release = bench.outcomes[2].release
    assert release is not None
    assert freed == []
    release()
    await bench.end()
    assert freed == [True]


@pytest.mark.parametrize("how", ["failed", "closed"])
async def test_a_delivery_that_raises_leaves_those_told_of_a_failure_told(how: str) -> None:
    bench = Bench(FakeEngine(), 4, frozenset({1, 3}))
    if how == "closed":
        bench.submit(9)  # keeps the engine busy
        await settle()
    for number in (1, 2, 3, 4):
        bench.submit(number)
    if how == "failed":
        await settle()
        bench.engine.open[0].fail(RuntimeError("no kernel"))
        await settle()
    else:
        closing = asyncio.create_task(bench.batcher.close())
        await settle()
        assert not closing.done()
        bench.engine.finish_all()
        await closing
    assert [number for number in bench.asked if number != 9] == [1, 2, 3, 4]
    assert bench.outcomes[2].error is not None
    assert bench.outcomes[4].error is not None
    await bench.end()


# Warm-up

CLOSED, OPEN = (2,), (-1,)


def model_of(engine: FakeEngine, dims: tuple[int, ...], arena: Arena, metrics: PredictorMetrics) -> PredictorModel:
    config = ModelConfig(
        name="m",
        backend="onnxruntime",
        max_batch_size=4,
        inputs=(TensorConfig("x", "FP32", dims),),
        outputs=(TensorConfig("y", "FP32", dims),),
        default_model_filename="",
        dynamic_batching=DynamicBatching(),
    )
    directory = ModelDirectory("m", Path("nowhere"))
    return PredictorModel(directory, finds(LoadedEngine("1", config, engine)), Surroundings(metrics, arena, 10))


def engine_of(dims: tuple[int, ...]) -> FakeEngine:
    tensors = [TensorMetadata("x", "FP32", (-1, *dims))], [TensorMetadata("y", "FP32", (-1, *dims))]
    return FakeEngine(description=EngineDescription("fake", *tensors))


def counts(statistics: ModelStatistics) -> dict[str, Any]:
    return {name: getattr(statistics, name) for name in statistics.__slots__ if name != "_clock_ns"}


async def finished(engine: FakeEngine, task: asyncio.Task[Any]) -> None:
    def step() -> bool:
        engine.finish_all()
        return task.done()

    await eventually(step, "it ends")


async def test_a_warm_up_that_hangs_ends_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "TIMEOUT_S", 0.05)
    engine, arena = engine_of(CLOSED), Arena(2**20, poison=True)
    model = model_of(engine, CLOSED, arena, PredictorMetrics())
    with pytest.raises(SaccadeError, match="did not answer its warm-up"):
        await model.prepare()
    assert not model.ready
    assert model.inflight == 0
    assert arena.leases == 1, "the engine may still read it"
    engine.finish_all()
    await settle()
    assert arena.leases == 0
    await model.close()
    assert engine.closed


async def test_a_warm_up_that_hangs_in_any_size_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "TIMEOUT_S", 0.02)
    engine, arena = engine_of(OPEN), Arena(2**20, poison=True)
    model = model_of(engine, OPEN, arena, PredictorMetrics())
    task = asyncio.create_task(model.prepare())
    await eventually(task.done, "the warm-up is given up")
    assert model.inflight == 0
    assert not model.ready, "an engine that does not answer is not one whose sizes are not known"
    engine.finish_all()
    await settle()
    assert arena.leases == 0
    await model.close()


async def test_a_warm_up_that_is_cancelled_leaves_nothing_behind() -> None:
    engine, arena = engine_of(CLOSED), Arena(2**20, poison=True)
    model = model_of(engine, CLOSED, arena, PredictorMetrics())
    task = asyncio.create_task(model.prepare())
    await eventually(lambda: engine.open, "the first batch")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    engine.finish_all()
    await settle()
    assert arena.leases == 0
    assert model.inflight == 0
    await model.close()


@pytest.mark.parametrize("dims", [CLOSED, OPEN], ids=["closed", "open"])
async def test_statistics_begin_after_the_warm_up(dims: tuple[int, ...]) -> None:
    engine, arena, metrics = engine_of(dims), Arena(2**20, poison=True), PredictorMetrics()
    model = model_of(engine, dims, arena, metrics)
    statistics = metrics.statistics.of("m", "1")
    untouched = counts(ModelStatistics())
    task = asyncio.create_task(model.prepare())
    await finished(engine, task)
    await task
    assert [batch.rows for batch in engine.submitted] == [1, 4]
    assert counts(statistics) == untouched
    assert metrics.statistics.of("m", "1") is statistics

    x = Tensor.of("x", np.ones((3, 2), np.float32))
    exchange = Exchange.begin("rest", {}, 30.0)
    asking: asyncio.Task[InferResponse] = asyncio.create_task(answer_of(model, InferRequest("m", [x]), exchange))
    await finished(engine, asking)
    assert (await asking).output("y").array.tolist() == [[1, 1]] * 3
    assert statistics.execution_count == 1
    assert list(statistics.batches) == [3]
    assert statistics.last_inference_ms > 0
    await model.close()
    assert arena.leases == 0
