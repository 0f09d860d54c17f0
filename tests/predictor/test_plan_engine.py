"""The engine for TensorRT plans, on a device that computes late and in any legal order and is watched for races."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from cuda_fake import FakeCuda, fails_once
from fakes import eventually, settle
from plan_stage import WIDTH, Stage, doubled, doubling
from saccade_predictor.engines.cuda import DeviceBroken, DeviceError, DeviceOutOfMemory
from saccade_predictor.engines.engine import Engine, Instance, LeasedOutputs
from saccade_predictor.engines.outputblocks import MOST_LENT
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.tensorrt import TensorRTEngine
from saccade_predictor.engines.tensorrt_rtx import TensorRTRtxEngine
from saccade_serving.oip.messages import TensorMetadata
from trt_fake import Network, Shape, TensorFormat, Trt


@pytest.fixture(params=range(4))
def seed(request: pytest.FixtureRequest) -> int:
    """Orders in which the device may do things."""
    number: int = request.param
    return number


async def test_the_engine_is_what_the_batcher_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    engine: Engine = stage.engine
    instance: Instance = engine.instances()[0]
    assert instance.depth == 2
    assert engine.renew(0) is None
    described = engine.describe()
    assert described.platform == "tensorrt_plan"
    assert list(described.inputs) == [TensorMetadata("x", "FP32", (-1, WIDTH))]
    assert [tensor.name for tensor in described.outputs] == ["y", "s"]
    assert stage.engine.largest_rows == 8
    assert stage.trt.plugins <= 1
    await stage.close()


async def test_rows_of_several_requests_come_back_in_order(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    stage = Stage(monkeypatch, seed=seed)
    for values in ([1], [2, 3], [4, 5, 6, 7], [8]):
        outputs = await stage.run(*values)
        assert outputs["y"].tolist() == doubled(values)
        assert outputs["s"].ravel().tolist() == [value * WIDTH for value in values]
    await stage.close()


async def test_two_batches_are_in_flight_and_a_third_waits_for_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.device.held.set()
    tickets = [stage.submit(stage.request(value)) for value in (1, 2)]
    await eventually(lambda: sum(name == "copy_in" for name, _ in stage.device.calls) == 2, "both are copied in")
    assert not any(ticket.inputs_free.done() or ticket.done.done() for ticket in tickets)
    stage.device.held.clear()
    for value, ticket in zip((1, 2), tickets, strict=True):
        assert (await stage.outputs(ticket))["y"].tolist() == doubled([value])
    await stage.close()


async def test_inputs_are_free_when_they_are_copied_not_when_the_batch_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch)
    stage.device.stalled.add("execute")
    ticket = stage.submit(stage.request(1))
    await asyncio.wait_for(ticket.inputs_free, 20)
    assert not ticket.done.done()
    assert stage.arena.leases == 0
    stage.device.stalled.clear()
    assert (await stage.outputs(ticket))["y"].tolist() == doubled([1])
    await stage.close()


async def test_the_arena_is_page_locked_while_engines_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    assert not stage.cuda.registered
    lease, inputs = stage.request(1)
    ticket = stage.submit((lease, inputs))
    assert stage.cuda.registered
    assert stage.pages.locked_bytes == sum(stage.cuda.registered.values())
    await stage.outputs(ticket)
    second = TensorRTEngine(b"plan", "model.plan", stage.trt, [stage.device], stage.pages)
    other = second.instances()[0].submit([stage.request(2)[1]], 1)
    await stage.outputs(other)
    # The mapping and its leases outlive both engines; so do page-locks the first one.
    await asyncio.to_thread(second.close)
    await settle()
    assert stage.cuda.registered
    await asyncio.to_thread(stage.engine.close)
    await settle()
    assert not stage.cuda.registered
    stage.checker.check()


async def test_memory_that_cannot_be_page_locked_serves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlockable(cuda: FakeCuda, trt: Trt) -> None:
        cuda.devices[0].fails["register"] = lambda: DeviceError("cuMemHostRegister failed: out of memory")

    stage = Stage(monkeypatch, before=unlockable)
    assert (await stage.run(1, 2))["y"].tolist() == doubled([1, 2])
    assert not stage.cuda.registered
    await stage.close()


async def test_page_locking_takes_its_time_while_the_arena_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that waits for its turn, or is being registered, comes and goes as others do."""
    stage = Stage(monkeypatch)
    begins, goes_on = threading.Event(), threading.Event()
    real = stage.device.register

    def register(address: int, size: int) -> None:
        begins.set()
        assert goes_on.wait(20)
        real(address, size)

    monkeypatch.setattr(stage.device, "register", register)
    pages = PageLocks(stage.arena, stage.device)
    first, second = stage.request(1)[0], stage.request(2, 100)[0]  # two segments
    pages.hold()
    assert begins.wait(20)
    assert pages.locked_bytes == 0
    assert not pages.together(first.address, first.address)
    second.release()
    stage.arena.trim(0.0, 1)  # the one that waits goes
    goes_on.set()
    await eventually(lambda: pages.together(first.address, first.address + first.size - 1), "it is page-locked")
    assert len(stage.cuda.registered) == 1
    first.release()
    third = stage.request(3, 1000)[0]
    await eventually(lambda: len(stage.cuda.registered) == 2, "what is mapped later is page-locked, too")
    third.release()
    pages.release()
    assert not stage.cuda.registered
    assert pages.locked_bytes == 0
    await stage.close()


