"""The heads that can be turned into a ready graph, and how each is read from a model's outputs.

A reader holds the outputs against one head and says what is where in them, or why they are not that head's. Which head
a model has is ``recognition.py``'s question; what is done with it ``decoding.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import onnx
from onnx import TensorProto

from saccade_predictor.build.source import GraphError, describe, describe_all, shape_of

_BOX: Final = 4
#: Kinds of numbers that say which class a row has.
_CLASS_KINDS: Final = frozenset({TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64})


class Head(StrEnum):
    """Layouts of a model's outputs that can be turned into a ready graph."""

    YOLOV5 = "yolov5"
    YOLOV8 = "yolov8"
    YOLOV10 = "yolov10"
    RTDETR = "rtdetr"
    SSD = "ssd"
    CLASSIFIER = "classifier"


#: What each head is, for a person.
HEADS: Final[Mapping[Head, str]] = {
    Head.YOLOV5: "[batch, boxes, 5 + classes]: cx, cy, w, h in pixels, objectness, class scores (YOLOv5, v7)",
    Head.YOLOV8: "[batch, 4 + classes, boxes]: cx, cy, w, h in pixels, class scores (YOLOv8, v9, 11, 12)",
    Head.YOLOV10: "[batch, boxes, 6]: x1, y1, x2, y2 in pixels, score, class; no overlaps (YOLOv10, end-to-end YOLO)",
    Head.RTDETR: "[batch, queries, 4 + classes]: cx, cy, w, h in 0..1, class scores (Ultralytics); or boxes and class"
    " logits in two outputs; or labels, boxes, scores with a second input orig_target_sizes",
    Head.SSD: "boxes [batch, boxes, 4] or [batch, boxes, 1, 4], x1, y1, x2, y2 in 0..1, and scores [batch, boxes,"
    " background + classes]; or detection_boxes (y1, x1, y2, x2), _scores, _classes and num_detections (TensorFlow);"
    " or boxes, labels, scores",
    Head.CLASSIFIER: "[batch, classes]: logits or probabilities",
}


class Form(StrEnum):
    """How a head's numbers are spread over its outputs."""

    ROWS = "one output [batch, 4 + classes, boxes]"
    OBJECTNESS = "one output [batch, boxes, 4 + 1 + classes]"
    COLUMNS = "one output [batch, boxes, 4 + classes]"
    NUMBERED = "one output [batch, boxes, 4 + score + class number]"
    SEPARATE = "boxes [batch, boxes, 4], scores [batch, boxes, classes]"
    LISTED = "boxes [batch, boxes, 4], scores [batch, boxes], class numbers [batch, boxes], maybe their count"
    CLASSES = "one output [batch, classes]"


class Box(StrEnum):
    """What a box's four numbers are."""

    CENTRE = "cx, cy, w, h"
    CORNERS = "x1, y1, x2, y2"
    CORNERS_Y_FIRST = "y1, x1, y2, x2"


class Activation(StrEnum):
    """What makes scores of the numbers that a model gives."""

    NONE = "none"
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class Background(StrEnum):
    """Which class stands for "nothing here"."""

    NONE = "none"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person has decided about the outputs; None leaves it to the head.

    Attributes:
        activation: applied to the scores.
        background: class that is no class.
    """

    activation: Activation | None = None
    background: Background | None = None


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Where boxes, scores and classes are in a model's outputs.

    Attributes:
        outputs: names of the outputs, in the order of ``form``.
        classes: number of classes, without the background; 0 where only class numbers come out.
        anchors: number of boxes for one image; 0 for a classifier.
        box: what the numbers of a box are.
        in_pixels: a box is in pixels of the input; else in 0..1.
        activation: to be applied to the scores.
        background: column of the scores to be dropped; with ``Form.LISTED``, FIRST says that classes count from 1.
        nms_done: boxes of one object do not overlap: there is nothing left for non-maximum suppression.
    """

    head: Head
    form: Form
    outputs: tuple[str, ...]
    classes: int
    anchors: int = 0
    box: Box = Box.CENTRE
    in_pixels: bool = True
    activation: Activation = Activation.NONE
    background: Background = Background.NONE
    nms_done: bool = False


