"""From a customer's ONNX file to a version of the model repository: graph, profile, plan, sidecar, configuration.

    ONNX -> checked -> (rewritten in FP16) -> TensorRT, in the worker
         -> NAME/VERSION/{model.plan, plan.json, model.onnx, build.log}

Everything that can be refused without TensorRT is refused before it is started.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import onnx

from saccade_predictor.build import planconfig, reusing, staging
from saccade_predictor.build.building import BuildFailed, Built, Told, run_worker
from saccade_predictor.build.halves import to_fp16
from saccade_predictor.build.onnxfile import OnnxFile, read_onnx
from saccade_predictor.build.profiles import Range, make_profile
from saccade_predictor.build.span import PRODUCTS
from saccade_predictor.build.worker import Request
from saccade_predictor.engines.plan import (
    BACKENDS,
    PLAN_FILE,
    SIDECAR_FILE,
    Compatibility,
    FileMark,
    Kind,
    Plan,
    Precision,
    Shapes,
    mark,
    write_sidecar,
)
from saccade_predictor.machine import find_gpus
from saccade_predictor.repository import CONFIG_FILE
from saccade_serving import __version__

ONNX_FILE: Final = "model.onnx"
LOG_FILE: Final = "build.log"
#: The graph that TensorRT was given, where it is not ``ONNX_FILE``.
GRAPH_FILE: Final = "model.fp16.onnx"


class PlanningError(ValueError):
    """What is asked for does not go together, or not with the graph."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for.

    Attributes:
        source: the ONNX file.
        model: the model's folder in the repository.
        version: its number; None: the one after the highest.
        replace: whether a version of that number may be replaced.
        batch: rows; None: the model has no batch dimension.
        shapes: see ``profiles.make_profile``.
        fp16_by: ``graph``: the ONNX is rewritten; ``flag``: TensorRT 10 chooses, layer by layer.
        keep_fp32: nodes or operators that stay FP32.
        keep_graph: whether the rewritten graph stays beside the plan.
        labels: file of class names, which becomes the model's ``labels.txt``.
        fallback: whether a config.pbtxt that is written allows the ONNX file where there is no GPU.
        log: where the log goes if the build fails; None: nowhere.
        reuse: whether a version that has such a plan is enough.
    """

    source: Path
    model: Path
    kind: Kind
    version: int | None
    replace: bool
    batch: Range | None
    shapes: dict[str, tuple[Range, ...]]
    precision: Precision
    fp16_by: Literal["graph", "flag"]
    keep_fp32: tuple[str, ...]
    keep_graph: bool
    tf32: bool
    workspace_mib: int
    timing_cache: Path | None
    hardware_compatibility: Compatibility
    compute_capabilities: tuple[str, ...]
    labels: Path | None
    fallback: bool
    verbose: bool
    log: Path | None
    reuse: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """What was made, or was there.

    Attributes:
        version: the folder.
        plan: its sidecar.
        config_written: whether config.pbtxt is new.
        notes: what a person should know.
        reused: whether the plan was there.
    """

    version: Path
    plan: Plan
    config_written: bool
    notes: tuple[str, ...]
    reused: bool = False


def make_plan(wish: Wish, told: Told = lambda event: None, note: Callable[[str], None] = lambda text: None) -> Planned:
    """Build a plan and put it into the repository.

    Raises:
        OnnxFileError, ProfileError, HalvesError, ConfigMismatch, StagingError, PlanningError: what is asked for cannot
            be done; TensorRT was not started.
        BuildFailed: TensorRT does not build it.
        OSError: a file cannot be written.
    """
    _check_options(wish)
    source = read_onnx(wish.source)
    profile = make_profile(source, wish.batch, wish.shapes)
    max_rows = wish.batch.high if wish.batch is not None else 0
    config = planconfig.check(wish.model, wish.kind, source.inputs, source.outputs, profile, max_rows)
    if wish.reuse and config is not None and (found := reusing.find(wish.model, _asked(wish, source, profile))):
        return Planned(*found, config_written=False, notes=(), reused=True)
    version = staging.choose_version(wish.model, wish.version, wish.replace)
    notes: list[str] = []
    graph = _prepare(wish, source, notes)
    files = {} if config is not None else _surroundings(wish, source, max_rows, notes)
    if config is not None and (wish.labels is not None or wish.fallback):
        notes.append("config.pbtxt is there already and stays as it is: --labels and --fallback change nothing")
    for text in notes:
        note(text)
    with staging.staged(wish.model) as folder:
        target = folder / str(version)
        target.mkdir()
        staging.write_file(target / ONNX_FILE, source.content)
        given = target / ONNX_FILE
        if graph is not None:
            given = target / GRAPH_FILE
            staging.write_file(given, graph)
        log = target / LOG_FILE
        try:
            built = run_worker(_request(wish, given, target / PLAN_FILE, profile), log, told)
        except BuildFailed:
            _keep_log(wish, log)
            raise
        if graph is not None and not wish.keep_graph:
            given.unlink()
        source_mark = FileMark(file=ONNX_FILE, sha256=source.sha256, bytes=len(source.content))
        plan = _describe(wish, source, profile, built, source_mark, mark(target / PLAN_FILE))
        write_sidecar(target / SIDECAR_FILE, plan)
        staging.put(folder, target, wish.model, files)
    return Planned(wish.model / str(version), plan, config is None, tuple(notes))


def _check_options(wish: Wish) -> None:
    rtx = wish.kind == "trt-rtx"
    if not wish.model.name or not wish.model.name.isprintable() or wish.model.name.startswith("."):
        raise PlanningError(f"{str(wish.model)!r} names no model; expected REPOSITORY/NAME")
    if wish.model.exists() and not wish.model.is_dir():
        raise PlanningError(f"{wish.model} is a file; expected a model's folder, REPOSITORY/NAME")
    if rtx and wish.hardware_compatibility != "none":
        raise PlanningError("--hardware-compatibility is TensorRT's; a TensorRT-RTX plan says --compute-capability")
    if not rtx and wish.compute_capabilities:
        raise PlanningError(
            "--compute-capability is TensorRT-RTX's; a TensorRT plan is for the GPU it is built on, or see "
            "--hardware-compatibility"
        )
    if rtx and wish.timing_cache is not None:
        raise PlanningError("--timing-cache is TensorRT's; TensorRT-RTX measures nothing when it builds")
    if wish.fp16_by == "flag" and (rtx or wish.precision != "fp16"):
        raise PlanningError("--fp16-by flag goes with --kind trt --precision fp16 alone")
    if not rtx:
        gpus, why = find_gpus()
        if not gpus:
            raise PlanningError(
                f"a TensorRT plan is built on the GPU it runs on, and this machine has none: {why}; build there, or "
                "with --kind trt-rtx, which needs no GPU"
            )


def _prepare(wish: Wish, source: OnnxFile, notes: list[str]) -> bytes | None:
    """The graph for TensorRT where it is not the source, and what there is to say of the precision."""
    operators = {node.op_type for node in source.model.graph.node}
    quantized = bool(operators & {"QuantizeLinear", "DequantizeLinear"})
    if wish.precision == "int8" and not quantized:
        raise PlanningError(
            f"{wish.source} has no QuantizeLinear and DequantizeLinear nodes, and int8 is read from them: TensorRT 11 "
            "and TensorRT-RTX have no calibration of their own; quantize the ONNX first, with saccade-build calibrate"
        )
    if wish.precision != "int8" and quantized:
        notes.append("the graph is quantized, so its INT8 layers stay INT8; --precision int8 says so")
    if wish.precision != "fp16" or wish.fp16_by == "flag":
        return None
    if not operators & PRODUCTS:
        notes.append("the graph has no convolution and no matrix product, so FP16 changes nothing")
    halves = to_fp16(source.model, wish.keep_fp32)
    if halves.kept:
        listed = ", ".join(halves.kept[:5]) + (" ..." if len(halves.kept) > 5 else "")
        notes.append(f"{len(halves.kept)} products stay FP32: {listed}")
    content: bytes = halves.model.SerializeToString(deterministic=True)
    return content


def _request(wish: Wish, given: Path, plan: Path, profile: dict[str, Shapes]) -> Request:
    by_flag = wish.fp16_by == "flag"
    return Request(
        kind=wish.kind,
        onnx=str(given.resolve()),
        plan=str(plan.resolve()),
        profiles={name: [list(one.min), list(one.opt), list(one.max)] for name, one in profile.items()},
        flags=["FP16"] if by_flag else [],
        strongly_typed=not by_flag,
        tf32=wish.tf32,
        workspace_mib=wish.workspace_mib,
        timing_cache=str(wish.timing_cache.resolve()) if wish.timing_cache is not None else "",
        hardware_compatibility=wish.hardware_compatibility,
        compute_capabilities=list(wish.compute_capabilities),
        verbose=wish.verbose,
    )


def _asked(wish: Wish, source: OnnxFile, profile: dict[str, Shapes]) -> reusing.Asked:
    wanted: dict[str, object] = {
        "precision": wish.precision,
        "strongly_typed": wish.fp16_by != "flag",
        "tf32": wish.tf32,
        "kept_fp32": wish.keep_fp32,
        "workspace_mib": wish.workspace_mib,
        "asked_capabilities": wish.compute_capabilities,
        "hardware_compatibility": wish.hardware_compatibility,
        "profiles": (profile,) if profile else (),
    }
    return reusing.Asked(wish.kind, wanted, source.sha256)


def _describe(
    wish: Wish, source: OnnxFile, profile: dict[str, Shapes], built: Built, onnx_mark: FileMark, plan_mark: FileMark
) -> Plan:
    return Plan(
        kind=wish.kind,
        tensorrt=built.tensorrt,
        compute_capabilities=built.compute_capabilities,
        asked_capabilities=wish.compute_capabilities,
        hardware_compatibility=wish.hardware_compatibility,
        gpu=built.gpu,
        precision=wish.precision,
        strongly_typed=wish.fp16_by != "flag",
        tf32=wish.tf32,
        kept_fp32=wish.keep_fp32,
        workspace_mib=wish.workspace_mib,
        profiles=(profile,) if profile else (),
        inputs=built.inputs,
        outputs=built.outputs,
        source=onnx_mark,
        plan=plan_mark,
        properties=source.properties,
        tools={"saccade": __version__, "onnx": onnx.__version__},
        built_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        build_seconds=round(built.seconds, 3),
    )


def _surroundings(wish: Wish, source: OnnxFile, max_rows: int, notes: list[str]) -> dict[str, str]:
    """Files beside the versions of a model that has no config.pbtxt."""
    files = {}
    if wish.labels is not None:
        try:
            files[planconfig.LABELS_FILE] = _read_labels(wish.labels)
        except OSError as error:
            raise PlanningError(f"cannot read {wish.labels}: {error.strerror}") from None
    elif source.properties.get("saccade.output") == "candidates":
        notes.append("without --labels, detections have no class names")
    if wish.model.exists():
        notes.append(
            f"the model had no config.pbtxt; the one that is written has backend {BACKENDS[wish.kind]!r}, for its "
            "other versions too"
        )
    files[CONFIG_FILE] = planconfig.compose(
        wish.model.name,
        wish.kind,
        source.inputs,
        source.outputs,
        max_rows,
        labelled=wish.labels is not None,
        fallback=wish.fallback,
    )
    return files


def _read_labels(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PlanningError(f"{path} is not UTF-8 text with one class name on each line") from None
    if not text.strip():
        raise PlanningError(f"{path} is empty; expected one class name on each line")
    return text


def _keep_log(wish: Wish, log: Path) -> None:
    if wish.log is not None:
        shutil.copyfile(log, wish.log)


def parse_capabilities(texts: Sequence[str]) -> tuple[str, ...]:
    """Read compute capabilities such as ``8.6``, several in one text or in many.

    Raises:
        PlanningError: one is none.
    """
    found = [part.strip() for text in texts for part in text.split(",")]
    for part in found:
        major, _, minor = part.partition(".")
        if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit() and len(minor) == 1):
            raise PlanningError(f"--compute-capability is {part[:20]!r}; expected for example 8.6 or 8.6,8.9,12.0")
    return tuple(dict.fromkeys(found))
