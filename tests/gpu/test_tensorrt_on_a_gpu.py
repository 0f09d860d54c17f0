"""TensorRT and pycuda themselves, on a GPU: what the fakes stand for elsewhere.

Needs pycuda, tensorrt (10.6 to 11) and an NVIDIA GPU: ``python -m pytest tests/gpu -m gpu``. Skipped, with the reason,
where one of them is missing. The device is asked for before TensorRT makes anything, which would end the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fakes import eventually
from saccade_predictor.engines.cuda import Cuda, DeviceOutOfMemory, NoGpu, load_cuda
from saccade_predictor.engines.engine import LeasedOutputs
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.tensorrt import TensorRTEngine
from saccade_serving.memory.arena import Arena, Lease

pytestmark = pytest.mark.gpu

ROWS = 16
SIDE = 64
#: Largest error relative to the largest output, by precision.
ALLOWED = {"fp32": 1e-4, "fp16": 3e-2}

Build = Callable[..., bytes]


@pytest.fixture(scope="module")
def cuda() -> Cuda:
    """The driver's devices, before TensorRT is imported."""
    try:
        return load_cuda()
    except NoGpu as error:
        pytest.skip(f"needs a GPU: {error}")


@pytest.fixture(scope="module")
def trt(cuda: Cuda) -> Any:
    """TensorRT's module."""
    assert cuda.count()
    return pytest.importorskip("tensorrt", reason="needs TensorRT")


