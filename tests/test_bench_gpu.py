"""The bench of a GPU without one: its loop, a plan on stand-ins for CUDA and TensorRT, and a real predictor process.

What is not run here is the GPU itself: pycuda, TensorRT's own module, and a predictor that serves a plan.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpu
import gpu_short_run
import onnx_graphs as graphs
from cuda_fake import FakeCuda
from hazards import watch_host
from measuring import gpu_use, plan_model
from measuring.client import Client
from measuring.gpu_table import Size, from_json, judge, plot, show
from measuring.lanes import Effort, InstanceLane, Timed, place, rows_of, time_lane
from measuring.plan_lanes import engine_lane, open_engine, raw_lane
from measuring.plan_model import NoModel, PlanModel, Wanted
from measuring.served import Served, copy_model, offer, serving
from measuring.table import console
from measuring.targets import BENCH
from plan_stage import WIDTH, doubling
from plan_support import needs_rtx, put_version
from saccade_predictor.engines.cuda import DeviceError, DeviceOutOfMemory, NoGpu
from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.modelconfig import parse
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import TensorMetadata
from trt_fake import Trt

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = ROOT / "examples" / "model-repository" / "detector"
SHORT = Effort(seconds=0.0, least=12, warmup=3)


# the loop


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A lane that takes 3 s for a batch alone, and finishes one in 2 s where two are in flight."""

    rows = 4

    def __init__(self, clock: Clock, depth: int) -> None:
        self.clock = clock
        self.depth = depth
        self.open: list[int] = []
        self.most = 0
        self.given = 0

    async def give(self) -> int:
        self.given += 1
        self.open.append(self.given)
        self.most = max(self.most, len(self.open))
        return self.given

    async def finish(self, given: int) -> None:
        assert given == self.open.pop(0), "not in the order in which they were given"
        self.clock.now += 2.0 if self.open else 3.0


async def test_latency_is_of_one_batch_and_throughput_of_a_full_lane() -> None:
    clock = Clock()
    lane = Scripted(clock, depth=2)
    timed = await time_lane(lane, Effort(seconds=30.0, least=5, warmup=2), clock)
    assert (timed.rows, timed.batches, timed.p50_ms, timed.p99_ms) == (4, 10, 3000.0, 3000.0)
    # 15 are finished in 30 s; two are in flight then, and the last of them is alone: 2 s and 3 s more.
    assert timed.looped == 17
    assert timed.per_s == pytest.approx(17 * 4 / 35.0)
    assert lane.most == 2
    assert lane.open == []
    assert lane.given == 2 + timed.batches + timed.looped


async def test_a_lane_of_one_batch_is_never_given_two() -> None:
    clock = Clock()
    lane = Scripted(clock, depth=1)
    timed = await time_lane(lane, Effort(seconds=0.0, least=7, warmup=0), clock)
    assert (timed.batches, timed.looped, lane.most) == (7, 7, 1)
    assert timed.per_s == pytest.approx(4 / 3.0)


# a plan on stand-ins


async def test_the_limit_executes_and_copies_nothing_in_between() -> None:
    cuda = FakeCuda()
    trt = Trt(cuda, doubling())
    device = cuda.devices[0]
    with raw_lane(trt, device, b"plan", 8) as lane:
        [context] = trt.contexts
        before = list(device.calls)
        timed = await time_lane(lane, SHORT)
        assert device.calls == before, "something was copied"
        assert before == [("copy_in", 8 * WIDTH * 4)]
        assert context.runs == SHORT.warmup + timed.batches + timed.looped == 3 + 12 + 12
        buffers = sorted(len(memory) for memory in device.memory_at.values())
        assert buffers == [8 * 4, 8 * WIDTH * 4, 8 * WIDTH * 4]
        del context
    cuda.checker.check()
    assert (device.used, trt.engines, trt.contexts) == (0, 0, [])
    assert not any(stream.work for stream in device.streams)
    assert timed.per_s > 0


