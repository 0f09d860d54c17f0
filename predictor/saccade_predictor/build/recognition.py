"""Which head a model has: by the shapes of its outputs, and where those fit several, by how the numbers are made.

A wrong head gives wrong boxes without an error, so what stays unclear is refused with the heads it could be.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import onnx
from onnx import TensorProto

from saccade_predictor.build.heads import (
    MAX_QUERIES,
    MIN_QUERIES,
    Box,
    Choices,
    Form,
    Head,
    HeadLayout,
    Outputs,
    read_head,
)
from saccade_predictor.build.source import (
    GraphError,
    InputLayout,
    check_valid,
    describe_all,
    find_inputs,
    read_input,
    read_opset,
)

#: Operators that move numbers without changing them.
_MOVES: Final = frozenset(
    {
        *("Concat", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"),
        *("Gather", "GatherElements", "GatherND", "Expand", "Tile"),
    }
)
#: Written for a cast of whole numbers, as of class numbers.
_NUMBERS: Final = "Cast of whole numbers"
#: Strides of the feature maps of YOLO heads.
_STRIDES: Final = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
#: Boxes that an anchor-based YOLO predicts in each cell.
_ANCHORS_PER_CELL: Final = 3
_WHOLE: Final = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL})
#: What Ultralytics calls the tasks of models that have a head known here.
_TASKS: Final = frozenset({"detect", "classify"})


@dataclass(frozen=True, slots=True)
class SourceLayout:
    """What the source graph takes and gives.

    Attributes:
        opset: version of the default operator set.
    """

    opset: int
    input: InputLayout
    head: HeadLayout


def read_layout(model: onnx.ModelProto, head: Head | None = None, choices: Choices | None = None) -> SourceLayout:
    """Check a model as ONNX, that it takes pictures, and that its outputs are a head's.

    Args:
        model: the source; not modified.
        head: the head it has; None finds it.
        choices: what is decided about the outputs.

    Raises:
        GraphError: it cannot be wrapped; the sentence names the tensor, what it is and what is expected. Where several
            heads fit, it names them.
    """
    if not model.HasField("graph"):
        raise GraphError("the file", "not an ONNX model", "a graph with one input and one output")
    choices = choices or Choices()
    opset = read_opset(model)
    takes = read_input(model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    task = properties.get("task", "detect")
    if task not in _TASKS and "stride" in properties:
        raise GraphError("the model's task", repr(task[:40]), "detect or classify, as Ultralytics names them")
    outputs = Outputs(list(model.graph.output), _tails(model), find_inputs(model)[1] is not None)
    names = _count_names(properties.get("names", ""))
    found = _named(head, outputs, choices, names, takes) if head else _recognise(outputs, choices, names, takes)
    check_valid(model)
    if not found.classes and names is not None:
        found = replace(found, classes=names)
    return SourceLayout(opset, takes, found)


class HeadError(GraphError):
    """The outputs are another head's, or could be several heads'."""

    def __init__(self, text: str) -> None:
        ValueError.__init__(self, text)


def _named(head: Head, outputs: Outputs, choices: Choices, names: int | None, takes: InputLayout) -> HeadLayout:
    try:
        found = read_head(head, outputs, choices)
    except GraphError as error:
        likely, is_clear = _narrow(outputs, Choices(), names, takes)
        if not is_clear or likely[0].head is head:
            raise
        raise HeadError(f"{error}; the outputs look like --head {likely[0].head}") from error
    if names is not None and found.classes not in (0, names):
        what = f"the number of classes, read as {head},"
        raise GraphError(what, found.classes, f"{names}, as many as the model's metadata has names")
    return found


def _recognise(outputs: Outputs, choices: Choices, names: int | None, takes: InputLayout) -> HeadLayout:
    layouts, is_clear = _narrow(outputs, choices, names, takes)
    if is_clear:
        return layouts[0]
    listed = describe_all(outputs.values)
    if not layouts:
        hint = "saccade-build ready --help has their shapes"
        raise GraphError("the list of outputs", listed, f"that of one of the heads {', '.join(Head)}", hint)
    could = " or ".join(_say(layout) for layout in layouts)
    options = " or ".join(f"--head {layout.head}" for layout in layouts)
    raise HeadError(
        f"the outputs {listed} could be {could}, and nothing in the model shows it; if you know, name it: {options}"
    )


def _narrow(
    outputs: Outputs, choices: Choices, names: int | None, takes: InputLayout
) -> tuple[list[HeadLayout], bool]:
    """The heads it could be, and whether it is clear which: the only one."""
    layouts = _fitting(outputs, choices, names, takes)
    sure = [layout for layout in layouts if _is_sure(layout, outputs, names, takes)]
    if sure:
        return sure, len(sure) == 1
    return layouts, len(layouts) == 1 and not _needs_evidence(layouts[0])


def _needs_evidence(layout: HeadLayout) -> bool:
    """Whether layouts that are not served look the same.

    YOLOv8 transposed is [batch, boxes, 4 + classes]; boxes, labels and scores are in pixels or in 0..1 and count from
    0 or from 1 as their exporter likes, where TensorFlow's names do not say so.
    """
    return layout.form is Form.OBJECTNESS or (layout.form is Form.LISTED and layout.box is Box.CORNERS)


def _fitting(outputs: Outputs, choices: Choices, names: int | None, takes: InputLayout) -> list[HeadLayout]:
    """The heads that the outputs can be read as, without those that the model speaks against."""
    layouts = []
    for head in Head:
        try:
            layout = read_head(head, outputs, choices)
        except GraphError:
            continue
        if names is not None and layout.classes not in (0, names):
            continue
        if _is_possible(layout, outputs, takes):
            layouts.append(layout)
    return layouts


def _is_possible(layout: HeadLayout, outputs: Outputs, takes: InputLayout) -> bool:
    tail = outputs.tails.get(layout.outputs[-1], frozenset())
    queries = MIN_QUERIES <= layout.anchors <= MAX_QUERIES
    anchored = layout.anchors in _counts(takes, _ANCHORS_PER_CELL)
    match layout.form:
        case Form.ROWS:  # transposed YOLOv5 has three boxes for each cell
            return not anchored
        case Form.OBJECTNESS:
            return (anchored or layout.anchors > MAX_QUERIES) and _NUMBERS not in tail
        case Form.COLUMNS:
            # YOLOv8 transposed has a box for each cell.
            cells = layout.anchors in _counts(takes, 1)
            return queries and not anchored and not cells and _NUMBERS not in tail
        case Form.NUMBERED:
            return not anchored and (_NUMBERS in tail or "Sigmoid" not in tail)
        case Form.SEPARATE if layout.head is Head.RTDETR:
            return queries and "Softmax" not in tail
        case _:
            return True


def _is_sure(layout: HeadLayout, outputs: Outputs, names: int | None, takes: InputLayout) -> bool:
    """Whether more than the shapes speaks for a head."""
    tail = outputs.tails.get(layout.outputs[-1], frozenset())
    match layout.form:
        case Form.ROWS:
            return layout.anchors in _counts(takes, 1)
        case Form.OBJECTNESS:
            return layout.anchors in _counts(takes, _ANCHORS_PER_CELL) or layout.classes == names
        case Form.LISTED:
            return outputs.takes_sizes
        case Form.NUMBERED:
            return _NUMBERS in tail
        case Form.SEPARATE if layout.head is Head.SSD:
            return "Softmax" in tail
        case _:
            return False


def _say(layout: HeadLayout) -> str:
    classes = f"{layout.classes} classes, " if layout.classes else ""
    return f"{layout.head} ({classes}{layout.anchors} boxes)"


def _counts(takes: InputLayout, per_cell: int) -> frozenset[int]:
    """Numbers of boxes that YOLO heads have for the model's input."""
    return frozenset(
        per_cell * sum(-(-takes.height // stride) * -(-takes.width // stride) for stride in strides)
        for strides in _STRIDES
    )


def _count_names(text: str) -> int | None:
    """Number of class names in Ultralytics' metadata, ``{0: 'person', ...}``; None where there are none."""
    try:
        names = ast.literal_eval(text[: 1 << 20])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return len(names) if isinstance(names, dict | list | tuple) and names else None


def _tails(model: onnx.ModelProto) -> Mapping[str, frozenset[str]]:
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output if name}
    values = [*graph.value_info, *graph.input]
    # Without it the declared types have to do; whether the model is valid is asked elsewhere.
    with suppress(onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError):
        values.extend(onnx.shape_inference.infer_shapes(model).graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {output.name: frozenset(_behind(output.name, made, types)) for output in graph.output}


def _behind(name: str, made: Mapping[str, onnx.NodeProto], types: Mapping[str, int]) -> Iterator[str]:
    """The operators that make a tensor's numbers."""
    waiting, seen = [name], set[str]()
    while waiting:
        name = waiting.pop()
        node = made.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Concat":
            waiting.extend(node.input)
        elif node.op_type in _MOVES:
            waiting.append(node.input[0])
        elif node.op_type == "Cast":
            if types.get(node.input[0], 0) in _WHOLE:
                yield _NUMBERS
            else:
                waiting.append(node.input[0])
        else:
            yield node.op_type
