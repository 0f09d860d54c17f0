"""saccade-build calibrate: the example in INT8 on its photos and as a real plan, and wrong input in one line each."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner, Result

import onnx_graphs as graphs
from plan_support import interrupt, needs_rtx, start_build
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.pictures import hold_out, spread
from saccade_predictor.engines.plan import hash_file, read_sidecar
from saccade_predictor.files import replace_files

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "examples" / "model-repository" / "detector" / "1" / "model.onnx"
PHOTOS = ROOT / "examples" / "images"


def calibrate(source: Path, target: Path, *options: object, images: Path = PHOTOS) -> Result:
    return CliRunner().invoke(
        app, ["calibrate", str(source), str(target), "--images", str(images), *map(str, options)]
    )


def report_of(target: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(target.with_suffix(".calibration.json").read_text())
    return report


def refused(result: Result, code: int) -> str:
    """The one line that is said, beside notes."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), "no other exception leaves the command"
    [line] = [one for one in result.output.splitlines() if not one.startswith("note: ")]
    assert line.startswith("Error: ")
    return line


def convolution(path: Path, *, batch: int | str = "n", weights: bool = True) -> Path:
    """``y`` is a 3x3 convolution of an image FP32 [batch, 3, 16, 16]."""
    kernel = np.random.default_rng(0).normal(0, 0.2, (3, 3, 3, 3)).astype(np.float32)
    node = (
        helper.make_node("Conv", ["x", "w"], ["y"], name="only", pads=[1, 1, 1, 1])
        if weights
        else helper.make_node("Relu", ["x"], ["y"])
    )
    tensors = [graphs.tensor(name, "FLOAT", batch, 3, 16, 16) for name in "xy"]
    initializers = [numpy_helper.from_array(kernel, "w")] if weights else []
    return graphs.save(path, [node], tensors[:1], tensors[1:], initializers=initializers)


