"""The model that a GPU is measured with: a folder of a model repository whose newest version is a plan.

An ONNX file becomes one with ``saccade-build plan``; one that was built from the same file for the same batches is
used again, so that whoever has to begin anew does not build anew.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import onnx_models
from saccade_predictor.engines.plan import PLAN_FILE, Plan, SidecarError, hash_file, read_sidecar, sidecar_of


class NoModel(Exception):
    """There is no plan to be measured; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PlanModel:
    """A plan in a repository.

    Attributes:
        folder: the model's.
        path: the plan's file.
        plan: its sidecar.
    """

    folder: Path
    path: Path
    plan: Plan


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a plan is built.

    Attributes:
        batches: that are measured; the plan takes 1 to the largest and is tuned for ``tuned``.
    """

    kind: str
    precision: str
    batches: Sequence[int]
    tuned: int

    @property
    def profile(self) -> str:
        """For ``--batch``."""
        most = max(self.batches)
        return f"1,{min(self.tuned, most)},{most}"


def find(given: Path | None, wanted: Wanted, plans: Path, say: Callable[[str], None]) -> PlanModel:
    """The model that was asked for, built if need be.

    Args:
        given: a model's folder, or an ONNX file; None: a ResNet-18 that is written here.
        wanted: how it is built.
        plans: the repository that plans are built into.
        say: shows progress.

    Raises:
        NoModel: it is neither, or cannot be built.
    """
    if given is not None and given.is_dir():
        return open_folder(given)
    if given is None:
        [model] = [one for one in onnx_models.MODELS if one.key == "resnet18"]
        plans.mkdir(parents=True, exist_ok=True)
        given = plans / f"{model.key}.onnx"
        onnx_models.build(model, given)
    if not given.is_file():
        raise NoModel(f"{given} does not exist; expected an ONNX file, or a model's folder with a plan")
    folder = plans / f"{given.stem}-{wanted.kind}-{wanted.precision}-{max(wanted.batches)}"
    if (known := _built(folder, given)) is not None:
        say(f"{folder.name} is there already")
        return known
    say(f"building {folder.name}, once")
    _build(given, folder, wanted)
    return open_folder(folder)


def open_folder(folder: Path) -> PlanModel:
    """A model's folder whose newest version is a plan.

    Raises:
        NoModel: it is none.
    """
    versions = sorted((int(child.name), child) for child in folder.iterdir() if child.name.isdecimal())
    if not versions or not (versions[-1][1] / PLAN_FILE).is_file():
        raise NoModel(
            f"{folder} has no version with {PLAN_FILE}, or a newer one without; saccade-build plan makes one"
        )
    path = versions[-1][1] / PLAN_FILE
    try:
        return PlanModel(folder, path, read_sidecar(sidecar_of(path)))
    except SidecarError as why:
        raise NoModel(str(why)) from None


def _built(folder: Path, onnx: Path) -> PlanModel | None:
    """The plan that was built from a file before; None if there is none, or of another file."""
    if not folder.is_dir():
        return None
    try:
        known = open_folder(folder)
    except NoModel:
        return None
    return known if known.plan.source.sha256 == hash_file(onnx)[0] else None


def _build(onnx: Path, folder: Path, wanted: Wanted) -> None:
    command = [sys.executable, "-m", "saccade_predictor.build", "plan", str(onnx), str(folder)]
    command += ["--kind", wanted.kind, "--precision", wanted.precision, "--batch", wanted.profile]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        words = [line for line in ended.stderr.splitlines() if line.strip()]
        raise NoModel(f"the plan was not built (exit code {ended.returncode}): {words[-1] if words else 'no message'}")