def network(half: bool = False) -> bytes:
    """A small detector's first layers: UINT8-like floats [n, 3, 64, 64] to probabilities [n, 10]."""
    rng = np.random.default_rng(0)
    dtype = np.float16 if half else np.float32
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)) * 0.2,
        "b1": rng.standard_normal(16),
        "w2": rng.standard_normal((32, 16, 3, 3)) * 0.1,
        "b2": rng.standard_normal(32),
        "fc": rng.standard_normal((32, 10)) * 0.2,
        "fb": rng.standard_normal(10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Sigmoid", ["c2"], ["s"]),
        helper.make_node("Mul", ["c2", "s"], ["m"]),
        helper.make_node("GlobalAveragePool", ["m"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "fb"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", kind, ["n", 10])],
        [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def positives() -> bytes:
    """FP32 [n, 8] -> the positions of what is not zero, INT64 [2, k]: a shape that depends on the data."""
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["p"])],
        "positives",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("p", onnx.TensorProto.INT64, [2, "k"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def build(cuda: Cuda, trt: Any) -> Build:
    """Builds plans, each once."""
    built: dict[tuple[bytes, Sequence[int]], bytes] = {}

    class Logger(trt.ILogger):  # type: ignore[misc]  # an untyped base
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                print("[TensorRT]", message)

    logger = Logger()

    def make(model: bytes, shape: Sequence[int], profiles: Sequence[tuple[int, int]] = ((1, ROWS),)) -> bytes:
        key = model, tuple(top for _, top in profiles)
        if key in built:
            return built[key]
        with cuda.device(0).current():
            builder = trt.Builder(logger)
            strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
            flags = 1 << int(strongly_typed) if strongly_typed is not None else 0
            definition = builder.create_network(flags)
            parser = trt.OnnxParser(definition, logger)
            assert parser.parse(model), [str(parser.get_error(i)) for i in range(parser.num_errors)]
            config = builder.create_builder_config()
            config.clear_flag(trt.BuilderFlag.TF32)
            for least, most in profiles:
                profile = builder.create_optimization_profile()
                profile.set_shape("x", (least, *shape), (most, *shape), (most, *shape))
                config.add_optimization_profile(profile)
            plan = builder.build_serialized_network(definition, config)
            assert plan is not None, "the build failed"
            built[key] = bytes(memoryview(plan))
        return built[key]

    return make


class Stage:
    """An engine, an arena, and requests in it."""

    def __init__(self, cuda: Cuda, trt: Any, plan: bytes, instances: int = 1, recorded: Sequence[int] = ()) -> None:
        self.arena = Arena(256 * 2**20)
        self.device = cuda.device(0)
        self.pages = PageLocks(self.arena, self.device)
        devices = [self.device] * instances
        self.engine = TensorRTEngine(plan, "small.plan", trt, devices, self.pages, frozenset(recorded))

    def request(self, x: NDArray[Any]) -> tuple[Lease, Mapping[str, NDArray[Any]]]:
        lease = self.arena.lease(x.nbytes)
        placed = np.frombuffer(lease.view, x.dtype).reshape(x.shape)
        placed[...] = x
        lease.queued()
        lease.staged()
        return lease, {"x": placed}

    async def run(self, *parts: NDArray[Any], instance: int = 0) -> dict[str, NDArray[Any]]:
        requests = [self.request(x) for x in parts]
        rows = sum(len(x) for x in parts)
        ticket = self.engine.instances()[instance].submit([inputs for _, inputs in requests], rows)

        def free(_: object) -> None:
            for lease, _inputs in requests:
                lease.view[:] = b"\xdd" * lease.size  # who still read it would answer wrongly
                lease.release()

        ticket.inputs_free.add_done_callback(free)
        outputs = await asyncio.wait_for(ticket.done, 60)
        copied = {name: np.array(array) for name, array in outputs.items()}
        if isinstance(outputs, LeasedOutputs):
            outputs.release()
        return copied

    async def close(self) -> None:
        await asyncio.to_thread(self.engine.close)
        await eventually(lambda: self.pages.locked_bytes == 0, "the arena is page-locked no more")
        assert self.arena.leases == 0


@pytest.fixture
async def opened(cuda: Cuda, trt: Any) -> AsyncIterator[Callable[..., Stage]]:
    """Opens engines and closes them at the end."""
    stages: list[Stage] = []

    def open_stage(plan: bytes, instances: int = 1, recorded: Sequence[int] = ()) -> Stage:
        stages.append(Stage(cuda, trt, plan, instances, recorded))
        return stages[-1]

    yield open_stage
    for stage in stages:
        await stage.close()


def images(rows: int, seed: int, half: bool = False) -> NDArray[Any]:
    return np.random.default_rng(seed).random((rows, 3, SIDE, SIDE)).astype(np.float16 if half else np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
async def test_answers_agree_with_onnxruntime(
    precision: str, build: Build, opened: Callable[..., Stage], tmp_path: Path
) -> None:
    half = precision == "fp16"
    model = network(half)
    (tmp_path / "model.onnx").write_bytes(model)
    reference = OnnxEngine(tmp_path / "model.onnx", 1, 1)
    stage = opened(build(model, (3, SIDE, SIDE)))
    assert stage.engine.describe().inputs[0].datatype == ("FP16" if half else "FP32")
    for rows in (1, 2, 7, ROWS):
        parts = [images(1, seed, half) for seed in range(rows)]
        want = await reference.instances()[0].submit([{"x": np.concatenate(parts)}], rows).done
        got = await stage.run(*parts)
        error = np.abs(want["y"].astype(np.float64) - got["y"].astype(np.float64)).max()
        assert error <= ALLOWED[precision] * np.abs(want["y"]).max(), (rows, error)
    await asyncio.to_thread(reference.close)


async def test_two_instances_and_two_batches_each_do_not_mix(build: Build, opened: Callable[..., Stage]) -> None:
    stage = opened(build(network(), (3, SIDE, SIDE)), instances=2)
    single = [(await stage.run(images(1, seed)))["y"][0] for seed in range(64)]
    for _ in range(5):
        together = await asyncio.gather(
            *(stage.run(images(1, seed), images(1, 63 - seed), instance=seed % 2) for seed in range(64))
        )
        for seed, outputs in enumerate(together):
            np.testing.assert_allclose(outputs["y"], [single[seed], single[63 - seed]], rtol=1e-3, atol=1e-5)


async def test_a_batch_nobody_waits_for_is_finished_and_its_memory_comes_back(
    build: Build, opened: Callable[..., Stage]
) -> None:
    stage = opened(build(network(), (3, SIDE, SIDE)))
    tasks = [asyncio.create_task(stage.run(images(4, seed))) for seed in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: stage.arena.leases == 0, "all slots are free")
    assert np.isfinite((await stage.run(images(1, 0)))["y"]).all()


async def test_memory_is_flat_over_100_000_batches(build: Build, opened: Callable[..., Stage]) -> None:
    stage = opened(build(network(), (3, SIDE, SIDE)), instances=2)
    pictures = [images(rows, rows) for rows in range(1, ROWS + 1)]

    async def client(number: int, batches: int) -> None:
        """One of four: two batches in flight for each of the two instances."""
        for batch in range(batches):
            await stage.run(pictures[(7 * number + batch) % ROWS], instance=number % 2)

    async def together(batches: int) -> None:
        await asyncio.gather(*(client(number, batches // 4) for number in range(4)))

    await together(400)
    free, _ = stage.device.memory()
    before = stage.engine.memory()
    await together(100_000)
    assert stage.engine.memory() == before
    assert free - stage.device.memory()[0] <= 4 * 2**20


async def test_what_a_closed_engine_took_comes_back(build: Build, cuda: Cuda, trt: Any) -> None:
    plan = build(network(), (3, SIDE, SIDE))
    free = []
    for _ in range(6):
        stage = Stage(cuda, trt, plan)
        await stage.run(images(1, 0))
        await stage.close()
        free.append(stage.device.memory()[0])
    assert free[1] - free[-1] <= 2 * 2**20, free


async def test_several_profiles(build: Build, opened: Callable[..., Stage]) -> None:
    model = network()
    stage = opened(build(model, (3, SIDE, SIDE), ((1, 1), (1, 4), (1, ROWS))))
    one = opened(build(model, (3, SIDE, SIDE)))
    for rows in (1, 3, ROWS, 4, 1, ROWS):
        x = images(rows, rows)
        np.testing.assert_allclose((await stage.run(x))["y"], (await one.run(x))["y"], rtol=1e-3, atol=1e-5)


async def test_shapes_that_depend_on_the_data(build: Build, opened: Callable[..., Stage]) -> None:
    stage = opened(build(positives(), (8,)))
    for seed in range(10):
        x = np.random.default_rng(seed).integers(0, 2, (seed % 4 + 1, 8)).astype(np.float32)
        assert (await stage.run(x))["p"].tolist() == np.array(np.nonzero(x)).tolist()


async def test_recorded_graphs_answer_as_executions_do(build: Build, opened: Callable[..., Stage]) -> None:
    plan = build(network(), (3, SIDE, SIDE))
    plain, recorded = opened(plan), opened(plan, recorded=[1, 4])
    for seed in range(12):
        for rows in (1, 2, 4):
            x = images(rows, seed)
            np.testing.assert_allclose((await recorded.run(x))["y"], (await plain.run(x))["y"], rtol=1e-3, atol=1e-5)
    graphs = [graph for own in recorded.engine.instances()[0].executor.sets for graph in own.graphs]
    assert graphs, "nothing was recorded"


def test_too_little_memory_is_said_and_not_the_end(cuda: Cuda) -> None:
    device = cuda.device(0)
    with device.current():
        _, total = device.memory()
        with pytest.raises(DeviceOutOfMemory, match="bytes are free"):
            device.allocate(2 * total)
        device.check()
        device.allocate(1024).free()


def test_a_plan_that_is_none_is_refused(cuda: Cuda, trt: Any) -> None:
    device = cuda.device(0)
    with pytest.raises(ValueError, match=r"other\.plan cannot be loaded by TensorRT"):
        TensorRTEngine(b"no plan" * 100, "other.plan", trt, [device], PageLocks(Arena(2**20), device))


async def test_host_memory_is_page_locked_once(cuda: Cuda) -> None:
    device = cuda.device(0)
    arena = Arena(2**24)
    pages = PageLocks(arena, device)
    lease = arena.lease(2**20)
    pages.hold()
    await eventually(lambda: pages.together(lease.address, lease.address + lease.size - 1), "it is page-locked")
    assert pages.locked_bytes
    pages.release()
    assert not pages.locked_bytes
    lease.release()
    arena.close()
