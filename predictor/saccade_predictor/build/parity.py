"""``saccade-build parity``: whether a plan, or another ONNX graph, answers as the graph it was made from.

Both run through the predictor's own engines, on the same pixels. A plan is let in as the predictor would let it in, so
that one that would be refused there is refused here with the same sentence.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_predictor.build.agreement import MATCH_IOU, Errors, Matches, share_interval
from saccade_predictor.build.pictures import Sample, in_batches
from saccade_predictor.engines.cuda import NoGpu
from saccade_predictor.engines.engine import Engine, EngineDescription, Inputs, LeasedOutputs
from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.plan import (
    BACKENDS,
    Plan,
    hash_file,
    read_sidecar,
    sidecar_of,
)
from saccade_predictor.engines.plancheck import PlanRefused, refuse, refuse_file
from saccade_predictor.loading import plan_engines
from saccade_predictor.machine import look
from saccade_predictor.modelconfig import InstanceGroup, ModelConfig
from saccade_predictor.planloading import OpenPlan
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import TensorMetadata

CANDIDATES: Final = "candidates"
PLAN_SUFFIXES: Final = frozenset({".plan", ".engine"})

#: Of the arena that engines on GPUs expect; samples do not lie in it.
_ARENA_BYTES: Final = 2**20


class ParityError(ValueError):
    """Two models cannot be compared."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as the same; None: not judged.

    Attributes:
        max_error: largest absolute difference of an element; of a ready detector, of a matched detection's score.
        max_box_error: ready detectors: largest corner difference of a matched detection, in pixels of the input.
        min_agreement: ready detectors: least share of detections that have a partner of their class, 0..1.
        min_recall: ready detectors: least share of the reference's detections that have one, 0..1.
    """

    max_error: float | None = None
    max_box_error: float | None = None
    min_agreement: float | None = None
    min_recall: float | None = None


@dataclass(slots=True)
class Compared:
    """What came of a comparison.

    Attributes:
        samples: rows compared.
        errors: output -> differences of its elements. Of a table of candidates only what is not finite counts.
        matches: detections, where both are ready detectors.
    """

    samples: int = 0
    errors: dict[str, Errors] = field(default_factory=dict)
    matches: Matches | None = None

    def failures(self, limits: Limits) -> list[str]:
        """What is beyond the limits, a sentence each."""
        found = []
        for name, errors in self.errors.items():
            if errors.unlike:
                found.append(f"output {name!r} has {errors.unlike} elements that are text or not finite and differ")
            if self.matches is None and limits.max_error is not None and errors.largest > limits.max_error:
                found.append(
                    f"output {name!r} differs by up to {errors.largest:.6g}; the limit is {limits.max_error:g}"
                )
        if self.matches is not None:
            found += _failures_of(self.matches, limits)
        return found

    def report(self, limits: Limits, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As JSON, and as it stands in ``plan.json``."""
        told: dict[str, Any] = {
            "passed": not self.failures(limits),
            "failures": self.failures(limits),
            "samples": self.samples,
            "limits": {name: getattr(limits, name) for name in Limits.__slots__},
            "outputs": {
                name: {"max_error": one.largest, "mean_error": one.mean, "unlike": one.unlike}
                for name, one in self.errors.items()
            },
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            **settings,
        }
        if self.matches is not None:
            told["detections"] = _report_of(self.matches)
        return told


def _failures_of(matches: Matches, limits: Limits) -> Iterator[str]:
    if limits.min_agreement is not None and matches.agreement < limits.min_agreement:
        yield (
            f"{matches.agreement:.2%} of the detections agree; the limit is {limits.min_agreement:.2%} (worst: "
            f"{matches.worst[1]}, {matches.worst[0]:.0%})"
        )
    if limits.min_recall is not None and matches.recall < limits.min_recall:
        yield (
            f"{matches.recall:.2%} of the reference's detections are found again with an overlap of {matches.iou:g}; "
            f"the limit is {limits.min_recall:.2%}"
        )
    for what, errors, limit, unit in (
        ("scores", matches.score_errors, limits.max_error, ""),
        ("boxes", matches.box_errors, limits.max_box_error, " pixels"),
    ):
        if limit is not None and max(errors, default=0.0) > limit:
            yield f"{what} of matched detections differ by up to {max(errors):.4g}{unit}; the limit is {limit:g}"


def _report_of(matches: Matches) -> dict[str, Any]:
    def two(errors: Sequence[float]) -> dict[str, float]:
        return {"max": max(errors, default=0.0), "mean": float(np.mean(errors)) if errors else 0.0}

    low, high = share_interval(matches.found, matches.reference)
    return {
        "iou": matches.iou,
        "agreement": matches.agreement,
        "recall": {"share": matches.recall, "low": low, "high": high, "level": 0.95},
        "reference": matches.reference,
        "candidate": matches.candidate,
        "matched": matches.matched,
        "class_flips": matches.flips,
        "missing": matches.missing,
        "extra": matches.extra,
        "box_error_px": two(matches.box_errors),
        "score_error": two(matches.score_errors),
        "worst_sample": {"name": matches.worst[1], "agreement": matches.worst[0]},
    }


