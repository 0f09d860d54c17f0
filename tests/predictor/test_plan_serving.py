"""Plans in a model repository: which of them are served by a GPU, on which, and what is said where there is none."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

import onnx_graphs as graphs
from cuda_fake import FakeCuda
from fakes import answer_of, eventually
from plan_stage import WIDTH, doubled, doubling
from plan_support import describe, put_version
from saccade_predictor import machine as saccade_machine
from saccade_predictor.engines.cuda import DeviceBroken, NoGpu
from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.plan import PlanTensor, Shapes
from saccade_predictor.engines.plancheck import PlanRefused
from saccade_predictor.engines.tensorrt import TensorRTEngine
from saccade_predictor.engines.tensorrt_rtx import TensorRTRtxEngine
from saccade_predictor.loading import find_versions, load_engines
from saccade_predictor.machine import Gpu
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import Surroundings
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.errors import EngineFailed
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, Tensor
from saccade_serving.settings import ServiceSettings
from trt_fake import Trt

VERSION = "11.2.1.2"
CONFIG = 'platform: "tensorrt_plan" max_batch_size: 8 dynamic_batching { preferred_batch_size: [4] }\n'


class Machine:
    """Fake GPUs, and TensorRT on them."""

    def __init__(self, gpus: int = 1, graphs: bool = False) -> None:
        self.cuda = FakeCuda(devices=max(1, gpus))
        self.trt = Trt(self.cuda, doubling())
        self.arena = Arena(2**22, poison=True)
        modules: dict[str, Callable[[], Trt]] = {"trt": lambda: self.trt, "trt-rtx": lambda: self.trt}
        self.asked = 0

        def load() -> FakeCuda:
            self.asked += 1
            if not gpus:
                raise NoGpu("the NVIDIA driver sees no device")
            return self.cuda

        self.gpus = Gpus(self.arena, load, graphs, modules)


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    """Leaves the interpreter as it was."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def an_l4(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at of this machine before a plan is let in."""
    monkeypatch.setattr(saccade_machine, "find_gpus", lambda: ((Gpu("NVIDIA L4", "8.9"),) * 2, ""))
    monkeypatch.setattr(saccade_machine, "load_tensorrt", lambda _kind: SimpleNamespace(__version__=VERSION))


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    folder = tmp_path / "m"
    (folder / "1").mkdir(parents=True)
    return ModelDirectory("m", folder)


def put(
    directory: ModelDirectory,
    config: str | None = CONFIG,
    onnx: bool = False,
    plan: bool = True,
    version: int = 1,
    kind: str = "trt",
) -> None:
    folder = directory.path / str(version)
    folder.mkdir(exist_ok=True)
    if plan:
        shapes = Shapes(min=(1, WIDTH), opt=(4, WIDTH), max=(8, WIDTH))
        put_version(
            folder,
            b"plan",
            onnx=False,
            kind=kind,
            tensorrt=VERSION,
            compute_capabilities=("8.9",),
            profiles=({"x": shapes},),
            inputs=(PlanTensor(name="x", datatype="FP32", shape=(-1, WIDTH)),),
            outputs=(
                PlanTensor(name="y", datatype="FP32", shape=(-1, WIDTH)),
                PlanTensor(name="s", datatype="INT32", shape=(-1, 1)),
            ),
        )
    if onnx:
        graphs.identity(directory.path / "1" / "model.onnx")
    if config is not None:
        (directory.path / "config.pbtxt").write_text(config)


def test_a_plan_goes_to_tensorrt_on_the_gpu(directory: ModelDirectory) -> None:
    put(directory)
    machine = Machine()
    [file] = load_engines(directory, 1, machine.gpus)
    assert isinstance(file.engine, TensorRTEngine)
    assert not isinstance(file.engine, TensorRTRtxEngine)
    assert [tensor.name for tensor in file.config.outputs] == ["y", "s"]
    file.engine.close()
    assert machine.asked == 1


