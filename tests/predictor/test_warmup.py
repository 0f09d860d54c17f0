"""Warm-up: real inferences of the smallest and the largest batch before the first client."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fakes import FakeEngine, eventually
from saccade_predictor import warmup
from saccade_predictor.batcher import Batcher, BatchingRules
from saccade_predictor.engines.engine import EngineDescription
from saccade_predictor.metrics import PredictorMetrics
from saccade_serving.errors import EngineFailed
from saccade_serving.oip.messages import TensorMetadata


def warm(engine: FakeEngine, max_batch_size: int, max_rows: int | None = None) -> asyncio.Task[None]:
    rules = BatchingRules(max_batch_size if max_rows is None else max_rows, 0.0, 10)
    batcher = Batcher(engine, rules, "m", "1", PredictorMetrics())
    return asyncio.create_task(warmup.run(batcher, engine.describe(), max_batch_size, "m"))


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
    await finished(engine, warm(engine, max_batch_size=8, max_rows=1))
    assert [batch.rows for batch in engine.submitted] == [1, 8]


async def test_inputs_are_zeros_of_the_graphs_shapes_with_open_sides_of_one() -> None:
    inputs = [
        TensorMetadata("x", "UINT8", (-1, 4, -1, 3)),
        TensorMetadata("half", "FP16", (-1, 2)),
        TensorMetadata("text", "BYTES", (-1, -1)),
    ]
    engine = FakeEngine(description=EngineDescription("fake", inputs, []))
    await finished(engine, warm(engine, 4))
    sent = engine.submitted[1].requests[0]
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
    assert engine.submitted[0].requests[0]["x"].shape == (1, 3)


async def test_an_engine_that_cannot_run_its_own_model_fails_the_warm_up() -> None:
    engine = FakeEngine()
    task = warm(engine, 8)
    await eventually(lambda: engine.open, "the first batch")
    engine.open[0].fail(RuntimeError("no kernel for this device"))
    with pytest.raises(EngineFailed):
        await task
    assert len(engine.submitted) == 1