@dataclass(frozen=True, slots=True)
class Outputs:
    """A model's outputs, and what is known of how they are made.

    Attributes:
        values: as declared.
        tails: operators that an output's numbers come from, by its name; nodes that only move numbers are not counted.
        takes_sizes: the model has an input for the sizes of the pictures.
    """

    values: Sequence[onnx.ValueInfoProto]
    tails: Mapping[str, frozenset[str]]
    takes_sizes: bool = False

    def only(self, expected: str) -> onnx.ValueInfoProto:
        """The one output.

        Raises:
            GraphError: there are more, or none.
        """
        if len(self.values) != 1:
            found = describe_all(self.values)
            raise GraphError("the list of outputs", found, f"exactly one output, {expected}")
        return self.values[0]

    def activation(self, value: onnx.ValueInfoProto, default: Activation) -> Activation:
        """What is left to apply to scores: nothing where a softmax or sigmoid makes them."""
        return Activation.NONE if self.tails.get(value.name, frozenset()) & {"Softmax", "Sigmoid"} else default


Reader = Callable[[Outputs, Choices], HeadLayout]


def read_head(head: Head, outputs: Outputs, choices: Choices) -> HeadLayout:
    """Read a model's outputs as one head's.

    Raises:
        GraphError: they are not; the sentence names the outputs, what they are and what is expected.
    """
    layout = _READERS[head](outputs, choices)
    asked = {"--activation": choices.activation, "--background": choices.background}
    for option, value in asked.items():
        if value is not None and option not in _OPTIONS.get(layout.form, ()):
            raise GraphError(option, value, f"no such option for this {head} head", f"its form is {layout.form.value}")
    if layout.form is Form.LISTED and layout.background is Background.LAST:
        expected = "none, where class numbers count from 0, or first, where from 1"
        raise GraphError("--background", Background.LAST, expected)
    if outputs.takes_sizes and not (head is Head.RTDETR and layout.form is Form.LISTED):
        raise GraphError("the list of inputs", "the picture and its size", f"the picture alone for the head {head}")
    return layout


def _table(outputs: Outputs, expected: str) -> tuple[onnx.ValueInfoProto, int, int]:
    """The one output FP32 [batch, rows, columns], and its numbers of rows and columns."""
    output = outputs.only(expected)
    what, found, shape = f"output {output.name!r}", describe(output), shape_of(output)
    if output.type.tensor_type.elem_type != TensorProto.FLOAT or len(shape) != 3:
        raise GraphError(what, found, expected)
    _, rows, columns = shape
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise GraphError(what, found, expected, "both numbers fixed; --size H finds them by running the model once")
    return output, rows, columns


def _read_yolov8(outputs: Outputs, _: Choices) -> HeadLayout:
    expected = "FP32 [batch, 4 + classes, anchors], the YOLOv8 layout"
    output, rows, anchors = _table(outputs, expected)
    what, found = f"output {output.name!r}", describe(output)
    if rows <= _BOX or anchors < 1:
        raise GraphError(what, found, expected, "both numbers fixed, at least one class")
    if rows > anchors:
        raise GraphError(what, found, expected, "more rows than anchors: is it transposed?")
    return HeadLayout(Head.YOLOV8, Form.ROWS, (output.name,), rows - _BOX, anchors)


def _read_yolov5(outputs: Outputs, _: Choices) -> HeadLayout:
    expected = "FP32 [batch, anchors, 5 + classes], the YOLOv5 layout with decoded boxes"
    if len(outputs.values) > 1 and any(len(shape_of(value)) == 5 for value in outputs.values):
        raise GraphError(
            "the list of outputs",
            describe_all(outputs.values),
            expected,
            "these boxes are not decoded, or come beside the decoded ones: export with YOLOv5 6.0 or later, "
            "python export.py --include onnx --dynamic",
        )
    output, anchors, columns = _table(outputs, expected)
    what, found = f"output {output.name!r}", describe(output)
    if columns <= _BOX + 1:
        raise GraphError(what, found, expected, "at least one class")
    if columns > anchors:
        raise GraphError(what, found, expected, "more columns than anchors: is it transposed?")
    return HeadLayout(Head.YOLOV5, Form.OBJECTNESS, (output.name,), columns - _BOX - 1, anchors)


