"""From a model directory to loaded engines: config, versions, backend. The one place that knows every backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from saccade_predictor import warmupconfig
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.modelconfig import ModelConfig, autocomplete, complete, parse
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import Loadable, LoadedEngine

log = logging.getLogger("saccade.loading")

ONNX_BACKEND = "onnxruntime"
ONNX_FILE = "model.onnx"


def find_versions(directory: ModelDirectory, threads: int) -> list[Loadable]:
    """Find the versions that the model's version policy serves, ascending.

    Without a ``config.pbtxt`` the graph itself decides, as Triton's auto-complete does.

    Args:
        directory: the model's.
        threads: of one CPU engine instance.

    Raises:
        RepositoryError: no version, or a backend that this build has not. From ``open``: no model file, or labels or
            warm-up data that cannot be read.
        ModelConfigError: the config cannot be read. From ``open``: it contradicts the graph.
        ValueError: from ``open``: a model file cannot be loaded.
    """
    fingerprints = directory.fingerprints()  # before all else: what changes meanwhile is seen at the next look
    config = _read_config(directory)
    chosen = config.version_policy.select(fingerprints) if config is not None else tuple(fingerprints)[-1:]
    if not chosen:
        there = ", ".join(map(str, fingerprints)) or "none"
        raise RepositoryError(f"model {directory.name!r} has no version to serve (versions found: {there})")
    filename = _model_filename(directory.name, config)
    found = [
        Loadable(
            str(version), fingerprints[version], partial(_load_version, directory, config, version, filename, threads)
        )
        for version in chosen
    ]
    asked = config.version_policy.versions if config is not None else ()
    return found + [_missing(directory.name, version) for version in asked if version not in fingerprints]


def load_engines(directory: ModelDirectory, threads: int) -> Sequence[LoadedEngine]:
    """Open the engines of every version that the model's version policy serves.

    Raises:
        As ``find_versions``.
    """
    return [found.open() for found in find_versions(directory, threads) if not found.missing]


def _missing(model: str, version: int) -> Loadable:
    """A version that the policy names and that is not there: Triton serves the others, too."""
    why = f"{model} has no version {version}, which version_policy.specific names"

    def unopened() -> LoadedEngine:
        raise RepositoryError(why)

    return Loadable(str(version), "", unopened, why)


def _read_config(directory: ModelDirectory) -> ModelConfig | None:
    text = directory.config_text()
    if text is None:
        return None
    config, warnings = parse(text, directory.name)
    for warning in warnings:
        log.warning("model_config", extra={"model": directory.name, "warning": warning})
    return config


def _load_version(
    directory: ModelDirectory, config: ModelConfig | None, version: int, filename: str, threads: int
) -> LoadedEngine:
    path = directory.path / str(version) / filename
    if not path.is_file():
        found = ", ".join(directory.version_files(version)) or "nothing"
        raise RepositoryError(f"{directory.name}/{version} has no file {filename!r} (found: {found})")
    engine = OnnxEngine(path, config.instance_count if config is not None else 1, threads)
    try:
        description = engine.describe()
        if config is None:
            config = autocomplete(directory.name, ONNX_BACKEND, description.inputs, description.outputs)
        config = complete(config, description.inputs, description.outputs)
        labels = {
            output.name: directory.labels(output.label_filename) for output in config.outputs if output.label_filename
        }
        samples = warmupconfig.read_samples(config, directory.warmup_file)
        return LoadedEngine(str(version), config, engine, labels, samples)
    except BaseException:
        engine.close()
        raise


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
