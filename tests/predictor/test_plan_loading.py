"""A version with a plan, as the predictor loads it: refused in the index, or the ONNX in its place where allowed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import onnx_graphs as graphs
from plan_support import H100, L4, NO_GPU, put_version
from saccade_predictor import loading, planloading
from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.configuration import describe
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.plan import Plan
from saccade_predictor.lifecycle import Lifecycle
from saccade_predictor.loading import find_versions, load_engines
from saccade_predictor.machine import Gpu, Machine
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, parse
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import Surroundings
from saccade_serving.errors import InvalidRequest
from saccade_serving.memory.arena import Arena

CONFIG = 'platform: "tensorrt_plan" max_batch_size: 8\n'
RTX = 'backend: "tensorrt_rtx" max_batch_size: 8\n'
FALLBACK = 'parameters { key: "fallback_backend" value: { string_value: "onnxruntime" } }\n'


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run the same on a machine with a GPU."""
    be(monkeypatch, NO_GPU)


def be(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    def why_not(config: ModelConfig, engines: Any) -> tuple[Machine, str]:
        return real(config, engines, lambda *kinds: machine)

    real = REAL
    monkeypatch.setattr(planloading, "why_not", why_not)
    monkeypatch.setattr(loading, "find_gpus", lambda: (machine.gpus, machine.why_no_gpu))


REAL = planloading.why_not


def directory(tmp_path: Path, config: str, **changes: Any) -> ModelDirectory:
    put_version(tmp_path / "m" / "1", **changes)
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    return ModelDirectory("m", tmp_path / "m")


def refusal(found: ModelDirectory) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load_engines(found, 1)
    assert str(found.path) not in str(caught.value)
    return str(caught.value)


def test_without_a_gpu_a_plan_is_refused_with_the_way_out(tmp_path: Path) -> None:
    text = refusal(directory(tmp_path, CONFIG, kind="trt", tensorrt="11.2.1.2"))
    assert "m/1/model.plan is a TensorRT plan and runs on GPUs of compute capability 8.6 or 8.9" in text
    assert "this machine has no GPU: no NVIDIA driver is installed" in text
    assert "fallback_backend" in text
    assert len(text) < 500


def test_a_kind_of_instance_that_is_not_here_is_refused(tmp_path: Path) -> None:
    text = refusal(directory(tmp_path, RTX + "instance_group [{ kind: KIND_GPU }]"))
    assert "KIND_GPU" in text
    assert "it has no GPU" in text


def test_a_fallback_serves_the_onnx_file_and_clients_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = directory(tmp_path, RTX + FALLBACK + "instance_group [{ kind: KIND_GPU }]")
    with caplog.at_level(logging.WARNING, "saccade.loading"):
        [file] = load_engines(found, 1)
    try:
        assert file.engine.describe().platform == "onnxruntime_onnx"
        assert file.fallback == (
            "onnxruntime serves model.onnx in place of model.plan: this machine has no GPU: no NVIDIA driver is "
            "installed (libcuda.so.1 is not there); batches have 4 rows at most, not 8"
        )
        [record] = [one for one in caplog.records if one.message == "fallback_backend"]
        assert record.why == file.fallback  # type: ignore[attr-defined]
    finally:
        file.engine.close()


def test_a_fallback_to_another_graph_than_the_plans_says_so(tmp_path: Path) -> None:
    found = directory(tmp_path, RTX + FALLBACK)
    graphs.doubling(found.path / "1" / "model.onnx")
    [file] = load_engines(found, 1)
    file.engine.close()
    assert "model.onnx is not the file that the plan was built from, so answers may differ" in file.fallback


def test_a_cpu_is_not_given_the_batches_of_a_gpu(tmp_path: Path) -> None:
    batching = """
        dynamic_batching { preferred_batch_size: [2, 4, 8] }
        model_warmup [
          { name: "one" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } },
          { name: "all" batch_size: 8 inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
        ]
    """
    [file] = load_engines(directory(tmp_path, RTX + FALLBACK + batching), 1)
    file.engine.close()
    config = file.config
    assert config.max_batch_size == 4
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_size == (2, 4)
    assert [sample.name for sample in config.warmup] == ["one"]
    told = describe(config, file.engine.describe().platform).json
    assert told["max_batch_size"] == 4
    assert told["dynamic_batching"]["preferred_batch_size"] == [2, 4]
    small = parsed('backend: "tensorrt_rtx" max_batch_size: 4')
    assert planloading.for_the_cpu(small) is small


def test_a_fallback_needs_its_file(tmp_path: Path) -> None:
    text = refusal(directory(tmp_path, RTX + FALLBACK, onnx=False))
    assert text == "m/1 has no file 'model.onnx' (found: model.plan, plan.json)"


def test_a_plan_without_a_configuration_says_that_it_needs_one(tmp_path: Path) -> None:
    put_version(tmp_path / "m" / "1", onnx=False)
    text = refusal(ModelDirectory("m", tmp_path / "m"))
    assert "a plan needs a config.pbtxt that says which backend runs it" in text


def test_a_version_without_its_plan_says_what_is_there(tmp_path: Path) -> None:
    found = directory(tmp_path, RTX)
    (found.path / "1" / "model.plan").unlink()
    text = refusal(found)
    assert "m/1 has no file 'model.plan' (found: model.onnx, plan.json); build it with saccade-build plan" in text
    assert "fallback_backend" in text


def test_a_gpu_that_this_build_has_no_engine_for_falls_back_or_says_so(tmp_path: Path) -> None:
    found = directory(tmp_path, RTX)
    path = found.path / "1" / "model.plan"
    with pytest.raises(ValueError, match="has no engine for backend 'tensorrt_rtx'"):
        planloading.open_plan(path, "m/1/model.plan", parsed(RTX), L4, engines={})
    machine, why = REAL(parsed(RTX), {}, lambda *kinds: L4)
    assert (machine, why) == (L4, "this build of Saccade has no engine for backend 'tensorrt_rtx'")


def parsed(text: str) -> ModelConfig:
    return parse(text, "m", gpu_available=True)[0]


def test_a_plan_that_fits_is_opened_by_its_engine(tmp_path: Path) -> None:
    plan = put_version(tmp_path / "m" / "1")
    opened: list[tuple[Path, Plan]] = []

    def open_it(path: Path, plan: Plan, config: ModelConfig) -> OnnxEngine:
        opened.append((path, plan))
        return OnnxEngine(path.with_name("model.onnx"), config.instance_count, 1)

    path = tmp_path / "m" / "1" / "model.plan"
    engines = {"tensorrt_rtx": open_it}
    machine, why = REAL(parsed(RTX), engines, lambda *kinds: L4)
    assert why == ""
    planloading.open_plan(path, "m/1/model.plan", parsed(RTX), machine, engines).close()
    assert opened == [(path, plan)]


def test_a_mismatched_plan_on_a_gpu_is_refused_although_a_fallback_is_allowed(tmp_path: Path) -> None:
    put_version(tmp_path / "m" / "1")
    engines = {"tensorrt_rtx": lambda *_: pytest.fail("it does not fit")}
    machine, why = REAL(parsed(RTX + FALLBACK), engines, lambda *kinds: H100)
    assert why == "", "a GPU is there: nothing falls back silently"
    with pytest.raises(ValueError, match=r"compute capability 9\.0"):
        planloading.open_plan(
            tmp_path / "m" / "1" / "model.plan", "m/1/model.plan", parsed(RTX + FALLBACK), machine, engines
        )


def test_another_model_of_the_same_capability_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_version(tmp_path / "m" / "1", gpu="NVIDIA L40S")
    engines = {"tensorrt_rtx": lambda path, plan, config: OnnxEngine(path.with_name("model.onnx"), 1, 1)}
    path = tmp_path / "m" / "1" / "model.plan"
    with caplog.at_level(logging.WARNING, "saccade.loading"):
        planloading.open_plan(path, "m/1/model.plan", parsed(RTX), L4, engines).close()
    [record] = caplog.records
    assert "NVIDIA L40S" in record.warning  # type: ignore[attr-defined]


def test_onnxruntime_does_not_pretend_to_run_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, Machine((Gpu("NVIDIA L4", "8.9"),)))
    found = directory(tmp_path, 'backend: "onnxruntime" max_batch_size: 8 instance_group [{ kind: KIND_GPU }]')
    with pytest.raises(ModelConfigError, match="backend onnxruntime runs on CPUs"):
        load_engines(found, 1)