async def test_a_segment_that_is_being_page_locked_is_unmapped_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    order: list[str] = []
    begins, waits = threading.Event(), threading.Event()
    register, unregister = stage.device.register, stage.device.unregister

    def slow(address: int, size: int) -> None:
        begins.set()
        assert waits.wait(20)
        register(address, size)
        order.append("registered")

    def told(address: int) -> None:
        unregister(address)
        order.append("unregistered")

    monkeypatch.setattr(stage.device, "register", slow)
    monkeypatch.setattr(stage.device, "unregister", told)
    pages = PageLocks(stage.arena, stage.device)
    wait_for = pages._changed.wait_for

    def waiting(condition: Callable[[], bool]) -> bool:
        waits.set()
        return wait_for(condition)

    monkeypatch.setattr(pages._changed, "wait_for", waiting)
    lease = stage.request(1)[0]
    pages.hold()
    assert begins.wait(20)
    lease.release()
    assert stage.arena.trim(0.0)
    assert order == ["registered", "unregistered"]
    pages.release()
    await stage.close()


async def test_neighbours_in_one_segment_are_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    width = 1024  # rows of 4 KiB: slots without a gap
    stage = Stage(monkeypatch, doubling(width=width))
    requests = [stage.request(value, 1, width) for value in (1, 2, 3)]
    requests.sort(key=lambda request: request[0].address)
    before = [float(inputs["x"][0, 0]) for _, inputs in requests]
    outputs = await stage.outputs(stage.submit(*requests))
    assert outputs["y"][:, 0].tolist() == [2 * value for value in before]
    assert [size for name, size in stage.device.calls if name == "copy_in"] == [3 * 4096]
    await stage.close()


async def test_neighbours_that_are_not_page_locked_together_are_not_copied_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    width = 1024
    stage = Stage(monkeypatch, doubling(width=width))
    monkeypatch.setattr(stage.pages, "together", lambda first, second: False)
    requests = sorted((stage.request(value, 1, width) for value in (1, 2)), key=lambda request: request[0].address)
    await stage.outputs(stage.submit(*requests))
    assert [size for name, size in stage.device.calls if name == "copy_in"] == [4096, 4096]
    await stage.close()


