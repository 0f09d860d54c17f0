"""How much of what a model finds it still finds in FP16 and INT8: same class, and boxes that overlap by 0.9 or more.

Writes pictures (frames of --video, and crops of the repository's photos in many sizes), makes each precision of the
model with saccade-build, and compares it with the FP32 graph with saccade-build parity. On a machine with a GPU and
TensorRT plans are judged, as the predictor would run them; elsewhere the rewritten graphs, by ONNX Runtime on the CPU,
which computes most of FP16 and all of INT8 in FP32: that tells whether the rewriting is right, not what a GPU makes of
it. Prints a table and writes JSON. Takes three minutes on two cores.

Writing pictures needs OpenCV, which a GPU machine may lack: --folder keeps them, and uses again what is there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import onnx
from rich.table import Table

from measuring import machine, table
from measuring.targets import BENCH, ROOT
from saccade_predictor.build.halves import HalvesError, to_fp16
from saccade_predictor.engines.cuda import NoGpu, load_cuda
from saccade_predictor.engines.gpus import load_module

RESULTS: Final = BENCH / "results" / "parity.json"
EXAMPLE: Final = ROOT / "examples" / "model-repository" / "detector" / "1" / "model.onnx"
IOU: Final = 0.9
#: Least share of the reference's detections that each precision shall find again.
GOALS: Final = {"fp16": 0.99, "int8": 0.97}
#: Detections of the reference below which a share says little.
LEAST_DETECTIONS: Final = 1000
_LEAST_PICTURES: Final = 8


class Failed(Exception):
    """A command did not do what it should; what it said is the message."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One precision.

    Attributes:
        candidate: what was judged, as "plan (trt) on NVIDIA ..." or "graph, ONNX Runtime on the CPU".
        report: of ``saccade-build parity``.
    """

    precision: str
    candidate: str
    report: dict[str, Any]

    @property
    def detections(self) -> dict[str, Any]:
        """What it says of detections."""
        found: dict[str, Any] = self.report["detections"]
        return found

    @property
    def is_reached(self) -> bool:
        """Whether the goal is."""
        return bool(self.detections["recall"]["share"] >= GOALS[self.precision])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/parity.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="24 pictures: a look")
    parser.add_argument("--model", type=Path, default=EXAMPLE, help="a ready detector, FP32 (default: the example)")
    parser.add_argument("--video", type=Path, help="of a street, say: most of the detections come from there")
    parser.add_argument("--pictures", type=int, default=300, help="that are judged (default: 300)")
    parser.add_argument("--folder", type=Path, help="where pictures are kept, and used again (default: nowhere)")
    parser.add_argument("--pictures-only", action="store_true", help="write them into --folder; compare nothing")
    parser.add_argument("--precision", nargs="+", choices=tuple(GOALS), default=list(GOALS), help="default: both")
    parser.add_argument(
        "--method", choices=("minmax", "entropy", "percentile"), default="entropy", help="of calibration, for int8"
    )
    parser.add_argument("--kind", choices=("trt", "trt-rtx"), default="trt", help="of the plans, on a GPU")
    parser.add_argument("--cpu", action="store_true", help="judge graphs on the CPU, even where there is a GPU")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    if given.quick:
        given.pictures = 24
    if given.pictures < _LEAST_PICTURES:
        parser.error(f"--pictures is {given.pictures}; expected {_LEAST_PICTURES} or more")
    if given.pictures_only and given.folder is None:
        parser.error("--pictures-only needs --folder, where they are to be kept")
    for path in filter(None, (given.model, given.video)):
        if not path.is_file():
            parser.error(f"{path} is not a file")
    return given


def build(*arguments: object, allowed: Sequence[int] = (0,)) -> None:
    """Run ``saccade-build``.

    Raises:
        Failed: it ends with another status than those allowed.
    """
    command = [sys.executable, "-m", "saccade_predictor.build", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode not in allowed:
        raise Failed(f"saccade-build {arguments[0]} ended with {ended.returncode}: {ended.stderr.strip()[-2000:]}")


def gpu_name(kind: str) -> str:
    """Of the GPU that plans of a kind run on; empty without one, or without TensorRT."""
    try:
        name = load_cuda().device(0).name
        load_module(kind)
    except (NoGpu, ValueError):
        return ""
    return name


def graph_of(given: argparse.Namespace, precision: str, calibration: Path, judged: Path, scratch: Path) -> Path:
    """The model's graph in a precision.

    Raises:
        Failed: it cannot be made.
    """
    made = scratch / f"model.{precision}.onnx"
    if precision == "fp16":
        try:
            onnx.save(to_fp16(onnx.load(str(given.model))).model, str(made))
        except HalvesError as why:
            raise Failed(str(why)) from None
    else:  # 1: beyond its own limits, which are judged here by others
        sets = "--images", calibration, "--check", judged
        build("calibrate", given.model, made, *sets, "--method", given.method, allowed=(0, 1))
    return made


def pictures(given: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The folders of what is calibrated on and what is judged, written unless they are there.

    Raises:
        Failed: they cannot be.
    """
    found = folder / "calibration", folder / "judged"
    for half, one in enumerate(found):
        if one.is_dir():
            print(f"{one} is there already", file=sys.stderr)
            continue
        try:
            from measuring import parity_pictures
        except ImportError as why:
            raise Failed(f"{why}: write the pictures elsewhere (--folder, --pictures-only) and copy them") from None
        print(f"writing {given.pictures} pictures ({one.name})", file=sys.stderr)
        try:
            parity_pictures.write(one, given.pictures, given.video, half=half)
        except parity_pictures.UnreadableVideo as why:
            raise Failed(str(why)) from None
    return found


