"""Rewrites an FP32 graph so that its products compute in INT8, with ranges measured on pictures.

    x -> QuantizeLinear -> DequantizeLinear -> product <- DequantizeLinear <- weights, INT8

Symmetric and signed, a scale for each output channel of the weights and one for each data input: what TensorRT takes.
Only products are quantized, and only on the way in: outputs, sums, activations, the scaling of pixels in front and the
decoding of boxes behind stay FP32, and TensorRT fuses what it can. ONNX Runtime measures the ranges and writes the
nodes; the graph it is given leads it to do so nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorsData,
    create_calibrator,
)

from saccade_predictor.build.source import first_line
from saccade_predictor.build.span import PRODUCTS, find_span, fold, types_of, uses_of
from saccade_predictor.engines.engine import Inputs

#: QuantizeLinear has an axis, which a scale for each channel needs, from this operator set on.
MIN_OPSET: Final = 13
QUANTIZERS: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
#: What hands a tensor on as it is, in another shape.
_RESHAPING: Final = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_SUFFIX: Final = "__int8"


class QuantizingError(ValueError):
    """A graph cannot be quantized."""


#: How the range of a tensor follows from its values on the pictures: from all; from as many as tell them apart; from a
#: share of them.
Method = Literal["minmax", "entropy", "percentile"]
_METHODS: Final[dict[Method, CalibrationMethod]] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True, slots=True)
class Quantized:
    """A rewritten graph.

    Attributes:
        model: checked.
        products: names of the products that compute in INT8.
        kept: names of those that stay FP32.
    """

    model: onnx.ModelProto
    products: tuple[str, ...]
    kept: tuple[str, ...]


def to_int8(
    model: onnx.ModelProto,
    batches: Iterable[Inputs],
    method: Method = "minmax",
    percentile: float = 99.999,
    keep: Collection[str] = (),
) -> Quantized:
    """Return a copy of a graph whose products compute in INT8.

    Products that are named, whose weights are no FP32 constants, or that take the mean of a distribution (a detector's
    distances to the sides of a box) stay FP32.

    Args:
        model: valid, FP32. Not modified.
        batches: input name -> array; at least one. Read once, one at a time: no batch, and no tensor of one, is kept.
        method: how ranges follow from values.
        percentile: of the method of that name: the share of absolute values within the range, 0..100.
        keep: names of nodes, or operators, that stay FP32.

    Raises:
        QuantizingError: the graph is quantized already, nothing of it can be, it has nothing of a name in ``keep``, or
            ONNX Runtime cannot run it.
        OSError: a temporary file cannot be written.
    """
    prepared = _prepare(model)
    chosen, kept = _choose(prepared, frozenset(keep))
    names = [prepared.graph.node[index].name for index in chosen]
    aliases = _set_apart(prepared.graph, chosen)
    with tempfile.TemporaryDirectory(prefix="saccade-") as folder:
        ranges = _measure(prepared, batches, method, percentile, Path(folder))
    result = _insert(prepared, ranges, names)
    _join(result.graph, aliases)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.ClearField("metadata_props")
    result.metadata_props.extend(model.metadata_props)
    result.graph.ClearField("value_info")
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise QuantizingError(f"the graph is not valid in INT8: {first_line(error)[:300]}") from error
    return Quantized(result, tuple(names), kept)


def _prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which weights are initializers of FP32, products have names, and Q/DQ nodes may stand."""
    if any(node.op_type in QUANTIZERS for node in model.graph.node):
        raise QuantizingError("the graph is quantized already (it has Q/DQ nodes); expected an FP32 graph")
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        try:
            prepared = onnx.version_converter.convert_version(model, MIN_OPSET)
        except Exception as error:  # the converter's exceptions share no base
            raise QuantizingError(
                f"the graph is of opset {opset}, INT8 with a scale for each channel needs {MIN_OPSET}, and it does not"
                f" convert: {first_line(error)[:200]}; export it again with opset {MIN_OPSET} or later"
            ) from error
    else:
        prepared = onnx.ModelProto()
        prepared.CopyFrom(model)
    prepared.ir_version = max(prepared.ir_version, 4)  # since then initializers need not be inputs
    graph = prepared.graph
    fold(graph)
    weights = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in uses_of(node)} | {value.name for value in graph.output}
    inputs = [value for value in graph.input if value.name not in weights]
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    graph.ClearField("input")
    graph.input.extend(inputs)
    graph.ClearField("initializer")
    graph.initializer.extend(initializers)
    taken = {node.name for node in graph.node}
    for node in graph.node:
        if node.op_type in PRODUCTS and not node.name:
            node.name = _unused(f"{node.op_type}_{node.output[0]}", taken)
    return prepared


