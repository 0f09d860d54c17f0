"""The command saccade-build: every wrong input ends in one clear line, and a good one in a file."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

import onnx_graphs
from measuring.traced import profile as read_profile
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.heads import HEADS
from saccade_serving import __version__

Shape = list[str | int | None]
THREE = "one number, or three for red, green and blue such as 0.485,0.456,0.406"


def write_model(
    path: Path,
    input_shape: Shape | None = None,
    output_shape: Shape | None = None,
    input_type: int = TensorProto.FLOAT,
    output_type: int = TensorProto.FLOAT,
    opset: int = 18,
) -> Path:
    """Write a model that ignores its input; its declared tensors are what a test makes of them."""
    output_shape = output_shape or ["batch", 9, 40]
    rank = len(output_shape)
    data = np.full([1] * rank, 0.25, np.float32 if output_type == TensorProto.FLOAT else np.float16)
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["images"], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["batch"]),
            helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
            helper.make_node("Expand", ["data", "target"], ["output0"]),
        ],
        "constant",
        [helper.make_tensor_value_info("images", input_type, input_shape or ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("output0", output_type, output_shape)],
        [
            numpy_helper.from_array(data, "data"),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
            numpy_helper.from_array(
                np.array([dim if isinstance(dim, int) else 1 for dim in output_shape[1:]], np.int64), "rest"
            ),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def write_ready(path: Path) -> Path:
    """Write a graph that has been through the command."""
    assert build(write_model(path), path.with_name("ready.onnx"), "--head", "yolov8").exit_code == 0
    return path.with_name("ready.onnx").rename(path)


def build(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ready", *map(str, arguments)])


def error_line(result: Result) -> str:
    """The only line that comes out."""
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), "no other exception leaves the command"
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert result.output == result.stderr
    return result.output.rstrip()


def usage_line(result: Result) -> str:
    """The line of the option parser that says what is wrong; a hint at --help stands above it."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def test_a_good_model_becomes_a_ready_graph(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in.onnx")
    target = tmp_path / "out.onnx"
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    result = build(source, target, "--head", "yolov8", "--candidates", 20, "--min-score", 0.1, "--labels", labels)
    assert result.exit_code == 0, result.output
    assert result.output == (
        f"{target}: image UINT8 [batch, 64, 64, 3] -> candidates FP32 [batch, 20, 6],"
        f" 5 classes, 40 anchors, {target.stat().st_size} bytes\n"
    )
    model = onnx.load(target)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["saccade.source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (properties["saccade.candidates"], properties["saccade.min_score"]) == ("20", "0.1")


def test_the_defaults_are_1000_candidates_over_5_percent(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    result = build(write_model(tmp_path / "in.onnx"), target, "--head", "yolov8")
    assert result.exit_code == 0, result.output
    assert "the last 960 of the 1000 rows are always zero; --candidates 40" in result.output
    properties = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert (properties["saccade.candidates"], properties["saccade.min_score"]) == ("1000", "0.05")


def test_building_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    target.write_text("an older build")
    assert build(source, target, "--head", "yolov8").exit_code == 0
    first = target.read_bytes()
    assert build(source, target, "--head", "yolov8").exit_code == 0
    assert target.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


def test_the_file_written_has_ordinary_permissions(tmp_path: Path) -> None:
    target, ordinary = tmp_path / "out.onnx", tmp_path / "ordinary"
    ordinary.write_text("")
    assert build(write_model(tmp_path / "in.onnx"), target, "--head", "yolov8").exit_code == 0
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_a_failed_build_leaves_the_older_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "out.onnx"
    target.write_text("an older build")
    source = write_model(tmp_path / "in.onnx")
    monkeypatch.setattr(os, "fsync", full)
    assert "cannot write" in error_line(result := build(source, target, "--head", "yolov8"))
    assert "No space left on device" in result.output
    assert target.read_text() == "an older build"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda path: write_model(path, ["batch", 3, 64]), ["'images' is FP32 [batch, 3, 64];", "height, width"]),
        (
            lambda path: write_model(path, input_type=TensorProto.FLOAT16),
            ["'images' is FP16 [batch, 3, 64, 64];", "FP32"],
        ),
        (
            lambda path: write_model(path, ["batch", 1, 64, 64]),
            ["FP32 [batch, 1, 64, 64];", "[batch, 3, height, width]"],
        ),
        (lambda path: write_model(path, ["batch", 64, 3, 64]), ["FP32 [batch, 64, 3, 64];"]),
        (
            lambda path: write_model(path, ["batch", 3, "height", "width"]),
            ["[batch, 3, height, width];", "a fixed height and width", "--size"],
        ),
        (
            lambda path: write_model(path, [1, 3, 64, 64]),
            ["in.onnx: the batch is fixed at 1; export with a dynamic batch", "FP32 [1, 3, 64, 64];", "dynamic_axes"],
        ),
        (
            lambda path: write_ready(path),
            ["UINT8 [batch, 64, 64, 3];", "ready already?"],
        ),
        (
            lambda path: write_model(path, input_type=TensorProto.UINT8),
            ["UINT8 [batch, 3, 64, 64];", "UINT8 or FP32 [batch, height, width, 3]"],
        ),
        (
            lambda path: write_model(path, output_shape=["batch", 4, 40]),
            ["'output0' is FP32 [batch, 4, 40];", "at least one class"],
        ),
        (
            lambda path: write_model(path, output_shape=["batch", 84, "anchors"]),
            ["'output0' is FP32 [batch, 84, anchors];", "both numbers fixed"],
        ),
        (lambda path: write_model(path, output_shape=["batch", 40]), ["'output0' is FP32 [batch, 40];"]),
        (lambda path: write_model(path, output_shape=["batch", 8400, 84]), ["is it transposed?"]),
        (
            lambda path: write_model(path, output_type=TensorProto.FLOAT16),
            ["'output0' is FP16 [batch, 9, 40];", "expected FP32"],
        ),
        (lambda path: write_model(path, opset=12), ["opset is 12;", "13.."]),
        (lambda path: write_model(path, opset=999), ["opset is 999;", "older than the model"]),
    ],
)
def test_a_model_of_another_layout_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], parts: list[str]
) -> None:
    source, target = make(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    result = build(source, target, "--head", "yolov8")
    line = error_line(result)
    assert result.exit_code == 1
    for part in (str(source), *parts):
        assert part in line
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"not an ONNX file at all", bytes(range(256)) * 40, b'{"json": true}'])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(content)
    result = build(source, tmp_path / "out.onnx", "--head", "yolov8")
    assert "not an ONNX" in error_line(result)
    assert result.exit_code == 1


