"""plan.json, and every reason to refuse a plan: what was found, what was expected, what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plan_support import H100, L4, NO_GPU, describe, put_version
from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.engines import plan as plans
from saccade_predictor.engines.gpus import load_module
from saccade_predictor.engines.plan import Plan, PlanTensor, Shapes, SidecarError, read_sidecar, write_sidecar
from saccade_predictor.engines.plancheck import PlanRefused, admit, caution, refuse, same_version
from saccade_predictor.machine import Gpu, Machine, find_gpus, load_tensorrt, look
from saccade_predictor.modelconfig import parse

CONFIG = 'backend: "tensorrt_rtx" max_batch_size: 8 '


def test_a_sidecar_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = describe(parity={"passed": True})
    write_sidecar(tmp_path / "plan.json", plan)
    assert read_sidecar(tmp_path / "plan.json") == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert plan.backend == "tensorrt_rtx"
    assert plan.rows() == (1, 8)


def test_a_field_that_a_later_version_adds_is_left_alone(tmp_path: Path) -> None:
    content = json.loads(describe().to_json()) | {"new": 1}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert read_sidecar(tmp_path / "plan.json") == describe()


def test_a_sidecar_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_sidecar(tmp_path / "plan.json", describe())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_sidecar(tmp_path / "plan.json", describe(gpu="another"))
    assert read_sidecar(tmp_path / "plan.json") == describe()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def changed(**fields: Any) -> str:
    return json.dumps(json.loads(describe().to_json()) | fields)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["is missing", "saccade-build plan"]),
        ("", ["is empty"]),
        (describe().to_json()[:200], ["not JSON, or cut short"]),
        ("[" * 100_000, ["not JSON"]),
        ("[]", ["is not a plan's description"]),
        ("{}", ["is not a plan's description", "kind"]),
        (changed(schema_version=2), ["is of schema 2", "reads schema 1"]),
        (changed(kind="openvino"), ["kind", "'trt'"]),
        (changed(plan={"file": "../x", "sha256": "1" * 64, "bytes": 1}), ["plan.file"]),
        (changed(plan={"file": "x", "sha256": "1", "bytes": 1}), ["plan.sha256"]),
        (changed(profiles=[{}]), ["a profile says nothing of input 'x'"]),
        (changed(profiles=[{"x": {"min": [2, 2], "opt": [1, 2], "max": [8, 2]}}]), ["min <= opt <= max"]),
        (changed(profiles=[{"x": {"min": [1], "opt": [1], "max": [8]}}]), ["another number of dimensions"]),
        (changed(inputs=[{"name": "x", "datatype": "BF16", "shape": [1]}]), ["'BF16'"]),
        (changed(compute_capabilities=[]), ["compute_capabilities"]),
        (changed(build_seconds=float("nan")), ["build_seconds"]),
    ],
)
def test_a_sidecar_that_is_none_says_what_is_wrong_and_what_to_do(
    text: str | None, parts: list[str], tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    with pytest.raises(SidecarError) as caught:
        read_sidecar(tmp_path / "plan.json", "m/1/plan.json")
    for part in ("m/1/plan.json", *parts):
        assert part in str(caught.value)
    assert str(tmp_path) not in str(caught.value), "clients read it"


def test_a_sidecar_of_any_size_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MAX_SIDECAR_BYTES", 100)
    write_sidecar(tmp_path / "plan.json", describe())
    with pytest.raises(SidecarError, match="more than 100 bytes"):
        read_sidecar(tmp_path / "plan.json")


def test_a_sidecar_that_is_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(SidecarError, match="cannot be read: Is a directory"):
        read_sidecar(tmp_path / "plan.json")


OTHER = Machine((Gpu("NVIDIA GeForce RTX 3090", "8.6"),), "", {"trt": "10.6.0"})


@pytest.mark.parametrize(
    ("machine", "plan", "parts"),
    [
        (L4, describe(), None),
        (NO_GPU, describe(), ["8.6 or 8.9", "has no GPU: no NVIDIA driver", "fallback_backend"]),
        (
            H100,
            describe(),
            ["8.6 or 8.9", "NVIDIA H100 80GB HBM3, compute capability 9.0", "no kernels for 9.0", "--kind trt"],
        ),
        (H100, describe(kind="trt", tensorrt="11.2.1.2"), ["8.6 or 8.9", "9.0", "build the plan again"]),
        (H100, describe(kind="trt", tensorrt="11.2.1.2", hardware_compatibility="ampere_plus"), None),
        (
            Machine((Gpu("NVIDIA T4", "7.5"),), "", {"trt": "11.2.1.2"}),
            describe(kind="trt", tensorrt="11.2.1.2", hardware_compatibility="ampere_plus"),
            ["8.0 and later", "NVIDIA T4"],
        ),
        (OTHER, describe(), ["needs TensorRT-RTX 1.7.1.116", "not installed"]),
        (L4, describe(tensorrt="1.6.0.5"), ["built by TensorRT-RTX 1.6.0.5; 1.7.1.116 is installed"]),
        (OTHER, describe(kind="trt", tensorrt="10.6.0.26"), None),
        (OTHER, describe(kind="trt", tensorrt="10.6.1.2"), ["10.6.1.2; 10.6.0 is installed"]),
    ],
)
def test_a_machine_refuses_a_plan_it_cannot_run(machine: Machine, plan: Plan, parts: list[str] | None) -> None:
    sentence = refuse(machine, plan, "m/1/model.plan")
    if parts is None:
        assert sentence is None
        return
    assert sentence is not None
    for part in ("m/1/model.plan", *parts):
        assert part in sentence
    assert len(sentence) < 500, "the repository index cuts what is longer"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("11.2.1.2", "11.2.1.2", True),
        ("10.6.0", "10.6.0.26", True),
        ("10.6", "10.6.0.26", False),
        ("11.2.1.2", "11.2.1.3", False),
        ("1.7.1.116", "1.7.1.11", False),
    ],
)
def test_versions_are_the_same_up_to_a_build_number_that_is_not_told(a: str, b: str, same: bool) -> None:
    assert same_version(a, b) is same_version(b, a) is same


def test_another_gpu_of_the_same_capability_is_a_warning() -> None:
    assert caution(L4, describe(kind="trt", gpu="NVIDIA L4")) is None
    assert caution(NO_GPU, describe(gpu="NVIDIA L4")) is None
    assert caution(L4, describe(gpu="")) is None
    assert "tuned on NVIDIA L40S; this machine's GPU is NVIDIA L4" in (caution(L4, describe(gpu="NVIDIA L40S")) or "")
    compatible = describe(kind="trt", gpu="NVIDIA L40S", hardware_compatibility="same_compute_capability")
    assert caution(L4, compatible) is None


def break_nothing(folder: Path) -> None:
    """As built."""


def remove_sidecar(folder: Path) -> None:
    (folder / "plan.json").unlink()


def empty(folder: Path) -> None:
    (folder / "model.plan").write_bytes(b"")


def cut(folder: Path) -> None:
    (folder / "model.plan").write_bytes((folder / "model.plan").read_bytes()[:-1])


def grow(folder: Path) -> None:
    (folder / "model.plan").write_bytes((folder / "model.plan").read_bytes() + b"!")


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.plan").read_bytes())
    content[3] ^= 1
    (folder / "model.plan").write_bytes(content)


def remove_plan(folder: Path) -> None:
    (folder / "model.plan").unlink()


LARGE = {"x": Shapes(min=(2, 2), opt=(4, 2), max=(8, 2))}
OPEN = {
    "inputs": (PlanTensor(name="x", datatype="FP32", shape=(-1, -1)),),
    "outputs": (PlanTensor(name="y", datatype="FP32", shape=(-1, -1)),),
    "profiles": ({"x": Shapes(min=(1, 2), opt=(4, 4), max=(8, 8))},),
}


@pytest.mark.parametrize(
    ("spoil", "config", "changes", "parts"),
    [
        (break_nothing, CONFIG, {}, None),
        (remove_sidecar, CONFIG, {}, ["m/1/plan.json is missing", "saccade-build plan"]),
        (empty, CONFIG, {}, ["m/1/model.plan is empty", "plan.json says 14 bytes", "copy it again"]),
        (cut, CONFIG, {}, ["13 bytes", "says 14", "cut short"]),
        (grow, CONFIG, {}, ["15 bytes", "says 14", "another file"]),
        (flip, CONFIG, {}, ["SHA-256", "damaged", "copy it again"]),
        (remove_plan, CONFIG, {}, ["m/1/model.plan cannot be read: No such file"]),
        (
            break_nothing,
            'backend: "tensorrt" max_batch_size: 8 ',
            {},
            ["is a TensorRT-RTX plan", "backend 'tensorrt_rtx'", "config.pbtxt has backend 'tensorrt'", "--kind trt"],
        ),
        (
            break_nothing,
            'backend: "tensorrt_rtx" max_batch_size: 9 ',
            {},
            ["1 to 8 rows", "max_batch_size 9", "at most 8", "--batch 1,OPT,9"],
        ),
        (break_nothing, CONFIG, {"profiles": (LARGE,)}, ["2 to 8 rows", "1 to 8"]),
        (break_nothing, 'backend: "tensorrt_rtx" max_batch_size: 2 ', {}, None),
        (
            break_nothing,
            CONFIG + 'input [{ name: "x" data_type: TYPE_FP32 dims: [ 8 ] }]',
            OPEN,
            None,
        ),
        (
            break_nothing,
            CONFIG + 'input [{ name: "x" data_type: TYPE_FP32 dims: [ 9 ] }]',
            OPEN,
            ["no profile for input 'x' with 9 in dimension 1", "--shape"],
        ),
        (
            break_nothing,
            CONFIG + 'input [{ name: "image" data_type: TYPE_FP32 dims: [ 2 ] }]',
            {},
            ["input 'image' is not a tensor of the model; expected one of 'x'"],
        ),
        (
            break_nothing,
            CONFIG + 'input [{ name: "x" data_type: TYPE_UINT8 dims: [ 2 ] }]',
            {},
            ["data_type is UINT8; expected FP32"],
        ),
        (
            break_nothing,
            CONFIG + 'output [{ name: "y" data_type: TYPE_FP32 dims: [ 3 ] }]',
            {},
            ["output 'y' dims is [3]; expected [2]"],
        ),
    ],
)
def test_a_plan_is_let_in_only_if_everything_fits(
    spoil: Callable[[Path], None], config: str, changes: dict[str, Any], parts: list[str] | None, tmp_path: Path
) -> None:
    folder = tmp_path / "m" / "1"
    put_version(folder, **changes)
    spoil(folder)
    read, _ = parse(config, "m", gpu_available=True)
    if parts is None:
        assert admit(folder / "model.plan", L4, read, "m/1/model.plan").kind == "trt-rtx"
        return
    with pytest.raises((PlanRefused, SidecarError, ModelConfigError)) as caught:
        admit(folder / "model.plan", L4, read, "m/1/model.plan")
    for part in parts:
        assert part in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_machine_without_a_gpu_says_so_and_no_tensorrt_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus, why = find_gpus()
    if gpus:
        pytest.skip("this machine has a GPU")
    assert why
    monkeypatch.setattr("saccade_predictor.machine.load_tensorrt", lambda kind: pytest.fail("it would import"))
    assert look("trt", "trt-rtx") == Machine((), why)


class Driver:
    """CUDA's driver library, as far as it is asked: a T4 and an L4."""

    GPUS = ((b"Tesla T4", 7, 5), (b"NVIDIA L4", 8, 9))

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.GPUS)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 101 if index == self.broken else 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = self.GPUS[device.value][0]
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self.GPUS[device.value][{75: 1, 76: 2}[number]]
        return 0


