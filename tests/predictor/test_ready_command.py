"""Pixels, classifiers, and what ``saccade-build ready`` says beside the file it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from onnx_heads import (
    HEIGHT,
    WIDTH,
    Floats,
    Part,
    head_model,
    pictures,
    properties,
    rtdetr_sizes,
    run,
    separate,
    sigmoid,
    softmax,
    source_feed,
    table,
    tensorflow,
    yolov10,
)
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.graph import make_ready
from saccade_predictor.build.heads import Activation, Choices, Head
from saccade_predictor.build.pixels import Normalisation, parse_normalisation
from saccade_predictor.build.recognition import read_layout
from saccade_predictor.build.source import GraphError

# What a source takes.


@pytest.mark.parametrize("image", [("batch", 3, HEIGHT, WIDTH), ("batch", HEIGHT, WIDTH, 3)], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "text", [("0", "1"), ("0.5", "0.5"), ("0.485,0.456,0.406", "0.229,0.224,0.225"), ("0", "0.1,1,1")]
)
def test_pixels_are_normalised_as_the_source_was_trained(image: tuple[Any, ...], text: tuple[str, str]) -> None:
    """The source answers with its input's pixels."""
    flat = 3 * HEIGHT * WIDTH
    node = helper.make_node("Flatten", ["images"], ["pixels"], axis=1)
    given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, image)]
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("pixels", 1, ["batch", flat])])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    normalisation = parse_normalisation(*text)
    ready = make_ready(source, Head.CLASSIFIER, 1, 0, "d", Choices(Activation.NONE), normalisation)
    images = np.random.default_rng(3).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    expected = (images / 255 - np.array(normalisation.mean)) / np.array(normalisation.std)
    if image[1] == 3:
        expected = expected.transpose(0, 3, 1, 2)
    answer = run(ready, {"image": images})["probabilities"]
    np.testing.assert_allclose(answer, expected.reshape(2, -1), rtol=1e-5, atol=1e-5)
    told = properties(ready)
    assert ("saccade.mean" in told, "saccade.std" in told) == (text != ("0", "1"),) * 2


def test_bytes_that_a_source_takes_itself_are_not_normalised() -> None:
    with pytest.raises(GraphError, match="a model that takes UINT8 pixels"):
        make_ready(tensorflow(), Head.SSD, 10, 0.05, "d", normalisation=Normalisation((0.5,) * 3))


@pytest.mark.parametrize("name", ["image", "candidates"])
def test_a_source_of_bytes_may_use_our_names(name: str) -> None:
    source = tensorflow()
    for node in source.graph.node:
        node.input[:] = [name if each == "images" else each for each in node.input]
    source.graph.input[0].name = name
    images = pictures(source, 2)
    answer = run(make_ready(source, None, 20, 0.05, "d"), {"image": images})["candidates"]
    expected = run(make_ready(tensorflow(), None, 20, 0.05, "d"), {"image": images})["candidates"]
    np.testing.assert_array_equal(answer, expected)
    assert answer[:, 0, 4].all()


# Classifiers.


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("end", "choices", "make"),
    [
        ("", Choices(), softmax),
        ("Identity", Choices(), softmax),
        ("LogSoftmax", Choices(), softmax),
        ("Softmax", Choices(), np.array),
        ("Sigmoid", Choices(), np.array),
        ("", Choices(Activation.SIGMOID), sigmoid),
        ("", Choices(Activation.NONE), np.array),
    ],
)
def test_a_classifier_gives_probabilities(
    end: str, choices: Choices, make: Callable[[Floats], Floats], batch: int
) -> None:
    source = head_model({"logits": [Part(table(1, 7, high=6) - 3, end)]})
    images = pictures(source, batch)
    expected = make(run(source, source_feed(source, images))["logits"])
    ready = make_ready(source, None, 1000, 0.05, "abc", choices)
    answer = run(ready, {"image": images})
    assert list(answer) == ["probabilities"]
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-5, atol=1e-6)
    assert properties(ready) == {
        "saccade.input": "rgb_nhwc",
        "saccade.output": "probabilities",
        "saccade.classes": "7",
        "saccade.head": "classifier",
        "saccade.source_sha256": "abc",
    }


def test_a_classifier_may_end_in_a_map_of_one_pixel() -> None:
    logits = table(1, 7, high=6) - 3
    ready = make_ready(head_model({"logits": [Part(logits[:, None, None])]}), None, 1000, 0.05, "d")
    answer = run(ready, {"image": np.full((2, HEIGHT, WIDTH, 3), 255, np.uint8)})["probabilities"]
    np.testing.assert_allclose(answer, [softmax(logits * np.float32(1.5))] * 2, rtol=1e-5)


@pytest.mark.parametrize(("image", "output"), [("image", "probabilities"), ("saccade/flat", "image")])
def test_a_classifier_may_use_our_names(image: str, output: str) -> None:
    plain = head_model({"logits": [Part(table(1, 7))]})
    source = head_model({"logits": [Part(table(1, 7))]})
    names = {"images": image, "logits": output}
    for node in source.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    source.graph.input[0].name, source.graph.output[0].name = image, output
    feed = {"image": np.full((2, HEIGHT, WIDTH, 3), 200, np.uint8)}
    answer = run(make_ready(source, None, 1000, 0.05, "d"), feed)
    expected = run(make_ready(plain, None, 1000, 0.05, "d"), feed)
    np.testing.assert_array_equal(answer["probabilities"], expected["probabilities"])


