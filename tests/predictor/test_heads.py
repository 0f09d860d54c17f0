"""Every head: found by its outputs, decoded as numpy decodes the source's own answer, refused where it is unclear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from typer.testing import CliRunner

from onnx_heads import (
    HEIGHT,
    WIDTH,
    Answers,
    Floats,
    listed,
    pictures,
    properties,
    rtdetr,
    rtdetr_sizes,
    run,
    separate,
    separate_4d,
    sigmoid,
    softmax,
    source_feed,
    tensorflow,
    units,
    yolov5,
    yolov8,
    yolov10,
)
from plan_support import needs_rtx
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.graph import make_ready
from saccade_predictor.build.heads import Activation, Background, Choices, Head
from saccade_predictor.build.recognition import read_layout
from saccade_predictor.build.source import FixedBatch

#: Operators of TensorRT's ONNX parser; what is put around a source may use no others.
TENSORRT_OPERATORS = {
    *("Cast", "Mul", "Transpose", "Split", "ReduceMax", "ArgMax", "Unsqueeze", "GreaterOrEqual", "Where", "TopK"),
    *("Concat", "GatherElements", "Sub", "Add", "Greater", "Pad", "Squeeze", "Reshape", "Softmax", "Sigmoid", "Less"),
    *("Identity", "Flatten", "Shape", "Gather", "Expand"),
}


class Decoded(NamedTuple):
    """What numpy makes of a source's outputs, before the best are chosen."""

    boxes: Floats  # [batch, boxes, 4], x1, y1, x2, y2 in pixels
    scores: Floats  # [batch, boxes]
    numbers: NDArray[Any]  # [batch, boxes]


class Case(NamedTuple):
    """A made-up model of a head."""

    head: Head
    make: Callable[..., onnx.ModelProto]
    decode: Callable[[Answers], Decoded]
    boxes: int
    classes: int
    nms_done: bool = False
    choices: Choices = Choices()
    is_found: bool = True


def corners(centred: Floats, width: float = 1, height: float = 1) -> Floats:
    """cx, cy, w, h of any unit to x1, y1, x2, y2 in pixels."""
    cx, cy, w, h = np.moveaxis(centred, -1, 0)
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1) * units(width, height)


def best(boxes: Floats, all_scores: Floats) -> Decoded:
    return Decoded(boxes, all_scores.max(axis=-1), all_scores.argmax(axis=-1))


def decode_yolov8(answers: Answers) -> Decoded:
    columns = answers["output0"].transpose(0, 2, 1)
    return best(corners(columns[..., :4]), columns[..., 4:])


def decode_yolov5(answers: Answers) -> Decoded:
    columns = answers["output0"]
    return best(corners(columns[..., :4]), columns[..., 4:5] * columns[..., 5:])


def decode_yolov10(answers: Answers) -> Decoded:
    columns = answers["output0"]
    return Decoded(columns[..., :4], columns[..., 4], columns[..., 5])


def decode_rtdetr(answers: Answers) -> Decoded:
    columns = answers["output0"]
    return best(corners(columns[..., :4], WIDTH, HEIGHT), columns[..., 4:])


def decode_in_pixels(answers: Answers) -> Decoded:
    """The source has been told the size."""
    return Decoded(answers["boxes"], answers["scores"], answers["labels"])


def decode_ssd(
    answers: Answers, first: int = 1, last: int = 6, make: Callable[[Floats], Floats] = np.array
) -> Decoded:
    """Classes are the columns first:last of what ``make`` makes of the scores."""
    all_scores = make(answers.get("scores", answers.get("confs", np.zeros(0))))
    boxes = answers["boxes"].reshape(*all_scores.shape[:2], 4)
    return best(boxes * units(), all_scores[..., first:last])


def decode_detr(answers: Answers) -> Decoded:
    return best(corners(answers["pred_boxes"], WIDTH, HEIGHT), sigmoid(answers["logits"]))


