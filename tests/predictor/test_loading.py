"""From a model directory to engines: versions by policy, files by backend, and errors that name what is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import onnx_graphs as graphs
from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.loading import load_engines
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import LoadedEngine

BATCHED = 'backend: "onnxruntime" max_batch_size: 4 dynamic_batching {}\n'

Load = Callable[[], list[LoadedEngine]]


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory("m", tmp_path)


@pytest.fixture
def load(directory: ModelDirectory) -> Iterator[Load]:
    """Loads the directory and closes the engines at the end."""
    opened: list[LoadedEngine] = []

    def load_all() -> list[LoadedEngine]:
        opened.extend(load_engines(directory, threads=1))
        return opened

    yield load_all
    for file in opened:
        file.engine.close()


def put(directory: ModelDirectory, *versions: int, config: str | None = None, filename: str = "model.onnx") -> None:
    for version in versions:
        graphs.identity(directory.path / str(version) / filename)
    if config is not None:
        (directory.path / "config.pbtxt").write_text(config, encoding="utf-8")


def test_without_a_config_the_highest_version_is_served_as_the_graph_says(
    directory: ModelDirectory, load: Load
) -> None:
    put(directory, 1, 2, 10)
    [file] = load()
    assert file.version == "10"
    assert file.config.max_batch_size == 8
    assert file.config.dynamic_batching is not None
    assert [(t.name, t.datatype, t.dims) for t in file.config.inputs] == [("x", "FP32", (2,))]
    assert [(t.name, t.datatype, t.dims) for t in file.config.outputs] == [("y", "FP32", (2,))]


def test_without_a_config_a_graph_without_an_open_first_dimension_is_not_batched(
    directory: ModelDirectory, load: Load
) -> None:
    graphs.identity(directory.path / "1" / "model.onnx", dims=(3, 2))
    [file] = load()
    assert file.config.max_batch_size == 0
    assert file.config.dynamic_batching is None
    assert file.config.inputs[0].dims == (3, 2)


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
        ("version_policy { latest { num_versions: 9 } }", ["1", "2", "10"]),
        ("version_policy { all {} }", ["1", "2", "10"]),
        ("version_policy { specific { versions: [2, 1] } }", ["1", "2"]),
        ("version_policy { specific { versions: [2, 77] } }", ["2"]),
    ],
)
def test_the_version_policy_chooses(policy: str, versions: list[str], directory: ModelDirectory, load: Load) -> None:
    put(directory, 1, 2, 10, config=BATCHED + policy)
    assert [file.version for file in load()] == versions


def test_a_policy_that_chooses_nothing_lists_what_is_there(directory: ModelDirectory) -> None:
    put(directory, 1, 2, config=BATCHED + "version_policy { specific { versions: [7] } }")
    with pytest.raises(RepositoryError, match=r"model 'm' has no version to serve \(versions found: 1, 2\)"):
        load_engines(directory, 1)


def test_a_model_without_a_version_says_so(directory: ModelDirectory) -> None:
    put(directory, config=BATCHED)
    with pytest.raises(RepositoryError, match="versions found: none"):
        load_engines(directory, 1)


def test_a_missing_file_is_named_with_those_that_are_there(directory: ModelDirectory) -> None:
    put(directory, 1, config=BATCHED, filename="detector.onnx")
    with pytest.raises(RepositoryError, match=r"m/1 has no file 'model\.onnx' \(found: detector\.onnx\)"):
        load_engines(directory, 1)


def test_an_empty_version_says_that_nothing_is_in_it(directory: ModelDirectory) -> None:
    (directory.path / "1").mkdir()
    with pytest.raises(RepositoryError, match=r"m/1 has no file 'model\.onnx' \(found: nothing\)"):
        load_engines(directory, 1)


def test_the_file_may_have_another_name(directory: ModelDirectory, load: Load) -> None:
    put(directory, 1, config=BATCHED + 'default_model_filename: "detector.onnx"', filename="detector.onnx")
    assert [file.version for file in load()] == ["1"]


def test_the_config_and_the_graph_have_to_agree(directory: ModelDirectory) -> None:
    put(directory, 1, config=BATCHED + 'input [{ name: "x" data_type: TYPE_FP32 dims: [ 3 ] }]')
    with pytest.raises(ModelConfigError, match=r"dims is \[3\]; expected \[2\], as in the model"):
        load_engines(directory, 1)


def test_instances_and_threads_reach_the_engine(directory: ModelDirectory, load: Load) -> None:
    put(directory, 1, config=BATCHED + "instance_group [{ count: 3 }]")
    [file] = load()
    assert len(file.engine.instances()) == 3


def test_a_plan_that_is_not_there_says_how_to_make_it_or_fall_back(directory: ModelDirectory) -> None:
    put(directory, 1, config='backend: "tensorrt" max_batch_size: 4')
    with pytest.raises(RepositoryError) as caught:
        load_engines(directory, 1)
    assert "m/1 has no file 'model.plan' (found: model.onnx); build it with saccade-build plan" in str(caught.value)
    assert "fallback_backend" in str(caught.value)


def test_a_fallback_serves_the_onnx_file_and_the_log_says_so(
    directory: ModelDirectory, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    config = """
        backend: "tensorrt" max_batch_size: 4 dynamic_batching {} instance_group [{ kind: KIND_GPU }]
        parameters { key: "fallback_backend" value: { string_value: "onnxruntime" } }
    """
    put(directory, 1, config=config)
    (directory.path / "1" / "model.plan").write_bytes(b"a plan")
    with caplog.at_level(logging.WARNING, "saccade.loading"):
        [file] = load()
    assert file.engine.describe().platform == "onnxruntime_onnx"
    [fallback] = [record for record in caplog.records if record.message == "fallback_backend"]
    assert (fallback.model, fallback.configured, fallback.used) == (  # type: ignore[attr-defined]
        "m",
        "tensorrt",
        "onnxruntime",
    )


def test_a_harmless_field_is_served_with_one_warning(
    directory: ModelDirectory, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    put(directory, 1, config=BATCHED + "optimization { priority: PRIORITY_MAX }")
    with caplog.at_level(logging.WARNING, "saccade.loading"):
        load()
    [record] = [record for record in caplog.records if record.message == "model_config"]
    assert "optimization" in record.warning  # type: ignore[attr-defined]


def test_a_config_that_cannot_be_read_names_its_line(directory: ModelDirectory) -> None:
    put(directory, 1, config=BATCHED + "\nno_such_field: 5")
    with pytest.raises(ModelConfigError, match=r"m/config\.pbtxt: line 3"):
        load_engines(directory, 1)


def test_a_version_that_cannot_be_loaded_fails_the_whole_model(directory: ModelDirectory) -> None:
    put(directory, 1, 2, config=BATCHED + "version_policy { all {} }")
    (directory.path / "2" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"model\.onnx cannot be loaded"):
        load_engines(directory, 1)


async def test_loading_works_from_a_thread_and_the_engine_from_the_loop(directory: ModelDirectory) -> None:
    put(directory, 1)
    [file] = await asyncio.to_thread(load_engines, directory, 1)
    ticket = file.engine.instances()[0].submit([{"x": np.ones((1, 2), np.float32)}], 1)
    assert (await ticket.done)["y"].tolist() == [[1, 1]]
    await asyncio.to_thread(file.engine.close)