def _read_yolov10(outputs: Outputs, _: Choices) -> HeadLayout:
    expected = "FP32 [batch, boxes, 6], the end-to-end YOLO layout"
    output, anchors, columns = _table(outputs, expected)
    if columns != _BOX + 2 or anchors < 1:
        raise GraphError(f"output {output.name!r}", describe(output), expected)
    return HeadLayout(Head.YOLOV10, Form.NUMBERED, (output.name,), 0, anchors, Box.CORNERS, nms_done=True)


def _read_rtdetr(outputs: Outputs, choices: Choices) -> HeadLayout:
    if outputs.takes_sizes or len(outputs.values) > 2:
        if not outputs.takes_sizes:
            found = describe_all(outputs.values)
            expected = "one or two outputs, or a second input orig_target_sizes [batch, 2]"
            raise GraphError("the list of outputs", found, expected)
        names, anchors = _read_listed(outputs)
        background = choices.background or Background.NONE
        return HeadLayout(
            Head.RTDETR, Form.LISTED, names, 0, anchors, Box.CORNERS, background=background, nms_done=True
        )
    if len(outputs.values) == 2:
        boxes, scores, anchors, columns = _read_separate(outputs)
        background = choices.background or Background.NONE
        classes = columns - (background is not Background.NONE)
        activation = choices.activation or outputs.activation(scores, Activation.SIGMOID)
        return HeadLayout(
            Head.RTDETR,
            Form.SEPARATE,
            (boxes.name, scores.name),
            classes,
            anchors,
            in_pixels=False,
            activation=activation,
            background=background,
            nms_done=True,
        )
    expected = "FP32 [batch, queries, 4 + classes], the RT-DETR layout of Ultralytics"
    output, anchors, columns = _table(outputs, expected)
    what, found = f"output {output.name!r}", describe(output)
    if columns <= _BOX or anchors < 1:
        raise GraphError(what, found, expected, "at least one class")
    if columns > anchors and not MIN_QUERIES <= anchors <= MAX_QUERIES:
        raise GraphError(what, found, expected, "more columns than queries: is it transposed?")
    return HeadLayout(
        Head.RTDETR, Form.COLUMNS, (output.name,), columns - _BOX, anchors, in_pixels=False, nms_done=True
    )


def _read_ssd(outputs: Outputs, choices: Choices) -> HeadLayout:
    if len(outputs.values) > 2:
        names, anchors = _read_listed(outputs)
        box = Box.CORNERS_Y_FIRST if names[0].startswith("detection_boxes") else Box.CORNERS
        return HeadLayout(
            Head.SSD,
            Form.LISTED,
            names,
            0,
            anchors,
            box,
            in_pixels=False,
            background=choices.background or Background.FIRST,
            nms_done=True,
        )
    boxes, scores, anchors, columns = _read_separate(outputs)
    background = choices.background or Background.FIRST
    classes = columns - (background is not Background.NONE)
    if classes < 1:
        hint = "with a background class, or --background none"
        raise GraphError(f"output {scores.name!r}", describe(scores), "scores of at least one class", hint)
    activation = choices.activation or outputs.activation(scores, Activation.SOFTMAX)
    return HeadLayout(
        Head.SSD,
        Form.SEPARATE,
        (boxes.name, scores.name),
        classes,
        anchors,
        Box.CORNERS,
        in_pixels=False,
        activation=activation,
        background=background,
    )


def _read_separate(outputs: Outputs) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto, int, int]:
    """Boxes and scores, and the scores' numbers of rows and columns."""
    expected = "boxes FP32 [batch, boxes, 4] and scores FP32 [batch, boxes, classes]"
    found = describe_all(outputs.values)
    if len(outputs.values) != 2:
        raise GraphError("the list of outputs", found, expected)
    pairs = []
    for boxes, scores in (outputs.values, outputs.values[::-1]):
        box, score = shape_of(boxes), shape_of(scores)
        floats = {value.type.tensor_type.elem_type for value in outputs.values} == {TensorProto.FLOAT}
        if not floats or box[2:] not in ([_BOX], [1, _BOX]) or len(score) != 3 or box[1] != score[1]:
            continue
        _, anchors, columns = score
        if isinstance(anchors, int) and isinstance(columns, int) and min(anchors, columns) > 0:
            pairs.append((boxes, scores, anchors, columns))
    if len(pairs) > 1:  # four classes
        pairs = [pair for pair in pairs if _means(pair[0], "box", "loc") and not _means(pair[1], "box", "loc")]
        if not pairs:
            raise GraphError("the list of outputs", found, expected, "with four classes, one named as the boxes")
    if not pairs:
        raise GraphError("the list of outputs", found, expected, "the numbers of boxes and classes fixed")
    return pairs[0]