def decode_tensorflow(answers: Answers) -> Decoded:
    plain = {name.split(":")[0]: answer for name, answer in answers.items()}
    kept = np.arange(plain["detection_scores"].shape[1]) < plain["num_detections"][:, None]
    boxes = plain["detection_boxes"][..., [1, 0, 3, 2]] * units()
    return Decoded(boxes, np.where(kept, plain["detection_scores"], 0), plain["detection_classes"] - 1)


def decode_listed(answers: Answers) -> Decoded:
    return Decoded(answers["bboxes"] * units(), answers["scores"], answers["labels"] - 1)


CASES: Mapping[str, Case] = {
    "yolov8": Case(Head.YOLOV8, yolov8, decode_yolov8, 42, 5),
    "yolov5": Case(Head.YOLOV5, yolov5, decode_yolov5, 126, 5),
    "yolov5, one class": Case(Head.YOLOV5, lambda **more: yolov5(1, **more), decode_yolov5, 126, 1),
    "yolov10": Case(Head.YOLOV10, yolov10, decode_yolov10, 300, 0, True),
    "rtdetr": Case(Head.RTDETR, rtdetr, decode_rtdetr, 300, 5, True),
    "rtdetr, two classes": Case(Head.RTDETR, lambda **more: rtdetr(2, **more), decode_rtdetr, 300, 2, True),
    "rtdetr, told sizes": Case(Head.RTDETR, rtdetr_sizes, decode_in_pixels, 300, 0, True),
    "rtdetr, told sizes, classes from 1": Case(
        Head.RTDETR,
        rtdetr_sizes,
        lambda answers: decode_in_pixels({**answers, "labels": answers["labels"] - 1}),
        300,
        0,
        True,
        choices=Choices(background=Background.FIRST),
    ),
    "rtdetr, boxes and logits": Case(
        Head.RTDETR,
        lambda **more: separate(300, 6, names=("pred_boxes", "logits"), **more),
        decode_detr,
        300,
        6,
        True,
        is_found=False,
    ),
    "ssd": Case(Head.SSD, lambda **more: separate(end="Softmax", **more), decode_ssd, 1200, 5),
    "ssd, few boxes": Case(Head.SSD, lambda **more: separate(200, end="Softmax", **more), decode_ssd, 200, 5),
    "ssd, boxes of four dimensions": Case(Head.SSD, separate_4d, decode_ssd, 1100, 5),
    "ssd, logits": Case(Head.SSD, separate, lambda answers: decode_ssd(answers, make=softmax), 1200, 5),
    "ssd, sigmoids, background last": Case(
        Head.SSD,
        separate,
        lambda answers: decode_ssd(answers, 0, 5, sigmoid),
        1200,
        5,
        choices=Choices(Activation.SIGMOID, Background.LAST),
    ),
    "ssd, no background": Case(
        Head.SSD,
        lambda **more: separate(end="Sigmoid", **more),
        lambda answers: decode_ssd(answers, 0, 6),
        1200,
        6,
        choices=Choices(background=Background.NONE),
    ),
    "ssd, four columns": Case(
        Head.SSD, lambda **more: separate(columns=4, end="Softmax", **more), lambda a: decode_ssd(a, 1, 4), 1200, 3
    ),
    "ssd of tensorflow": Case(Head.SSD, tensorflow, decode_tensorflow, 100, 0, True),
    "ssd of tensorflow, all outputs": Case(
        Head.SSD, lambda **more: tensorflow(suffix=":0", extra=True, **more), decode_tensorflow, 100, 0, True
    ),
    "ssd of the model zoo": Case(Head.SSD, listed, decode_listed, 200, 0, True, is_found=False),
}


def split_score(decoded: Decoded) -> float:
    """A score that half of the boxes have."""
    values = np.unique(decoded.scores[decoded.scores > 0])
    middle = len(values) // 2
    return float(values[middle - 1 : middle + 1].mean())


