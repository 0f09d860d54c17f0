"""saccade-build plan: real TensorRT-RTX plans without a GPU, and every wrong input in one line with nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner, Result

import onnx_graphs as graphs
from measuring import onnx_models
from plan_support import HAS_RTX, interrupt, needs_rtx, start_build
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.planning import PlanningError, parse_capabilities
from saccade_predictor.build.profiles import ProfileError, Range, parse_batch, parse_shapes
from saccade_predictor.engines.plan import Plan, hash_file, read_sidecar
from saccade_predictor.machine import find_gpus
from saccade_predictor.modelconfig import parse

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "examples" / "model-repository" / "detector"
BENCH = ROOT.parent / "shared" / "tools" / "make_bench_detector.py"
no_gpu = pytest.mark.skipif(bool(find_gpus()[0]), reason="this machine has a GPU")


def plan(source: Path, model: Path, *options: object, kind: str = "trt-rtx") -> Result:
    return CliRunner().invoke(app, ["plan", str(source), str(model), "--kind", kind, *map(str, options)])


def made(result: Result, model: Path, version: int = 1) -> Plan:
    assert result.exit_code == 0, result.output
    folder = model / str(version)
    found = read_sidecar(folder / "plan.json")
    assert hash_file(folder / "model.plan") == (found.plan.sha256, found.plan.bytes)
    assert hash_file(folder / "model.onnx") == (found.source.sha256, found.source.bytes)
    assert [child.name for child in model.parent.iterdir()] == [model.name], "nothing unfinished is left"
    return found


def refused(result: Result, model: Path, code: int = 2) -> str:
    """The one line that is said; nothing of the model is there."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), "no other exception leaves the command"
    [line] = [one for one in result.output.splitlines() if not one.startswith("note: ")]
    assert line.startswith("Error: ")
    assert not model.exists()
    assert not model.parent.exists() or list(model.parent.iterdir()) == []
    return line


# Real plans.


@needs_rtx
def test_the_example_becomes_a_plan_with_all_that_is_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "detector"
    result = plan(
        DETECTOR / "1" / "model.onnx", model, "--labels", DETECTOR / "labels.txt", "--fallback", "--precision", "fp16"
    )
    found = made(result, model)
    assert HAS_RTX, "make dev installs it"
    assert sorted(child.name for child in (model / "1").iterdir()) == [
        "build.log",
        "model.onnx",
        "model.plan",
        "plan.json",
    ]
    assert (found.kind, found.precision, found.strongly_typed) == ("trt-rtx", "fp16", True)
    assert {"8.6", "8.9"} <= set(found.compute_capabilities)
    assert not {"7.5", "9.0"} & set(found.compute_capabilities)
    assert found.rows() == (1, 32)
    assert [(one.name, one.datatype, one.shape) for one in found.inputs] == [("image", "UINT8", (-1, 416, 416, 3))]
    assert [(one.name, one.datatype, one.shape) for one in found.outputs] == [("candidates", "FP32", (-1, 1000, 6))]
    assert found.properties["saccade.input"] == "rgb_nhwc"
    assert found.parity is None
    assert (model / "1" / "model.plan").stat().st_size > 2**20
    assert "ONNX IR version" in (model / "1" / "build.log").read_text()

    config, warnings = parse((model / "config.pbtxt").read_text(), "detector", gpu_available=True)
    assert warnings == []
    assert (config.backend, config.max_batch_size, config.fallback_backend) == ("tensorrt_rtx", 32, "onnxruntime")
    assert config.outputs[0].label_filename == "labels.txt"
    assert (model / "labels.txt").read_text() == (DETECTOR / "labels.txt").read_text()

    refused_here = CliRunner().invoke(
        app,
        [
            "parity",
            str(model / "1" / "model.onnx"),
            str(model / "1" / "model.plan"),
            "--images",
            str(ROOT / "examples"),
        ],
    )
    assert refused_here.exit_code == 1
    assert "is a TensorRT-RTX plan and runs on GPUs of compute capability" in refused_here.output


@needs_rtx
def test_a_large_network_with_a_dynamic_batch_builds_for_one_gpu(tmp_path: Path) -> None:
    [network] = [one for one in onnx_models.MODELS if one.key == "resnet18"]
    onnx_models.build(network, tmp_path / "in.onnx")
    model = tmp_path / "r" / "resnet"
    found = made(plan(tmp_path / "in.onnx", model, "--compute-capability", "8.9", "--batch", "1,4,16"), model)
    assert found.compute_capabilities == ("8.9",)
    assert found.rows() == (1, 16)