def test_one_number_is_no_softmax() -> None:
    source = head_model({"logits": [Part(table(1, 1))]})
    assert read_layout(source).head.activation is Activation.SIGMOID
    with pytest.raises(GraphError, match=r"\[batch, 1\]; expected at least two classes .*--activation sigmoid"):
        read_layout(source, Head.CLASSIFIER, Choices(Activation.SOFTMAX))


# The command.


def build(model: onnx.ModelProto, directory: Path, *options: object) -> Result:
    onnx.save(model, directory / "in.onnx")
    arguments = [directory / "in.onnx", directory / "out.onnx", *options]
    return CliRunner().invoke(app, ["ready", *map(str, arguments)])


def test_the_command_says_which_head_it_found_and_what_it_took_for_granted(tmp_path: Path) -> None:
    done = build(separate(), tmp_path, "--candidates", 1200)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[:-1] == [
        "head: ssd, found by the model's outputs",
        "note: 'scores' ends in no softmax or sigmoid, so a softmax is applied to it; --activation none leaves it as"
        " it is",
        "note: the first column of the scores is taken for the background; --background none where it is a class",
    ]
    assert "candidates FP32 [batch, 1200, 6], 5 classes, 1200 anchors" in done.output
    decided = ["--activation", "softmax", "--background", "first", "--head", "ssd"]
    done = build(separate(), tmp_path, "--candidates", 1200, *decided)
    assert done.exit_code == 0, done.output
    assert done.output.count("\n") == 1


def test_the_command_says_that_class_numbers_count_from_1(tmp_path: Path) -> None:
    done = build(tensorflow(), tmp_path, "--candidates", 100)
    assert done.exit_code == 0, done.output
    assert "note: class numbers are taken to count from 1; --background none where they count from 0" in done.output
    assert "class numbers as the model gives them, 100 anchors" in done.output


def test_the_command_makes_a_classifier_ready_and_reminds_of_the_normalisation(tmp_path: Path) -> None:
    source = head_model({"logits": [Part(table(1, 7))]})
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    done = build(source, tmp_path, "--labels", tmp_path / "labels.txt")
    assert done.exit_code == 0, done.output
    assert "add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in done.output
    assert "image UINT8 [batch, 32, 64, 3] -> probabilities FP32 [batch, 7], " in done.output
    done = build(source, tmp_path, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    assert "--mean" not in done.output
    assert properties(onnx.load(tmp_path / "out.onnx"))["saccade.mean"] == "0.485,0.456,0.406"


def test_the_command_refuses_a_table_for_a_classifier(tmp_path: Path) -> None:
    done = build(head_model({"logits": [Part(table(1, 7))]}), tmp_path, "--candidates", 5)
    assert (done.exit_code, done.output) == (
        2,
        "Error: --candidates and --min-score are for detectors; the model is a classifier\n",
    )


def test_labels_that_count_the_background_are_refused_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join("abcdef"))
    done = build(separate(end="Softmax"), tmp_path, "--labels", tmp_path / "labels.txt")
    assert done.exit_code == 1
    assert "has 6 lines; the model has 5 classes beside the background (--background)" in done.output


@pytest.mark.parametrize(
    ("source", "head"),
    [
        (tensorflow(image=["batch", "height", "width", 3], shapes={"detection_boxes": ["n", "rows", 4]}), "ssd"),
        (rtdetr_sizes(image=["batch", 3, "height", "width"], shapes={"boxes": ["n", "queries", 4]}), "rtdetr"),
        (yolov10(shapes={"output0": ["n", "rows", "columns"]}), "yolov10"),
    ],
)
def test_open_sizes_are_found_by_running_the_source_once(source: onnx.ModelProto, head: str, tmp_path: Path) -> None:
    refused = build(source, tmp_path, "--head", head)
    assert refused.exit_code == 1
    assert "--size" in refused.output
    done = build(source, tmp_path, "--size", f"{HEIGHT}x{WIDTH}")
    assert done.exit_code == 0, done.output
    assert f"head: {head}, found by the model's outputs" in done.output
    answer = run(onnx.load(tmp_path / "out.onnx"), {"image": np.ones((2, HEIGHT, WIDTH, 3), np.uint8)})
    assert answer["candidates"].shape == (2, 1000, 6)
    assert answer["candidates"][:, 0, 4].all()


def test_an_output_without_a_batch_is_refused_by_name(tmp_path: Path) -> None:
    source = tensorflow(image=["batch", "height", "width", 3])
    source.graph.node.append(helper.make_node("Identity", ["half"], ["half_again"]))
    source.graph.output.append(helper.make_tensor_value_info("half_again", TensorProto.FLOAT, []))
    done = build(source, tmp_path, "--size", 64)
    assert done.exit_code == 1
    assert "the output 'half_again' is of shape [] for 2 images; expected one row per image" in done.output
