"""The part of a graph that costs time: from its first to its last product of matrices.

In front of the first product a detector scales pixels, and behind the last it turns distances into pixel coordinates.
Lower precisions, FP16 (``halves.py``) and INT8 (``quantizing.py``), stay between the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

#: What is fast in lower precisions.
PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Span:
    """Indices of a graph's nodes.

    Attributes:
        products: the FP32 products.
        nodes: the products, and what lies behind one and in front of another.
    """

    products: frozenset[int]
    nodes: frozenset[int]


def find_span(graph: onnx.GraphProto, types: dict[str, int]) -> Span:
    """Find what lies between a graph's first and last product.

    Args:
        graph: its nodes in order, as ONNX demands.
        types: tensor -> element type; see ``types_of``.
    """
    nodes = list(graph.node)
    product = [node.op_type in PRODUCTS and types.get(node.output[0]) == TensorProto.FLOAT for node in nodes]
    behind: set[str] = set()
    after = []
    for node, is_product in zip(nodes, product, strict=True):
        has = any(name in behind for name in uses_of(node))
        after.append(has)
        if has or is_product:
            behind.update(node.output)
    needed: set[str] = set()
    before = [False] * len(nodes)
    for index in range(len(nodes) - 1, -1, -1):
        before[index] = any(name in needed for name in nodes[index].output)
        if before[index] or product[index]:
            needed.update(uses_of(nodes[index]))
    between = (i for i in range(len(nodes)) if product[i] or (after[i] and before[i]))
    return Span(frozenset(i for i in range(len(nodes)) if product[i]), frozenset(between))


def fold(graph: onnx.GraphProto) -> None:
    """Make initializers of constants, and of weights that are stored in another precision and cast."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    left = []
    for node in graph.node:
        made = _constant(node)
        if made is None and node.op_type == "Cast" and node.input[0] in weights and cast_to(node) == TensorProto.FLOAT:
            values = numpy_helper.to_array(weights[node.input[0]])
            if values.dtype in (np.float16, np.float32, np.float64):
                made = numpy_helper.from_array(values.astype(np.float32), node.output[0])
        if made is None or node.output[0] in {value.name for value in graph.output}:
            left.append(node)
        else:
            weights[made.name] = made
            graph.initializer.append(made)
    graph.ClearField("node")
    graph.node.extend(left)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant":
        return None
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            return tensor
    return None


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor -> element type, of those that the graph tells of: run shape inference first."""
    found = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def cast_to(node: onnx.NodeProto) -> int:
    """The element type that a ``Cast`` gives."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)


def uses_of(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors a node reads, those that its bodies take from the graph around them included."""
    yield from node.input
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            for inner in body.node:
                yield from uses_of(inner)
            yield from (value.name for value in body.output)