def test_threads_wait_less_for_the_interpreter_once_there_is_a_plan(
    directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(directory)
    intervals = [0.005]
    monkeypatch.setattr(sys, "getswitchinterval", lambda: intervals[-1])
    monkeypatch.setattr(sys, "setswitchinterval", intervals.append)
    machine = Machine()
    assert intervals == [0.005]
    [file] = load_engines(directory, 1, machine.gpus)
    file.engine.close()
    assert intervals[1:] == [0.0005]
    intervals[:] = [0.0001]  # somebody else's choice
    [file] = load_engines(directory, 1, machine.gpus)
    file.engine.close()
    assert intervals[-1] == 0.0001


def test_a_plan_of_rtx_goes_to_rtx(directory: ModelDirectory) -> None:
    put(directory, 'backend: "tensorrt_rtx" max_batch_size: 4', kind="trt-rtx")
    before = directory.fingerprint()
    [file] = load_engines(directory, 1, Machine().gpus)
    assert isinstance(file.engine, TensorRTRtxEngine)
    file.engine.close()
    assert (directory.path / "1" / "model.plan.rtxcache").exists()
    assert directory.fingerprint() == before, "what the engine keeps is no change of the model"


def test_without_a_config_the_onnx_file_serves(directory: ModelDirectory) -> None:
    put(directory, None, onnx=True)
    [file] = load_engines(directory, 1, Machine().gpus)
    assert isinstance(file.engine, OnnxEngine)
    file.engine.close()


def test_a_plan_that_takes_less_than_its_sidecar_says_is_refused(directory: ModelDirectory) -> None:
    put(directory)
    machine = Machine()
    machine.trt.network = doubling(3)
    with pytest.raises(RepositoryError, match=r"batches of at most 3 rows; config\.pbtxt has max_batch_size 8"):
        load_engines(directory, 1, machine.gpus)
    assert machine.cuda.devices[0].used == 0


def test_without_a_gpu_the_onnx_file_serves_where_that_is_allowed(directory: ModelDirectory) -> None:
    put(directory, onnx=True)
    with pytest.raises(NoGpu, match="needs a GPU: the NVIDIA driver sees no device"):
        load_engines(directory, 1, Machine(gpus=0).gpus)
    put(directory, CONFIG + "parameters { key: 'fallback_backend' value: { string_value: 'onnxruntime' } }")
    [file] = load_engines(directory, 1, Machine(gpus=0).gpus)
    assert isinstance(file.engine, OnnxEngine)
    file.engine.close()


def test_kind_gpu_is_accepted_where_there_is_a_gpu(directory: ModelDirectory) -> None:
    put(directory, CONFIG + "instance_group { kind: KIND_GPU count: 2 }")
    [file] = load_engines(directory, 1, Machine().gpus)
    assert len(file.engine.instances()) == 2
    file.engine.close()


@pytest.mark.parametrize(
    ("groups", "buffers"),
    [
        ("", {"0": 1, "1": 1}),
        ("instance_group { count: 2 }", {"0": 2, "1": 2}),
        ("instance_group { gpus: [1] count: 3 }", {"1": 3}),
        ("instance_group [{ gpus: [0, 1] count: 2 }, { gpus: [1] count: 1 }]", {"0": 2, "1": 3}),
    ],
)
def test_instances_are_placed_on_gpus(groups: str, buffers: dict[str, int], directory: ModelDirectory) -> None:
    put(directory, CONFIG + groups)
    machine = Machine(gpus=2)
    [file] = load_engines(directory, 1, machine.gpus)
    contexts = {gpu: size // 4096 for (gpu, kind), size in machine.gpus.memory() if kind == "contexts"}
    assert contexts == buffers
    assert all(group.gpus for group in file.config.instance_groups)
    file.engine.close()


@pytest.mark.parametrize(
    ("groups", "refused"),
    [
        ("", True),
        ("instance_group { count: 2 }", True),
        ("instance_group { gpus: [0] }", False),
        ("instance_group { gpus: [1] }", True),
        ("instance_group [{ gpus: [0] }, { gpus: [0, 1] }]", True),
    ],
)
def test_a_plan_must_fit_every_gpu_that_it_is_placed_on(
    groups: str, refused: bool, directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = (Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA H100", "9.0"))
    monkeypatch.setattr(saccade_machine, "find_gpus", lambda: (two, ""))
    put(directory, CONFIG + groups)
    machine = Machine(gpus=2)
    if not refused:
        [file] = load_engines(directory, 1, machine.gpus)
        file.engine.close()
        return
    with pytest.raises(PlanRefused) as caught:
        load_engines(directory, 1, machine.gpus)
    sentence = str(caught.value)
    assert "m/1/model.plan runs on GPUs of compute capability 8.9; this machine's GPU 1 is NVIDIA H100" in sentence
    assert "instance_group { gpus: [0] }" in sentence
    assert machine.trt.engines == 0, "nothing stays loaded"


def test_a_gpu_that_is_not_there_is_named(directory: ModelDirectory) -> None:
    put(directory, CONFIG + "instance_group { gpus: [1] }")
    with pytest.raises(ValueError, match="there is no GPU 1"):
        load_engines(directory, 1, Machine().gpus)


def test_models_for_cpus_do_not_ask_the_driver(directory: ModelDirectory) -> None:
    put(directory, 'backend: "onnxruntime" max_batch_size: 4', onnx=True, plan=False)
    machine = Machine()
    [file] = load_engines(directory, 1, machine.gpus)
    file.engine.close()
    assert machine.asked == 0


def test_an_empty_plan_and_no_room_are_said(directory: ModelDirectory) -> None:
    put(directory)
    machine = Machine()
    machine.cuda.devices[0].limit = 100
    with pytest.raises(ValueError, match=r"model\.plan cannot be loaded: the GPU has no room for"):
        load_engines(directory, 1, machine.gpus)
    (directory.path / "1" / "model.plan").write_bytes(b"")
    with pytest.raises(ValueError, match=r"m/1/model\.plan"):
        load_engines(directory, 1, machine.gpus)


def test_without_pycuda_there_is_no_gpu_and_it_is_said_why(tmp_path: Path) -> None:
    pytest.importorskip("saccade_predictor.engines.cuda_pycuda")
    gpus = Gpus(Arena(2**20))
    if gpus.count():
        pytest.skip("there is a GPU")
    assert gpus.why_none
    with pytest.raises(NoGpu, match="needs a GPU"):
        gpus.open_plan(tmp_path / "model.plan", describe())


def exposed(metrics: PredictorMetrics) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    lines = [line.rpartition(" ") for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


async def test_a_plan_is_served_measured_and_freed(directory: ModelDirectory) -> None:
    put(directory)
    machine = Machine(graphs=True)
    metrics = PredictorMetrics()
    metrics.watch_gpus(machine.gpus.memory, machine.gpus.locked_bytes)
    shared = Surroundings(metrics, machine.arena, 100)
    model = PredictorModel(directory, lambda d: find_versions(d, 1, machine.gpus), shared)
    await model.prepare()
    assert model.config().json["instance_group"][0]["kind"] == "KIND_GPU"

    async def ask(value: float, rows: int) -> list[list[float]]:
        x = Tensor.of("x", (value + np.arange(rows, dtype=np.float32))[:, None].repeat(WIDTH, 1))
        answer = await answer_of(model, InferRequest("m", [x]), Exchange.begin("rest", {}, 30))
        found: list[list[float]] = answer.output("y").array.tolist()
        if answer.release is not None:
            answer.release()
        return found

    rows = [1, 3, 4, 8, 4, 1, 8]
    for value, found in enumerate(await asyncio.gather(*(ask(value, n) for value, n in enumerate(rows)))):
        assert found == doubled([value], rows[value])
    await eventually(machine.gpus.locked_bytes, "the arena is page-locked")
    values = exposed(metrics)
    device = machine.cuda.devices[0]
    buffers = sum(memory.nbytes for memory in device.memory_at.values())
    assert values['saccade_gpu_memory_bytes{gpu="0",kind="buffers"}'] == buffers
    assert values['saccade_gpu_memory_bytes{gpu="0",kind="free"}'] == device.memory()[0]
    assert values["saccade_arena_locked_bytes"] == machine.gpus.locked_bytes()
    assert machine.gpus.in_use
    await model.close()
    assert not machine.gpus.in_use
    await eventually(lambda: not machine.cuda.registered, "the arena is page-locked no more")
    assert device.used == 0
    assert machine.arena.leases == 0


async def test_a_version_takes_over_from_another_while_both_use_the_arena(directory: ModelDirectory) -> None:
    put(directory)
    machine = Machine()
    model = PredictorModel(
        directory,
        lambda d: find_versions(d, 1, machine.gpus),
        Surroundings(PredictorMetrics(), machine.arena, 100),
    )
    await model.prepare()
    for version in (2, 3, 4):
        put(directory, version=version)
        x = Tensor.of("x", np.ones((2, WIDTH), np.float32))
        asking = [
            asyncio.create_task(answer_of(model, InferRequest("m", [x]), Exchange.begin("rest", {}, 30)))
            for _ in range(5)
        ]
        assert await model.update(directory)
        for answer in await asyncio.gather(*asking):
            assert answer.output("y").array.tolist() == doubled([1, 1])
            if answer.release is not None:
                answer.release()
        assert model.versions() == [str(version)]
    await eventually(lambda: machine.trt.engines == 1, "the older ones are gone")
    assert machine.cuda.registered
    await model.close()
    await eventually(lambda: not machine.cuda.registered, "the arena is page-locked no more")


async def test_a_sticky_error_makes_the_process_not_live(directory: ModelDirectory) -> None:
    put(directory)
    machine = Machine()
    model = PredictorModel(
        directory,
        lambda d: find_versions(d, 1, machine.gpus),
        Surroundings(PredictorMetrics(), machine.arena, 100),
    )
    await model.prepare()
    gate = Gate({"m": model}, ServiceSettings(), PredictorMetrics(), machine.arena)
    gate.check_live()
    machine.cuda.devices[0].fails["wait"] = lambda: DeviceBroken("an illegal memory access was encountered")
    x = Tensor.of("x", np.ones((1, WIDTH), np.float32))
    with pytest.raises(EngineFailed) as failed:
        await answer_of(model, InferRequest("m", [x]), Exchange.begin("rest", {}, 30))
    assert "illegal" not in str(failed.value), "clients are not told of addresses"
    with pytest.raises(EngineFailed, match="needs a new process"):
        gate.check_live()
    await model.close()
    assert machine.gpus.in_use, "the process must not end in the ordinary way"