async def test_the_profile_with_the_least_room_that_allows_the_batch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = doubling(16)
    network.profiles = [
        {"x": ((1, WIDTH), (16, WIDTH))},
        {"x": ((1, WIDTH), (2, WIDTH))},
        {"x": ((2, WIDTH), (8, WIDTH))},
    ]
    stage = Stage(monkeypatch, network)
    (context,) = stage.trt.contexts
    for rows, profile in ((1, 1), (2, 1), (3, 2), (8, 2), (9, 0), (16, 0), (1, 1)):
        values = list(range(rows))
        assert (await stage.run(*values))["y"].tolist() == doubled(values)
        assert context.profile == profile, rows
    changes = context.profiles
    await stage.run(1)
    await stage.run(5, 6)
    assert context.profiles == changes
    del context
    await stage.close()


async def test_a_batch_that_no_profile_allows_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    ticket = stage.submit(*(stage.request(value) for value in range(9)))
    with pytest.raises(ValueError, match=r"no optimization profile .* x \[9, 6\]; expected x \[1, 6\] to \[8, 6\]"):
        await ticket.done
    assert stage.arena.leases == 0
    assert (await stage.run(1))["y"].tolist() == doubled([1])
    await stage.close()


@pytest.mark.parametrize("bad", ["type", "order", "rows"])
async def test_arrays_that_would_be_copied_wrongly_are_refused(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    rows = 8 if bad == "rows" else 2
    x = np.ones((rows, WIDTH), np.float64 if bad == "type" else np.float32)
    if bad == "order":
        x = np.asfortranarray(x)
    ticket = stage.engine.instances()[0].submit([{"x": x}] * 2, 2 * rows if bad != "rows" else 8)
    with pytest.raises(ValueError, match="input 'x' is not contiguous FP32, or has too many rows"):
        await ticket.done
    assert (await stage.run(1))["y"].tolist() == doubled([1])
    await stage.close()


def positives() -> Network:
    """x FP32 [n, width] -> those above zero, however many, and the number of rows."""
    return Network(
        inputs={"x": ("FLOAT", (-1, WIDTH))},
        outputs={"p": ("FLOAT", (-1,)), "n": ("INT32", (1,))},
        profiles=[{"x": ((1, WIDTH), (8, WIDTH))}],
        compute=lambda i: {"p": i["x"][i["x"] > 0], "n": np.array([len(i["x"])], np.int32)},
        shapes=lambda given: {"p": (-1,), "n": (1,)},
    )


async def test_outputs_whose_shape_depends_on_the_data(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    stage = Stage(monkeypatch, positives(), seed=seed)
    requests = [stage.submit(stage.request(value, rows)) for value, rows in ((5, 1), (-1, 8))]
    one, eight = [await stage.outputs(ticket) for ticket in requests]
    assert one["p"].tolist() == [5.0] * WIDTH
    assert eight["p"].tolist() == [float(row) for row in range(1, 7) for _ in range(WIDTH)]
    assert eight["n"].tolist() == [8]
    none = await stage.outputs(stage.submit(stage.request(-9)))
    assert none["p"].tolist() == []
    await stage.close()


async def test_no_room_for_such_an_output_is_out_of_memory_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, positives())
    stage.device.limit = stage.device.used
    with pytest.raises(DeviceOutOfMemory, match="bytes are free"):
        await stage.submit(stage.request(1)).done
    stage.device.limit = 1 << 30
    assert (await stage.run(1))["p"].tolist() == [1.0] * WIDTH
    await stage.close()


async def test_outputs_are_lent_and_readers_that_are_slow_get_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    lent = []
    for value in range(MOST_LENT):
        outputs = await stage.submit(stage.request(value)).done
        assert isinstance(outputs, LeasedOutputs)
        lent.append(outputs)
    copied = await stage.submit(stage.request(100)).done
    assert not isinstance(copied, LeasedOutputs)
    more = [await stage.run(200 + value) for value in range(20)]
    assert [outputs["y"][0, 0] for outputs in more] == [2 * (200 + value) for value in range(20)]
    assert [outputs["y"][0, 0] for outputs in lent] == [2 * value for value in range(MOST_LENT)]
    assert copied["y"].tolist() == doubled([100])
    for outputs in lent:
        stage.read(outputs)
    assert isinstance(await stage.submit(stage.request(1)).done, LeasedOutputs)
    # That one is never given back: the engine is closed all the same, and its memory left to the reader.
    await asyncio.to_thread(stage.engine.close)
    stage.checker.check()
    assert len(stage.device.pinned_at) == 1


async def test_a_reader_that_comes_back_after_the_close_frees_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    outputs = await stage.submit(stage.request(3)).done
    await asyncio.to_thread(stage.engine.close)
    assert stage.read(outputs)["y"].tolist() == doubled([3])
    await stage.close()


# Failures


@pytest.mark.parametrize("call", ["copy_in", "record", "stream_wait", "copy_out", "pinned"])
async def test_a_call_that_fails_costs_its_batch_alone(call: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    stage = Stage(monkeypatch, seed=seed)
    good = stage.submit(stage.request(1))
    stage.device.fails[call] = fails_once(DeviceError("invalid argument"))
    bad = stage.submit(stage.request(2), stage.request(3))
    for ticket, values in ((good, [1]), (bad, [2, 3])):
        try:
            assert (await stage.outputs(ticket))["y"].tolist() == doubled(values)
        except DeviceError:
            await ticket.inputs_free
    assert (await stage.run(4, 5))["y"].tolist() == doubled([4, 5])
    await stage.close()


async def test_an_execution_that_tensorrt_refuses_costs_its_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.trt.refuses = 1
    with pytest.raises(DeviceError, match="could not be given to the device"):
        await stage.submit(stage.request(1)).done
    assert (await stage.run(2))["y"].tolist() == doubled([2])
    await stage.close()


async def test_out_of_memory_is_an_error_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.device.fails["pinned"] = fails_once(DeviceOutOfMemory(10, 1, 2))
    with pytest.raises(DeviceOutOfMemory):
        await stage.submit(stage.request(1)).done
    assert (await stage.run(2))["y"].tolist() == doubled([2])
    await stage.close()


@pytest.mark.parametrize("call", ["copy_in", "wait", "execute", "record"])
async def test_after_a_sticky_error_nothing_is_answered_any_more(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    await stage.run(1)
    submitted = threading.Event()

    def fail() -> DeviceBroken:
        assert submitted.wait(20)
        return DeviceBroken("an illegal memory access was encountered")

    stage.device.fails[call] = fail
    first, second = stage.submit(stage.request(1)), stage.submit(stage.request(2))
    submitted.set()
    for ticket in (first, second):
        with pytest.raises(DeviceBroken):
            await ticket.done
    assert stage.device.broken
    with pytest.raises(DeviceBroken):
        stage.submit(stage.request(3))


async def test_memory_that_may_still_be_read_is_not_said_to_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    await stage.run(1)
    stage.device.fails["wait"] = lambda: DeviceBroken("unspecified launch failure")
    ticket = stage.submit(stage.request(1))
    with pytest.raises(DeviceBroken):
        await ticket.done
    assert not ticket.inputs_free.done()


async def test_an_instance_that_hangs_keeps_what_it_uses_when_the_engine_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saccade_predictor.engines.planinstance.CLOSE_S", 0.05)
    stage = Stage(monkeypatch, places=(0, 0))
    stage.device.held.set()
    ticket = stage.submit(stage.request(1))
    await settle()
    await asyncio.to_thread(stage.engine.close)
    assert stage.device.used
    assert stage.cuda.registered
    assert not ticket.done.done()
    stage.device.held.clear()
    assert (await stage.outputs(ticket))["y"].tolist() == doubled([1])  # nothing was pulled from under it
    stage.checker.check()


# Loading


async def test_what_cannot_be_loaded_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    used = stage.device.used

    def load(content: bytes = b"plan") -> None:
        with pytest.raises((ValueError, DeviceOutOfMemory)) as refused:
            TensorRTEngine(content, "other.plan", stage.trt, [stage.device] * 2, stage.pages)
        told.append(str(refused.value))
        assert stage.device.used == used

    told: list[str] = []
    load(b"broken")
    assert "other.plan cannot be loaded by TensorRT 10.6.0: Serialization assertion failed" in told[-1]
    stage.device.limit = used + 300
    load()
    assert "the GPU has no room for" in told[-1]
    stage.device.limit = 1 << 30
    stage.trt.context_limit = 2
    load()
    assert "no room for what was asked for" in told[-1]
    stage.trt.context_limit = 100
    network = stage.trt.network
    for change, words in (
        ({"inputs": {"x": ("BF16", (-1, WIDTH))}}, "is of type BF16; expected one of FLOAT"),
        ({"hosted": frozenset({"x"})}, "lies on the host"),
        ({"formats": {"y": TensorFormat.CHW32}}, "not laid out row by row"),
    ):
        stage.trt.network = Network(**{**vars(network), **change})
        load()
        assert words in told[-1]
    stage.trt.network = network
    await stage.close()


async def test_what_is_refused_on_a_second_device_is_freed_while_that_is_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, places=(0, 1))
    stage.trt.network = Network(**{**vars(stage.trt.network), "hosted": frozenset({"x"})})
    with pytest.raises(ValueError, match="lies on the host"):
        TensorRTEngine(b"plan", "model.plan", stage.trt, [stage.cuda.devices[1]], stage.pages)
    await stage.close()


async def test_instances_are_spread_over_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, places=(0, 0, 1))
    assert len(stage.engine.instances()) == 3
    assert stage.trt.engines == 2
    results = await asyncio.gather(*(stage.run(value, instance=value) for value in range(3)))
    assert [outputs["y"][0, 0] for outputs in results] == [0, 2, 4]
    assert {index for index, _, _ in stage.engine.memory()} == {0, 1}
    buffers = {index: size for index, kind, size in stage.engine.memory() if kind == "buffers"}
    assert buffers == {0: stage.cuda.devices[0].used, 1: stage.cuda.devices[1].used}
    assert [size for index, kind, size in stage.engine.memory() if kind == "contexts"] == [8192, 4096]
    await stage.close()


async def test_memory_is_flat_over_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    await asyncio.gather(*(stage.run(value) for value in range(2)))
    used, pinned = stage.device.used, len(stage.device.pinned_at)
    for value in range(100):
        await stage.run(*range(value % 8 + 1))
    assert stage.device.used == used
    assert len(stage.device.pinned_at) <= pinned + 1
    await stage.close()


# Graphs


async def test_preferred_sizes_are_recorded_once_per_buffer_set_and_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, recorded=frozenset({2, 4}))
    for _ in range(8):
        for values in ([1, 2], [3], [4, 5, 6, 7]):
            assert (await stage.run(*values))["y"].tolist() == doubled(values)
    graphs = [graph for own in stage.engine.instances()[0].executor.sets for graph in own.graphs.values()]
    assert 2 <= len(graphs) <= 4
    assert sum(graph.launches for graph in graphs) == 16 - len(graphs)  # type: ignore[attr-defined]  # the fake's
    assert len(stage.trt.contexts) == 1 + len(graphs)
    await stage.close()