def paint(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The example detector in INT8."""
    target = tmp_path_factory.mktemp("int8") / "detector.int8.onnx"
    return target, calibrate(DETECTOR, target, "--max-box-error", 16)


def test_the_example_agrees_on_photos_that_were_held_out(example: tuple[Path, Result]) -> None:
    target, result = example
    assert result.exit_code == 0, result.output
    for part in (
        "detector.int8.onnx against model.onnx, 2 images held out",
        "agreement",
        "within the limits",
        "products in INT8 34, in FP32 1 (MatMul_rd)",
        "note: 6 images to calibrate on are few: expected 100 to 500",
    ):
        assert part in result.output
    assert sorted(child.name for child in target.parent.iterdir()) == [
        "detector.int8.calibration.json",
        "detector.int8.onnx",
    ]
    report = report_of(target)
    assert report["passed"] is True
    assert report["detections"]["reference"] >= 2, "agreement of nothing would say nothing"
    assert report["detections"]["agreement"] >= 0.95
    assert 0 < report["detections"]["score_error"]["max"] < 0.1, "INT8 is not FP32, nor far from it"
    assert report["candidate"] == {"file": target.name, "sha256": hash_file(target)[0]}
    assert report["reference"] == {"file": "model.onnx", "sha256": hash_file(DETECTOR)[0]}
    calibration = report["calibration"]
    assert (calibration["method"], calibration["images"], calibration["broken"]) == ("minmax", 6, [])
    assert (len(calibration["products_int8"]), calibration["products_fp32"]) == (34, ["MatMul_rd"])
    assert set(calibration["tools"]) == {"saccade", "onnx", "onnxruntime"}
    inspected = CliRunner().invoke(app, ["inspect", str(target)])
    assert "int8 (Q/DQ)" in inspected.output
    assert "saccade.output = candidates" in inspected.output


@needs_rtx
def test_the_int8_example_becomes_a_tensorrt_rtx_plan(example: tuple[Path, Result], tmp_path: Path) -> None:
    target, _ = example
    sizes = {}
    for precision, source in (("fp32", DETECTOR), ("int8", target)):
        model = tmp_path / precision / "detector"
        options = ["--kind", "trt-rtx", "--precision", precision, "--compute-capability", "8.9"]
        result = CliRunner().invoke(app, ["plan", str(source), str(model), *options])
        assert result.exit_code == 0, result.output
        assert read_sidecar(model / "1" / "plan.json").precision == precision
        log = (model / "1" / "build.log").read_text()
        sizes[precision] = int(log.partition("Total Weights Memory: ")[2].split()[0])
    # A quarter, and what stays FP32: TensorRT took the INT8 weights as such.
    assert sizes["int8"] < 0.4 * sizes["fp32"]


def test_limits_end_the_command_as_those_of_parity_do(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    result = calibrate(convolution(tmp_path / "in.onnx"), target, "--max-error", 0, images=paint(tmp_path / "p", 8))
    assert result.exit_code == 1
    assert "beyond the limits: output 'y' differs by up to" in result.output
    assert report_of(target)["passed"] is False
    assert target.is_file(), "it can be looked into"
    assert (
        calibrate(tmp_path / "in.onnx", target, "--replace", "--max-error", 0.05, images=tmp_path / "p").exit_code == 0
    )
    assert report_of(target)["passed"] is True


def test_other_photos_can_be_compared_on_and_both_are_spread_over_their_folders(tmp_path: Path) -> None:
    ours, theirs = paint(tmp_path / "a", 9), paint(tmp_path / "b", 5, 100)
    target = tmp_path / "out.onnx"
    options = ("--check", theirs, "--limit", 3, "--batch", 2, "--method", "percentile", "--percentile", 99)
    result = calibrate(convolution(tmp_path / "in.onnx"), target, *options, images=ours)
    assert result.exit_code == 0, result.output
    report = report_of(target)
    assert (report["on"], report["samples"], report["batch"]) == ("3 images", 3, 2)
    calibration = report["calibration"]
    assert (calibration["images"], calibration["method"], calibration["percentile"]) == (3, "percentile", 99)
    assert spread([Path(str(n)) for n in range(9)], 3) == [Path("0"), Path("3"), Path("6")]


def test_no_photo_is_in_both_parts_and_every_nth_is_held_out() -> None:
    files = [Path(str(n)) for n in range(11)]
    ours, theirs = hold_out(files, 4, 0)
    assert theirs == [files[3], files[7]]
    assert sorted([*ours, *theirs]) == sorted(files)
    ours, theirs = hold_out(files, 2, 3)
    assert (len(ours), len(theirs)) == (3, 3)
    assert not set(ours) & set(theirs)


def test_broken_files_are_named_counted_and_left_out(tmp_path: Path) -> None:
    photos = paint(tmp_path / "p", 12)
    for name in ("000.png", "003.png", *(f"{n:03}b.jpg" for n in range(5))):
        (photos / name).write_bytes(b"no image")
    shutil.copy(photos / "001.png", photos / "readme.txt")
    target = tmp_path / "out.onnx"
    result = calibrate(convolution(tmp_path / "in.onnx"), target, images=photos)
    assert result.exit_code == 0, result.output
    assert "note: left out: " in result.output
    assert "000.png cannot be read as an image" in result.output
    assert "note: left out: 7 files in all; the report names them" in result.output
    report = report_of(target)
    assert set(report["calibration"]["broken"]) == {"000.png", "003.png", *(f"{n:03}b.jpg" for n in range(5))}
    assert report["calibration"]["images"] + report["samples"] == 10
    assert "readme.txt" not in result.output


def test_what_is_kept_is_told_and_that_nothing_was_compared(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    result = calibrate(
        DETECTOR, target, "--keep-fp32", "Conv_2", "--keep-fp32", "Conv_166", "--limit", 1, "--score", 1
    )
    assert result.exit_code == 0, result.output
    assert "products in INT8 32, in FP32 3 (Conv_2, " in result.output
    assert "note: neither graph detects anything over 1, so the agreement says nothing" in result.output
    assert set(report_of(target)["calibration"]["products_fp32"]) == {"Conv_2", "Conv_166", "MatMul_rd"}


def test_a_batch_fixed_at_one_is_taken_and_told(tmp_path: Path) -> None:
    source = convolution(tmp_path / "in.onnx", batch=1)
    result = calibrate(source, tmp_path / "out.onnx", "--batch", 4, images=paint(tmp_path / "p", 4))
    assert result.exit_code == 0, result.output
    assert "note: the batch is fixed at 1: saccade-build plan needs --batch 0" in result.output


def quantized(path: Path) -> Path:
    source, photos = convolution(path.with_name("fp32.onnx")), paint(path.with_name("photos"), 4)
    assert calibrate(source, path, images=photos).exit_code == 0
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("make", "options", "code", "part"),
    [
        (quantized, [], 1, "the graph is quantized already (it has Q/DQ nodes); expected an FP32 graph"),
        (lambda path: convolution(path, weights=False), [], 1, "the graph has no product in FP32"),
        (convolution, ["--keep-fp32", "Conv"], 1, "no product of the graph can be quantized (only): each is kept"),
        (convolution, ["--keep-fp32", "onyl"], 1, "no node and no operator 'onyl' to keep"),
        (lambda path: convolution(path, batch=8), [], 1, "the batch is fixed at 8 (input 'x' is FP32 [8, 3, 16, 16])"),
        (graphs.identity, [], 2, "the model takes x FP32 [-1, 2]; pictures fit one input"),
        (lambda path: path, [], 2, "in.onnx is not a file"),
        (empty, [], 2, "is empty; expected an ONNX file"),
        (convolution, ["--hold-out", 9], 2, "every 9th is held out, and none is left to compare on"),
        (convolution, ["--check", "{tmp}/no-such"], 2, "no-such is not a folder"),
        (convolution, ["--check", "{tmp}/p"], 2, "--check is the folder of --images"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    make: Callable[[Path], Path], options: list[Any], code: int, part: str, tmp_path: Path
) -> None:
    source, target = make(tmp_path / "in.onnx"), tmp_path / "out" / "out.onnx"
    target.parent.mkdir()
    told = [str(one).replace("{tmp}", str(tmp_path)) for one in options]
    assert part in refused(calibrate(source, target, *told, images=paint(tmp_path / "p", 4)), code)
    assert list(target.parent.iterdir()) == []


def test_folders_without_a_picture_are_refused(tmp_path: Path) -> None:
    source, target, empty = convolution(tmp_path / "in.onnx"), tmp_path / "out.onnx", tmp_path / "empty"
    assert "empty is not a folder" in refused(calibrate(source, target, images=empty), 2)
    empty.mkdir()
    assert "empty holds no image (.bmp, .jpeg" in refused(calibrate(source, target, images=empty), 2)
    (empty / "notes.txt").write_text("no image")
    assert "empty holds no image" in refused(calibrate(source, target, images=empty), 2)
    for number in range(4):
        (empty / f"{number}.png").write_bytes(b"no image")
    line = refused(calibrate(source, target, images=empty), 2)
    assert "empty has no image to calibrate on: 4 of 4 cannot be read" in line
    line = refused(calibrate(source, target, "--check", empty, images=paint(tmp_path / "p", 2)), 2)
    assert "there is no image to compare on: " in line
    assert not target.exists()


def test_a_file_that_is_there_is_replaced_only_if_that_is_said(tmp_path: Path) -> None:
    source, photos = convolution(tmp_path / "in.onnx"), paint(tmp_path / "p", 4)
    target = tmp_path / "out.onnx"
    target.write_bytes(b"another's")
    assert "out.onnx is there already; choose another name, or add --replace" in refused(
        calibrate(source, target, images=photos), 2
    )
    assert target.read_bytes() == b"another's"
    assert calibrate(source, target, "--replace", images=photos).exit_code == 0
    onnx.checker.check_model(onnx.load(target))
    assert "is the graph that is read" in refused(calibrate(source, source, "--replace", images=photos), 2)
    assert "is a directory" in refused(calibrate(source, tmp_path, "--replace", images=photos), 2)
    missing = tmp_path / "none" / "out.onnx"
    assert "the directory of" in refused(calibrate(source, missing, images=photos), 2)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"before")
    # No file may be larger than 2 MiB, which the graphs are.
    process = start_build("calibrate", DETECTOR, target, "--images", PHOTOS, "--replace", before="ulimit -f 4096;")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (2, "")
    assert "out.onnx: File too large; nothing was written" in errors
    assert [child.name for child in tmp_path.iterdir()] == ["out.onnx"]
    assert target.read_bytes() == b"before"


def test_files_that_belong_together_are_all_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        replace_files({tmp_path / "a": b"new", tmp_path / "none" / "b": b"new"})
    assert [(child.name, child.read_bytes()) for child in tmp_path.iterdir()] == [("a", b"old")]
    replace_files({tmp_path / "a": b"new", tmp_path / "b": b"newer"})
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"newnewer"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    out.mkdir()
    process = start_build("calibrate", DETECTOR, out / "out.onnx", "--images", PHOTOS, before=f"TMPDIR={temporary}")
    interrupt(process, how, lambda: list(temporary.glob("saccade-*/augmented.onnx")))
    assert list(temporary.glob("saccade-*")) == []
    assert list(out.iterdir()) == []
