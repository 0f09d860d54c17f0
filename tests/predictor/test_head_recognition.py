"""Which head a model has: where shapes fit several, the model decides or it is refused; a wrong name is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_heads import (
    Part,
    head_model,
    listed,
    rtdetr,
    rtdetr_sizes,
    separate,
    table,
    tensorflow,
    yolov5,
    yolov8,
    yolov10,
)
from saccade_predictor.build.graph import make_ready
from saccade_predictor.build.heads import Activation, Background, Choices, Head
from saccade_predictor.build.recognition import HeadError, read_layout
from saccade_predictor.build.source import GraphError

NAMES = {"names": "{0: 'a', 1: 'b'}", "stride": "32"}


@pytest.mark.parametrize(
    ("model", "head", "classes"),
    [
        # 84 x 3549: what a YOLOv8 head of 416 x 416 has, and no 84 queries with 3545 classes.
        (yolov8(80, 3549, image=["batch", 3, 416, 416]), Head.YOLOV8, 80),
        # As many rows as queries: the number of boxes is that of the cells.
        (yolov8(300, 8400, image=["batch", 3, 640, 640]), Head.YOLOV8, 300),
        (yolov8(5, 1917), Head.YOLOV8, 5),
        (yolov5(80, 25200, image=["batch", 3, 640, 640]), Head.YOLOV5, 80),
        (yolov5(2, 8400, image=["batch", 3, 640, 640], properties=NAMES), Head.YOLOV5, 2),
        (rtdetr(80, 300, end=""), Head.RTDETR, 80),
        (rtdetr(2, 300, end="", properties={"names": "{0: 'a'}"}), Head.YOLOV10, 1),
        (yolov10(properties=NAMES), Head.YOLOV10, 2),
        (rtdetr(2, properties=NAMES), Head.RTDETR, 2),
        (rtdetr(365, properties={"names": str(dict.fromkeys(range(365), "x"))}), Head.RTDETR, 365),
    ],
)
def test_where_shapes_fit_several_heads_the_model_itself_decides(
    model: onnx.ModelProto, head: Head, classes: int
) -> None:
    found = read_layout(model).head
    assert (found.head, found.classes) == (head, classes)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (
            rtdetr(2, 300, end=""),
            [
                "'output0' FP32 [batch, 300, 6] could be yolov10 (300 boxes) or rtdetr (2 classes, 300 boxes)",
                "--head yolov10 or --head rtdetr",
            ],
        ),
        (
            rtdetr(2, 300, end="", properties=NAMES),
            ["could be yolov10 (300 boxes) or rtdetr (2 classes, 300 boxes)"],
        ),
        (
            rtdetr(365, 300),
            ["[batch, 300, 369] could be yolov8 (296 classes, 369 boxes) or rtdetr (365 classes, 300 boxes)"],
        ),
        # YOLOv8 transposed, or YOLOv5 with one box for each cell.
        (
            yolov5(79, 8400, image=["batch", 3, 640, 640]),
            ["'output0' FP32 [batch, 8400, 84] could be yolov5 (79 classes, 8400 boxes), and", "--head yolov5"],
        ),
        (
            separate(300, 6),
            [
                "'boxes' FP32 [batch, 300, 4], 'scores' FP32 [batch, 300, 6] could be",
                "rtdetr (6 classes, 300 boxes) or ssd (5 classes, 300 boxes)",
                "--head rtdetr or --head ssd",
            ],
        ),
        (listed(), ["could be ssd (200 boxes), and nothing in the model shows it", "--head ssd"]),
    ],
)
def test_what_stays_unclear_is_refused_with_the_heads_it_could_be(model: onnx.ModelProto, parts: list[str]) -> None:
    with pytest.raises(HeadError) as caught:
        read_layout(model)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"a": [Part(table(1, 7, 3))]}, "'a' FP32 [batch, 7, 3]"),
        ({"a": [Part(table(1, 3, 8, 8))]}, "'a' FP32 [batch, 3, 8, 8]"),
        # YOLOv5 with rows and columns exchanged.
        ({"a": [Part(table(1, 10, 504))]}, "'a' FP32 [batch, 10, 504]"),
        ({"a": [Part(table(1, 42, 116))], "b": [Part(table(1, 32, 8, 8))]}, "'b' FP32 [batch, 32, 8, 8]"),
        # YOLOv8 likewise, in a size at which it has as many boxes as others have queries.
        ({"a": [Part(table(1, 168, 84))]}, "'a' FP32 [batch, 168, 84]"),
        ({"a": np.zeros((5,), np.int64)}, "'a' INT64 [batch, 5]"),
    ],
)
def test_outputs_of_no_head_are_refused_with_the_heads_there_are(outputs: dict[str, Any], found: str) -> None:
    with pytest.raises(GraphError) as caught:
        read_layout(head_model(outputs, image=["batch", 3, 64, 128]))
    assert found in str(caught.value)
    assert "one of the heads yolov5, yolov8, yolov10, rtdetr, ssd, classifier (saccade-build ready --help" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("model", "head", "parts"),
    [
        (yolov8(), Head.YOLOV5, ["'output0' is FP32 [batch, 9, 42]; expected FP32 [batch, anchors, 5 + classes]"]),
        (yolov8(), Head.YOLOV10, ["expected FP32 [batch, boxes, 6]", "look like --head yolov8"]),
        (yolov8(), Head.RTDETR, ["is it transposed?", "look like --head yolov8"]),
        (yolov8(), Head.SSD, ["'output0' FP32 [batch, 9, 42]", "expected boxes FP32", "look like --head yolov8"]),
        (yolov8(), Head.CLASSIFIER, ["expected FP32 [batch, classes]", "look like --head yolov8"]),
        (yolov5(), Head.YOLOV8, ["is it transposed?", "look like --head yolov5"]),
        (yolov10(), Head.CLASSIFIER, ["'output0' is FP32 [batch, 300, 6]", "look like --head yolov10"]),
        (separate(end="Softmax"), Head.YOLOV5, ["'scores' FP32 [batch, 1200, 6]", "look like --head ssd"]),
        (tensorflow(), Head.RTDETR, ["'num_detections' FP32 [batch]", "orig_target_sizes", "look like --head ssd"]),
        (rtdetr_sizes(), Head.SSD, ["the picture and its size", "look like --head rtdetr"]),
        (rtdetr(80, properties={**NAMES}), Head.RTDETR, ["read as rtdetr, is 80; expected 2"]),
        (yolov8(properties={**NAMES, "task": "pose"}), Head.YOLOV8, ["the model's task is 'pose'; expected detect"]),
    ],
)
def test_a_wrong_head_is_refused_with_what_was_found(model: onnx.ModelProto, head: Head, parts: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        make_ready(model, head, 10, 0.05, "d")
    for part in parts:
        assert part in str(caught.value)


def test_boxes_that_are_not_decoded_are_refused_with_the_export_that_decodes_them() -> None:
    maps = {f"level{size}": [Part(table(size, 3, size, size, 10))] for size in (8, 4, 2)}
    with pytest.raises(GraphError, match=r"these boxes are not decoded.*export\.py --include onnx --dynamic"):
        read_layout(head_model(maps), Head.YOLOV5)


@pytest.mark.parametrize(
    ("choices", "model", "head", "sentence"),
    [
        (Choices(Activation.SIGMOID), yolov8(), Head.YOLOV8, "--activation is sigmoid; expected no such option"),
        (Choices(background=Background.FIRST), yolov5(), Head.YOLOV5, "--background is first; expected no such"),
        (
            Choices(Activation.NONE),
            tensorflow(),
            Head.SSD,
            "--activation is none; expected no such option for this ssd",
        ),
        (Choices(background=Background.LAST), tensorflow(), Head.SSD, "--background is last; expected none, where"),
        (Choices(), separate(columns=1), Head.SSD, "scores of at least one class (with a background class"),
    ],
)
def test_a_choice_that_a_head_does_not_leave_is_refused(
    choices: Choices, model: onnx.ModelProto, head: Head, sentence: str
) -> None:
    with pytest.raises(GraphError) as caught:
        read_layout(model, head, choices)
    assert sentence in str(caught.value)
