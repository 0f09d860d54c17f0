"""From a model directory to loaded engines: config, versions, backend. The one place that knows every backend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from saccade_predictor import planloading, warmupconfig
from saccade_predictor.engines.engine import Engine
from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.plan import BACKENDS, PLAN_FILE, Plan
from saccade_predictor.engines.plancheck import FALLBACK_HINT
from saccade_predictor.machine import find_gpus
from saccade_predictor.modelconfig import CPU_BACKENDS, InstanceGroup, ModelConfig, autocomplete, complete, parse
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import Loadable, LoadedEngine

log = logging.getLogger("saccade.loading")

ONNX_BACKEND = "onnxruntime"
ONNX_FILE = "model.onnx"
PLAN_SUFFIX = ".plan"


def find_versions(directory: ModelDirectory, threads: int, gpus: Gpus | None = None) -> list[Loadable]:
    """Find the versions that the model's version policy serves, ascending.

    Without a ``config.pbtxt`` the graph itself decides, as Triton's auto-complete does.

    Args:
        directory: the model's.
        threads: of one CPU engine instance.
        gpus: those of the process; None: none that plans could run on.

    Raises:
        RepositoryError: no version. From ``open``: no model file, or labels or warm-up data that cannot be read.
        ModelConfigError: the config cannot be read. From ``open``: it contradicts the graph.
        ValueError: from ``open``: a model file cannot be loaded, or a plan not run here.
    """
    fingerprints = directory.fingerprints()  # before all else: what changes meanwhile is seen at the next look
    config = _read_config(directory, gpus)
    chosen = config.version_policy.select(fingerprints) if config is not None else tuple(fingerprints)[-1:]
    if not chosen:
        there = ", ".join(map(str, fingerprints)) or "none"
        raise RepositoryError(f"model {directory.name!r} has no version to serve (versions found: {there})")
    found = [
        Loadable(
            str(version), fingerprints[version], partial(_load_version, directory, config, version, threads, gpus)
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


def _read_config(directory: ModelDirectory, gpus: Gpus | None) -> ModelConfig | None:
    text = directory.config_text()
    if text is None:
        return None
    # The driver is asked only where that matters: it takes a while, and memory.
    is_there = "KIND_GPU" in text and (gpus.count() > 0 if gpus is not None else bool(find_gpus()[0]))
    config, warnings = parse(text, directory.name, gpu_available=is_there)
    for warning in warnings:
        log.warning("model_config", extra={"model": directory.name, "warning": warning})
    return config


def _load_version(
    directory: ModelDirectory, config: ModelConfig | None, version: int, threads: int, gpus: Gpus | None
) -> LoadedEngine:
    if config is not None and gpus is not None and config.backend not in CPU_BACKENDS and gpus.count():
        config = _placed(config, gpus)
    engine, fallback = _open_engine(directory, config, version, threads, gpus)
    try:
        if config is not None and fallback:
            config = planloading.for_the_cpu(config)
        description = engine.describe()
        if config is None:
            config = autocomplete(directory.name, ONNX_BACKEND, description.inputs, description.outputs)
        config = complete(config, description.inputs, description.outputs)
        labels = {
            output.name: directory.labels(output.label_filename) for output in config.outputs if output.label_filename
        }
        samples = warmupconfig.read_samples(config, directory.warmup_file)
        return LoadedEngine(str(version), config, engine, labels, samples, fallback)
    except BaseException:
        engine.close()
        raise


def _open_engine(
    directory: ModelDirectory, config: ModelConfig | None, version: int, threads: int, gpus: Gpus | None
) -> tuple[Engine, str]:
    """Open a version's file; returns the engine, and why it is not the configured one, if so."""
    if config is None or config.backend in CPU_BACKENDS:
        if config is not None and config.instance_kind == "KIND_GPU":
            raise RepositoryError(
                f"{directory.name}/config.pbtxt: instance_group kind is KIND_GPU; expected KIND_CPU or KIND_AUTO: "
                f"backend {config.backend!r} runs on the CPU here"
            )
        path = _find_file(directory, version, config.default_model_filename if config is not None else ONNX_FILE)
        return OnnxEngine(path, config.instance_count if config is not None else 1, threads), ""
    engines = plan_engines(gpus) if gpus is not None else {}
    machine, why = planloading.why_not(config, engines)
    if not why and gpus is not None and not gpus.count():
        why = gpus.why_none
    if not why or config.fallback_backend != ONNX_BACKEND:
        path = _find_file(directory, version, config.default_model_filename)
        name = f"{directory.name}/{version}/{config.default_model_filename}"
        return planloading.open_plan(path, name, config, machine, engines), ""
    path = _find_file(directory, version, ONNX_FILE)
    fallback = planloading.describe_fallback(config, path, why)
    told = {"model": directory.name, "version": version, "configured": config.backend, "used": ONNX_BACKEND}
    log.warning("fallback_backend", extra={**told, "why": fallback})
    return OnnxEngine(path, config.instance_count, threads), fallback


def _find_file(directory: ModelDirectory, version: int, filename: str) -> Path:
    path = directory.path / str(version) / filename
    if path.is_file():
        return path
    there = directory.version_files(version)
    hint = ""
    if filename == ONNX_FILE and PLAN_FILE in there and not directory.has_config():
        hint = "; a plan needs a config.pbtxt that says which backend runs it"
    elif filename != ONNX_FILE and ONNX_FILE in there and filename.endswith(PLAN_SUFFIX):
        hint = f"; build it with saccade-build plan, or allow {ONNX_FILE} in its place: {FALLBACK_HINT}"
    found = ", ".join(there) or "nothing"
    raise RepositoryError(f"{directory.name}/{version} has no file {filename!r} (found: {found}){hint}")


def plan_engines(gpus: Gpus) -> dict[str, planloading.OpenPlan]:
    """Backend -> what opens its plans, once they have been let in, on these GPUs."""
    return {backend: partial(_run_plan, gpus) for backend in BACKENDS.values()}


def _run_plan(gpus: Gpus, path: Path, plan: Plan, config: ModelConfig) -> Engine:
    """Load a plan that suits this machine on the GPUs that its configuration names.

    Raises:
        NoGpu, ValueError: it cannot be loaded, or takes smaller batches than its sidecar says.
    """
    places = [gpu for group in config.instance_groups for gpu in group.placed(gpus.count())]
    engine = gpus.open_plan(path, plan, places, _recorded(config))
    if config.max_batch_size > engine.largest_rows:
        rows = engine.largest_rows
        engine.close()
        raise RepositoryError(
            f"{path.name} takes batches of at most {rows} rows; config.pbtxt has max_batch_size "
            f"{config.max_batch_size}"
        )
    return engine


def _placed(config: ModelConfig, gpus: Gpus) -> ModelConfig:
    """Name the GPUs of groups that are for all there are."""
    everywhere = tuple(range(gpus.count()))
    groups = tuple(InstanceGroup(group.count, group.gpus or everywhere) for group in config.instance_groups)
    return replace(config, instance_groups=groups)


def _recorded(config: ModelConfig) -> frozenset[int]:
    """Rows of the batches that will come most: preferred ones, and the largest."""
    if config.dynamic_batching is None:
        return frozenset()
    return frozenset({*config.dynamic_batching.preferred_batch_size, config.max_batch_size})