@needs_rtx
@pytest.mark.skipif(not BENCH.is_file(), reason="needs ../shared/tools/make_bench_detector.py")
def test_a_yolo_of_full_size_is_made_ready_and_built(tmp_path: Path) -> None:
    source, ready = tmp_path / "in.onnx", tmp_path / "ready.onnx"
    subprocess.run([sys.executable, str(BENCH), "n", str(source)], check=True, capture_output=True)
    assert CliRunner().invoke(app, ["ready", str(source), str(ready), "--head", "yolov8"]).exit_code == 0
    model = tmp_path / "r" / "yolo"
    found = made(plan(ready, model, "--precision", "fp16", "--compute-capability", "7.5"), model)
    assert found.profiles[0]["image"].max == (32, 640, 640, 3)
    assert found.compute_capabilities == ("7.5",)


@needs_rtx
def test_versions_follow_one_another_and_the_configuration_is_checked(tmp_path: Path) -> None:
    model, source = tmp_path / "r" / "m", graphs.doubling(tmp_path / "in.onnx")
    made(plan(source, model), model)
    config = (model / "config.pbtxt").read_text()
    assert made(plan(source, model, "--keep-graph", "--precision", "fp16"), model, 2).precision == "fp16"
    assert (model / "2" / "model.fp16.onnx").is_file()
    assert (model / "config.pbtxt").read_text() == config
    assert "m/1 is there already; leave --version out for 3, or add --replace" in failing(
        plan(source, model, "--version", 1)
    )
    before = (model / "1" / "plan.json").read_text()
    assert made(plan(source, model, "--version", 1, "--replace", "--no-tf32"), model).tf32 is False
    assert (model / "1" / "plan.json").read_text() != before
    line = failing(plan(source, model, "--batch", "1,2,4"))
    assert "config.pbtxt has max_batch_size 32; the profile goes to 4: build with --batch 1,OPT,32" in line
    assert "begins with 2 rows" in failing(plan(source, model, "--batch", "2,8,32"))
    assert sorted(child.name for child in model.iterdir()) == ["1", "2", "config.pbtxt"]