def test_a_model_cut_short_is_refused_in_one_line(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in.onnx")
    source.write_bytes(source.read_bytes()[:-20])
    error_line(build(source, tmp_path / "out.onnx", "--head", "yolov8"))


def test_several_inputs_or_outputs_are_refused_by_name(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in.onnx")
    model = onnx.load(source)
    model.graph.output.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [4]))
    onnx.save(model, source)
    line = error_line(build(source, tmp_path / "out.onnx", "--head", "yolov8"))
    assert (
        "the list of outputs is 'output0' FP32 [batch, 9, 40], 'shape' INT64 [4]; expected exactly one output" in line
    )


def test_a_graph_that_is_not_valid_is_refused_in_one_line(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in.onnx")
    model = onnx.load(source)
    model.graph.node[0].op_type = "Shapes"
    onnx.save(model, source)
    assert "not valid ONNX" in error_line(build(source, tmp_path / "out.onnx", "--head", "yolov8"))


def test_a_graph_whose_output_is_not_what_it_declares_is_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in.onnx")
    model = onnx.load(source)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((1, 7, 1), np.float32), "data"))
    onnx.save(model, source)
    assert "the ready graph is not valid" in error_line(build(source, tmp_path / "out.onnx", "--head", "yolov8"))


def test_weights_in_separate_files_are_refused_with_a_way_out(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    model = onnx.load(write_model(source))
    onnx.save(model, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    line = error_line(build(source, tmp_path / "out.onnx", "--head", "yolov8"))
    assert "separate files" in line
    assert "onnx.save(onnx.load(path), new_path)" in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--candidates", "0"], "candidates is 0; expected 1..3840, what TensorRT's TopK can do"),
        (["--candidates", "3841"], "candidates is 3841; expected 1..3840, what TensorRT's TopK can do"),
        (["--min-score", "-0.1"], "min-score is -0.1; expected 0..1"),
        (["--min-score", "2"], "min-score is 2.0; expected 0..1"),
        (["--min-score", "nan"], "min-score is nan; expected 0..1"),
        (["--std", "0"], "--std is '0'; expected numbers above 0"),
        (["--std", "1,2"], f"--std is '1,2'; expected {THREE}"),
        (["--mean", "inf"], f"--mean is 'inf'; expected {THREE}"),
        (["--mean", "grey"], f"--mean is 'grey'; expected {THREE}"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_line(tmp_path: Path, options: list[str], expected: str) -> None:
    result = build(write_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", "--head", "yolov8", *options)
    assert error_line(result) == f"Error: {expected}"
    assert result.exit_code == 2
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--head", "yolov3"], ["--head", "yolov3", "'yolov5', 'yolov8', 'yolov10', 'rtdetr', 'ssd', 'classifier'"]),
        (["--activation", "relu"], ["--activation", "relu", "softmax"]),
        (["--background", "0"], ["--background", "first"]),
        (["--head", "yolov8", "--candidates", "many"], ["--candidates"]),
        (["--head", "yolov8", "--classes", "3"], ["--classes"]),
    ],
)
def test_an_option_that_cannot_be_read_is_named(tmp_path: Path, options: list[str], parts: list[str]) -> None:
    line = usage_line(build(write_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", *options))
    for part in parts:
        assert part in line


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "in.onnx"), tmp_path / "out.onnx"

    def sentence(*arguments: object) -> str:
        result = build(*arguments, "--head", "yolov8")
        assert result.exit_code == 2
        return error_line(result)

    missing = tmp_path / "missing.onnx"
    assert sentence(missing, target) == f"Error: cannot read {missing}: No such file or directory"
    assert sentence(tmp_path, target) == f"Error: cannot read {tmp_path}: Is a directory"
    assert "detector/1 of the output does not exist" in sentence(source, tmp_path / "detector" / "1" / "model.onnx")
    assert "is a directory; name a file" in sentence(source, tmp_path)
    assert sentence(source, source) == "Error: the output is the input itself; name another file"
    (tmp_path / "link.onnx").symlink_to(source)
    assert "the output is the input itself" in sentence(source, tmp_path / "link.onnx")
    assert "cannot read" in sentence(source, target, "--labels", tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in sentence(source, target, "--labels", tmp_path / "binary.txt")
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [("a\nb\n", "has 2 lines; the model has 5 classes"), ("a\nb\n\nd\ne\n", "line 3 is empty")],
)
def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path: Path, text: str, part: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    result = build(write_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", "--head", "yolov8", "--labels", labels)
    assert part in error_line(result)
    assert result.exit_code == 1


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"{__version__}\n")


def test_help_says_what_goes_in_and_what_comes_out() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "ready" in result.output
    result = build("--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for part in (
        "IN.onnx",
        "OUT.onnx",
        "--head",
        "--candidates",
        "--min-score",
        "--labels",
        "UINT8 [batch, H, W, 3]",
        "[default: 1000]",
        "1..3840",
        "saccade-build ready yolov8m.onnx ready.onnx",
        *(f"{head}: {told}" for head, told in HEADS.items()),
    ):
        assert part in text


def write_open_model(path: Path, batch: int | str = "batch") -> Path:
    """Write a detector whose height and width are open: one anchor per pixel, scores from the red channel."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["images", "flat"], ["pixels"]),
            helper.make_node("Slice", ["pixels", "zero", "one", "axis"], ["red"]),
            helper.make_node("Concat", ["red"] * 6, ["output0"], axis=1),
        ],
        "open",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, "height", "width"])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [batch, "rows", "anchors"])],
        [
            numpy_helper.from_array(np.array([0 if batch == "batch" else 1, 3, -1], np.int64), "flat"),
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_model_of_open_size_is_given_the_size_it_will_be_served_in(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    result = build(write_open_model(tmp_path / "in.onnx"), target, "--head", "yolov8", "--size", "32x64")
    assert result.exit_code == 0, result.output
    assert "image UINT8 [batch, 32, 64, 3]" in result.output
    assert "2 classes, 2048 anchors" in result.output
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    (table,) = session.run(None, {"image": np.full((3, 32, 64, 3), 255, np.uint8)})
    assert table.shape == (3, 1000, 6)
    assert (table[:, :, 4] == 1).all()


def test_a_model_of_open_size_without_a_size_is_told_about_the_option(tmp_path: Path) -> None:
    result = build(write_open_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", "--head", "yolov8")
    assert result.exit_code == 1
    assert "give it one with --size" in error_line(result)


@pytest.mark.parametrize(
    ("size", "code", "part"),
    [
        ("640x", 2, "--size is '640x'; expected 640, or HEIGHTxWIDTH"),
        ("16", 2, "each 32..8192"),
        ("32x32x3", 2, "expected 640, or HEIGHTxWIDTH"),
    ],
)
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str, code: int, part: str) -> None:
    result = build(write_open_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", "--head", "yolov8", "--size", size)
    assert result.exit_code == code
    assert part in error_line(result)


def test_a_size_that_contradicts_a_fixed_model_is_refused(tmp_path: Path) -> None:
    result = build(write_model(tmp_path / "in.onnx"), tmp_path / "out.onnx", "--head", "yolov8", "--size", "640")
    assert result.exit_code == 1
    assert "fixed at 64x64" in error_line(result)


@pytest.mark.parametrize("options", [[], ["--size", "64"]])
def test_a_fixed_batch_is_said_before_anything_else(tmp_path: Path, options: list[str]) -> None:
    source = write_open_model(tmp_path / "in.onnx", batch=1)
    result = build(source, tmp_path / "out.onnx", "--head", "yolov8", *options)
    assert result.exit_code == 1
    assert error_line(result).startswith(f"Error: {source}: the batch is fixed at 1; export with a dynamic batch (")


def test_a_model_whose_graph_holds_one_image_only_is_refused_when_it_is_sized(tmp_path: Path) -> None:
    source = write_open_model(tmp_path / "in.onnx", batch=1)
    model = onnx.load(source)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"  # in name only
    onnx.save(model, source)
    result = build(source, tmp_path / "out.onnx", "--head", "yolov8", "--size", "64")
    assert result.exit_code == 1
    assert "for 2 images; expected one row per image" in error_line(result)


# profile.


def test_a_models_batches_are_measured_and_the_autoscalers_numbers_printed(tmp_path: Path) -> None:
    directory = tmp_path / "ident"
    (directory / "1").mkdir(parents=True)
    onnx_graphs.identity(directory / "1" / "model.onnx")
    (directory / "config.pbtxt").write_text(
        'backend: "onnxruntime" max_batch_size: 6 dynamic_batching { } parameters { key: "slo_ms" value '
        '{ string_value: "250" } }'
    )
    done = CliRunner().invoke(app, ["profile", str(directory), "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "ident version 1, 1 instance(s), SLO 250 ms" in done.output
    measured = re.findall(r"^ +(\d+) +[\d.]+ +[\d.]+$", done.output, re.MULTILINE)
    assert measured == ["1", "2", "4", "6"]
    assert "largest batch that keeps the SLO (B*): 6 rows" in done.output
    assert re.search(r"autoscaling target \(concurrency, at 70% of capacity\): \d+", done.output)
    least = re.search(r"if there has to be a hard limit, at least (\d+)", done.output)
    assert least is not None
    assert int(least[1]) >= 15, "2 x 6 x 1 x 1.25, and what an SLO of so many batches lets in"
    told = re.search(r"--profile (\S+)", done.output)
    assert told is not None
    shown = re.findall(r"^ +(\d+) +([\d.]+) +[\d.]+$", done.output, re.MULTILINE)
    replayed = read_profile(told[1])
    assert list(replayed) == [int(rows) for rows, _ in shown]
    for (_, ms), seconds in zip(shown, replayed.values(), strict=True):
        assert seconds * 1e3 == pytest.approx(float(ms), rel=1e-3, abs=0.006)
    done = CliRunner().invoke(app, ["profile", str(directory), "--threads", "1", "--slo-ms", "0.0001"])
    assert "note: one row alone takes longer than the SLO" in done.output


@pytest.mark.parametrize(
    ("config", "arguments", "code", "sentence"),
    [
        ('backend: "onnxruntime" max_batch_size: 4', ["--slo-ms", "0"], 2, "--slo-ms is 0; expected above 0"),
        ('backend: "onnxruntime" max_batch_size: 4 platform: "x"', [], 1, "platform is 'x'"),
        (None, ["nowhere"], 2, "is not a directory"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tmp_path: Path, config: str | None, arguments: list[str], code: int, sentence: str
) -> None:
    directory = tmp_path / "ident"
    (directory / "1").mkdir(parents=True)
    onnx_graphs.identity(directory / "1" / "model.onnx")
    (directory / "config.pbtxt").write_text(config or "")
    given = [str(tmp_path / arguments[0])] if config is None else [str(directory), *arguments]
    done = CliRunner().invoke(app, ["profile", *given])
    assert done.exit_code == code, done.output
    assert sentence in done.output
