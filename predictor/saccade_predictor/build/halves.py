"""Rewrites an FP32 graph so that the part that costs time is FP16: from the first to the last product of matrices.

In front of the first convolution and behind the last one stays FP32: there, a detector scales pixels and turns
distances into pixel coordinates, and FP16 has steps of 0.5 from 512 on. Inputs and outputs keep their datatypes.
TensorRT 11 and TensorRT-RTX take the precision from the graph alone, and the graph can be compared on a CPU before
there is a plan.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from saccade_predictor.build.source import first_line
from saccade_predictor.build.span import cast_to, find_span, fold, types_of, uses_of

#: Stay FP32 wherever they stand: they quantize, hold graphs, or make a tensor whose type is an attribute.
_KEPT: Final = frozenset(
    {
        *(
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "ConvInteger",
            "MatMulInteger",
            "QLinearConv",
        ),
        *("QLinearMatMul", "If", "Loop", "Scan", "NonMaxSuppression", "Range", "ConstantOfShape", "EyeLike"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
    }
)
#: Inputs that are FP32 by definition, whatever the others are: sizes and scales.
_FP32_INPUTS: Final = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
_LARGEST: Final = float(np.finfo(np.float16).max)
_SUFFIX: Final = "__fp16"


class HalvesError(ValueError):
    """A graph cannot be rewritten."""


@dataclass(frozen=True, slots=True)
class Halves:
    """A rewritten graph.

    Attributes:
        model: checked.
        converted: nodes that compute in FP16.
        kept: products that stay FP32, because they were named or their weights are beyond FP16.
    """

    model: onnx.ModelProto
    converted: int
    kept: tuple[str, ...]


def to_fp16(model: onnx.ModelProto, keep: Collection[str] = ()) -> Halves:
    """Return a copy of a graph whose products, and what lies between them, compute in FP16.

    Args:
        model: valid, FP32; a graph that is FP16 already stays as it is. Not modified.
        keep: names of nodes, or operators, that stay FP32.

    Raises:
        HalvesError: the rewritten graph is not valid.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise HalvesError(f"the graph's types cannot be found: {first_line(error)[:300]}") from error
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    fold(graph)
    types = types_of(inferred.graph) | types_of(graph)
    region, kept = _choose(graph, types, frozenset(keep))
    _Rewriter(graph, types, region).run()
    graph.ClearField("value_info")  # the types have changed
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise HalvesError(f"the graph is not valid in FP16: {first_line(error)[:300]}") from error
    return Halves(result, len(region), kept)


def _choose(graph: onnx.GraphProto, types: dict[str, int], keep: Collection[str]) -> tuple[set[int], tuple[str, ...]]:
    """Indices of the nodes that become FP16, and names of the products that do not."""
    wide = {tensor.name for tensor in graph.initializer if _is_wide(tensor)}
    nodes = list(graph.node)
    able = []
    for node in nodes:
        known = all(types.get(name, 0) for name in (*node.input, *node.output) if name)
        named = node.name in keep or node.op_type in keep
        plain = node.domain in ("", "ai.onnx") and node.op_type not in _KEPT
        able.append(known and plain and not named and not any(name in wide for name in node.input))
    span = find_span(graph, types)
    region = {
        index
        for index, node in enumerate(nodes)
        if able[index]
        and index in span.nodes
        and any(types.get(name) == TensorProto.FLOAT for name in (*node.input, *node.output))
    }
    kept = tuple(node.name or node.output[0] for i, node in enumerate(nodes) if i in span.products and i not in region)
    return region, kept


def _is_wide(tensor: onnx.TensorProto) -> bool:
    """Whether a weight is beyond FP16's range."""
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = numpy_helper.to_array(tensor)
    finite = np.abs(values[np.isfinite(values)])
    return bool(finite.size) and float(finite.max()) > _LARGEST


class _Rewriter:
    """Rewrites the chosen nodes; tensors that have both types have the FP16 one under a name of its own."""

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int], region: set[int]) -> None:
        self._graph = graph
        self._types = types
        self._region = region
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._halves: dict[str, str] = {}  # FP32 name -> name of the same in FP16
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        nodes = list(self._graph.node)
        wanted = {value.name for value in self._graph.output}
        for index, node in enumerate(nodes):
            if index not in self._region:
                wanted.update(uses_of(node))
            elif node.op_type in _FP32_INPUTS:
                wanted.update(node.input[i] for i in _FP32_INPUTS[node.op_type] if i < len(node.input))
        for index, node in enumerate(nodes):
            if index in self._region:
                self._convert(node, wanted)
            else:
                self._nodes.append(node)
        self._graph.ClearField("node")
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in uses_of(node)} | wanted
        left = [tensor for tensor in self._graph.initializer if tensor.name in used]
        self._graph.ClearField("initializer")
        self._graph.initializer.extend(left)

    def _convert(self, node: onnx.NodeProto, wanted: set[str]) -> None:
        fixed = _FP32_INPUTS.get(node.op_type, frozenset())
        for i, name in enumerate(node.input):
            if i not in fixed and self._types.get(name) == TensorProto.FLOAT:
                node.input[i] = self._half(name)
        if node.op_type == "Cast" and cast_to(node) == TensorProto.FLOAT:
            next(one for one in node.attribute if one.name == "to").i = TensorProto.FLOAT16
        casts = []
        for i, name in enumerate(node.output):
            if not name or self._types.get(name) != TensorProto.FLOAT:
                continue
            node.output[i] = self._halves[name] = f"{name}{_SUFFIX}"
            if name in wanted:
                casts.append(_cast(node.output[i], name, TensorProto.FLOAT))
        self._nodes += [node, *casts]

    def _half(self, name: str) -> str:
        """The name of a tensor in FP16, which is made if need be."""
        if name not in self._halves:
            half = self._halves[name] = f"{name}{_SUFFIX}"
            if name in self._weights:
                values = numpy_helper.to_array(self._weights[name]).astype(np.float16)
                self._graph.initializer.append(numpy_helper.from_array(values, half))
            else:
                self._nodes.append(_cast(name, half, TensorProto.FLOAT16))
        return self._halves[name]


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=to)