def judge(
    given: argparse.Namespace, precision: str, gpu: str, calibration: Path, judged: Path, scratch: Path
) -> Judged:
    """Make one precision and compare it.

    Raises:
        Failed: it cannot be made, or not compared.
    """
    candidate, what = given.model, "graph, ONNX Runtime on the CPU"
    if precision == "int8" or not gpu:
        candidate = graph_of(given, precision, calibration, judged, scratch)
    if gpu:
        folder = scratch / "plans" / f"model-{precision}"
        build("plan", candidate, folder, "--kind", given.kind, "--precision", precision, "--batch", "1,4,4")
        candidate, what = folder / "1" / "model.plan", f"plan ({given.kind}) on {gpu}"
    written = scratch / f"{precision}.json"
    options = ("--images", judged, "--iou", IOU, "--min-agreement", 0, "--json", written)
    build("parity", given.model, candidate, *options)
    report = json.loads(written.read_text(encoding="utf-8"))
    if "detections" not in report:
        raise Failed(f"{given.model} is no ready detector; saccade-build ready makes one")
    return Judged(precision, what, report)


def show(found: Sequence[Judged]) -> Table:
    """For a person."""
    shown = Table(title=f"The reference's detections that are found again, same class, IoU {IOU:g} or more")
    for column in ("precision", "judged", "pictures", "detections", "found", "share", "95 % interval", "goal"):
        shown.add_column(column, justify="left" if column in ("precision", "judged") else "right")
    for one in found:
        recall, of = one.detections["recall"], one.detections["reference"]
        interval = f"{recall['low']:.2%} to {recall['high']:.2%}"
        outcome = "not judged" if of < LEAST_DETECTIONS else "reached" if one.is_reached else "missed"
        goal = f"{GOALS[one.precision]:.0%}: {outcome}"
        cells = (str(one.report["samples"]), f"{of:,}", f"{round(recall['share'] * of):,}", f"{recall['share']:.2%}")
        shown.add_row(one.precision, one.candidate, *cells, interval, goal)
    return shown


def main(arguments: Sequence[str]) -> int:
    """Run the bench; returns the exit status."""
    given = parse(arguments)
    console = table.console()
    found: list[Judged] = []
    try:
        with tempfile.TemporaryDirectory(prefix="saccade-parity-") as temporary:
            scratch = Path(temporary)
            calibration, judged = pictures(given, given.folder or scratch)
            if given.pictures_only:
                return 0
            gpu = "" if given.cpu else gpu_name(given.kind)
            for precision in given.precision:
                print(f"comparing {precision}", file=sys.stderr)
                found.append(judge(given, precision, gpu, calibration, judged, scratch))
    except (Failed, OSError) as why:
        print(why, file=sys.stderr)
        return 1
    console.print(show(found))
    least = min(one.detections["reference"] for one in found)
    if least < LEAST_DETECTIONS:
        print(f"{least:,} detections of the reference; {LEAST_DETECTIONS:,} are wanted: more --pictures, or a --video")
    content = {
        "bench": "parity",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/parity.py", *arguments]),
        "machine": {**machine.describe(), "gpu": gpu},
        "judged": [asdict(one) for one in found],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
