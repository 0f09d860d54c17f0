"""The nodes behind a source graph: what its head gives becomes candidates, or probabilities.

    boxes [b,4,N], score of the best class [b,N], that class [b,N] -> best K of an image -> candidates [b,K,6]

Each head is brought into the form on the left; the rest is one way for all of them. Only operators that TensorRT has
too. In the comments b is the batch, N the head's boxes, C its classes, and n = min(K, N).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from onnx import TensorProto

from saccade_predictor.build.heads import Activation, Background, Box, Form, HeadLayout
from saccade_predictor.build.nodes import Nodes

CANDIDATES: Final = "candidates"
PROBABILITIES: Final = "probabilities"
#: Since then ReduceMax takes its axes as an input.
_REDUCE_AXES_OPSET: Final = 18


class _Found(NamedTuple):
    """Names of what a head gives for all N boxes."""

    boxes: str  # FP32 [b,4,N], as the head's Box says
    best: str  # FP32 [b,N]
    number: str  # FP32 [b,N]


class Table(NamedTuple):
    """What is asked of the table of candidates.

    Attributes:
        rows: K.
        min_score: 0..1.
        width: of the input, in pixels; ``height`` likewise.
    """

    rows: int
    min_score: float
    width: int
    height: int


def write_probabilities(to: Nodes, outputs: list[str], head: HeadLayout) -> None:
    """Logits or probabilities [b, C] or [b, C, 1, 1] to probabilities [b, C]."""
    flat = to.add("Flatten", outputs, "saccade/flat", axis=1)
    _activate(to, flat, head.activation, PROBABILITIES)


def write_candidates(to: Nodes, outputs: list[str], head: HeadLayout, opset: int, table: Table) -> None:
    """A detector's outputs to candidates [b, K, 6]."""
    axis_1 = to.constant("axis_1", [1], np.int64)
    zero = to.constant("zero", 0.0, np.float32)
    match head.form:
        case Form.ROWS:
            found = _from_rows(to, outputs[0], head, opset, axis_1)
        case Form.COLUMNS:
            rows = to.add("Transpose", outputs, "saccade/rows", perm=[0, 2, 1])  # [b,4+C,N]
            found = _from_rows(to, rows, head, opset, axis_1)
        case Form.OBJECTNESS:
            found = _from_objectness(to, outputs[0], head, opset, axis_1)
        case Form.NUMBERED:
            found = _from_numbered(to, outputs[0], axis_1)
        case Form.SEPARATE:
            found = _from_separate(to, outputs[0], outputs[1], head, opset, axis_1)
        case Form.LISTED:
            found = _from_listed(to, outputs, head, zero)
        case Form.CLASSES:
            raise ValueError("a classifier has no candidates")
    _write_table(to, found, head, table, axis_1, zero)


def _write_table(to: Nodes, found: _Found, head: HeadLayout, table: Table, axis_1: str, zero: str) -> None:
    classes = to.add("Unsqueeze", [found.number, axis_1], "saccade/classes")  # [b,1,N]

    # Masked before TopK: a NaN, for which no comparison holds, sinks instead of leading the table.
    threshold = to.constant("min_score", table.min_score, np.float32)
    passes = to.add("GreaterOrEqual", [found.best, threshold], "saccade/passes")
    masked = to.add("Where", [passes, found.best, zero], "saccade/masked")
    count = to.constant("count", [min(table.rows, head.anchors)], np.int64)
    top = to.add("TopK", [masked, count], "saccade/top", "saccade/anchor", axis=-1)  # [b,n] [b,n]

    anchor = to.add("Unsqueeze", ["saccade/anchor", axis_1], "saccade/anchor_row")  # [b,1,n]
    anchors = to.add("Concat", [anchor] * 5, "saccade/anchor_rows", axis=1)  # [b,5,n]
    whole = to.add("Concat", [found.boxes, classes], "saccade/table", axis=1)  # [b,5,N]
    chosen = to.add("GatherElements", [whole, anchors], "saccade/chosen", axis=2)  # [b,5,n]
    corners = _corners(to, chosen, head.box)
    if not head.in_pixels:
        edges = [[table.width], [table.height], [table.width], [table.height]]
        sides = to.add("Concat", corners, "saccade/parts", axis=1) if len(corners) > 1 else corners[0]
        corners = [to.add("Mul", [sides, to.constant("edges", edges, np.float32)], "saccade/pixels_of_box")]  # [b,4,n]
    score = to.add("Unsqueeze", [top, axis_1], "saccade/score")  # [b,1,n]
    columns = to.add("Concat", [*corners, score, "saccade/class"], "saccade/columns", axis=1)  # [b,6,n]

    used = to.add("Greater", [score, zero], "saccade/used")
    kept = to.add("Where", [used, columns, zero], "saccade/kept")
    if head.anchors < table.rows:
        pads = to.constant("pads", [0, 0, 0, 0, 0, table.rows - head.anchors], np.int64)
        kept = to.add("Pad", [kept, pads, zero], "saccade/padded")  # [b,6,K]
    to.add("Transpose", [kept], CANDIDATES, perm=[0, 2, 1])


