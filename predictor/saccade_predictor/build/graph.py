"""Graph surgery: an exported detector becomes the ready graph that the predictor serves.

    image UINT8 [batch, H, W, 3] -> cast, 1/255, NCHW -> source -> best K -> candidates FP32 [batch, K, 6]

The source graph stays as it is, weights stored as FP16 included; nodes are only put in front of it and behind
it. Works on protobufs in memory: reading and writing files is ``__main__``'s. No NMS: that is the
transformer's. Only operators that TensorRT has too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper

from saccade_predictor.build.source import GraphError, Head, SourceLayout, first_line, read_layout

INPUT: Final = "image"
OUTPUT: Final = "candidates"
#: Columns of one candidate: x1, y1, x2, y2 (pixels of the input), score, class.
COLUMNS: Final = 6
#: TensorRT's TopK returns no more rows than this.
MAX_CANDIDATES: Final = 3840
DEFAULT_CANDIDATES: Final = 1000
DEFAULT_MIN_SCORE: Final = 0.05

#: The first IR version in which an initializer need not be a graph input too.
_MIN_IR_VERSION: Final = 4
_PREFIX: Final = "saccade/"


def make_ready(
    model: onnx.ModelProto, head: Head, candidates: int, min_score: float, source_sha256: str
) -> onnx.ModelProto:
    """Wrap an exported detector into the ready graph. The same arguments give the same bytes.

    A candidate is an anchor with its best class (the first of equal ones). Rows come with the best score
    first; rows under ``min_score`` and rows without an anchor are all zero. With fewer anchors than
    ``candidates`` the table is padded with zero rows, not shortened: its shape is what was asked for, so that
    versions of a model whose heads differ share one configuration.

    Args:
        model: the source: input FP32 [batch, 3, H, W], RGB in 0..1; output as ``head`` says. Not modified.
        head: layout of the source's output.
        candidates: K, rows of the table, 1..3840 (TensorRT's TopK).
        min_score: 0..1. A score of 0 is never a candidate.
        source_sha256: hex digest of the file the source came from; goes into the metadata.

    Returns:
        A checked model: ``image`` UINT8 [batch, H, W, 3] RGB in, ``candidates`` FP32 [batch, K, 6] out, the
        source's metadata and the ``saccade.*`` keys.

    Raises:
        GraphError: an argument or the source is not as described.
    """
    check_table(candidates, min_score)
    layout = read_layout(model, head)

    ready = onnx.ModelProto()
    ready.CopyFrom(model)
    graph = ready.graph
    renamed = _free_names(graph)
    front, back = _Nodes(graph.initializer), _Nodes(graph.initializer)
    _write_input(front, renamed.get(layout.input_name, layout.input_name))
    predictions = renamed.get(layout.output_name, layout.output_name)
    match head:
        case Head.YOLOV8:
            _write_yolov8(back, predictions, layout, candidates, min_score)

    nodes = [*front.nodes, *graph.node, *back.nodes]
    for name in ("node", "input", "output"):
        graph.ClearField(name)
    graph.node.extend(nodes)
    image: list[str | int | None] = [layout.batch, layout.height, layout.width, 3]
    table: list[str | int | None] = [layout.batch, candidates, COLUMNS]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, image))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, table))
    ready.ir_version = max(ready.ir_version, _MIN_IR_VERSION)
    _write_metadata(ready, layout, head, candidates, min_score, source_sha256)
    try:
        onnx.checker.check_model(ready, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise GraphError("the ready graph", f"not valid ({first_line(err)})", "shapes that agree") from err
    return ready


def check_table(candidates: int, min_score: float) -> None:
    """Check what is asked of the table of candidates.

    Raises:
        GraphError: a number is out of its range.
    """
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise GraphError("candidates", candidates, f"1..{MAX_CANDIDATES}, what TensorRT's TopK can do")
    if not 0.0 <= min_score <= 1.0:
        raise GraphError("min-score", min_score, "0..1")


class _Nodes:
    """Nodes being added, in order; their tensors and constants are named ``saccade/...``."""

    def __init__(self, weights: MutableSequence[onnx.TensorProto]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._weights = weights

    def add(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        name = f"{_PREFIX}{outputs[0].removeprefix(_PREFIX)}/{op}"
        self.nodes.append(helper.make_node(op, inputs, list(outputs), name=name, **attributes))
        return outputs[0]

    def constant(self, name: str, value: ArrayLike, dtype: DTypeLike) -> str:
        """Append an initializer and return its name."""
        self._weights.append(numpy_helper.from_array(np.asarray(value, dtype), f"{_PREFIX}{name}"))
        return f"{_PREFIX}{name}"


def _write_input(to: _Nodes, source_input: str) -> None:
    """UINT8 NHWC in 0..255 to FP32 NCHW in 0..1. The cast is first: TensorRT wants it right at a UINT8 input."""
    pixels = to.add("Cast", [INPUT], "saccade/pixels", to=TensorProto.FLOAT)
    scaled = to.add("Mul", [pixels, to.constant("scale", 1 / 255, np.float32)], "saccade/scaled")
    to.add("Transpose", [scaled], source_input, perm=[0, 3, 1, 2])


def _write_yolov8(to: _Nodes, predictions: str, layout: SourceLayout, candidates: int, min_score: float) -> None:
    """[b, 4 + C, N] to [b, K, 6]. The shape of each step stands beside it; n = min(K, N)."""
    axis_1 = to.constant("axis_1", [1], np.int64)
    zero = to.constant("zero", 0.0, np.float32)

    sizes = to.constant("box_and_classes", [4, layout.classes], np.int64)
    to.add("Split", [predictions, sizes], "saccade/boxes", "saccade/scores", axis=1)  # [b,4,N] [b,C,N]
    if layout.opset >= 18:  # since then ReduceMax takes its axes as an input
        best = to.add("ReduceMax", ["saccade/scores", axis_1], "saccade/best", keepdims=0)  # [b,N]
    else:
        best = to.add("ReduceMax", ["saccade/scores"], "saccade/best", axes=[1], keepdims=0)
    index = to.add("ArgMax", ["saccade/scores"], "saccade/class_index", axis=1, keepdims=0)  # [b,N]
    number = to.add("Cast", [index], "saccade/class_number", to=TensorProto.FLOAT)
    classes = to.add("Unsqueeze", [number, axis_1], "saccade/classes")  # [b,1,N]

    # Masked before TopK: a NaN, for which no comparison holds, sinks instead of leading the table.
    threshold = to.constant("min_score", min_score, np.float32)
    passes = to.add("GreaterOrEqual", [best, threshold], "saccade/passes")
    masked = to.add("Where", [passes, best, zero], "saccade/masked")
    count = to.constant("count", [min(candidates, layout.anchors)], np.int64)
    top = to.add("TopK", [masked, count], "saccade/top", "saccade/anchor", axis=-1)  # [b,n] [b,n]

    anchor = to.add("Unsqueeze", ["saccade/anchor", axis_1], "saccade/anchor_row")  # [b,1,n]
    anchors = to.add("Concat", [anchor] * 5, "saccade/anchor_rows", axis=1)  # [b,5,n]
    table = to.add("Concat", ["saccade/boxes", classes], "saccade/table", axis=1)  # [b,5,N]
    chosen = to.add("GatherElements", [table, anchors], "saccade/chosen", axis=2)  # [b,5,n]
    parts = to.constant("centre_size_class", [2, 2, 1], np.int64)
    centre = to.add(
        "Split", [chosen, parts], "saccade/centre", "saccade/size", "saccade/class", axis=1
    )  # [b,2,n] [b,2,n] [b,1,n]
    half = to.add("Mul", ["saccade/size", to.constant("half", 0.5, np.float32)], "saccade/half_size")
    low = to.add("Sub", [centre, half], "saccade/low")
    high = to.add("Add", [centre, half], "saccade/high")
    score = to.add("Unsqueeze", [top, axis_1], "saccade/score")  # [b,1,n]
    columns = to.add("Concat", [low, high, score, "saccade/class"], "saccade/columns", axis=1)  # [b,6,n]

    used = to.add("Greater", [score, zero], "saccade/used")
    kept = to.add("Where", [used, columns, zero], "saccade/kept")
    if layout.anchors < candidates:
        pads = to.constant("pads", [0, 0, 0, 0, 0, candidates - layout.anchors], np.int64)
        kept = to.add("Pad", [kept, pads, zero], "saccade/padded")  # [b,6,K]
    to.add("Transpose", [kept], OUTPUT, perm=[0, 2, 1])


def _write_metadata(
    ready: onnx.ModelProto,
    layout: SourceLayout,
    head: Head,
    candidates: int,
    min_score: float,
    source_sha256: str,
) -> None:
    ours = {
        "saccade.input": "rgb_nhwc",
        "saccade.output": "candidates",
        "saccade.candidates": str(candidates),
        "saccade.classes": str(layout.classes),
        "saccade.head": head.value,
        "saccade.min_score": repr(float(min_score)),
        "saccade.source_sha256": source_sha256,
    }
    kept = {entry.key: entry.value for entry in ready.metadata_props if entry.key not in ours}
    helper.set_model_props(ready, kept | ours)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the bodies of its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(body)


def _free_names(graph: onnx.GraphProto) -> Mapping[str, str]:
    """Rename the source's tensors that bear a name the ready graph needs; returns old name -> new name."""
    uses = [names for part in _graphs(graph) for node in part.node for names in (node.input, node.output)]
    values = [
        value
        for part in _graphs(graph)
        for group in (part.input, part.output, part.value_info, part.initializer)
        for value in group
    ]
    taken = {name for names in uses for name in names} | {value.name for value in values}
    renamed = {}
    for old in sorted(name for name in taken if name in (INPUT, OUTPUT) or name.startswith(_PREFIX)):
        new = f"source/{old}"
        while new in taken:
            new += "_"
        taken.add(new)
        renamed[old] = new
    for names in uses:
        for i, name in enumerate(names):
            names[i] = renamed.get(name, name)
    for value in values:
        value.name = renamed.get(value.name, value.name)
    return renamed
