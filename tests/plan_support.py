"""Sidecars, machines and neighbours of a plan for tests; build commands as processes; whether TensorRT-RTX is here."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnx_graphs as graphs
from saccade_predictor.engines.plan import FileMark, Plan, PlanTensor, Shapes, mark, write_sidecar
from saccade_predictor.machine import MODULES, Gpu, Machine

NO_GPU = Machine((), "no NVIDIA driver is installed (libcuda.so.1 is not there)")
L4 = Machine((Gpu("NVIDIA L4", "8.9"),), "", {"trt": "11.2.1.2", "trt-rtx": "1.7.1.116"})
H100 = Machine((Gpu("NVIDIA H100 80GB HBM3", "9.0"),), "", {"trt": "11.2.1.2", "trt-rtx": "1.7.1.116"})

HAS_RTX = any(importlib.util.find_spec(name) for name in MODULES["trt-rtx"])
#: Skips where the wheel is not installed. It is in the locked requirements, so with CI=true nothing is skipped.
needs_rtx = pytest.mark.skipif(
    not HAS_RTX and os.environ.get("CI") != "true",
    reason="needs TensorRT-RTX: pip install --require-hashes -r requirements/dev.txt",
)


def describe(**changes: Any) -> Plan:
    """The sidecar of a plan of ``y = x``, FP32 [n, 2], for 1 to 8 rows on an L4."""
    shapes = Shapes(min=(1, 2), opt=(4, 2), max=(8, 2))
    fields: dict[str, Any] = {
        "kind": "trt-rtx",
        "tensorrt": "1.7.1.116",
        "compute_capabilities": ("8.6", "8.9"),
        "precision": "fp32",
        "profiles": ({"x": shapes},),
        "inputs": (PlanTensor(name="x", datatype="FP32", shape=(-1, 2)),),
        "outputs": (PlanTensor(name="y", datatype="FP32", shape=(-1, 2)),),
        "source": FileMark(file="model.onnx", sha256="0" * 64, bytes=1),
        "plan": FileMark(file="model.plan", sha256="1" * 64, bytes=1),
        "properties": {"saccade.input": "rgb_nhwc"},
    }
    return Plan(**(fields | changes))


def put_version(folder: Path, content: bytes = b"a plan's bytes", *, onnx: bool = True, **changes: Any) -> Plan:
    """Write a version's folder as the builder does, the plan's bytes aside."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.plan").write_bytes(content)
    if onnx:
        graphs.identity(folder / "model.onnx")
        changes.setdefault("source", mark(folder / "model.onnx"))
    plan = describe(plan=mark(folder / "model.plan"), **changes)
    write_sidecar(folder / "plan.json", plan)
    return plan


def start_build(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    """The real ``saccade-build`` in a shell of its own, after what else the shell is told."""
    command = [sys.executable, "-m", "saccade_predictor.build", *map(str, arguments)]
    return subprocess.Popen(
        ["/bin/sh", "-c", f'{before} exec "$@"', "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process: subprocess.Popen[str], how: signal.Signals, begun: Callable[[], object]) -> None:
    """Send a command a signal once it is at work; it says so by its exit code, without a traceback."""
    deadline = time.monotonic() + 60
    while not begun():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + how, errors
    assert "Traceback" not in errors
