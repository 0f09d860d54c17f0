"""ONNX Runtime behind the engine protocol: datatypes, gathering, odd arrays, failures, several instances."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import onnx_graphs as graphs
from fakes import eventually
from saccade_predictor.engines import onnx as onnx_engine
from saccade_predictor.engines.engine import Engine, Inputs, Instance, Outputs
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.runner import RunnerInstance
from saccade_serving.oip.messages import TensorMetadata

Open = Callable[..., OnnxEngine]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens engines and closes them at the end."""
    engines: list[OnnxEngine] = []

    def open_engine(path: Path, instances: int = 1) -> OnnxEngine:
        engines.append(OnnxEngine(path, instances, threads=1))
        return engines[-1]

    yield open_engine
    for engine in engines:
        await asyncio.to_thread(engine.close)


async def run(engine: Engine, *requests: Inputs, instance: int = 0) -> Outputs:
    rows = sum(len(next(iter(request.values()))) for request in requests)
    ticket = engine.instances()[instance].submit(requests, rows)
    outputs = await asyncio.wait_for(ticket.done, 30)
    assert ticket.inputs_free.done(), "whoever has the answer may reuse the inputs"
    return outputs


def test_the_engine_and_its_instances_are_what_the_batcher_expects(tmp_path: Path) -> None:
    engine: Engine = OnnxEngine(graphs.identity(tmp_path / "m.onnx"), 1, 1)
    instance: Instance = engine.instances()[0]
    assert instance.depth == 1
    assert engine.instances() == engine.instances()
    engine.close()


def test_a_graph_describes_itself(tmp_path: Path) -> None:
    properties = {"saccade.input": "rgb_nhwc", "author": "me"}
    engine = OnnxEngine(graphs.identity(tmp_path / "m.onnx", "UINT8", ("n", 4, "w", 3), properties), 1, 1)
    described = engine.describe()
    engine.close()
    assert described.platform == "onnxruntime_onnx"
    assert list(described.inputs) == [TensorMetadata("x", "UINT8", (-1, 4, -1, 3))]
    assert list(described.outputs) == [TensorMetadata("y", "UINT8", (-1, 4, -1, 3))]
    assert described.properties == properties


NUMERIC = {
    "BOOL": ("BOOL", np.bool_),
    "UINT8": ("UINT8", np.uint8),
    "UINT16": ("UINT16", np.uint16),
    "UINT32": ("UINT32", np.uint32),
    "UINT64": ("UINT64", np.uint64),
    "INT8": ("INT8", np.int8),
    "INT16": ("INT16", np.int16),
    "INT32": ("INT32", np.int32),
    "INT64": ("INT64", np.int64),
    "FP16": ("FLOAT16", np.float16),
    "FP32": ("FLOAT", np.float32),
    "FP64": ("DOUBLE", np.float64),
}


@pytest.mark.parametrize("datatype", NUMERIC)
async def test_every_numeric_datatype_passes_unchanged(datatype: str, tmp_path: Path, opened: Open) -> None:
    kind, dtype = NUMERIC[datatype]
    engine = opened(graphs.identity(tmp_path / "m.onnx", kind))
    assert engine.describe().inputs[0].datatype == datatype
    sent: NDArray[Any] = np.array([[0, 1], [1, 0]]).astype(dtype)
    outputs = await run(engine, {"x": sent[:1]}, {"x": sent[1:]})
    assert outputs["y"].dtype == dtype
    assert (outputs["y"] == sent).all()


async def test_half_precision_is_computed_not_only_passed(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.doubling(tmp_path / "m.onnx", "FLOAT16"))
    outputs = await run(engine, {"x": np.array([[0.5, 1.25]], np.float16)})
    assert outputs["y"].tolist() == [[1.0, 2.5]]


def bytes_array(*rows: Sequence[bytes]) -> NDArray[np.object_]:
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    for index, row in enumerate(rows):
        array[index] = row
    return array


async def test_strings_go_in_and_come_out_as_bytes(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.identity(tmp_path / "m.onnx", "STRING"))
    assert engine.describe().inputs[0].datatype == "BYTES"
    sent = bytes_array([b"", b"a"], ["gr\xfc\xdfe \u2603".encode(), b"a\x00b" * 100])
    outputs = await run(engine, {"x": sent[:1]}, {"x": sent[1:]})
    assert outputs["y"].tolist() == sent.tolist()
    assert all(isinstance(element, bytes) for element in outputs["y"].ravel())


