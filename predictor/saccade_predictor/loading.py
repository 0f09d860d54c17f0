"""From a model directory to loaded engines: config, versions, backend. The one place that knows every backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from saccade_predictor import warmupconfig
from saccade_predictor.engines.engine import Engine
from saccade_predictor.engines.gpus import TRT, TRT_RTX, Gpus, PlanDescription, PlanLike
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.tensorrt import TensorRTEngine
from saccade_predictor.modelconfig import InstanceGroup, ModelConfig, autocomplete, complete, parse
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import Loadable, LoadedEngine

log = logging.getLogger("saccade.loading")

ONNX_BACKEND = "onnxruntime"
ONNX_FILE = "model.onnx"
PLAN_FILE = "model.plan"
#: Backend -> kind of the plans it runs.
PLAN_BACKENDS: Final = {"tensorrt": TRT, "tensorrt_rtx": TRT_RTX}


def find_versions(directory: ModelDirectory, threads: int, gpus: Gpus | None = None) -> list[Loadable]:
    """Find the versions that the model's version policy serves, ascending.

    Without a ``config.pbtxt`` the graph itself decides, as Triton's auto-complete does; where there is a GPU, a
    plan goes before an ONNX file.

    Args:
        directory: the model's.
        threads: of one CPU engine instance.
        gpus: those of the process; None: there are none.

    Raises:
        RepositoryError: no version, or a backend that this build has not. From ``open``: no model file, or labels or
            warm-up data that cannot be read.
        ModelConfigError: the config cannot be read. From ``open``: it contradicts the graph.
        ValueError: from ``open``: a model file cannot be loaded.
    """
    fingerprints = directory.fingerprints()  # before all else: what changes meanwhile is seen at the next look
    config = _read_config(directory, gpus)
    chosen = config.version_policy.select(fingerprints) if config is not None else tuple(fingerprints)[-1:]
    if not chosen:
        there = ", ".join(map(str, fingerprints)) or "none"
        raise RepositoryError(f"model {directory.name!r} has no version to serve (versions found: {there})")
    filename = _model_filename(directory.name, config, gpus) if config is not None else None
    found = [
        Loadable(
            str(version),
            fingerprints[version],
            partial(_load_version, directory, config, version, filename, threads, gpus),
        )
        for version in chosen
    ]
    asked = config.version_policy.versions if config is not None else ()
    return found + [_missing(directory.name, version) for version in asked if version not in fingerprints]


def load_engines(directory: ModelDirectory, threads: int, gpus: Gpus | None = None) -> Sequence[LoadedEngine]:
    """Open the engines of every version that the model's version policy serves.

    Raises:
        As ``find_versions``.
    """
    return [found.open() for found in find_versions(directory, threads, gpus) if not found.missing]


def _missing(model: str, version: int) -> Loadable:
    """A version that the policy names and that is not there: Triton serves the others, too."""
    why = f"{model} has no version {version}, which version_policy.specific names"

    def unopened() -> LoadedEngine:
        raise RepositoryError(why)

    return Loadable(str(version), "", unopened, why)


def describe_plan(path: Path, config: ModelConfig | None) -> PlanLike:
    """What has to be known of a plan before it is opened; the place to read and check its sidecar.

    Args:
        path: the plan's file.
        config: as parsed, without the plan's own tensors; None without one.

    Raises:
        ValueError: it cannot run here.
    """
    return PlanDescription(PLAN_BACKENDS[config.backend] if config is not None else TRT)


def _read_config(directory: ModelDirectory, gpus: Gpus | None) -> ModelConfig | None:
    text = directory.config_text()
    if text is None:
        return None
    # The driver is asked only where that matters: it takes a while, and memory.
    gpu_available = "KIND_GPU" in text and gpus is not None and gpus.count() > 0
    config, warnings = parse(text, directory.name, gpu_available=gpu_available)
    for warning in warnings:
        log.warning("model_config", extra={"model": directory.name, "warning": warning})
    return config


def _load_version(
    directory: ModelDirectory,
    config: ModelConfig | None,
    version: int,
    filename: str | None,
    threads: int,
    gpus: Gpus | None,
) -> LoadedEngine:
    folder = directory.path / str(version)
    backend = config.backend if config is not None else ""
    if filename is None:
        has_plan = (folder / PLAN_FILE).is_file() and gpus is not None and gpus.count()
        filename, backend = (PLAN_FILE, "tensorrt") if has_plan else (ONNX_FILE, ONNX_BACKEND)
    elif filename == ONNX_FILE:
        backend = ONNX_BACKEND  # or its stand-in
    path = folder / filename
    if not path.is_file():
        found = ", ".join(directory.version_files(version)) or "nothing"
        raise RepositoryError(f"{directory.name}/{version} has no file {filename!r} (found: {found})")
    engine: Engine
    if backend in PLAN_BACKENDS and gpus is not None:
        engine, config = _open_plan(directory.name, path, config, gpus)
    else:
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


def _open_plan(model: str, path: Path, config: ModelConfig | None, gpus: Gpus) -> tuple[TensorRTEngine, ModelConfig]:
    """Load a plan on the GPUs that its configuration names, or on all.

    Raises:
        ValueError: it cannot be loaded, or not as it is configured.
    """
    plan = describe_plan(path, config)
    groups = [
        InstanceGroup(group.count, group.gpus or tuple(range(gpus.count())))
        for group in (config.instance_groups if config is not None else (InstanceGroup(),))
    ]
    places = [gpu for group in groups for gpu in group.placed(0)]
    engine = gpus.open_plan(path, plan, places, _recorded(config))
    try:
        rows = engine.largest_rows
        if config is None:
            backend = next(name for name, kind in PLAN_BACKENDS.items() if kind == plan.kind)
            description = engine.describe()
            config = autocomplete(model, backend, description.inputs, description.outputs)
            config = replace(config, max_batch_size=min(config.max_batch_size, rows))
        elif config.max_batch_size > rows:
            raise RepositoryError(
                f"{path.name} of {model!r} takes batches of at most {rows} rows; config.pbtxt has max_batch_size "
                f"{config.max_batch_size}"
            )
    except BaseException:
        engine.close()
        raise
    return engine, replace(config, instance_groups=tuple(groups))


def _recorded(config: ModelConfig | None) -> frozenset[int]:
    """Rows of the batches that will come most: preferred ones, and the largest."""
    if config is None or config.dynamic_batching is None:
        return frozenset()
    return frozenset({*config.dynamic_batching.preferred_batch_size, config.max_batch_size})


def _model_filename(model: str, config: ModelConfig, gpus: Gpus | None) -> str:
    if config.backend == ONNX_BACKEND:
        return config.default_model_filename
    if gpus is not None and gpus.count():
        return config.default_model_filename
    why = (gpus.why_none if gpus is not None else "") or "this process has no GPU"
    if config.fallback_backend == ONNX_BACKEND:
        extra = {"model": model, "configured": config.backend, "used": ONNX_BACKEND, "why": why}
        log.warning("fallback_backend", extra=extra)
        return ONNX_FILE
    raise RepositoryError(
        f"model {model!r} wants backend {config.backend!r}, which cannot run here: {why}; expected a GPU, or "
        f"parameters {{ key: 'fallback_backend' value: {{ string_value: '{ONNX_BACKEND}' }} }}"
    )