def failing(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.output


@needs_rtx
def test_what_is_there_already_is_not_built_again(tmp_path: Path) -> None:
    model, source = tmp_path / "r" / "m", graphs.doubling(tmp_path / "in.onnx")
    first = plan(source, model, "--reuse")
    assert "was there already" not in first.output
    before = made(first, model)
    again = plan(source, model, "--reuse")
    assert again.exit_code == 0, again.output
    assert f"{model}/1/model.plan: TensorRT-RTX" in again.output
    assert "was there already" in again.output
    assert read_sidecar(model / "1" / "plan.json") == before
    assert not (model / "2").exists()
    other = tmp_path / "other.onnx"
    graph = onnx.load(source)
    graph.doc_string = "another"
    onnx.save(graph, other)
    # Whatever changes the plan is built: how it is asked for, the graph, and where the file is damaged.
    assert made(plan(source, model, "--reuse", "--no-tf32"), model, 2).tf32 is False
    assert made(plan(source, model, "--reuse", "--batch", "1,16,32"), model, 3).profiles != before.profiles
    assert made(plan(source, model, "--reuse", "--compute-capability", "8.9"), model, 4).compute_capabilities == (
        "8.9",
    )
    assert made(plan(other, model, "--reuse"), model, 5).source != before.source
    (model / "1" / "model.plan").write_bytes(b"damaged")
    assert made(plan(source, model, "--reuse"), model, 6).source == before.source
    (model / "6" / "plan.json").unlink()
    assert "was there already" not in plan(source, model, "--reuse").output


@needs_rtx
def test_a_model_without_batches_and_one_with_open_sides(tmp_path: Path) -> None:
    fixed = tmp_path / "r" / "fixed"
    found = made(plan(graphs.doubling(tmp_path / "a.onnx", dims=(3, 2)), fixed, "--batch", 0), fixed)
    assert (found.profiles, found.rows()) == ((), None)
    config, _ = parse((fixed / "config.pbtxt").read_text(), "fixed", gpu_available=True)
    assert (config.max_batch_size, config.inputs[0].dims) == (0, (3, 2))

    wide = tmp_path / "s" / "wide"
    source = graphs.doubling(tmp_path / "b.onnx", dims=("n", "h", 4))
    found = made(plan(source, wide, "--shape", "x=2:3:5x4", "--batch", "1,2,3"), wide)
    assert (found.profiles[0]["x"].min, found.profiles[0]["x"].max) == ((1, 2, 4), (3, 5, 4))


@needs_rtx
def test_weights_in_files_of_their_own_are_joined(tmp_path: Path) -> None:
    source = external(tmp_path / "in.onnx")
    assert (tmp_path / "weights.bin").is_file()
    model = tmp_path / "r" / "m"
    made(plan(source, model), model)
    assert not any(tensor.external_data for tensor in onnx.load(model / "1" / "model.onnx").graph.initializer)


@needs_rtx
def test_a_quantized_graph_is_int8(tmp_path: Path) -> None:
    model = tmp_path / "r" / "m"
    assert made(plan(quantized(tmp_path / "in.onnx"), model, "--precision", "int8"), model).precision == "int8"


def quantized(path: Path) -> Path:
    scale, zero = np.array(0.05, np.float32), np.array(0, np.int8)
    weights = np.linspace(-1, 1, 16 * 16, dtype=np.float32).reshape(16, 16)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    constants = [numpy_helper.from_array(a, n) for n, a in (("s", scale), ("z", zero), ("w", weights))]
    tensors = [graphs.tensor(name, "FLOAT", "n", 16) for name in "xy"]
    return graphs.save(path, nodes, tensors[:1], tensors[1:], initializers=constants)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--compute-capability", "9.0"], ["does not build for compute capability 9.0", "build with --kind trt"]),
        (["--compute-capability", "7.5"], ["Turing", "add --precision fp16"]),
        (
            ["--workspace-mib", "16", "--compute-capability", "8.9"],
            ["OutOfMemory", "--workspace-mib 16 is too little"],
        ),
    ],
)
def test_what_the_builder_refuses_is_said_with_what_to_do(
    options: list[str], parts: list[str], tmp_path: Path
) -> None:
    model, log = tmp_path / "r" / "m", tmp_path / "log"
    line = refused(plan(DETECTOR / "1" / "model.onnx", model, *options, "--log", log), model, 1)
    for part in (*parts, f"the log is {log}"):
        assert part in line
    assert log.read_text()


def save(path: Path, node: onnx.NodeProto, kind: str = "FLOAT", domain: str = "") -> Path:
    tensors = [graphs.tensor(name, kind, "n", 2, 2) for name in "xy"]
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@needs_rtx
@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (
            lambda path: save(path, helper.make_node("Frob", ["x"], ["y"], name="frobber", domain="my"), domain="my"),
            ["node 'frobber' (Frob): TensorRT has no such operator, and no plugin"],
        ),
        (
            lambda path: save(path, helper.make_node("Unique", ["x"], ["y"], name="odd")),
            ["node 'odd' (Unique): TensorRT has no such operator, or not in this form"],
        ),
        (
            lambda path: save(path, helper.make_node("Add", ["x", "x"], ["y"], name="sum"), "UINT8"),
            ["node 'sum' (Add)", "requires inputs with type"],
        ),
    ],
)
def test_an_operator_that_tensorrt_has_not_is_named_with_its_node(
    make: Callable[[Path], Path], parts: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "r" / "m"
    line = refused(plan(make(tmp_path / "in.onnx"), model), model, 1)
    for part in ("TensorRT's ONNX parser does not take the graph: ", *parts):
        assert part in line


@needs_rtx
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    model = tmp_path / "r" / "m"
    # No file may be larger than 10 MiB, which the graph is not and the plan is.
    limit = "ulimit -f 20480;"
    options = ("--kind", "trt-rtx", "--compute-capability", "8.9")
    process = start_build("plan", DETECTOR / "1" / "model.onnx", model, *options, before=limit)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert "File too large" in errors
    assert list((tmp_path / "r").iterdir()) == []


@needs_rtx
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    model = tmp_path / "r" / "m"
    process = start_build("plan", DETECTOR / "1" / "model.onnx", model, "--kind", "trt-rtx")
    interrupt(process, how, lambda: list((tmp_path / "r").glob(".m.*.part/1/build.log")))
    assert list((tmp_path / "r").iterdir()) == []


@needs_rtx
def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    repository = tmp_path / "r"
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f".m.{ended.pid}.part", f".other.{os.getpid()}.part", ".kept"):
        (repository / name).mkdir(parents=True)
    assert plan(graphs.doubling(tmp_path / "in.onnx"), repository / "m").exit_code == 0
    assert sorted(child.name for child in repository.iterdir()) == sorted(["m", ".kept", f".other.{os.getpid()}.part"])