def check_table(answer: Floats, decoded: Decoded, min_score: float) -> None:
    """Hold a table of candidates against numpy's boxes; scores that are nearly the same may be in either order."""
    candidates = answer.shape[1]
    for rows, boxes, values, numbers in zip(answer, *decoded, strict=True):
        count = min(int((values >= np.float32(min_score)).sum()), candidates)
        assert not rows[count:].any(), "unused rows are zero"
        assert (rows[:count, 4] >= np.float32(min_score)).all()
        assert (np.diff(rows[:, 4]) <= 0).all(), "the best score comes first"
        which = np.abs(rows[:count, None, :4] - boxes[None]).max(axis=2).argmin(axis=1)
        assert len(set(which.tolist())) == count, "every row is another box"
        np.testing.assert_allclose(rows[:count, :4], boxes[which], rtol=2e-5, atol=1e-4)
        np.testing.assert_allclose(rows[:count, 4], values[which], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(rows[:count, 5], numbers[which])
        left = np.delete(values, which)
        assert left.size == 0 or left.max() <= max(rows[count - 1, 4], min_score) + 1e-6, "the best are chosen"


@pytest.mark.parametrize("candidates", [9, 1300])
@pytest.mark.parametrize(("batch", "opset"), [(1, 13), (3, 18)])
@pytest.mark.parametrize("name", CASES)
def test_a_head_is_decoded_as_numpy_decodes_it(name: str, batch: int, opset: int, candidates: int) -> None:
    case = CASES[name]
    source = case.make(opset=opset)
    images = pictures(source, batch)
    decoded = case.decode(run(source, source_feed(source, images)))
    min_score = split_score(decoded)

    ready = make_ready(source, case.head, candidates, min_score, "d", case.choices)
    (answer,) = run(ready, {"image": images}).values()
    assert answer.shape == (batch, candidates, 6)
    assert answer[0, 0, 4] > 0
    check_table(answer, decoded, min_score)


@pytest.mark.parametrize("name", CASES)
def test_a_ready_graph_says_what_it_is(name: str) -> None:
    case = CASES[name]
    source = case.make()
    ready = make_ready(source, case.head, 10, 0.25, "abc", case.choices)
    told = {
        "saccade.input": "rgb_nhwc",
        "saccade.output": "candidates",
        "saccade.candidates": "10",
        "saccade.head": case.head.value,
        "saccade.min_score": "0.25",
        "saccade.source_sha256": "abc",
    }
    told |= {"saccade.classes": str(case.classes)} if case.classes else {}
    told |= {"saccade.nms": "done"} if case.nms_done else {}
    assert properties(ready) == told
    (image,), (output,) = ready.graph.input, ready.graph.output
    assert (image.name, output.name) == ("image", "candidates")
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    added = [node for node in ready.graph.node if node.name.startswith("saccade/")]
    assert len(added) == len(ready.graph.node) - len(source.graph.node)
    assert {node.op_type for node in added} <= TENSORRT_OPERATORS


@needs_rtx
@pytest.mark.parametrize("name", CASES)
def test_tensorrt_builds_a_plan_of_every_head(name: str, tmp_path: Path) -> None:
    ready, model = tmp_path / "ready.onnx", tmp_path / "m"
    onnx.save(make_ready(CASES[name].make(), CASES[name].head, 1000, 0.05, "d", CASES[name].choices), ready)
    options = ["--kind", "trt-rtx", "--precision", "fp32", "--batch", "1,2,4", "--compute-capability", "8.9"]
    done = CliRunner().invoke(app, ["plan", str(ready), str(model), *options])
    assert done.exit_code == 0, done.output
    assert (model / "1" / "model.plan").stat().st_size > 1000


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].is_found])
def test_a_head_is_found_by_its_outputs(name: str) -> None:
    case = CASES[name]
    found = read_layout(case.make(), None, case.choices).head
    assert found == read_layout(case.make(), case.head, case.choices).head
    assert (found.head, found.anchors, found.classes) == (case.head, case.boxes, case.classes)


@pytest.mark.parametrize("name", CASES)
def test_a_fixed_batch_is_refused_with_the_axes_to_export(name: str) -> None:
    source = CASES[name].make()
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(FixedBatch, match="the batch is fixed at 1") as caught:
        make_ready(source, CASES[name].head, 10, 0.05, "d")
    for value in (*source.graph.input, *source.graph.output):
        assert f"'{value.name}': {{0: 'batch'}}" in str(caught.value)
