"""``saccade-build calibrate``: reads the options, picks the pictures, and says how well the INT8 graph agrees."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import onnx
import typer

from saccade_predictor.build import judging
from saccade_predictor.build.onnxfile import OnnxFileError, read_onnx
from saccade_predictor.build.pictures import (
    PictureError,
    find_images,
    from_images,
    hold_out,
    in_batches,
    picture_input,
    sort_out,
    spread,
)
from saccade_predictor.build.saying import INTERRUPTED, MODEL, USAGE, fail, reason, terminable
from saccade_predictor.engines.engine import EngineDescription
from saccade_predictor.files import replace_files
from saccade_serving import __version__

#: Fewer pictures than this rarely hold the values that a scene will bring.
_FEW: Final = 100
#: Names of broken files that are told, at most; the report has all.
_TOLD: Final = 5


class MethodChoice(StrEnum):
    """How the range of a tensor follows from its values on the pictures."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Files that are images: to calibrate on, to compare on; and how many were left out, being none."""

    ours: list[Path]
    theirs: list[Path]
    broken: list[str]


def calibrate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.onnx",
            show_default=False,
            help="The FP32 graph: for a detector the ready graph of saccade-build ready. Weights in files of their own"
            " are read too.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.onnx",
            show_default=False,
            help="Where the INT8 graph goes. Its directory must exist. The report lies beside it:"
            " OUT.calibration.json.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Photos such as the model will see, those in folders under it too; 100 to 500 are usual.",
        ),
    ],
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Other photos, to compare both graphs on; default: some of --images are held out.",
        ),
    ] = None,
    hold_out_every: Annotated[
        int,
        typer.Option("--hold-out", metavar="N", min=2, help="Without --check: every N-th photo is held out."),
    ] = 4,
    limit: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Photos to calibrate on at most, and to compare on; spread over the folder. 0: all.",
        ),
    ] = 500,
    method: Annotated[
        MethodChoice,
        typer.Option(
            help="A tensor's range: minmax: all of its values; percentile: a share of them; entropy: as many as lose"
            " least of how they are distributed. The last two take far longer."
        ),
    ] = MethodChoice.MINMAX,
    percentile: Annotated[
        float,
        typer.Option(
            metavar="PERCENT", min=50, max=100, help="With percentile: the share of values within the range."
        ),
    ] = 99.999,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE|OPERATOR", show_default=False, help="What stays FP32; may be given several times."),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="ROWS", min=1, max=4096, help="Rows run together; more take more memory.")
    ] = 1,
    threads: judging.Threads = 2,
    score: judging.Score = 0.4,
    max_error: judging.MaxError = None,
    max_box_error: judging.MaxBoxError = None,
    min_agreement: judging.MinAgreement = judging.MIN_AGREEMENT,
    replace: Annotated[bool, typer.Option("--replace", help="Replace OUT.onnx if it is there.")] = False,
) -> None:
    """Quantize an FP32 graph to INT8 (Q/DQ nodes), with ranges measured on photos, and compare both graphs.

    Convolutions and matrix products compute in INT8; the scaling of pixels, the decoding of boxes, and all else, stay
    FP32. The graph is for saccade-build plan --precision int8. It is written even if it is beyond the limits.

    Example: saccade-build calibrate ready.onnx ready.int8.onnx --images photos

    Exit code: 0 within the limits, 1 beyond them or the graph cannot be quantized, 2 a wrong option or file.
    """
    _check_files(source, target, images, check, replace=replace)
    from saccade_predictor.build import parity as comparing  # they load engines, which takes seconds
    from saccade_predictor.build.quantizing import QuantizingError, to_int8

    limits = comparing.Limits(max_error, max_box_error, min_agreement)
    try:
        with terminable(), ExitStack() as stack:
            graph = read_onnx(source)
            right = comparing.open_onnx(source, threads)
            stack.callback(right.close)
            description = right.describe()
            rows = _choose_rows(description, batch, batched=comparing.is_batched(description))
            pictures = _find(images, check, hold_out_every, limit)
            shown = judging.with_bar(
                in_batches(from_images(pictures.ours, description.inputs), rows),
                "calibrating",
                -(-len(pictures.ours) // rows),
            )
            made = to_int8(
                graph.model, (inputs for _, inputs in shown), method.value, percentile, frozenset(keep_fp32 or ())
            )
            content = made.model.SerializeToString(deterministic=True)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saccade-")))
            (folder / target.name).write_bytes(content)
            judged = comparing.open_onnx(folder / target.name, threads)
            stack.callback(judged.close)
            samples = from_images(pictures.theirs, description.inputs)
            found = judging.compare(right, judged, samples, len(pictures.theirs), rows, score)
            report = found.report(
                limits,
                {
                    "reference": {"file": source.name, "sha256": comparing.digest(source)},
                    "candidate": {"file": target.name, "sha256": hashlib.sha256(content).hexdigest()},
                    "on": f"{len(pictures.theirs)} images" + (" held out" if check is None else ""),
                    "batch": rows,
                    "score_threshold": score,
                    "calibration": {
                        "method": method.value,
                        **({"percentile": percentile} if method is MethodChoice.PERCENTILE else {}),
                        "images": len(pictures.ours),
                        "broken": pictures.broken,
                        "products_int8": list(made.products),
                        "products_fp32": list(made.kept),
                        "tools": {
                            "saccade": __version__,
                            "onnx": onnx.__version__,
                            "onnxruntime": version("onnxruntime"),
                        },
                    },
                },
            )
            replace_files({report_of(target): (json.dumps(report, indent=2) + "\n").encode(), target: content})
    except (OnnxFileError, PictureError) as error:
        fail(str(error), USAGE)
    except (QuantizingError, comparing.ParityError) as error:
        fail(f"{source}: {error}", MODEL)
    except OSError as error:
        fail(f"cannot write {error.filename or target}: {reason(error)}; nothing was written", USAGE)
    except KeyboardInterrupt:
        fail("interrupted; nothing was written", INTERRUPTED)
    judging.show(report)
    kept = f" ({_listed(made.kept)})" if made.kept else ""
    typer.echo(
        f"{target}: products in INT8 {len(made.products)}, in FP32 {len(made.kept)}{kept}; {len(content)} bytes"
    )
    typer.echo(f"{report_of(target)}: written")
    judging.end(report)


def report_of(target: Path) -> Path:
    """The report beside an INT8 graph."""
    return target.with_suffix(".calibration.json")


def _check_files(source: Path, target: Path, images: Path, check: Path | None, *, replace: bool) -> None:
    if not source.is_file():
        fail(f"{source} is not a file", USAGE)
    if not target.parent.is_dir():
        fail(f"the directory of {target} does not exist", USAGE)
    if target.exists() and target.resolve() == source.resolve():
        fail(f"{target} is the graph that is read; expected another name for the INT8 graph", USAGE)
    if target.is_dir():
        fail(f"{target} is a directory; expected the name of a file", USAGE)
    if target.exists() and not replace:
        fail(f"{target} is there already; choose another name, or add --replace", USAGE)
    if check is not None and check.resolve() == images.resolve():
        fail("--check is the folder of --images; leave --check out to hold some of its photos out", USAGE)


def _choose_rows(description: EngineDescription, batch: int, *, batched: bool) -> int:
    """Rows that run together; pictures are one each, so a graph of a fixed number must be of one."""
    tensor = picture_input(description.inputs)
    if batched:
        return batch
    if tensor.shape[0] not in (1, -1):
        fail(
            f"the batch is fixed at {tensor.shape[0]} (input {tensor.name!r} is {tensor.datatype}"
            f" {list(tensor.shape)}); export with a dynamic batch (Ultralytics: dynamic=True; torch.onnx.export:"
            " dynamic_axes)",
            MODEL,
        )
    _note("the batch is fixed at 1: saccade-build plan needs --batch 0")
    return 1


def _find(images: Path, check: Path | None, every: int, limit: int) -> _Pictures:
    """Choose pictures and try each.

    Raises:
        PictureError: none are left.
    """
    files = find_images(images, 0)
    if check is None:
        ours, theirs = hold_out(files, every, limit)
    else:
        ours, theirs = spread(files, limit), spread(find_images(check, 0), limit)
    chosen = [*ours, *theirs]
    tried = dict(judging.with_bar(sort_out(chosen), "reading images", len(chosen)))
    broken = {path: why for path, why in tried.items() if why}
    for why in list(broken.values())[:_TOLD]:
        _note(f"left out: {why}")
    if len(broken) > _TOLD:
        _note(f"left out: {len(broken)} files in all; the report names them")
    found = _Pictures(
        [path for path in ours if path not in broken],
        [path for path in theirs if path not in broken],
        [path.name for path in broken],
    )
    if not found.ours:
        raise PictureError(f"{images} has no image to calibrate on: {len(broken)} of {len(chosen)} cannot be read")
    if not found.theirs:
        raise PictureError(
            f"there is no image to compare on: {check} has none that can be read"
            if check is not None
            else f"of the {len(files)} images of {images} every {every}th is held out, and none is left to compare on"
            "; add images, lower --hold-out, or name other photos with --check"
        )
    if len(found.ours) < _FEW:
        _note(f"{len(found.ours)} images to calibrate on are few: expected {_FEW} to 500 such as the model will see")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_TOLD]) + (" ..." if len(names) > _TOLD else "")


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)
