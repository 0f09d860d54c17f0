"""Whether a plan can run here: every reason to refuse one is a sentence with what was found, expected, and to be done.

Looks at the sidecar, the plan's bytes, the model's configuration and the machine, in that order of cost; TensorRT
itself is not asked, whose own refusals are error codes, or the end of the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from saccade_predictor.engines.plan import (
    NAMES,
    Plan,
    hash_file,
    read_sidecar,
    sidecar_of,
)
from saccade_predictor.machine import Machine
from saccade_predictor.modelconfig import ModelConfig, complete

FALLBACK_HINT: Final = "parameters { key: 'fallback_backend' value: { string_value: 'onnxruntime' } }"


class PlanRefused(ValueError):
    """A plan cannot run here. The sentence is the operator's, and holds no path."""


def refuse(machine: Machine, plan: Plan, name: str = "the plan", on: Sequence[int] = (0,)) -> str | None:
    """Say why a machine cannot run a plan, or None.

    Args:
        machine: with the version of the plan's kind, if that is installed.
        plan: as its sidecar tells.
        name: what the sentence calls it.
        on: indices of the GPUs that it shall run on. One that is not there is the CUDA layer's to refuse.
    """
    what = NAMES[plan.kind]
    wanted = _gpus(plan)
    if not machine.gpus:
        return (
            f"{name} is a {what} plan and runs on {wanted}; this machine has no GPU: {machine.why_no_gpu}; serve it "
            f"on such a GPU, or allow model.onnx in its place with {FALLBACK_HINT} in config.pbtxt"
        )
    for index in _there(machine, on):
        gpu = machine.gpus[index]
        if _fits(plan, gpu.compute_capability):
            continue
        if plan.kind == "trt-rtx" and gpu.compute_capability == "9.0":
            hint = "TensorRT-RTX has no kernels for 9.0 (H100, H200): build with --kind trt on this machine"
        else:
            hint = "build the plan again for this GPU with saccade-build plan"
        if fitting := [i for i, other in enumerate(machine.gpus) if _fits(plan, other.compute_capability)]:
            hint += f", or have config.pbtxt place it where it runs: instance_group {{ gpus: {fitting} }}"
        found = f"{_called(machine, index)} is {gpu.name}, compute capability {gpu.compute_capability}"
        return f"{name} runs on {wanted}; {found}; {hint}"
    version = machine.versions.get(plan.kind)
    if version is None:
        return f"{name} needs {what} {plan.tensorrt}, which is not installed here; install exactly that version"
    if not same_version(version, plan.tensorrt):
        return (
            f"{name} was built by {what} {plan.tensorrt}; {version} is installed here, and plans run in the version "
            f"that built them; install {plan.tensorrt}, or build the plan again with {version}"
        )
    return None


def caution(machine: Machine, plan: Plan, on: Sequence[int] = (0,)) -> str | None:
    """Say what is no reason to refuse a plan that fits, but to expect less of it; or None. Arguments as ``refuse``."""
    if not plan.gpu or plan.hardware_compatibility != "none":
        return None
    others = [index for index in _there(machine, on) if machine.gpus[index].name != plan.gpu]
    if not others:
        return None
    told = " and ".join(f"{_called(machine, index)} is {machine.gpus[index].name}" for index in others)
    return f"the plan was tuned on {plan.gpu}; {told}, where it may be slower"


def places(config: ModelConfig, machine: Machine) -> tuple[int, ...]:
    """Indices of the GPUs that a model's instances are placed on, in order, each once."""
    return tuple(sorted({gpu for group in config.instance_groups for gpu in group.placed(len(machine.gpus))}))


def refuse_kind(plan: Plan, backend: str, name: str = "the plan") -> str | None:
    """Say that a backend of config.pbtxt does not run a plan of this kind, or None."""
    if plan.backend == backend:
        return None
    return (
        f"{name} is a {NAMES[plan.kind]} plan, which backend {plan.backend!r} runs; config.pbtxt has backend "
        f"{backend!r}; change it, or build with --kind {_kind_of(backend)}"
    )