async def test_the_repository_index_tells_why_a_plan_is_not_served(tmp_path: Path) -> None:
    directory(tmp_path, RTX)
    shared = Surroundings(PredictorMetrics(), Arena(2**24), 16)
    house = Lifecycle(
        tmp_path,
        None,
        "explicit",
        "",
        1.0,
        make=lambda found: PredictorModel(found, lambda one: find_versions(one, 1), shared),
        add=lambda model: None,
        remove=lambda name: None,
    )
    house.begin(set())
    with pytest.raises(InvalidRequest, match="this machine has no GPU"):
        await house.load("m")
    [entry] = house.unserved()
    assert (entry["name"], entry["state"]) == ("m", "UNAVAILABLE")
    assert "m/1/model.plan is a TensorRT-RTX plan" in entry["reason"]
    assert "this machine has no GPU" in entry["reason"]
    await house.close()


async def test_a_fallback_stands_in_the_models_metadata_and_is_counted(tmp_path: Path) -> None:
    found = directory(tmp_path, RTX + FALLBACK)
    shared = Surroundings(PredictorMetrics(), Arena(2**24), 16)
    model = PredictorModel(found, lambda one: find_versions(one, 1), shared)
    await model.prepare()
    told = model.metadata()
    assert told.platform == "onnxruntime_onnx"
    assert told.properties["saccade.fallback"].startswith("onnxruntime serves model.onnx in place of model.plan")
    [version] = model.loaded()
    assert version.fallback
    await model.close()
