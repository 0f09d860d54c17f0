"""Made-up models with the heads of real ones: small tables that depend on the image, and the nodes they end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_graphs import Dim, tensor

#: Height and width of the pictures they take: not square, so that the two cannot be mixed up.
HEIGHT, WIDTH = 32, 64
Floats = NDArray[np.float32]
Answers = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of an output.

    Attributes:
        values: [boxes, columns], or [boxes] or [columns] for outputs of rank 2; for an image they are multiplied by
            its mean plus 0.5, so a white image gives 1.5 times the table and a black one half of it.
        end: operator that makes scores of them; "Numbers": class numbers, which are not multiplied, held as INT64
            and cast to FP32.
    """

    values: NDArray[Any]
    end: str = ""


def head_model(
    outputs: Mapping[str, Sequence[Part] | NDArray[np.int64]],
    *,
    image: Sequence[Dim] = ("batch", 3, HEIGHT, WIDTH),
    kind: str = "FLOAT",
    sizes: str = "",
    opset: int = 18,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    properties: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Make a model.

    Args:
        outputs: of each, the parts that are joined on the last axis; or whole numbers, the same for every image.
        image: shape of the input ``images``.
        kind: onnx's name of its datatype.
        sizes: name of a second input INT64 [batch, 2], width and height, by which the first output is multiplied.
        opset: version of the operators.
        shapes: what outputs are declared as where it is not what they are.
        properties: metadata.
    """
    weights = [
        numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        numpy_helper.from_array(np.array(0, np.float32), "nought"),
        numpy_helper.from_array(np.array(1, np.float32), "unit"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
    ]
    reduce = helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0)
    if opset < 18:
        reduce = helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0, axes=[1, 2, 3])
        weights.pop()
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        reduce,
        helper.make_node("Add", ["mean", "half"], ["gain"]),
        helper.make_node("Mul", ["mean", "nought"], ["none"]),
        helper.make_node("Add", ["none", "unit"], ["one"]),
    ]
    declared = []
    for at, (name, parts) in enumerate(outputs.items()):
        whole = isinstance(parts, np.ndarray)
        listed = [Part(parts, "Numbers")] if isinstance(parts, np.ndarray) else parts
        made = []
        for number, part in enumerate(listed):
            stem = f"{name}/{number}"
            kept = part.end == "Numbers"
            weights.append(numpy_helper.from_array(part.values[None].astype(np.float32), f"{stem}/table"))
            column = np.array([-1, *[1] * part.values.ndim], np.int64)
            weights.append(numpy_helper.from_array(column, f"{stem}/column"))
            nodes += [
                helper.make_node("Reshape", ["one" if kept else "gain", f"{stem}/column"], [f"{stem}/gain"]),
                helper.make_node("Mul", [f"{stem}/table", f"{stem}/gain"], [f"{stem}/rows"]),
            ]
            end = f"{stem}/rows"
            if kept:
                nodes.append(helper.make_node("Cast", [end], [f"{stem}/whole"], to=TensorProto.INT64))
                end = f"{stem}/whole"
                if not whole:
                    nodes.append(helper.make_node("Cast", [end], [f"{stem}/number"], to=TensorProto.FLOAT))
                    end = f"{stem}/number"
            elif part.end:
                attributes: dict[str, Any] = {"axis": -1} if "Softmax" in part.end else {}
                nodes.append(helper.make_node(part.end, [end], [f"{stem}/end"], **attributes))
                end = f"{stem}/end"
            made.append(end)
        joined = name if at or not sizes else f"{name}/in_units"
        if whole or len(made) == 1:
            nodes.append(helper.make_node("Identity", made, [joined]))
        else:
            nodes.append(helper.make_node("Concat", made, [joined], axis=-1))
        if joined != name:
            weights.append(numpy_helper.from_array(np.array([1], np.int64), "middle"))
            nodes += [
                helper.make_node("Cast", [sizes], ["sizes/floats"], to=TensorProto.FLOAT),
                helper.make_node("Concat", ["sizes/floats"] * 2, ["sizes/twice"], axis=1),
                helper.make_node("Unsqueeze", ["sizes/twice", "middle"], ["sizes/row"]),
                helper.make_node("Mul", [joined, "sizes/row"], [name]),
            ]
        first = listed[0].values
        shape: list[Dim] = ["batch", *first.shape]
        if len(listed) > 1:
            shape[-1] = sum(part.values.shape[-1] for part in listed)
        declared.append(tensor(name, "INT64" if whole else "FLOAT", *(shapes or {}).get(name, shape)))
    inputs = [tensor("images", kind, *image)]
    if sizes:
        inputs.append(tensor(sizes, "INT64", "batch", 2))
    graph = helper.make_graph(nodes, "head", inputs, declared, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if properties:
        helper.set_model_props(model, dict(properties))
    return model


def table(seed: int, *shape: int, high: float = 1.0) -> Floats:
    return np.random.default_rng(seed).uniform(0, high, shape).astype(np.float32)


def pixel_boxes(seed: int, boxes: int) -> Floats:
    """cx, cy, w, h."""
    return table(seed, boxes, 4) * np.array([WIDTH, HEIGHT, 20, 20], np.float32)


def corner_boxes(seed: int, boxes: int) -> Floats:
    """x1, y1, x2, y2 in 0..1."""
    low = table(seed, boxes, 2, high=0.3)
    return np.concatenate([low, low + table(seed + 1, boxes, 2, high=0.3)], axis=1)


def scores(seed: int, boxes: int, classes: int) -> Floats:
    """Most of them under the threshold; 1.5 times the largest is still below 1."""
    return table(seed, boxes, classes, high=0.85) ** 3


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def units(width: float = WIDTH, height: float = HEIGHT) -> Floats:
    return np.array([width, height, width, height], np.float32)


def yolov8(classes: int = 5, boxes: int = 42, **more: Any) -> onnx.ModelProto:
    rows = np.concatenate([pixel_boxes(1, boxes), scores(2, boxes, classes)], axis=1).T
    return head_model({"output0": [Part(rows)]}, **more)


def yolov5(classes: int = 5, boxes: int = 126, **more: Any) -> onnx.ModelProto:
    return head_model({"output0": [Part(pixel_boxes(3, boxes)), Part(scores(4, boxes, 1 + classes))]}, **more)


def yolov10(boxes: int = 300, **more: Any) -> onnx.ModelProto:
    numbers = np.random.default_rng(5).integers(0, 80, (boxes, 1))
    parts = [Part(corner_boxes(6, boxes) * units()), Part(scores(7, boxes, 1)), Part(numbers, "Numbers")]
    return head_model({"output0": parts}, **more)


def rtdetr(classes: int = 5, boxes: int = 300, end: str = "Sigmoid", **more: Any) -> onnx.ModelProto:
    logits = table(8, boxes, classes, high=4) - 4
    return head_model({"output0": [Part(table(9, boxes, 4, high=0.5)), Part(logits, end)]}, **more)


def rtdetr_sizes(boxes: int = 300, **more: Any) -> onnx.ModelProto:
    outputs: dict[str, Any] = {
        "boxes": [Part(corner_boxes(10, boxes))],
        "labels": np.random.default_rng(11).integers(0, 80, boxes),
        "scores": [Part(scores(12, boxes, 1)[:, 0])],
    }
    return head_model(outputs, sizes="orig_target_sizes", **more)


def separate(
    boxes: int = 1200, columns: int = 6, end: str = "", names: tuple[str, str] = ("boxes", "scores"), **more: Any
) -> onnx.ModelProto:
    logits = table(13, boxes, columns, high=5) - 3
    return head_model({names[0]: [Part(corner_boxes(14, boxes))], names[1]: [Part(logits, end)]}, **more)


def separate_4d(**more: Any) -> onnx.ModelProto:
    """Scores first, boxes [batch, boxes, 1, 4]."""
    logits, boxes = table(15, 1100, 6, high=5) - 3, corner_boxes(16, 1100)[:, None]
    return head_model({"confs": [Part(logits, "Softmax")], "boxes": [Part(boxes)]}, **more)


def tensorflow(boxes: int = 100, suffix: str = "", extra: bool = False, **more: Any) -> onnx.ModelProto:
    """Boxes y1, x1, y2, x2; classes from 1; of 100 rows 60 are detections, or 90 where the image is white."""
    outputs: dict[str, Any] = {
        f"detection_boxes{suffix}": [Part(corner_boxes(17, boxes))],
        f"detection_classes{suffix}": [Part(np.random.default_rng(18).integers(1, 91, boxes) + 0.0, "Numbers")],
        f"detection_scores{suffix}": [Part(scores(19, boxes, 1)[:, 0])],
        f"num_detections{suffix}": [Part(np.array(60.0))],
    }
    if extra:
        outputs["raw_detection_boxes"] = [Part(corner_boxes(20, 1917))]
        outputs["raw_detection_scores"] = [Part(scores(21, 1917, 91))]
    more = {"image": ["batch", HEIGHT, WIDTH, 3], "kind": "UINT8", **more}
    return head_model(outputs, **more)


def listed(**more: Any) -> onnx.ModelProto:
    """The ONNX model zoo's SSD."""
    outputs: dict[str, Any] = {
        "bboxes": [Part(corner_boxes(22, 200))],
        "labels": np.random.default_rng(23).integers(1, 81, 200),
        "scores": [Part(scores(24, 200, 1)[:, 0])],
    }
    return head_model(outputs, **more)


def run(model: onnx.ModelProto, feed: Answers) -> Answers:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def source_feed(model: onnx.ModelProto, images: NDArray[np.uint8]) -> Answers:
    """What the source takes of the pictures."""
    first = model.graph.input[0].type.tensor_type
    feed: Answers = {"images": images}
    if first.elem_type == TensorProto.FLOAT:
        feed = {"images": images.astype(np.float32) * np.float32(1 / 255)}
        if first.shape.dim[1].dim_value == 3:
            feed["images"] = np.ascontiguousarray(feed["images"].transpose(0, 3, 1, 2))
    for extra in model.graph.input[1:]:
        feed[extra.name] = np.tile(np.array([WIDTH, HEIGHT], np.int64), (len(images), 1))
    return feed


def pictures(model: onnx.ModelProto, batch: int) -> NDArray[np.uint8]:
    """Images that differ; of such as a model of bytes has no sums beyond 1."""
    top = 2 if model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8 else 256
    images = np.random.default_rng(1).integers(0, top, (batch, HEIGHT, WIDTH, 3), dtype=np.uint8)
    images[0] = top - 1
    return images


def properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}