def refuse_config(plan: Plan, config: ModelConfig, name: str = "the plan") -> str | None:
    """Say why a plan is not what a configuration promises clients, or None.

    Raises:
        ModelConfigError: a tensor's name, datatype or dims disagree; it says so itself.
    """
    inputs = [tensor.metadata() for tensor in plan.inputs]
    completed = complete(config, inputs, [tensor.metadata() for tensor in plan.outputs])
    largest, rows = config.max_batch_size, plan.rows()
    if largest and rows is not None and not (rows[0] <= 1 and largest <= rows[1]):
        return (
            f"{name} takes batches of {rows[0]} to {rows[1]} rows; config.pbtxt has max_batch_size {largest}, so "
            f"that batches have 1 to {largest}; set max_batch_size to at most {rows[1]}, or build with --batch "
            f"1,OPT,{largest}"
        )
    for tensor in completed.inputs:
        for index, dim in enumerate(tensor.dims, 1 if largest else 0):
            if dim != -1 and not _covered(plan, tensor.name, index, dim):
                return (
                    f"{name} has no profile for input {tensor.name!r} with {dim} in dimension {index}, which "
                    "config.pbtxt names; correct its dims, or build with that size in --shape"
                )
    return None


def refuse_file(path: Path, plan: Plan, name: str = "the plan") -> str | None:
    """Say that a plan's file is not the one its sidecar describes, or None. Reads the whole file."""
    again = "copy it again, or build it again"
    try:
        size = path.stat().st_size
        if size == 0:
            return f"{name} is empty; plan.json says {plan.plan.bytes} bytes; {again}"
        if size != plan.plan.bytes:
            state = "cut short" if size < plan.plan.bytes else "another file"
            return f"{name} has {size} bytes; plan.json says {plan.plan.bytes}, so it is {state}; {again}"
        digest, _ = hash_file(path)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    if digest != plan.plan.sha256:
        return (
            f"{name} has SHA-256 {digest[:12]}..., plan.json says {plan.plan.sha256[:12]}...: it is damaged; {again}"
        )
    return None


def admit(path: Path, machine: Machine, config: ModelConfig, name: str) -> Plan:
    """Read a plan's sidecar and make sure that the plan can run here as it is configured.

    Args:
        path: the plan's file; the sidecar lies beside it.
        machine: see ``refuse``.
        config: as parsed.
        name: model, version and file, for the sentences.

    Raises:
        SidecarError, PlanRefused, ModelConfigError: it cannot; the sentence says why and what to do.
    """
    plan = read_sidecar(sidecar_of(path), name.rpartition("/")[0] + "/plan.json" if "/" in name else "plan.json")
    sentence = (
        refuse_kind(plan, config.backend, name)
        or refuse(machine, plan, name, places(config, machine))
        or refuse_config(plan, config, name)
        or refuse_file(path, plan, name)
    )
    if sentence is not None:
        raise PlanRefused(sentence)
    return plan


def same_version(found: str, wanted: str) -> bool:
    """Whether two versions of TensorRT are one; older bindings leave the build number out (10.6.0 of 10.6.0.26)."""
    a, b = found.split("."), wanted.split(".")
    length = min(len(a), len(b))
    return length >= 3 and a[:length] == b[:length] if len(a) != len(b) else a == b


def _fits(plan: Plan, capability: str) -> bool:
    if capability in plan.compute_capabilities:
        return True
    return plan.hardware_compatibility == "ampere_plus" and _number(capability) >= (8, 0)


def _there(machine: Machine, on: Sequence[int]) -> list[int]:
    return [index for index in on if index < len(machine.gpus)]


def _called(machine: Machine, index: int) -> str:
    return "this machine's GPU" if len(machine.gpus) == 1 else f"this machine's GPU {index}"


def _number(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def _gpus(plan: Plan) -> str:
    if plan.hardware_compatibility == "ampere_plus":
        return "GPUs of compute capability 8.0 and later"
    return f"GPUs of compute capability {' or '.join(plan.compute_capabilities)}"


def _covered(plan: Plan, name: str, index: int, size: int) -> bool:
    ranges = [profile[name] for profile in plan.profiles if name in profile]
    return not ranges or any(shapes.min[index] <= size <= shapes.max[index] for shapes in ranges)


def _kind_of(backend: str) -> str:
    kinds: Mapping[str, str] = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
    return kinds.get(backend, "trt or trt-rtx")