def _read_listed(outputs: Outputs) -> tuple[tuple[str, ...], int]:
    """Names of boxes, scores, class numbers and, where it comes too, their count; and the number of boxes."""
    expected = "boxes FP32 [batch, boxes, 4], scores FP32 [batch, boxes] and labels or classes [batch, boxes]"
    found = describe_all(outputs.values)
    named = [value for value in outputs.values if value.name.startswith(("detection_", "num_detections"))]
    values = named if len(named) > 2 else list(outputs.values)

    def pick(*words: str, rank: int, kinds: frozenset[int]) -> list[onnx.ValueInfoProto]:
        fitting = [
            value
            for value in values
            if value.type.tensor_type.elem_type in kinds and len(shape_of(value)) == rank and _means(value, *words)
        ]
        exact = [value for value in fitting if value.name.split(":")[0] in words]
        return exact or fitting

    floats = frozenset({TensorProto.FLOAT})
    boxes = pick("detection_boxes", "box", rank=3, kinds=floats)
    scores = pick("detection_scores", "score", rank=2, kinds=floats)
    classes = pick("detection_classes", "label", "class", rank=2, kinds=_CLASS_KINDS)
    counts = [one for rank in (1, 2) for one in pick("num_detections", "num", rank=rank, kinds=_CLASS_KINDS)]
    if (len(boxes), len(scores), len(classes)) != (1, 1, 1) or len(counts) > 1:
        raise GraphError("the list of outputs", found, expected, "told apart by their names")
    shape = shape_of(boxes[0])
    anchors = shape[1]
    if shape[2] != _BOX or not isinstance(anchors, int):
        hint = "the number of boxes fixed; --size H finds it by running the model once"
        raise GraphError(f"output {boxes[0].name!r}", describe(boxes[0]), "FP32 [batch, boxes, 4]", hint)
    if anchors < 1 or any(shape_of(value)[1] != anchors for value in (scores[0], classes[0])):
        raise GraphError("the list of outputs", found, expected, "of one number of boxes")
    return tuple(value.name for value in (boxes[0], scores[0], classes[0], *counts)), anchors


def _read_classifier(outputs: Outputs, choices: Choices) -> HeadLayout:
    expected = "FP32 [batch, classes]"
    output = outputs.only(expected)
    what, found, shape = f"output {output.name!r}", describe(output), shape_of(output)
    floats = output.type.tensor_type.elem_type == TensorProto.FLOAT
    if not floats or len(shape) < 2 or shape[2:] not in ([], [1, 1]) or not isinstance(shape[1], int) or shape[1] < 1:
        raise GraphError(what, found, expected)
    default = Activation.SOFTMAX if shape[1] > 1 else Activation.SIGMOID
    activation = choices.activation or outputs.activation(output, default)
    if shape[1] == 1 and activation is Activation.SOFTMAX:
        raise GraphError(what, found, "at least two classes", "the softmax of one number is 1: --activation sigmoid")
    return HeadLayout(Head.CLASSIFIER, Form.CLASSES, (output.name,), shape[1], activation=activation)


def _means(value: onnx.ValueInfoProto, *words: str) -> bool:
    return any(word in value.name.lower() for word in words)


#: Numbers of queries that detection transformers have.
MIN_QUERIES: Final = 100
MAX_QUERIES: Final = 1000

_READERS: Final[Mapping[Head, Reader]] = {
    Head.YOLOV5: _read_yolov5,
    Head.YOLOV8: _read_yolov8,
    Head.YOLOV10: _read_yolov10,
    Head.RTDETR: _read_rtdetr,
    Head.SSD: _read_ssd,
    Head.CLASSIFIER: _read_classifier,
}
_OPTIONS: Final[Mapping[Form, tuple[str, ...]]] = {
    Form.SEPARATE: ("--activation", "--background"),
    Form.LISTED: ("--background",),
    Form.CLASSES: ("--activation",),
}
