"""The process that builds, against a TensorRT of our own: features asked for, deaths worded, nothing left behind.

The real TensorRT cannot be run without a GPU; TensorRT-RTX can, in test_plan_command.py.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnx_graphs as graphs
from saccade_predictor.build.building import BuildFailed, Built, run_worker
from saccade_predictor.build.worker import Request

#: Runs in the worker before anything else: a GPU, and a tensorrt.
SITE = """
import saccade_predictor.machine as machine
machine.find_gpus = lambda: ((machine.Gpu("NVIDIA H100", "9.0"),), "")
"""

Build = Callable[..., tuple[Built, dict[str, Any]]]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the worker imports from before all others."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "tensorrt.py").write_text("from fake_tensorrt import *\nfrom fake_tensorrt import __version__\n")
    (folder / "sitecustomize.py").write_text(SITE)
    ours = Path(__file__).parents[1]
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), str(ours), before])))
    return folder


def request(folder: Path, **changes: Any) -> Request:
    graphs.identity(folder / "in.onnx")
    made: Any = {
        "kind": "trt",
        "onnx": str(folder / "in.onnx"),
        "plan": str(folder / "model.plan"),
        "profiles": {"x": [[1, 2], [4, 2], [8, 2]]},
        "flags": [],
        "strongly_typed": True,
        "tf32": True,
        "workspace_mib": 0,
        "timing_cache": "",
        "hardware_compatibility": "none",
        "compute_capabilities": [],
        "verbose": False,
    }
    wanted: Request = made | changes
    return wanted


def build(folder: Path, **changes: Any) -> tuple[Built, dict[str, Any]]:
    built = run_worker(request(folder, **changes), folder / "build.log")
    return built, json.loads((folder / "model.plan").read_text())


@pytest.mark.parametrize("version", ["10.6.0", "11.2.1.2"])
def test_a_plan_is_built_strongly_typed_by_old_and_new(
    version: str, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
    events: list[dict[str, Any]] = []
    built = run_worker(request(tmp_path, workspace_mib=64), tmp_path / "build.log", events.append)
    told = json.loads((tmp_path / "model.plan").read_text())
    assert told == {
        "strongly_typed": True,
        "flags": ["TF32"],
        "workspace": 64 * 2**20,
        "hardware": "NONE",
        "profiles": [{"x": [[1, 2], [4, 2], [8, 2]]}],
    }
    assert (built.tensorrt, built.compute_capabilities, built.gpu) == (version, ("9.0",), "NVIDIA H100")
    assert [(one.name, one.datatype, one.shape) for one in built.inputs] == [("x", "FP32", (-1, 2))]
    assert [event["phase"] for event in events if "phase" in event] == ["Building"] * 3
    log = (tmp_path / "build.log").read_text()
    assert "[INFO] built" in log
    assert "what the library itself prints" in log
    assert "verbose" not in log


def test_the_flag_is_asked_for_not_the_version(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildFailed, match="has no builder flag FP16: its networks are strongly typed"):
        build(tmp_path, flags=["FP16"], strongly_typed=False)
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", "10.6.0")
    _, told = build(tmp_path, flags=["FP16"], strongly_typed=False, tf32=False)
    assert told["strongly_typed"] is False
    assert told["flags"] == ["FP16"]


def test_hardware_compatibility_and_verbose_reach_the_builder(fake: Path, tmp_path: Path) -> None:
    _, told = build(tmp_path, hardware_compatibility="ampere_plus", verbose=True)
    assert told["hardware"] == "AMPERE_PLUS"
    assert "a verbose line" in (tmp_path / "build.log").read_text()
    with pytest.raises(BuildFailed, match="has no hardware compatibility 'same_compute_capability'"):
        build(tmp_path, hardware_compatibility="same_compute_capability")


def test_a_timing_cache_is_made_read_and_written(fake: Path, tmp_path: Path) -> None:
    cache = tmp_path / "times"
    build(tmp_path, timing_cache=str(cache))
    build(tmp_path, timing_cache=str(cache))
    assert cache.read_bytes() == b"++"
    cache.write_bytes(b"of another GPU")
    with pytest.raises(BuildFailed, match="times is of another GPU or TensorRT, or damaged"):
        build(tmp_path, timing_cache=str(cache))
    assert cache.read_bytes() == b"of another GPU"


@pytest.mark.parametrize(
    ("crash", "sentence"),
    [
        ("abort", "ended by SIGABRT, inside TensorRT"),
        ("exit", "the process that builds ended with exit code 3"),
        ("kill", "ended by SIGKILL; was there enough memory?"),
        ("raise", "TensorRT failed: out of luck"),
        ("error", "TensorRT cannot build the plan: Error Code 9: no kernel"),
    ],
)
def test_every_death_is_a_sentence(
    crash: str, sentence: str, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CRASH", crash)
    with pytest.raises(BuildFailed) as caught:
        build(tmp_path)
    assert sentence in str(caught.value)
    assert not (tmp_path / "model.plan").exists()


def test_a_tensor_that_v2_cannot_carry_is_named(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DATATYPE", "BF16")
    with pytest.raises(BuildFailed, match="tensor 'x' is BF16 in TensorRT, which the V2 protocol cannot carry"):
        build(tmp_path)


def test_without_tensorrt_it_says_so(fake: Path, tmp_path: Path) -> None:
    (fake / "tensorrt.py").write_text("raise ImportError")
    (fake / "tensorrt_bindings.py").write_text("raise ImportError")
    with pytest.raises(BuildFailed, match="TensorRT is not installed here"):
        build(tmp_path)


def test_without_a_gpu_no_builder_is_made(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake / "sitecustomize.py").write_text(
        "import saccade_predictor.machine as machine\nmachine.find_gpus = lambda: ((), 'no driver')\n"
    )
    monkeypatch.setenv("FAKE_CRASH", "abort")
    with pytest.raises(BuildFailed, match="this machine has none: no driver"):
        build(tmp_path)


def test_a_plan_that_cannot_be_written_leaves_nothing(fake: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"cannot write .*: No such file or directory"):
        run_worker(request(tmp_path, plan=str(tmp_path / "gone" / "model.plan")), tmp_path / "build.log")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_its_worker(
    how: signal.Signals, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CRASH", "hang")
    monkeypatch.setenv("FAKE_PID", str(tmp_path / "pid"))

    def interrupt() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), how)

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(how, end)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    finally:
        thread.join()
        signal.signal(how, before)
    worker = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
