"""``saccade-build plan``: reads the options, shows how far TensorRT is, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from saccade_predictor.build.building import BuildFailed
from saccade_predictor.build.halves import HalvesError
from saccade_predictor.build.onnxfile import OnnxFileError
from saccade_predictor.build.planconfig import ConfigMismatch
from saccade_predictor.build.planning import Planned, PlanningError, Wish, make_plan, parse_capabilities
from saccade_predictor.build.profiles import ProfileError, parse_batch, parse_shapes
from saccade_predictor.build.saying import INTERRUPTED, MODEL, USAGE, fail, reason, terminable
from saccade_predictor.build.staging import StagingError
from saccade_predictor.engines.plan import NAMES, PLAN_FILE


class KindChoice(StrEnum):
    """Which TensorRT."""

    TRT = "trt"
    RTX = "trt-rtx"


class PrecisionChoice(StrEnum):
    """In what the products are computed."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Fp16By(StrEnum):
    """Who chooses what becomes FP16."""

    GRAPH = "graph"
    FLAG = "flag"


class CompatibilityChoice(StrEnum):
    """Which other GPUs may run a TensorRT plan."""

    NONE = "none"
    AMPERE_PLUS = "ampere_plus"
    SAME = "same_compute_capability"


def plan(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.onnx",
            show_default=False,
            help="The graph: for a detector the ready graph of saccade-build ready. Weights in files of their own are"
            " read too.",
        ),
    ],
    model: Annotated[
        Path,
        typer.Argument(
            metavar="REPOSITORY/NAME",
            show_default=False,
            help="The model's folder in the model repository; made if it is not there.",
        ),
    ],
    kind: Annotated[
        KindChoice,
        typer.Option(
            show_default=False,
            help="trt: TensorRT, for data-centre GPUs; built on the GPU that runs it. trt-rtx: TensorRT-RTX, for"
            " compute capability 7.5, 8.x and 12.x; built anywhere, also without a GPU.",
        ),
    ],
    batch: Annotated[
        str,
        typer.Option(
            metavar="MIN,OPT,MAX",
            help="Rows of a batch: least, tuned for, largest; MAX is max_batch_size. 0: the model has no batches.",
        ),
    ] = "1,8,32",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DIMS",
            show_default=False,
            help="Sizes behind the batch where the graph leaves them open: images=3x640x640, each a number or"
            " MIN:OPT:MAX; once for each input.",
        ),
    ] = None,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            help="fp16: the graph is rewritten between its first and last product; inputs and outputs stay. int8: the"
            " graph must be quantized already (saccade-build calibrate)."
        ),
    ] = PrecisionChoice.FP32,
    fp16_by: Annotated[
        Fp16By,
        typer.Option(
            help="flag: TensorRT 10 chooses FP16 layer by layer, pixel coordinates included; later versions cannot."
        ),
    ] = Fp16By.GRAPH,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE|OPERATOR", show_default=False, help="With fp16: what stays FP32; may be given several times."
        ),
    ] = None,
    keep_graph: Annotated[
        bool,
        typer.Option("--keep-graph", help="Keep the rewritten graph as model.fp16.onnx, for saccade-build parity."),
    ] = False,
    tf32: Annotated[
        bool,
        typer.Option(help="Whether FP32 products may be computed in TF32 (10 bits of mantissa), as TensorRT does."),
    ] = True,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X.Y",
            show_default=False,
            help="trt-rtx: GPUs to build for, such as 8.6,8.9; default: all from 8.0 on that it knows.",
        ),
    ] = None,
    hardware_compatibility: Annotated[
        CompatibilityChoice,
        typer.Option(help="trt: which other GPUs may run the plan, at some cost of speed."),
    ] = CompatibilityChoice.NONE,
    workspace_mib: Annotated[
        int, typer.Option(metavar="MIB", min=0, max=2**20, help="Scratch memory of a layer; 0: TensorRT's own limit.")
    ] = 0,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="trt: measured times, read and written; the next build is faster."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, show_default=False, help="Version; default: the one after the highest."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace that version if it is there.")] = False,
    reuse: Annotated[
        bool,
        typer.Option(
            "--reuse",
            help="Build nothing where a version has such a plan: of this graph, asked for alike, for this machine.",
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Class names, one on each line, for a config.pbtxt that is written.",
        ),
    ] = None,
    fallback: Annotated[
        bool,
        typer.Option(
            "--fallback", help="A config.pbtxt that is written lets model.onnx serve on machines without a GPU."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Write TensorRT's verbose lines into build.log too.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Where the build's log goes if the build fails."),
    ] = None,
) -> None:
    """Build a TensorRT plan from an ONNX graph, into a model repository.

    Writes NAME/VERSION/model.plan, plan.json (what it is and where it runs), model.onnx (what it was built from) and
    build.log, in one step, and NAME/config.pbtxt where there is none; one that is there is checked.

    Example: saccade-build plan ready.onnx my-models/detector --kind trt-rtx --precision fp16 --batch 1,8,32

    Exit code: 0 done, 1 the graph cannot be built, 2 a wrong option or file.
    """
    try:
        wish = Wish(
            source=source,
            model=model.absolute(),
            kind=kind.value,
            version=version,
            replace=replace,
            batch=parse_batch(batch),
            shapes=parse_shapes(shape or ()),
            precision=precision.value,
            fp16_by=fp16_by.value,
            keep_fp32=tuple(keep_fp32 or ()),
            keep_graph=keep_graph,
            tf32=tf32,
            workspace_mib=workspace_mib,
            timing_cache=timing_cache,
            hardware_compatibility=hardware_compatibility.value,
            compute_capabilities=parse_capabilities(compute_capability or ()),
            labels=labels,
            fallback=fallback,
            verbose=verbose,
            log=log,
            reuse=reuse,
        )
        with terminable(), _progress(NAMES[wish.kind]) as told:
            made = make_plan(wish, told, lambda text: typer.echo(f"note: {text}", err=True))
    except (OnnxFileError, PlanningError, ProfileError, ConfigMismatch, StagingError) as error:
        fail(str(error), USAGE)
    except (BuildFailed, HalvesError) as error:
        hint = f"; the log is {log}" if log is not None and log.is_file() else ""
        fail(f"{source}: {error}{hint}", MODEL)
    except OSError as error:
        fail(f"cannot write {error.filename or model}: {reason(error)}", USAGE)
    except KeyboardInterrupt:
        fail("interrupted; the repository is as it was", INTERRUPTED)
    _say(made, model)