async def test_without_room_for_a_recording_batches_run_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, recorded=frozenset({1, 2}))
    stage.trt.context_limit = 2
    for value in range(8):
        assert (await stage.run(*range(value % 2 + 1)))["y"].tolist() == doubled(range(value % 2 + 1))
    assert len(stage.trt.contexts) <= 2
    await stage.close()


async def test_a_recording_that_fails_does_not_keep_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, recorded=frozenset({1}))
    stage.device.fails["capture"] = lambda: DeviceError("operation not permitted when stream is capturing")
    await stage.run(1)
    await stage.run(2)
    gc.collect()
    assert len(stage.trt.contexts) == 1
    assert {kind: size for _, kind, size in stage.engine.memory()}["contexts"] == stage.trt.network.scratch
    await stage.close()


async def test_a_set_of_buffers_has_no_more_recordings_than_sizes_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models with open dimensions would otherwise have a context for every size of image."""
    network = doubling()
    network.inputs = {"x": ("FLOAT", (-1, -1))}
    network.outputs = {"y": ("FLOAT", (-1, -1)), "s": ("INT32", (-1, 1))}
    network.profiles = [{"x": ((1, 1), (8, 64))}]
    stage = Stage(monkeypatch, network, recorded=frozenset({1, 2}))
    for width in range(1, 20):
        outputs = await stage.outputs(stage.submit(stage.request(width, 1, width)))
        assert outputs["y"].tolist() == doubled([width], width=width)
    assert len(stage.trt.contexts) <= 1 + 2 * 2
    await stage.close()


async def test_a_profile_that_was_set_before_a_shape_is_refused_is_known_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = doubling(8)
    network.profiles = [{"x": ((1, WIDTH), (2, WIDTH))}, {"x": ((1, WIDTH), (8, WIDTH))}]
    stage = Stage(monkeypatch, network)
    (context,) = stage.trt.contexts
    assert (await stage.run(1))["y"].tolist() == doubled([1])
    with monkeypatch.context() as patch:
        patch.setattr(context, "set_input_shape", lambda name, shape: False)
        with pytest.raises(DeviceError, match="cannot have the shape"):
            await stage.run(1, 2, 3, 4)
    assert (await stage.run(1))["y"].tolist() == doubled([1])
    assert context.profile == 0
    context = None  # type: ignore[assignment]  # it must go while its device is current
    await stage.close()


async def test_an_output_that_is_larger_than_for_the_largest_inputs_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Buffers are made for the outputs of the largest inputs; TensorRT would write behind them."""

    def shapes(given: Mapping[str, Shape]) -> Mapping[str, Shape]:
        return {"y": (9 - given["x"][0], WIDTH), "s": (given["x"][0], 1)}

    network = doubling(8)
    network.shapes = shapes
    stage = Stage(monkeypatch, network)
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"output 'y' has the shape \[8, 6\], for which it has no room"):
            await stage.run(1)
    await stage.close()


