"""Graph surgery: an exported model becomes the ready graph that the predictor serves.

    image UINT8 [batch, H, W, 3] -> cast, scale, order -> source -> best K -> candidates FP32 [batch, K, 6]
                                                                 or softmax -> probabilities FP32 [batch, classes]

The source graph stays as it is, weights stored as FP16 included; nodes are only put in front of it (``pixels.py``) and
behind it (``decoding.py``). Works on protobufs in memory: reading and writing files is ``__main__``'s. No NMS: that is
the transformer's.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto, helper

from saccade_predictor.build.decoding import CANDIDATES, PROBABILITIES, Table, write_candidates, write_probabilities
from saccade_predictor.build.heads import Choices, Head
from saccade_predictor.build.nodes import Nodes, free_names, rename
from saccade_predictor.build.pixels import IMAGE, Normalisation, write_image, write_sizes
from saccade_predictor.build.recognition import SourceLayout, read_layout
from saccade_predictor.build.source import GraphError, first_line

#: Columns of one candidate: x1, y1, x2, y2 (pixels of the input), score, class.
COLUMNS: Final = 6
#: TensorRT's TopK returns no more rows than this.
MAX_CANDIDATES: Final = 3840
DEFAULT_CANDIDATES: Final = 1000
DEFAULT_MIN_SCORE: Final = 0.05

#: The first IR version in which an initializer need not be a graph input too.
_MIN_IR_VERSION: Final = 4


def make_ready(
    model: onnx.ModelProto,
    head: Head | None,
    candidates: int,
    min_score: float,
    source_sha256: str,
    choices: Choices | None = None,
    normalisation: Normalisation | None = None,
) -> onnx.ModelProto:
    """Wrap an exported model into the ready graph. The same arguments give the same bytes.

    A candidate is an anchor with its best class (the first of equal ones). Rows come with the best score
    first; rows under ``min_score`` and rows without an anchor are all zero. With fewer anchors than
    ``candidates`` the table is padded with zero rows, not shortened: its shape is what was asked for, so that
    versions of a model whose heads differ share one configuration.

    Args:
        model: the source: input RGB, FP32 [batch, 3, H, W] or FP32 or UINT8 [batch, H, W, 3]; outputs as ``head``
            says. Not modified.
        head: layout of the source's outputs; None finds it.
        candidates: K, rows of the table, 1..3840 (TensorRT's TopK); a classifier has no table.
        min_score: 0..1. A score of 0 is never a candidate.
        source_sha256: hex digest of the file the source came from; goes into the metadata.
        choices: what is decided about the outputs.
        normalisation: what the source was trained on; by default RGB in 0..1.

    Returns:
        A checked model: ``image`` UINT8 [batch, H, W, 3] RGB in; out ``candidates`` FP32 [batch, K, 6], of a
        classifier ``probabilities`` FP32 [batch, classes]; the source's metadata and the ``saccade.*`` keys.

    Raises:
        GraphError: an argument or the source is not as described.
    """
    check_table(candidates, min_score)
    normalisation = normalisation or Normalisation()
    layout = read_layout(model, head, choices)
    takes, gives = layout.input, layout.head

    ready = onnx.ModelProto()
    ready.CopyFrom(model)
    graph = ready.graph
    output = PROBABILITIES if gives.head is Head.CLASSIFIER else CANDIDATES
    renamed = free_names(graph, (IMAGE, output))
    front, back = Nodes(graph.initializer), Nodes(graph.initializer)
    image = renamed.get(takes.name, takes.name)
    write_image(front, image, takes, normalisation)
    if takes.takes_bytes:
        rename(graph, {image: IMAGE})
    if takes.sizes:
        write_sizes(front, renamed.get(takes.sizes, takes.sizes), takes)
    outputs = [renamed.get(name, name) for name in gives.outputs]
    shape: list[str | int | None] = [takes.batch]
    if gives.head is Head.CLASSIFIER:
        write_probabilities(back, outputs, gives)
        shape += [gives.classes]
    else:
        table = Table(candidates, min_score, takes.width, takes.height)
        write_candidates(back, outputs, gives, layout.opset, table)
        shape += [candidates, COLUMNS]

    nodes = [*front.nodes, *graph.node, *back.nodes]
    for name in ("node", "input", "output"):
        graph.ClearField(name)
    graph.node.extend(nodes)
    picture: list[str | int | None] = [takes.batch, takes.height, takes.width, 3]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, picture))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    ready.ir_version = max(ready.ir_version, _MIN_IR_VERSION)
    _write_metadata(ready, layout, candidates, min_score, source_sha256, normalisation)
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


def _write_metadata(
    ready: onnx.ModelProto,
    layout: SourceLayout,
    candidates: int,
    min_score: float,
    source_sha256: str,
    normalisation: Normalisation,
) -> None:
    gives = layout.head
    is_classifier = gives.head is Head.CLASSIFIER
    ours = {"saccade.input": "rgb_nhwc", "saccade.output": PROBABILITIES if is_classifier else CANDIDATES}
    if not is_classifier:
        ours["saccade.candidates"] = str(candidates)
    if gives.classes:
        ours["saccade.classes"] = str(gives.classes)
    ours["saccade.head"] = gives.head.value
    if not is_classifier:
        ours["saccade.min_score"] = repr(float(min_score))
    ours["saccade.source_sha256"] = source_sha256
    if gives.nms_done:
        ours["saccade.nms"] = "done"
    if not normalisation.is_plain:
        ours["saccade.mean"] = ",".join(map(repr, normalisation.mean))
        ours["saccade.std"] = ",".join(map(repr, normalisation.std))
    kept = {entry.key: entry.value for entry in ready.metadata_props if not entry.key.startswith("saccade.")}
    helper.set_model_props(ready, kept | ours)