def _corners(to: Nodes, chosen: str, box: Box) -> list[str]:
    """[b,5,n] to x1, y1, x2, y2 [b,4,n], in one part or several; what is left over is ``saccade/class`` [b,1,n]."""
    if box is Box.CENTRE:
        parts = to.constant("centre_size_class", [2, 2, 1], np.int64)
        centre = to.add(
            "Split", [chosen, parts], "saccade/centre", "saccade/size", "saccade/class", axis=1
        )  # [b,2,n] [b,2,n] [b,1,n]
        half = to.add("Mul", ["saccade/size", to.constant("half", 0.5, np.float32)], "saccade/half_size")
        low = to.add("Sub", [centre, half], "saccade/low")
        high = to.add("Add", [centre, half], "saccade/high")
        return [low, high]
    if box is Box.CORNERS:
        parts = to.constant("corners_class", [4, 1], np.int64)
        return [to.add("Split", [chosen, parts], "saccade/corners", "saccade/class", axis=1)]
    parts = to.constant("edges_class", [1, 1, 1, 1, 1], np.int64)
    top, left, bottom, right = (f"saccade/{edge}_edge" for edge in ("top", "left", "bottom", "right"))
    to.add("Split", [chosen, parts], top, left, bottom, right, "saccade/class", axis=1)
    return [left, top, right, bottom]


def _from_rows(to: Nodes, rows: str, head: HeadLayout, opset: int, axis_1: str) -> _Found:
    """[b,4+C,N]."""
    sizes = to.constant("box_and_classes", [4, head.classes], np.int64)
    to.add("Split", [rows, sizes], "saccade/boxes", "saccade/scores", axis=1)  # [b,4,N] [b,C,N]
    return _Found("saccade/boxes", *_best(to, opset, axis_1))


def _from_objectness(to: Nodes, predictions: str, head: HeadLayout, opset: int, axis_1: str) -> _Found:
    """[b,N,4+1+C]: a class's score is its own times the objectness, which leaves the best class the best."""
    rows = to.add("Transpose", [predictions], "saccade/rows", perm=[0, 2, 1])  # [b,5+C,N]
    sizes = to.constant("box_object_classes", [4, 1, head.classes], np.int64)
    to.add("Split", [rows, sizes], "saccade/boxes", "saccade/object_row", "saccade/scores", axis=1)
    best, number = _best(to, opset, axis_1)
    objectness = to.add("Squeeze", ["saccade/object_row", axis_1], "saccade/object")  # [b,N]
    return _Found("saccade/boxes", to.add("Mul", [objectness, best], "saccade/object_best"), number)