def _choose(model: onnx.ModelProto, keep: Collection[str]) -> tuple[list[int], tuple[str, ...]]:
    """Indices of the products to quantize, and names of those that are not."""
    graph = model.graph
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise QuantizingError(f"the graph's types cannot be found: {first_line(error)[:300]}") from error
    there = {name for node in graph.node for name in (node.name, node.op_type)}
    if unknown := sorted(set(keep) - there):
        raise QuantizingError(f"the graph has no node and no operator {', '.join(map(repr, unknown))} to keep in FP32")
    products = sorted(find_span(graph, types_of(inferred)).products)
    if not products:
        raise QuantizingError(
            f"the graph has no product in FP32 ({', '.join(sorted(PRODUCTS))}), and INT8 is for products alone"
        )
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    makers = {name: node for node in graph.node for name in node.output}
    chosen = []
    for index in products:
        node = graph.node[index]
        named = node.name in keep or node.op_type in keep
        if not named and _has_channels(node, weights) and not _is_mean(node, makers):
            chosen.append(index)
    kept = tuple(graph.node[index].name for index in products if index not in chosen)
    if not chosen:
        listed = ", ".join(kept[:5]) + (" ..." if len(kept) > 5 else "")
        raise QuantizingError(
            f"no product of the graph can be quantized ({listed}): each is kept, or has no constant weights"
        )
    return chosen, kept


def _has_channels(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Whether a product has constant weights, of which each output channel can have a scale."""
    if node.domain not in ("", "ai.onnx") or node.input[0] in weights or node.input[1] not in weights:
        return False
    if node.op_type in ("MatMul", "Gemm") and len(weights[node.input[1]].dims) != 2:
        return False
    # ONNX Runtime sets a Gemm's beta to 1 and scales the bias, which stays FP32 here.
    return all(one.name != "beta" or one.f == 1 for one in node.attribute)


def _is_mean(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a product's data are probabilities: then it is the decoding of boxes, in pixels."""
    maker = makers.get(node.input[0])
    while maker is not None and maker.op_type in _RESHAPING:
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type == "Softmax"


def _set_apart(graph: onnx.GraphProto, chosen: list[int]) -> dict[str, str]:
    """Give the chosen products their data under names of their own, and weights that no other node reads.

    ONNX Runtime quantizes a tensor for all who read it, those that stay FP32 and the graph's outputs too.

    Returns:
        Name of their own -> the data's name.
    """
    taken = {name for node in graph.node for name in (*node.output, node.name)}
    taken |= {one.name for one in (*graph.initializer, *graph.input)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in uses_of(node))
    aliases: dict[str, str] = {}  # data -> its other name
    nodes = []
    for index, node in enumerate(graph.node):
        if index in chosen:
            data, weight = node.input[0], node.input[1]
            if data not in aliases:
                aliases[data] = _unused(f"{data}{_SUFFIX}", taken)
                nodes.append(helper.make_node("Identity", [data], [aliases[data]]))
            node.input[0] = aliases[data]
            if readers[weight] > 1:
                readers[weight] -= 1
                copy = graph.initializer.add()
                copy.CopyFrom(weights[weight])
                copy.name = node.input[1] = _unused(f"{weight}{_SUFFIX}", taken)
        nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    return {alias: data for data, alias in aliases.items()}


def _join(graph: onnx.GraphProto, aliases: dict[str, str]) -> None:
    """Take back the names that ``_set_apart`` gave: the data are read under their own."""
    left = [node for node in graph.node if node.output[0] not in aliases]
    for node in left:
        for i, name in enumerate(node.input):
            node.input[i] = aliases.get(name, name)
    graph.ClearField("node")
    graph.node.extend(left)


class _OneBatch(CalibrationDataReader):
    def __init__(self, inputs: Inputs) -> None:
        self._left = [dict(inputs)]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None


def _measure(
    model: onnx.ModelProto, batches: Iterable[Inputs], method: Method, percentile: float, folder: Path
) -> TensorsData:
    """Ranges of what products read and give. ONNX Runtime keeps what it is given until the end: so it gets little."""
    source = folder / "model.onnx"
    onnx.save(model, source)
    options = {"percentile": percentile} if method == "percentile" else {}
    with _asked():
        calibrator = create_calibrator(
            source, sorted(PRODUCTS), str(folder / "augmented.onnx"), _METHODS[method], extra_options=options
        )
    for inputs in batches:
        with _asked():
            calibrator.collect_data(_OneBatch(inputs))
    with _asked():
        return calibrator.compute_data()


def _insert(model: onnx.ModelProto, ranges: TensorsData, names: list[str]) -> onnx.ModelProto:
    with _asked():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=ranges,
            nodes_to_quantize=names,
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(PRODUCTS),
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": sorted(PRODUCTS),
                "QuantizeBias": False,  # TensorRT adds it in FP32
                "QDQDisableWeightAdjustForInt32Bias": True,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        result: onnx.ModelProto = quantizer.model.model
        return result


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """Around ONNX Runtime: it prints, and its exceptions share no base."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except OSError:
        raise
    except Exception as error:
        raise QuantizingError(f"ONNX Runtime cannot quantize the graph: {first_line(error)[:300]}") from error


def _unused(name: str, taken: set[str]) -> str:
    """The name, or one like it that nothing has; it is taken then."""
    number, found = 0, name
    while found in taken:
        number, found = number + 1, f"{name}_{number + 1}"
    taken.add(found)
    return found
