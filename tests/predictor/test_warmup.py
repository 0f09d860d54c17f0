"""Warm-up: real inferences of the smallest and the largest batch before the first client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fakes import FakeEngine, eventually, finds
from saccade_predictor import warmup
from saccade_predictor.batchingconfig import DynamicBatching
from saccade_predictor.engines.engine import EngineDescription
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import LoadedEngine, Surroundings
from saccade_serving.errors import DeadlineExceeded, EngineFailed, InvalidRequest, SaccadeError
from saccade_serving.memory.arena import Arena, ArenaFull
from saccade_serving.oip.messages import Tensor, TensorMetadata


def model_around(engine: FakeEngine, max_batch_size: int, grouped: bool = True) -> PredictorModel:
    """A model whose config says what its graph does."""
    description = engine.describe()
    batched = bool(max_batch_size)
    config = ModelConfig(
        name="m",
        backend="onnxruntime",
        max_batch_size=max_batch_size,
        inputs=tuple(TensorConfig(t.name, t.datatype, t.shape[batched:]) for t in description.inputs),
        outputs=tuple(TensorConfig(t.name, t.datatype, t.shape[batched:]) for t in description.outputs),
        default_model_filename="",
        dynamic_batching=DynamicBatching() if grouped else None,
    )
    return PredictorModel(
        ModelDirectory("m", Path("nowhere")),
        finds(LoadedEngine("1", config, engine)),
        Surroundings(PredictorMetrics(), Arena(64 * 2**20, poison=True), 10),
    )


def warm(engine: FakeEngine, max_batch_size: int, grouped: bool = True) -> asyncio.Task[None]:
    return asyncio.create_task(model_around(engine, max_batch_size, grouped).prepare())


async def finished(engine: FakeEngine, task: asyncio.Task[None]) -> None:
    """Complete every batch that comes until the warm-up is over."""

    def step() -> bool:
        engine.finish_all()
        return task.done()

    await eventually(step, "the warm-up ends")
    await task


@pytest.mark.parametrize(
    ("max_batch_size", "rows"), [(8, [1, 8]), (1, [1]), (0, [1])], ids=["batched", "one row", "not batched"]
)
async def test_the_smallest_and_the_largest_batch_are_run(max_batch_size: int, rows: list[int]) -> None:
    engine = FakeEngine()
    await finished(engine, warm(engine, max_batch_size))
    assert [batch.rows for batch in engine.submitted] == rows


async def test_the_largest_batch_is_run_also_where_requests_are_not_grouped() -> None:
    engine = FakeEngine()
    await finished(engine, warm(engine, max_batch_size=8, grouped=False))
    assert [batch.rows for batch in engine.submitted] == [1, 8]


async def test_inputs_are_zeros_of_the_graphs_shapes_with_open_sides_of_one() -> None:
    inputs = [
        TensorMetadata("x", "UINT8", (-1, 4, -1, 3)),
        TensorMetadata("half", "FP16", (-1, 2)),
        TensorMetadata("text", "BYTES", (-1, -1)),
    ]
    engine = FakeEngine(description=EngineDescription("fake", inputs, []))
    await finished(engine, warm(engine, 4))
    sent = engine.submitted[1].seen[0]
    assert {name: (array.shape, array.dtype) for name, array in sent.items()} == {
        "x": ((4, 4, 1, 3), np.dtype(np.uint8)),
        "half": ((4, 2), np.dtype(np.float16)),
        "text": ((4, 1), np.dtype(object)),
    }
    assert not sent["x"].any()
    assert sent["text"].ravel().tolist() == [b""] * 4


async def test_a_model_without_batches_is_warmed_with_its_full_shape() -> None:
    description = EngineDescription("fake", [TensorMetadata("x", "FP32", (-1, 3))], [])
    engine = FakeEngine(description=description)
    await finished(engine, warm(engine, 0))
    assert engine.submitted[0].seen[0]["x"].shape == (1, 3)


async def test_an_engine_that_cannot_run_its_own_model_fails_the_warm_up() -> None:
    engine = FakeEngine()
    task = warm(engine, 8)
    await eventually(lambda: engine.open, "the first batch")
    engine.open[0].fail(RuntimeError("no kernel for this device"))
    with pytest.raises(EngineFailed):
        await task
    assert len(engine.submitted) == 1


CLOSED = TensorMetadata("x", "UINT8", (-1, 4))
OPEN = TensorMetadata("x", "UINT8", (-1, -1))


class Failing:
    """Takes note of what it is asked, and fails what is over a size."""

    def __init__(self, error: SaccadeError, over: int) -> None:
        self.error, self.over = error, over
        self.asked: list[tuple[int, ...]] = []

    async def infer(self, make: Callable[[], Sequence[Tensor]]) -> float:
        inputs = make()
        self.asked += [tensor.shape for tensor in inputs]
        if any(tensor.element_count > self.over for tensor in inputs):
            raise self.error
        return 0.001 * len(self.asked)


@pytest.mark.parametrize("error", [ArenaFull(32, 0, 16), InvalidRequest("too large")], ids=["full", "too large"])
async def test_a_batch_that_no_request_could_bring_is_left_out_and_the_log_says_so(
    error: SaccadeError, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(error, over=4)
    with caplog.at_level(logging.INFO, "saccade.warmup"):
        await warmup.run(failing.infer, [CLOSED], 8, "m")
    assert failing.asked == [(1, 4), (8, 4)]
    assert [record.message for record in caplog.records] == ["warmed_up", "not_warmed_up"]


async def test_open_sides_are_tried_from_the_smallest_until_one_runs() -> None:
    class Picky(Failing):
        async def infer(self, make: Callable[[], Sequence[Tensor]]) -> float:
            if make()[0].shape[1] < 224:
                await super().infer(make)
                raise EngineFailed("too small")
            return await super().infer(make)

    picky = Picky(EngineFailed("unused"), over=10**9)
    await warmup.run(picky.infer, [OPEN], 1, "m")
    assert picky.asked == [(1, 1), (1, 32), (1, 224)]


async def test_an_engine_that_never_answers_is_no_warm_up() -> None:
    with pytest.raises(DeadlineExceeded):
        await warmup.run(Failing(DeadlineExceeded("over"), over=0).infer, [OPEN], 1, "m")


async def test_every_second_size_and_the_largest_are_measured_several_times_each() -> None:
    asked = Failing(EngineFailed("unused"), over=10**9)
    times = await warmup.measure(asked.infer, [CLOSED], 12, "m")
    assert [shape[0] for shape in asked.asked] == [rows for rows in (1, 2, 4, 8, 12) for _ in range(warmup.RUNS)]
    # Of each size the slowest run but one: they take 1, 2, 3 ... ms here.
    assert times == pytest.approx({rows: 0.001 * (8 * n + 7) for n, rows in enumerate((1, 2, 4, 8, 12))})


async def test_a_size_that_cannot_be_run_is_left_out_of_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    times = await warmup.measure(Failing(ArenaFull(32, 0, 16), over=8).infer, [CLOSED], 4, "m")
    assert list(times) == [1, 2]
    assert [record.message for record in caplog.records] == ["not_measured"]


@pytest.mark.parametrize("kind", ["FP32", "BYTES"])
async def test_a_batch_that_would_fill_the_memory_is_not_even_made(kind: str) -> None:
    failing = Failing(InvalidRequest("unused"), over=10**12)
    await warmup.run(failing.infer, [TensorMetadata("x", kind, (-1, 4))], 2**31 - 1, "m")
    assert failing.asked == [(1, 4)]