def test_every_gpu_is_found_in_the_drivers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade_predictor.machine.ctypes.CDLL", lambda name: Driver())
    assert find_gpus() == ((Gpu("Tesla T4", "7.5"), Gpu("NVIDIA L4", "8.9")), "")
    monkeypatch.setattr("saccade_predictor.machine.ctypes.CDLL", lambda name: Driver(broken=1))
    assert find_gpus() == ((), "the NVIDIA driver does not give its device 1 (CUDA error 101)")


def test_of_several_gpus_those_are_named_that_a_plan_is_placed_on_and_does_not_fit() -> None:
    l4, t4 = Gpu("NVIDIA L4", "8.9"), Gpu("Tesla T4", "7.5")
    versions = {"trt-rtx": "1.7.1.116"}
    two = Machine((l4, t4), "", versions)
    assert refuse(two, describe(), on=(0,)) is None
    assert "this machine's GPU 1 is Tesla T4, compute capability 7.5" in (refuse(two, describe(), on=(0, 1)) or "")
    assert "place it where it runs: instance_group { gpus: [0] }" in (refuse(two, describe(), on=(1,)) or "")
    assert "place it" not in (refuse(Machine((t4, t4), "", versions), describe(), on=(1,)) or "place it")
    assert refuse(two, describe(), on=(0, 7)) is None, "the CUDA layer says that there is no GPU 7"
    tuned = describe(kind="trt", gpu="NVIDIA L4")
    assert caution(two, tuned, on=(0,)) is None
    assert caution(two, tuned, on=(0, 1)) == (
        "the plan was tuned on NVIDIA L4; this machine's GPU 1 is Tesla T4, where it may be slower"
    )


def test_a_tensorrt_that_does_not_load_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt_of_a_test.py").write_text("raise OSError('libnvinfer.so.11: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("saccade_predictor.machine.MODULES", {"trt": ("tensorrt_of_a_test", "no_such_module_at_all")})
    assert load_tensorrt("trt") is None
    with pytest.raises(ValueError, match=r"not installed: libnvinfer\.so\.11: cannot open; No module named 'no_such"):
        load_module("trt")


@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_the_bindings_alone_are_tensorrt_too(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"bindings_of_a_test_{kind.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("__version__ = '10.13.3.9'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("saccade_predictor.machine.MODULES", {kind: ("no_such_module_at_all", name)})
    found = load_tensorrt(kind)
    assert found is not None
    assert load_module(kind) is found