async def test_a_plan_that_cannot_be_recorded_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, recorded=frozenset({1}))
    stage.device.fails["capture"] = lambda: DeviceError("operation not permitted when stream is capturing")
    for value in range(6):
        assert (await stage.run(value))["y"].tolist() == doubled([value])
    assert len(stage.trt.contexts) <= 3
    await stage.close()


# TensorRT-RTX


async def test_what_rtx_compiled_is_kept_for_the_next_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    stage = Stage(monkeypatch)
    cache = tmp_path / "model.plan.rtxcache"
    open_: Callable[[], TensorRTRtxEngine] = lambda: TensorRTRtxEngine(  # noqa: E731
        b"plan", "model.plan", stage.trt, [stage.device], stage.pages, True, {"author": "me"}, cache
    )
    engine = open_()
    assert engine.describe().platform == "tensorrt_rtx_plan"
    assert engine.describe().properties == {"author": "me"}
    assert stage.trt.contexts[-1].config.cuda_graph_strategy == "whole"
    outputs = await stage.outputs(engine.instances()[0].submit([stage.request(1)[1]], 1))
    assert outputs["y"].tolist() == doubled([1])
    await asyncio.to_thread(engine.close)
    assert cache.read_bytes() == b"kernels"
    await asyncio.to_thread(open_().close)
    assert stage.trt.compiled == [b"", b"kernels"]
    cache.write_bytes(b"other gpu")
    again = open_()
    await asyncio.to_thread(again.close)
    assert list(tmp_path.iterdir()) == [cache]