# Refused before TensorRT is started: these need none.


def external(path: Path) -> Path:
    """A graph whose weights are in ``weights.bin``."""
    model = onnx.load(graphs.picking(path))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def without_weights(path: Path) -> Path:
    external(path)
    (path.parent / "weights.bin").unlink()
    return path


def with_short_weights(path: Path) -> Path:
    external(path)
    weights = path.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-4])
    return path


def with_weights_elsewhere(path: Path) -> Path:
    model = onnx.load(external(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    return path


def of_opset(path: Path, opset: int) -> Path:
    model = onnx.load(graphs.doubling(path))
    model.opset_import[0].version = opset
    onnx.save(model, path)
    return path


def content(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def cut(path: Path) -> Path:
    whole = graphs.picking(path).read_bytes()
    return content(path, whole[:-7])


def invalid(path: Path) -> Path:
    model = onnx.load(graphs.doubling(path))
    model.graph.node[0].op_type = "Adds"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("make", "options", "parts"),
    [
        (lambda path: path, [], ["cannot read", "No such file"]),
        (lambda path: content(path, b""), [], ["is empty; expected an ONNX file"]),
        (lambda path: content(path, b"not an ONNX file"), [], ["is not an ONNX file, or is cut short (16 bytes)"]),
        (lambda path: content(path, b"\x08\x08"), [], ["there is no graph in it"]),
        (cut, [], ["is not"]),
        (invalid, [], ["is not valid ONNX", "Adds"]),
        (lambda path: of_opset(path, 99), [], ["is of opset 99; the installed onnx package knows 1.."]),
        (without_weights, [], ["has its weights in 'weights.bin', which is not beside it"]),
        (with_short_weights, [], ["weights.bin", "in.onnx"]),
        (with_weights_elsewhere, [], ["outside its own folder"]),
        (lambda path: graphs.identity(path, "STRING"), ["--precision", "int8"], ["has no QuantizeLinear"]),
        (
            lambda path: graphs.doubling(path, dims=(1, 2)),
            [],
            [
                "the batch is fixed at 1 (input 'x' is FP32 [1, 2])",
                "1 to 32 are asked for",
                "dynamic=True",
                "--batch 0",
            ],
        ),
        (
            lambda path: graphs.doubling(path, dims=("n", "h", 3)),
            [],
            ["input 'x' is FP32 [?, ?, 3], with open dimensions behind the batch", "--shape x=640x3"],
        ),
        (graphs.doubling, ["--shape", "z=3"], ["--shape names 'z'; the graph has inputs 'x'"]),
        (graphs.doubling, ["--shape", "x=3"], ["asks for 3 to 3 where input 'x' is fixed at 2"]),
        (graphs.doubling, ["--shape", "x=2x2"], ["gives input 'x' 2 dimensions; expected 1"]),
        (graphs.doubling, ["--shape", "x=2", "--shape", "x=2"], ["names input 'x' twice"]),
        (graphs.doubling, ["--shape", "x"], ["expected NAME=DIMxDIM"]),
        (graphs.doubling, ["--batch", "8,1"], ["--batch is '8,1'; expected MIN,OPT,MAX"]),
        (graphs.doubling, ["--batch", "8,4,2"], ["--batch is '8,4,2'"]),
        (graphs.doubling, ["--precision", "int8"], ["has no QuantizeLinear and DequantizeLinear nodes"]),
        (graphs.doubling, ["--hardware-compatibility", "ampere_plus"], ["is TensorRT's"]),
        (graphs.doubling, ["--timing-cache", "x"], ["TensorRT-RTX measures nothing"]),
        (graphs.doubling, ["--fp16-by", "flag"], ["goes with --kind trt --precision fp16"]),
        (graphs.doubling, ["--compute-capability", "86"], ["--compute-capability is '86'"]),
        (graphs.doubling, ["--labels", "no-such-file"], ["cannot read no-such-file: No such file"]),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(
    make: Callable[[Path], Path], options: list[str], parts: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "r" / "m"
    line = refused(plan(make(tmp_path / "in.onnx"), model, *options), model)
    for part in parts:
        assert part in line


@no_gpu
def test_a_tensorrt_plan_wants_its_gpu(tmp_path: Path) -> None:
    model = tmp_path / "r" / "m"
    line = refused(plan(graphs.doubling(tmp_path / "in.onnx"), model, kind="trt"), model)
    assert "is built on the GPU it runs on, and this machine has none" in line
    assert "--kind trt-rtx, which needs no GPU" in line
    line = refused(plan(graphs.doubling(tmp_path / "in.onnx"), model, "--compute-capability", 8.9, kind="trt"), model)
    assert "--compute-capability is TensorRT-RTX's" in line


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (
            'backend: "onnxruntime" max_batch_size: 8',
            ["has backend 'onnxruntime'", "change it to backend: 'tensorrt_rtx'"],
        ),
        ('backend: "tensorrt_rtx" max_batch_size: 64', ["has max_batch_size 64; the profile goes to 32"]),
        (
            'backend: "tensorrt_rtx" max_batch_size: 8 default_model_filename: "rtx.engine"',
            ["names the file 'rtx.engine'"],
        ),
        ('backend: "tensorrt_rtx" max_batch_size: 8 no_such_field: 1', ["config.pbtxt: line 1"]),
        (
            'backend: "tensorrt_rtx" max_batch_size: 8 input [{ name: "y" data_type: TYPE_FP32 dims: [2] }]',
            ["input 'y' is not a tensor of the model"],
        ),
        ('backend: "tensorrt_rtx" max_batch_size: 8 ensemble_scheduling { step [] }', ["ensemble_scheduling"]),
    ],
)
def test_a_configuration_that_would_not_serve_the_plan_is_refused_first(
    config: str, parts: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "r" / "m"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text(config)
    line = failing(plan(graphs.doubling(tmp_path / "in.onnx"), model))
    for part in parts:
        assert part in line
    assert [child.name for child in model.iterdir()] == ["config.pbtxt"]


@pytest.mark.parametrize("name", ["", ".hidden"])
def test_a_folder_that_can_be_no_model_is_refused(name: str, tmp_path: Path) -> None:
    target = tmp_path / name if name else Path("/")
    assert "names no model; expected REPOSITORY/NAME" in failing(plan(graphs.doubling(tmp_path / "in.onnx"), target))


def test_batches_and_shapes_are_read() -> None:
    assert parse_batch("1,8,32") == Range(1, 8, 32)
    assert parse_batch("4") == Range(4, 4, 4)
    assert parse_batch("0") is None
    assert parse_shapes(["a=b=3x4:5:6"]) == {"a=b": (Range(3, 3, 3), Range(4, 5, 6))}
    for text in ("", "1,2", "x", "0,1,2", "1,2,5000", "1,8,32,64", "-1"):
        with pytest.raises(ProfileError):
            parse_batch(text)
    for text in ("=3", "x=", "x=3x", "x=5:4:3", "x=1:2", "x=0", "x=1e9"):
        with pytest.raises(ProfileError):
            parse_shapes([text])


def test_compute_capabilities_are_read() -> None:
    assert parse_capabilities(["8.6,8.9", "12.0", "8.6"]) == ("8.6", "8.9", "12.0")
    for text in ("", "8", "8.x", "8.61", "sm_86"):
        with pytest.raises(PlanningError):
            parse_capabilities([text])


def test_every_command_of_the_page_has_the_options_it_is_shown_with() -> None:
    page = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    lines = re.findall(r"^saccade-build (\w+) (.*)$", page, flags=re.MULTILINE)
    assert {"ready", "calibrate", "plan", "inspect", "parity", "manifest"} == {command for command, _ in lines}
    for command, rest in lines:
        known = CliRunner().invoke(app, [command, "--help"]).output
        for option in re.findall(r"--[a-z0-9-]+", rest):
            assert option in known, f"saccade-build {command} {option}"


def test_help_can_be_acted_on() -> None:
    result = CliRunner().invoke(app, ["plan", "--help"])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for part in ("--kind", "--batch", "MIN,OPT,MAX", "--precision", "--compute-capability", "Exit code: 0 done"):
        assert part in text
    assert "also without a GPU" in text