async def test_rows_of_several_requests_are_gathered_in_order(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.summing(tmp_path / "m.onnx"))
    requests: list[Inputs] = [
        {"a": np.full((rows, 3), index, np.float32), "b": np.full((rows, 3), 10, np.float32)}
        for index, rows in enumerate((2, 1, 3))
    ]
    outputs = await run(engine, *requests)
    assert outputs["sum"][:, 0].tolist() == [10, 10, 11, 12, 12, 12]
    assert outputs["product"][:, 0].tolist() == [0, 0, 10, 20, 20, 20]


async def test_inputs_are_matched_by_name_whatever_their_order(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.picking(tmp_path / "p.onnx"))
    both = opened(graphs.summing(tmp_path / "s.onnx"))
    ones, twos = np.ones((1, 3), np.float32), np.full((1, 3), 2, np.float32)
    outputs = await run(both, {"b": ones, "a": twos}, {"a": ones, "b": ones})
    assert outputs["sum"][:, 0].tolist() == [3, 2]
    assert (await run(engine, {"x": np.array([2], np.int64)}))["y"].tolist() == [[4, 5]]


async def test_a_smaller_batch_after_a_larger_one_sees_nothing_of_it(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.identity(tmp_path / "m.onnx"))
    nines = np.full((4, 2), 9, np.float32)
    await run(engine, {"x": nines}, {"x": nines})
    ones = np.ones((1, 2), np.float32)
    assert (await run(engine, {"x": ones}, {"x": ones}))["y"].tolist() == [[1, 1], [1, 1]]


async def test_an_answer_is_not_overwritten_by_the_next_batch(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.identity(tmp_path / "m.onnx"))
    first = await run(engine, {"x": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 2), np.float32)})
    await run(engine, {"x": np.full((1, 2), 7, np.float32)}, {"x": np.full((1, 2), 7, np.float32)})
    assert first["y"].tolist() == [[1, 1], [1, 1]]


async def test_open_dimensions_take_any_size_and_buffers_do_not_pile_up(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.identity(tmp_path / "m.onnx", dims=("n", "w")))
    for width in range(1, 3 * onnx_engine._MAX_BUFFERS):
        row = np.arange(width, dtype=np.float32)[None]
        outputs = await run(engine, {"x": row}, {"x": row + 1})
        assert outputs["y"].tolist() == [row[0].tolist(), (row + 1)[0].tolist()]


async def test_a_graph_without_a_batch_dimension_runs(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.identity(tmp_path / "m.onnx", dims=()))
    ticket = engine.instances()[0].submit([{"x": np.array(3.5, np.float32)}], 1)
    assert (await ticket.done)["y"] == 3.5


@pytest.mark.parametrize("requests", [1, 2])
async def test_arrays_need_be_neither_writable_nor_contiguous(requests: int, tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.identity(tmp_path / "m.onnx"))
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    strided, read_only = values[:, ::2], values[:, :2].copy()
    read_only.flags.writeable = False
    for array in (strided, read_only):
        outputs = await run(engine, *[{"x": array}] * requests)
        assert outputs["y"].tolist() == array.tolist() * requests


@pytest.mark.parametrize("requests", [1, 2])
async def test_arrays_need_not_be_aligned(requests: int, tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.doubling(tmp_path / "m.onnx", dims=("n", 5)))
    body = bytes(3) + np.arange(5, dtype=np.float32).tobytes()
    array = np.frombuffer(body, np.float32, offset=3).reshape(1, 5)
    assert not array.flags.aligned
    outputs = await run(engine, *[{"x": array}] * requests)
    assert outputs["y"].tolist() == [[0, 2, 4, 6, 8]] * requests


async def test_a_run_that_fails_is_the_tickets_error_and_the_next_succeeds(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.picking(tmp_path / "m.onnx"))
    ticket = engine.instances()[0].submit([{"x": np.array([99], np.int64)}], 1)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        await asyncio.wait_for(ticket.done, 30)
    assert ticket.inputs_free.done()
    assert (await run(engine, {"x": np.array([1], np.int64)}))["y"].tolist() == [[2, 3]]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08" + bytes(100)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_model_is_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx cannot be loaded by ONNX Runtime"):
        OnnxEngine(path, 1, 1)


def test_a_truncated_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole = graphs.picking(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=r"model\.onnx cannot be loaded"):
        OnnxEngine(path, 1, 1)