async def test_the_limit_computes_what_the_network_is() -> None:
    cuda = FakeCuda()
    seen: list[NDArray[Any]] = []
    network = doubling()
    compute = network.compute

    def watched(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        seen.append(np.array(inputs["x"]))
        return compute(inputs)

    network.compute = watched
    with raw_lane(Trt(cuda, network), cuda.devices[0], b"plan", 4) as lane:
        await lane.finish(await lane.give())
    [row] = rows_of([TensorMetadata("x", "FP32", (-1, WIDTH))], 1)
    np.testing.assert_array_equal(seen[0], np.repeat(row["x"], 4, axis=0))


async def test_the_limit_uses_the_narrowest_profile_and_says_when_none_fits() -> None:
    cuda = FakeCuda()
    network = replace(doubling(), profiles=[{"x": ((1, WIDTH), (rows, WIDTH))} for rows in (32, 2)])
    trt = Trt(cuda, network)
    with raw_lane(trt, cuda.devices[0], b"plan", 2):
        assert [context.profile for context in trt.contexts] == [1]
    with (
        pytest.raises(ValueError, match=r"no optimization profile .* \[64, 6\]"),
        raw_lane(trt, cuda.devices[0], b"plan", 64),
    ):
        pass


async def test_an_execution_that_is_refused_is_not_measured() -> None:
    cuda = FakeCuda()
    trt = Trt(cuda, doubling())
    with raw_lane(trt, cuda.devices[0], b"plan", 1) as lane:
        trt.refuses = 1
        with pytest.raises(DeviceError, match="could not be given"):
            await time_lane(lane, SHORT)
    assert cuda.devices[0].used == 0


def test_what_the_limit_cannot_be_measured_of_is_refused() -> None:
    cuda = FakeCuda()
    network = replace(doubling(), shapes=lambda given: {"y": (-1, WIDTH), "s": (given["x"][0], 1)})
    with (
        pytest.raises(ValueError, match="depends on the data"),
        raw_lane(Trt(cuda, network), cuda.devices[0], b"plan", 1),
    ):
        pass
    with (
        pytest.raises(ValueError, match="cannot be loaded"),
        raw_lane(Trt(cuda, doubling()), cuda.devices[0], b"broken", 1),
    ):
        pass
    cuda.devices[0].limit = 10
    with pytest.raises(DeviceOutOfMemory), raw_lane(Trt(cuda, doubling()), cuda.devices[0], b"plan", 8):
        pass
    assert cuda.devices[0].used == 0


async def test_the_engines_lane_copies_every_row_and_keeps_two_batches_in_flight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = FakeCuda()
    watch_host(cuda.checker, monkeypatch, asyncio.get_running_loop())
    trt, device = Trt(cuda, doubling()), cuda.devices[0]
    plan = put_version(tmp_path / "1", kind="trt")
    arena = Arena(2**22)
    engine = open_engine(Gpus(arena, lambda: cuda, modules={"trt": lambda: trt}), plan, tmp_path / "1" / "model.plan")
    with engine_lane(engine, arena, 8) as lane:
        assert lane.depth == 2
        timed = await time_lane(lane, SHORT)
    await asyncio.to_thread(engine.close)
    await asyncio.sleep(0)
    batches = SHORT.warmup + timed.batches + timed.looped
    sent = {kind: sum(size for name, size in device.calls if name == kind) for kind in ("copy_in", "copy_out")}
    assert sent == {"copy_in": batches * 8 * WIDTH * 4, "copy_out": batches * 8 * (WIDTH + 1) * 4}
    cuda.checker.check()
    assert (device.used, len(device.pinned_at), len(cuda.registered), arena.leases) == (0, 0, 0, 0)
    arena.close()


async def test_any_engine_has_a_lane(tmp_path: Path) -> None:
    engine = OnnxEngine(DETECTOR / "1" / "model.onnx", 1, 1)
    arena = Arena(2**24)
    with engine_lane(engine, arena, 2) as lane:
        timed = await time_lane(lane, Effort(seconds=0.0, least=2, warmup=1))
    assert (timed.rows, timed.batches, lane.depth) == (2, 2, 1)
    assert timed.p50_ms > 1, "a detector takes longer than that on a CPU"
    assert arena.leases == 0
    await asyncio.to_thread(engine.close)
    arena.close()


async def test_an_answer_of_another_number_of_rows_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graphs.identity(tmp_path / "model.onnx")
    engine = OnnxEngine(tmp_path / "model.onnx", 1, 1)
    [request] = rows_of(engine.describe().inputs, 1)
    lane = InstanceLane(engine.instances()[0], [request])
    lane.rows = 2
    with pytest.raises(ValueError, match="a batch of 2 rows was answered with"):
        await lane.finish(engine.instances()[0].submit([request], 1))
    await asyncio.to_thread(engine.close)


def test_requests_are_the_same_each_time_and_lie_in_the_arena() -> None:
    tensors = [TensorMetadata("a", "UINT8", (-1, 4)), TensorMetadata("b", "FP16", (-1, 2, 3))]
    first, again = list(rows_of(tensors, 3)), list(rows_of(tensors, 3))
    for one, other in zip(first, again, strict=True):
        assert {name: (array.dtype, array.shape) for name, array in one.items()} == {
            "a": (np.dtype(np.uint8), (1, 4)),
            "b": (np.dtype(np.float16), (1, 2, 3)),
        }
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert len({one["a"].tobytes() for one in first}) == 3
    arena = Arena(2**20)
    placed, leases = place(arena, iter(first))
    assert all(np.array_equal(placed[at]["a"], first[at]["a"]) for at in range(3))
    assert {array.ctypes.data for request in placed for array in request.values()} == {one.address for one in leases}
    assert arena.leases == 6
    del placed
    for lease in leases:
        lease.release()
    arena.close()


@pytest.mark.parametrize(("datatype", "shape"), [("BYTES", (-1, 1)), ("FP32", (-1, 3, -1))])
def test_inputs_that_cannot_be_made_up_are_refused(datatype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'x' is .*only numbers are measured, of a fixed size"):
        list(rows_of([TensorMetadata("x", datatype, shape)], 1))


# the predictor as a process


@pytest.fixture(scope="module")
def clients() -> Iterator[list[Client]]:
    with Client("rest") as first, Client("rest") as second:
        yield [first, second]


def test_clients_keep_a_real_predictor_busy(clients: list[Client], tmp_path: Path) -> None:
    with serving(DETECTOR, 4, tmp_path) as served:
        assert served.request.startswith(b"POST /v2/models/detector/infer HTTP/1.1\r\n")
        assert len(served.request) > 416 * 416 * 3
        assert served.answer_bytes == 1000 * 6 * 4
        alone = offer(served, clients, 1, 0.2)
        busy = offer(served, clients, 12, 1.0)
    assert (alone.connections, alone.mean_batch) == (1, 1.0)
    assert busy.connections == 12
    assert busy.mean_batch > 2, "requests were not batched"
    assert busy.p50_ms > alone.p50_ms, "twelve wait for each other"
    assert busy.answers >= 12
    assert 0 < busy.server_cores < os.cpu_count() + 0.5  # type: ignore[operator]


def test_a_models_batches_are_changed_and_nothing_else(tmp_path: Path) -> None:
    copy_model(DETECTOR, tmp_path / "detector", 3)
    config, _ = parse((tmp_path / "detector" / "config.pbtxt").read_text(), "detector")
    before, _ = parse((DETECTOR / "config.pbtxt").read_text(), "detector")
    assert config.max_batch_size == 3
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_size == (3,)
    assert (config.inputs, config.outputs, config.backend) == (before.inputs, before.outputs, before.backend)
    assert (tmp_path / "detector" / "1" / "model.onnx").read_bytes() == (DETECTOR / "1" / "model.onnx").read_bytes()


# nvidia-smi


def test_the_gpus_use_is_the_mean_of_what_nvidia_smi_says_meanwhile(tmp_path: Path) -> None:
    program, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {asked}\nprintf "5\\n80\\n90\\n[N/A]\\n7"\nread x < {asked}.fifo\n',
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    os.mkfifo(f"{asked}.fifo")
    with gpu_use.watched(tmp_path, str(program)) as used:
        assert used() is None
        with open(f"{asked}.fifo", "w"):  # opened when it has said all
            pass
    assert used() == pytest.approx(0.85)
    assert "--query-gpu=utilization.gpu" in asked.read_text()


def test_without_nvidia_smi_nothing_is_known(tmp_path: Path) -> None:
    with gpu_use.watched(tmp_path, "no-such-program") as used:
        pass
    assert used() is None
    assert gpu_use.mean_of("") is None
    assert gpu_use.mean_of("[N/A]\n[N/A]\n") is None


def test_the_first_visible_gpu_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, first in {"": "0", "3,1": "3", "GPU-abc, GPU-def": "GPU-abc"}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_use.first_visible() == first


# the plan


WANTED = Wanted("trt-rtx", "fp32", (1, 4), 2)


@needs_rtx
def test_a_plan_is_built_once_for_a_file(tmp_path: Path) -> None:
    onnx, plans, said = tmp_path / "small.onnx", tmp_path / "plans", list[str]()
    graphs.identity(onnx)
    first = plan_model.find(onnx, WANTED, plans, said.append)
    assert (first.plan.kind, first.plan.rows()) == ("trt-rtx", (1, 4))
    assert first.path.is_file()
    written = first.path.stat().st_mtime_ns
    again = plan_model.find(onnx, WANTED, plans, said.append)
    assert again.path.stat().st_mtime_ns == written
    assert said == ["building small-trt-rtx-fp32-4, once", "small-trt-rtx-fp32-4 is there already"]
    graphs.doubling(onnx)
    changed = plan_model.find(onnx, WANTED, plans, said.append)
    assert changed.path.parent.name == "2", "another file's plan is another version"
    assert plan_model.find(first.folder, WANTED, plans, said.append) == changed, "a folder is taken as it is"


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoModel, match=r"none\.onnx does not exist; expected an ONNX file"):
        plan_model.find(tmp_path / "none.onnx", WANTED, tmp_path, print)
    with pytest.raises(NoModel, match=r"has no version with model\.plan"):
        plan_model.find(DETECTOR, WANTED, tmp_path, print)
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(NoModel, match=r"was not built \(exit code 2\): .*broken\.onnx"):
        plan_model.find(tmp_path / "broken.onnx", WANTED, tmp_path, print)


# all of it


@pytest.fixture
def model(tmp_path: Path) -> PlanModel:
    """The example detector, which ONNX Runtime serves, with a plan beside it for the stand-ins."""
    folder = tmp_path / "detector"
    shutil.copytree(DETECTOR, folder)
    plan = put_version(folder / "1", onnx=False, kind="trt")
    return PlanModel(folder, folder / "1" / "model.plan", plan)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Trt:
    cuda = FakeCuda()
    trt = Trt(cuda, doubling())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(gpu, "load_cuda", lambda: cuda)
    monkeypatch.setattr(gpu, "load_module", lambda kind: trt)
    monkeypatch.setattr(gpu, "end_as_ctrl_c_does", lambda: None)
    monkeypatch.setattr(gpu, "_QUICK", Effort(seconds=0.3, least=5, warmup=2))
    return trt


def test_the_whole_bench_but_for_the_gpu(
    model: PlanModel, stand_ins: Trt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, figure = tmp_path / "found.json", tmp_path / "found.png"
    arguments = [f"--model={model.folder}", "--quick", f"--output={output}", f"--plot={figure}", "--clients=1"]
    assert gpu.main([*arguments, "--batches=1,16"]) == 0
    shown = capsys.readouterr()
    assert "batches of 16 are left out: the plan takes 8 rows at most" in shown.err
    assert "too few batches to judge" in shown.out
    written = json.loads(output.read_text())
    assert (written["bench"], written["machine"]["gpu"]) == ("gpu", "Fake GPU")
    [size] = written["sizes"]
    assert size["rows"] == size["raw"]["rows"] == size["engine"]["rows"] == 1
    assert size["alone"]["connections"] == 1
    assert size["served"]["connections"] == 3
    derived = size["derived"]
    assert derived["served_to_raw"] == pytest.approx(size["served"]["per_s"] / size["raw"]["per_s"])
    assert derived["added_p50_ms"] == pytest.approx(size["alone"]["p50_ms"] - size["engine"]["p50_ms"])
    assert figure.read_bytes().startswith(b"\x89PNG")

    # The next run keeps what was measured, and measures the rest.
    assert gpu.main([*arguments, "--batches=1,2"]) == 0
    assert "batches of 1 were measured before" in capsys.readouterr().err
    kept, new = json.loads(output.read_text())["sizes"]
    assert kept == size
    assert new["rows"] == 2
    assert new["alone"] is None
    assert new["served"]["mean_batch"] > 1
    assert stand_ins.cuda.devices[0].used == 0


def test_a_gpu_that_fails_is_a_sentence(
    model: PlanModel, stand_ins: Trt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.cuda.devices[0].limit = 10
    arguments = [f"--model={model.folder}", "--quick", f"--output={tmp_path / 'found.json'}"]
    assert gpu.main([*arguments, "--batches=8"]) == 1
    assert "the GPU has no room for" in capsys.readouterr().err
    assert gpu.main([*arguments, "--batches=9"]) == 1
    assert "the plan takes no batch of 9 rows" in capsys.readouterr().out


def test_plans_can_be_all_that_is_wanted(
    model: PlanModel, stand_ins: Trt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([f"--model={model.folder}", "--plans-only"]) == 0
    assert model.plan.plan.sha256 in capsys.readouterr().out
    assert stand_ins.engines == 0


def test_a_machine_without_a_gpu_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> Any:
        raise NoGpu("the NVIDIA driver sees no device")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(gpu, "load_cuda", none)
    monkeypatch.setattr(gpu, "end_as_ctrl_c_does", lambda: None)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "nothing is measured: the NVIDIA driver sees no device\n"


def test_the_script_runs_by_itself() -> None:
    shown = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "--plans-only" in shown.stdout


@pytest.mark.parametrize("bad", ["--batches=0", "--batches=8,x", "--batches=", "--seconds=0", "--clients=0"])
def test_a_wrong_option_is_refused(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    if bad == "--batches=":
        assert gpu.parse([bad]).batches == list(gpu.BATCHES), "nothing chosen is the default"
        return
    with pytest.raises(SystemExit, match="2"):
        gpu.parse([bad])
    assert "expected" in capsys.readouterr().err or "must be" in bad + "must be"


# the table


def timed(rows: int, p50_ms: float, per_s: float) -> Timed:
    return Timed(rows, 100, p50_ms, 2 * p50_ms, 100, per_s)


def answered(p50_ms: float, per_s: float) -> Served:
    return Served(96, 1000, per_s, p50_ms, 2 * p50_ms, 31.5, 0.8, 0.4)


SIZES = [
    Size(1, timed(1, 2.0, 500), timed(1, 2.2, 480), answered(6.0, 470), answered(3.0, 300), 0.7),
    Size(32, timed(32, 20.0, 1600), timed(32, 22.0, 1500), answered(70.0, 1300), None, 0.95),
]


def test_goals_are_judged_by_what_was_measured() -> None:
    goals = {goal.what: (goal.measured, goal.reached) for goal in judge(SIZES)}
    assert goals == {
        "p50 added by the server (ms)": (pytest.approx(0.8), True),
        "the engine's throughput / the limit": (pytest.approx(1500 / 1600), True),
        "end-to-end throughput / the engine's": (pytest.approx(1300 / 1500), False),
        "utilisation of the GPU, end to end": (0.95, True),
    }
    assert list(judge([replace(SIZES[0], rows=8, alone=None)])) == []


def test_what_is_written_can_be_read_again_and_shown() -> None:
    assert [from_json(json.loads(json.dumps(size.to_json()))) for size in SIZES] == SIZES
    printer = console()
    with printer.capture() as capture:
        printer.print(show(SIZES, "a title"))
    text = capture.get()
    assert "94%" in text
    assert "87%" in text
    assert "31.5" in text


def test_another_plans_results_are_not_taken_over(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    gpu.write(output, ["--quick"], {"plan": "a"}, SIZES, "NVIDIA H100")
    assert gpu.known_sizes(output, {"plan": "a"}) == SIZES
    assert gpu.known_sizes(output, {"plan": "b"}) == []
    output.write_text("{")
    assert gpu.known_sizes(output, {"plan": "a"}) == []


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    plot(SIZES, "a title", tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.count("<path") > 20


# what compute-sanitizer watches on a GPU


def test_the_short_run_runs_both_instances(tmp_path: Path) -> None:
    cuda = FakeCuda()
    trt = Trt(cuda, doubling())
    put_version(tmp_path / "1", kind="trt")
    arena = Arena(2**22)
    gpus = Gpus(arena, lambda: cuda, modules={"trt": lambda: trt})
    counts = gpu_short_run.run(gpus, arena, tmp_path / "1" / "model.plan")
    assert counts == {1: 4 * gpu_short_run.BATCHES, 8: 4 * gpu_short_run.BATCHES}
    assert (cuda.devices[0].used, len(cuda.registered), arena.leases) == (0, 0, 0)
    arena.close()
