"""Whether a model has a plan already that is what is asked for, so that it need not be built again.

Goes by the digest of the graph and by what was asked of TensorRT, as ``plan.json`` has them; by whether this machine
can run the plan; and by the plan's own digest. What only changes how long a build takes is not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saccade_predictor.engines.plan import PLAN_FILE, SIDECAR_FILE, Kind, Plan, SidecarError, read_sidecar
from saccade_predictor.engines.plancheck import refuse, refuse_file, same_version
from saccade_predictor.machine import load_tensorrt, look


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan is built from and how, in ``plan.json``'s own terms, without what the machine decides.

    Attributes:
        wanted: field of ``Plan`` -> value.
        source_sha256: of the ONNX file.
    """

    kind: Kind
    wanted: dict[str, object]
    source_sha256: str


def find(model: Path, asked: Asked) -> tuple[Path, Plan] | None:
    """The newest version whose plan is what is asked for, runs here, and is whole; None where there is none."""
    if not model.is_dir():
        return None
    versions = [child for child in model.iterdir() if child.name.isascii() and child.name.isdigit() and child.is_dir()]
    for folder in sorted(versions, key=lambda one: int(one.name), reverse=True):
        try:
            plan = read_sidecar(folder / SIDECAR_FILE)
        except SidecarError:
            continue
        if _is_as_asked(plan, asked) and _runs_here(plan) and refuse_file(folder / PLAN_FILE, plan) is None:
            return folder, plan
    return None


def _is_as_asked(plan: Plan, asked: Asked) -> bool:
    if plan.kind != asked.kind or plan.source.sha256 != asked.source_sha256:
        return False
    return all(getattr(plan, name) == value for name, value in asked.wanted.items())


def _runs_here(plan: Plan) -> bool:
    """A TensorRT plan is for this GPU; one of TensorRT-RTX for whoever has the version that would build it here."""
    if plan.kind == "trt":
        return refuse(look(plan.kind), plan) is None
    module = load_tensorrt(plan.kind)
    return module is not None and same_version(str(module.__version__), plan.tensorrt)