def open_onnx(path: Path, threads: int) -> OnnxEngine:
    """Open an ONNX graph on the CPU. Its INT8 products, if it has any, are computed as a GPU does.

    Raises:
        ParityError: it cannot be loaded.
    """
    try:
        return OnnxEngine(path, 1, threads, simulate_int8=True)
    except ValueError as error:
        raise ParityError(str(error)) from None


def open_plan(path: Path) -> tuple[Engine, Plan]:
    """Open a plan with the sidecar beside it.

    Raises:
        SidecarError, PlanRefused, ValueError: it cannot run here; the sentence says why.
    """
    plan = read_sidecar(sidecar_of(path))
    machine = look(plan.kind)
    sentence = refuse_file(path, plan, str(path)) or refuse(machine, plan, str(path))
    if sentence is not None:
        raise PlanRefused(sentence.partition("; serve it on")[0] if not machine.gpus else sentence)
    backend = BACKENDS[plan.kind]
    rows = plan.rows()
    groups = (InstanceGroup(1, (0,)),)
    config = ModelConfig("parity", backend, rows[1] if rows else 0, (), (), path.name, instance_groups=groups)
    try:
        return engines()[backend](path, plan, config), plan
    except NoGpu as error:
        raise PlanRefused(str(error)) from None


def engines() -> Mapping[str, OpenPlan]:
    """Backend -> what opens its plans on this machine's GPUs."""
    return plan_engines(Gpus(Arena(_ARENA_BYTES)))


def check_alike(reference: EngineDescription, candidate: EngineDescription) -> None:
    """Refuse two models whose tensors are not the same.

    Raises:
        ParityError: they are not.
    """
    for direction in ("inputs", "outputs"):
        ours = {one.name: one for one in getattr(reference, direction)}
        theirs = {one.name: one for one in getattr(candidate, direction)}
        if ours.keys() != theirs.keys() or any(not _alike(ours[name], theirs[name]) for name in ours):
            raise ParityError(f"the {direction} differ: {_told(ours.values())} and {_told(theirs.values())}")


def _alike(a: TensorMetadata, b: TensorMetadata) -> bool:
    same_shape = len(a.shape) == len(b.shape) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(a.shape, b.shape, strict=True)
    )
    return a.datatype == b.datatype and same_shape


def _told(tensors: Any) -> str:
    return ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in tensors) or "none"


def is_batched(description: EngineDescription) -> bool:
    """Whether the first dimension of every tensor is open, so that rows can be put together."""
    return all(one.shape[:1] == (-1,) for one in (*description.inputs, *description.outputs))


def compare(
    reference: Engine,
    candidate: Engine,
    samples: Iterator[Sample],
    rows: int,
    threshold: float,
    iou: float = MATCH_IOU,
) -> Iterator[Compared]:
    """Run both models over samples; yields the same object after each batch, with all so far.

    Args:
        reference: what is right.
        candidate: what is judged.
        samples: one row each.
        rows: of a batch; 1 for models without batches.
        threshold: score from which a candidate of a ready detector is a detection.
        iou: overlap from which two boxes are the same detection, over 0 to 1.

    Raises:
        ParityError: an output's shape differs, or an engine fails.
    """
    description = reference.describe()
    is_ready = description.properties.get("saccade.output") == CANDIDATES
    found = Compared(matches=Matches(iou) if is_ready else None)
    for batch, inputs in in_batches(samples, rows):
        ours, theirs = (_run(engine, inputs, len(batch)) for engine in (reference, candidate))
        for name, right in ours.items():
            if found.matches is not None and name == CANDIDATES:
                _add_tables(found, batch, right, theirs[name], threshold)
                continue
            try:
                found.errors.setdefault(name, Errors()).add(right, theirs[name])
            except ValueError as error:
                raise ParityError(f"output {name!r}: {error}") from None
        found.samples += len(batch)
        yield found


def _add_tables(
    found: Compared, batch: Sequence[Sample], ours: NDArray[Any], theirs: NDArray[Any], threshold: float
) -> None:
    assert found.matches is not None
    errors = found.errors.setdefault(CANDIDATES, Errors())
    errors.unlike += int(np.sum(~np.isfinite(theirs)))
    for sample, a, b in zip(batch, ours, theirs, strict=True):
        before = len(found.matches.score_errors)
        found.matches.add(sample.name, a, b, threshold)
        scores = found.matches.score_errors[before:]
        errors.largest = max([errors.largest, *scores])
        errors.total += sum(scores)
        errors.count += len(scores)


def _run(engine: Engine, inputs: Inputs, rows: int) -> dict[str, NDArray[Any]]:
    async def ask() -> dict[str, NDArray[Any]]:
        outputs = await engine.instances()[0].submit([inputs], rows).done
        if not isinstance(outputs, LeasedOutputs):
            return dict(outputs)
        copied = {name: array.copy() for name, array in outputs.items()}
        outputs.release()
        return copied

    try:
        return asyncio.run(ask())
    except Exception as error:  # engines fail with exceptions of their own
        text = " ".join(str(error).split())[:300]
        raise ParityError(f"{engine.describe().platform} failed on a batch of {rows}: {text}") from error


def digest(path: Path) -> str:
    """SHA-256 of a file, for the report."""
    return hash_file(path)[0]