def _say(made: Planned, model: Path) -> None:
    plan = made.plan
    where = (
        "any GPU from 8.0 on" if plan.hardware_compatibility == "ampere_plus" else ", ".join(plan.compute_capabilities)
    )
    rows = plan.rows()
    batches = f", batches of {rows[0]} to {rows[1]}" if rows else ""
    typer.echo(
        f"{model / made.version.name / PLAN_FILE}: {NAMES[plan.kind]} {plan.tensorrt}, {plan.precision}{batches},"
        f" compute capability {where}, {plan.plan.bytes} bytes, "
        + ("was there already" if made.reused else f"built in {plan.build_seconds:.1f} s")
    )
    if made.config_written:
        typer.echo(f"{model / 'config.pbtxt'}: written")


@contextmanager
def _progress(name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar of TensorRT's phases on a terminal; elsewhere nothing, since build.log has it all."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda event: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task(f"starting {name}", total=None)
        tasks: dict[str, TaskID] = {}

        def told(event: dict[str, Any]) -> None:
            if "version" in event:
                progress.update(whole, description=f"{name} {event['version']}")
            phase = event.get("phase")
            if phase is None:
                return
            if "steps" in event:
                tasks[phase] = progress.add_task(f"  {phase}"[:60], total=event["steps"] or None)
            elif phase in tasks and "step" in event:
                progress.update(tasks[phase], completed=event["step"])
            elif phase in tasks:
                progress.remove_task(tasks.pop(phase))

        yield told
