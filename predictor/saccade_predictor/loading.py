"""From a model directory to loaded engines: config, versions, backend. The one place that knows every backend."""

from __future__ import annotations

import logging

from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.model import LoadedEngine
from saccade_predictor.modelconfig import ModelConfig, autocomplete, complete, parse
from saccade_predictor.repository import ModelDirectory, RepositoryError

log = logging.getLogger("saccade.loading")

ONNX_BACKEND = "onnxruntime"
ONNX_FILE = "model.onnx"


def load_engines(directory: ModelDirectory, threads: int) -> list[LoadedEngine]:
    """Open the engines of every version that the model's version policy serves.

    Without a ``config.pbtxt`` the graph itself decides, as Triton's auto-complete does.

    Raises:
        RepositoryError: no version, no model file, or a backend that this build has not.
        ModelConfigError: the config cannot be read or contradicts the graph.
        ValueError: a model file cannot be loaded.
    """
    config = _read_config(directory)
    on_disk = directory.versions()
    chosen = config.version_policy.select(on_disk) if config is not None else on_disk[-1:]
    if not chosen:
        found = ", ".join(map(str, on_disk)) or "none"
        raise RepositoryError(f"model {directory.name!r} has no version to serve (versions found: {found})")
    return [_load_version(directory, config, version, threads) for version in chosen]


def _read_config(directory: ModelDirectory) -> ModelConfig | None:
    text = directory.config_text()
    if text is None:
        return None
    config, warnings = parse(text, directory.name)
    for warning in warnings:
        log.warning("model_config", extra={"model": directory.name, "warning": warning})
    return config


def _load_version(directory: ModelDirectory, config: ModelConfig | None, version: int, threads: int) -> LoadedEngine:
    filename = _model_filename(directory.name, config)
    path = directory.path / str(version) / filename
    if not path.is_file():
        found = ", ".join(directory.version_files(version)) or "nothing"
        raise RepositoryError(f"{directory.name}/{version} has no file {filename!r} (found: {found})")
    engine = OnnxEngine(path, config.instance_count if config is not None else 1, threads)
    description = engine.describe()
    if config is None:
        config = autocomplete(directory.name, ONNX_BACKEND, description.inputs, description.outputs)
    return LoadedEngine(str(version), complete(config, description.inputs, description.outputs), engine)


def _model_filename(model: str, config: ModelConfig | None) -> str:
    if config is None:
        return ONNX_FILE
    if config.backend == ONNX_BACKEND:
        return config.default_model_filename
    if config.fallback_backend == ONNX_BACKEND:
        log.warning("fallback_backend", extra={"model": model, "configured": config.backend, "used": ONNX_BACKEND})
        return ONNX_FILE
    raise RepositoryError(
        f"model {model!r} wants backend {config.backend!r}, which this build does not have; expected "
        f"{ONNX_BACKEND!r}, or parameters {{ key: 'fallback_backend' value: {{ string_value: '{ONNX_BACKEND}' }} }}"
    )