def test_a_tensor_that_v2_cannot_carry_is_an_error_that_names_it(tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["s"])
    sequence = helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None)
    path = graphs.save(tmp_path / "m.onnx", [node], [graphs.tensor("x", "FLOAT", 2)], [sequence])
    with pytest.raises(ValueError, match="tensor 's' is of type seq"):
        OnnxEngine(path, 1, 1)


async def test_two_instances_run_at_the_same_time_each_with_buffers_of_its_own(tmp_path: Path, opened: Open) -> None:
    engine = opened(graphs.doubling(tmp_path / "m.onnx"), 2)
    assert len(engine.instances()) == 2

    async def ask(value: float) -> None:
        row = np.full((1, 2), value, np.float32)
        outputs = await run(engine, {"x": row}, {"x": row + 0.5}, instance=int(value) % 2)
        assert outputs["y"].tolist() == [[2 * value] * 2, [2 * value + 1] * 2]

    await asyncio.gather(*(ask(value) for value in range(200)))


async def test_closing_waits_for_the_batch_that_runs() -> None:
    started, finish = threading.Event(), threading.Event()

    def slow(_requests: Sequence[Inputs], _rows: int) -> Outputs:
        started.set()
        finish.wait(10)
        return {"y": np.zeros(1)}

    runner = RunnerInstance(slow, "slow")
    ticket = runner.submit([{"x": np.zeros(1)}], 1)
    await asyncio.to_thread(started.wait, 10)
    closing = asyncio.create_task(asyncio.to_thread(runner.close))
    await asyncio.sleep(0)
    assert not closing.done()
    finish.set()
    await closing
    assert (await ticket.done)["y"].tolist() == [0]


async def test_an_answer_nobody_waits_for_any_more_is_dropped_quietly(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def run_batch(_requests: Sequence[Inputs], _rows: int) -> Outputs:
        gate.wait(10)
        return {"y": np.zeros(1)}

    runner = RunnerInstance(run_batch, "dropped")
    ticket = runner.submit([{"x": np.zeros(1)}], 1)
    ticket.done.cancel()
    gate.set()
    await ticket.inputs_free
    await asyncio.to_thread(runner.close)
    assert caplog.records == []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_runner_tells_the_answers_before_it_gives_the_memory_back(fails: bool) -> None:
    def run_batch(_requests: Sequence[Inputs], _rows: int) -> Outputs:
        if fails:
            raise ValueError("no")
        return {"y": np.zeros(1)}

    runner = RunnerInstance(run_batch, "order")
    told: list[str] = []
    ticket = runner.submit([{"x": np.zeros(1)}], 1)
    ticket.inputs_free.add_done_callback(lambda _: told.append("inputs_free"))
    ticket.done.add_done_callback(lambda _: told.append("done"))
    await asyncio.gather(ticket.done, ticket.inputs_free, return_exceptions=True)
    assert told == ["done", "inputs_free"]
    assert isinstance(ticket.done.exception(), ValueError) is fails
    await asyncio.to_thread(runner.close)


def test_an_engine_may_outlive_the_loop_that_asked_it() -> None:
    finish = threading.Event()

    def run_batch(_requests: Sequence[Inputs], _rows: int) -> Outputs:
        finish.wait(10)
        return {"y": np.zeros(1)}

    async def ask() -> RunnerInstance:
        runner = RunnerInstance(run_batch, "outlives")
        runner.submit([{"x": np.zeros(1)}], 1)
        return runner

    runner = asyncio.run(ask())
    finish.set()
    runner.close()  # the thread ends although nobody can be told
    assert not runner._thread.is_alive()


@pytest.mark.parametrize("failing", [False, True])
def test_a_batch_that_is_done_is_not_held_until_the_next_one(failing: bool) -> None:
    def run_batch(requests: Sequence[Inputs], _rows: int) -> Outputs:
        if failing:
            raise RuntimeError("the engine failed")
        return {"y": np.zeros(1)}

    async def ask() -> weakref.ref[Any]:
        inputs = {"x": np.zeros(3)}
        gone = weakref.ref(inputs["x"])
        ticket = runner.submit([inputs], 1)
        del inputs
        await asyncio.wait([ticket.done])
        assert (ticket.done.exception() is not None) is failing
        return gone

    async def check() -> None:
        gone = await ask()
        await eventually(lambda: gone() is None, "neither thread nor error holds the request's memory")

    runner = RunnerInstance(run_batch, "forgets")
    gc.collect()
    gc.disable()
    try:
        asyncio.run(check())
    finally:
        gc.enable()
        runner.close()