def _from_numbered(to: Nodes, predictions: str, axis_1: str) -> _Found:
    """[b,N,4+1+1]."""
    rows = to.add("Transpose", [predictions], "saccade/rows", perm=[0, 2, 1])  # [b,6,N]
    sizes = to.constant("box_score_class", [4, 1, 1], np.int64)
    to.add("Split", [rows, sizes], "saccade/boxes", "saccade/score_row", "saccade/class_row", axis=1)
    best = to.add("Squeeze", ["saccade/score_row", axis_1], "saccade/best")
    return _Found("saccade/boxes", best, to.add("Squeeze", ["saccade/class_row", axis_1], "saccade/class_number"))


def _from_separate(to: Nodes, boxes: str, scores: str, head: HeadLayout, opset: int, axis_1: str) -> _Found:
    """[b,N,4] or [b,N,1,4], and [b,N,C] with a column for the background or without."""
    scores = _activate(to, scores, head.activation, "saccade/activated")
    if head.background is Background.NONE:
        to.add("Transpose", [scores], "saccade/scores", perm=[0, 2, 1])  # [b,C,N]
    else:
        rows = to.add("Transpose", [scores], "saccade/all_scores", perm=[0, 2, 1])  # [b,1+C,N]
        parts = {"saccade/background": 1, "saccade/scores": head.classes}
        if head.background is Background.LAST:
            parts = dict(reversed(parts.items()))
        sizes = to.constant("background_and_classes", list(parts.values()), np.int64)
        to.add("Split", [rows, sizes], *parts, axis=1)
    best, number = _best(to, opset, axis_1)
    return _Found(_box_rows(to, boxes, head), best, number)


def _from_listed(to: Nodes, outputs: list[str], head: HeadLayout, zero: str) -> _Found:
    """[b,N,4], [b,N], [b,N] and, where it is there, how many of the N there are: [b] or [b,1]."""
    boxes, scores, numbers, *counts = outputs
    number = to.add("Cast", [numbers], "saccade/class_number", to=TensorProto.FLOAT)
    if head.background is Background.FIRST:
        number = to.add("Sub", [number, to.constant("one", 1.0, np.float32)], "saccade/class_from_0")
    if counts:
        count = to.add("Cast", counts, "saccade/count_number", to=TensorProto.FLOAT)
        column = to.add("Reshape", [count, to.constant("column", [-1, 1], np.int64)], "saccade/count_column")
        places = to.constant("places", [range(head.anchors)], np.float32)
        listed = to.add("Less", [places, column], "saccade/listed")  # [b,N]
        scores = to.add("Where", [listed, scores, zero], "saccade/listed_scores")
    return _Found(_box_rows(to, boxes, head), scores, number)


def _box_rows(to: Nodes, boxes: str, head: HeadLayout) -> str:
    shape = to.constant("box_shape", [0, head.anchors, 4], np.int64)
    return to.add(
        "Transpose", [to.add("Reshape", [boxes, shape], "saccade/box_columns")], "saccade/boxes", perm=[0, 2, 1]
    )


def _best(to: Nodes, opset: int, axis_1: str) -> tuple[str, str]:
    """``saccade/scores`` [b,C,N] to the best score and its class, FP32 [b,N] each."""
    if opset >= _REDUCE_AXES_OPSET:
        best = to.add("ReduceMax", ["saccade/scores", axis_1], "saccade/best", keepdims=0)  # [b,N]
    else:
        best = to.add("ReduceMax", ["saccade/scores"], "saccade/best", axes=[1], keepdims=0)
    index = to.add("ArgMax", ["saccade/scores"], "saccade/class_index", axis=1, keepdims=0)  # [b,N]
    return best, to.add("Cast", [index], "saccade/class_number", to=TensorProto.FLOAT)


def _activate(to: Nodes, scores: str, activation: Activation, name: str) -> str:
    """Make scores of numbers whose last dimension is the classes."""
    match activation:
        case Activation.SOFTMAX:
            return to.add("Softmax", [scores], name, axis=-1)
        case Activation.SIGMOID:
            return to.add("Sigmoid", [scores], name)
        case Activation.NONE:
            return to.add("Identity", [scores], name)
