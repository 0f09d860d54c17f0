"""From a version's plan to an engine, to the ONNX file in its place, or to a refusal that the repository index tells.

The ONNX file serves only where config.pbtxt allows it and the plan cannot run at all: no GPU, or no engine for plans
in this build. A plan that is damaged, or of another GPU or version, is a mistake on a machine that was meant to run
it, and is refused there whatever the configuration allows: a model that is silently fifty times slower is worse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from saccade_predictor.engines.engine import Engine
from saccade_predictor.engines.plan import BACKENDS, Plan, SidecarError, hash_file, read_sidecar, sidecar_of
from saccade_predictor.engines.plancheck import FALLBACK_HINT, PlanRefused, admit, caution, places
from saccade_predictor.machine import Machine, look
from saccade_predictor.modelconfig import ModelConfig
from saccade_predictor.tritonschema import load_schema

log = logging.getLogger("saccade.loading")

#: Opens a plan that ``admit`` has let in: its file, its sidecar, and how the model is configured.
OpenPlan: TypeAlias = Callable[[Path, Plan, ModelConfig], Engine]
#: Rows of the largest batch where the ONNX file serves in a plan's place.
CPU_MAX_BATCH_SIZE: Final = 4
#: Looks at the machine; the kinds of plans whose TensorRT is asked for.
Look: TypeAlias = Callable[..., Machine]

_KINDS: Final = {backend: kind for kind, backend in BACKENDS.items()}


def why_not(config: ModelConfig, engines: Mapping[str, OpenPlan], look_at: Look = look) -> tuple[Machine, str]:
    """Look at the machine, and say why no plan of this backend can run here, whatever it holds; empty if one can."""
    machine = look_at(_KINDS[config.backend])
    if not machine.gpus:
        return machine, f"this machine has no GPU: {machine.why_no_gpu}"
    if config.backend not in engines:
        return machine, f"this build of Saccade has no engine for backend {config.backend!r}"
    return machine, ""


def open_plan(path: Path, name: str, config: ModelConfig, machine: Machine, engines: Mapping[str, OpenPlan]) -> Engine:
    """Open a plan that can run here as it is configured.

    Args:
        path: its file, which is there.
        name: model, version and file, for the sentences.
        config: as parsed; a backend that runs plans.
        machine: from ``why_not``.
        engines: backend -> what opens its plans.

    Raises:
        SidecarError, PlanRefused, ModelConfigError: it cannot; the sentence says why and what to do.
    """
    plan = admit(path, machine, config, name)
    warning = caution(machine, plan, places(config, machine))
    if warning is not None:
        log.warning("plan_elsewhere", extra={"plan": name, "warning": warning})
    if config.backend not in engines:
        raise PlanRefused(
            f"{name} could run on this GPU, but this build of Saccade has no engine for backend {config.backend!r}; "
            f"allow model.onnx in its place with {FALLBACK_HINT} in config.pbtxt"
        )
    return engines[config.backend](path, plan, config)


def for_the_cpu(config: ModelConfig) -> ModelConfig:
    """Lower a configuration's batches to what a CPU can do: the largest is run before the model is ready.

    A GPU's 32 rows of a large detector take a CPU longer than ``hang_limit_s``, so that it would never be ready.
    Preferred sizes and warm-up requests that are larger go.
    """
    rows = min(config.max_batch_size, CPU_MAX_BATCH_SIZE)
    if rows == config.max_batch_size:
        return config
    batching = config.dynamic_batching
    if batching is not None:
        batching = replace(batching, preferred_batch_size=_up_to(rows, batching.preferred_batch_size))
    source = load_schema().ModelConfig.FromString(config.source)
    if source.HasField("dynamic_batching"):
        written = source.dynamic_batching.preferred_batch_size
        written[:] = _up_to(rows, written)
    return replace(
        config,
        max_batch_size=rows,
        dynamic_batching=batching,
        warmup=tuple(sample for sample in config.warmup if sample.batch_size <= rows),
        source=source.SerializeToString(),
    )


def _up_to(rows: int, sizes: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in sizes if size <= rows)


def describe_fallback(config: ModelConfig, onnx: Path, why: str) -> str:
    """What operators and clients are told where the ONNX file serves in a plan's place.

    Args:
        config: as parsed.
        onnx: the file that serves; compared with what the plan beside it was built from, where that is told.
        why: the plan does not.
    """
    told = f"{config.fallback_backend} serves {onnx.name} in place of {config.default_model_filename}: {why}"
    if config.max_batch_size > CPU_MAX_BATCH_SIZE:
        told += f"; batches have {CPU_MAX_BATCH_SIZE} rows at most, not {config.max_batch_size}"
    try:
        source = read_sidecar(sidecar_of(onnx)).source
        if hash_file(onnx)[0] != source.sha256:
            told += f"; {onnx.name} is not the file that the plan was built from, so answers may differ"
    except (SidecarError, OSError):
        pass  # there is no plan to compare it with
    return told
