"""The INT8 rewriting: what becomes INT8, what stays, that the answers do, and that nothing is kept in memory."""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from saccade_predictor.build import quantizing
from saccade_predictor.build.halves import to_fp16
from saccade_predictor.build.quantizing import QuantizingError, to_int8
from saccade_predictor.engines.engine import Inputs

DETECTOR = Path(__file__).parents[2] / "examples" / "model-repository" / "detector" / "1" / "model.onnx"


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    shape: tuple[int, ...] = (3, 8, 8),
    out: tuple[int, ...] | None = None,
    opset: int = 17,
    more_outputs: tuple[str, ...] = (),
) -> onnx.ModelProto:
    def tensor(name: str, dims: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *dims])

    graph = helper.make_graph(
        nodes,
        "g",
        [tensor("x", shape)],
        [tensor("y", out or shape), *(tensor(name, out or shape) for name in more_outputs)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(made, {"saccade.input": "rgb_nhwc"})
    onnx.checker.check_model(made, full_check=True)
    return made


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape)).normal(0, 0.2, shape).astype(np.float32)


def values(shape: tuple[int, ...] = (3, 8, 8)) -> NDArray[np.float32]:
    """What is calibrated and compared on: 8 rows."""
    return np.random.default_rng(0).random((8, *shape), np.float32)


def batches(shape: tuple[int, ...] = (3, 8, 8)) -> Iterator[Inputs]:
    rows = values(shape)
    yield from ({"x": rows[at : at + 2]} for at in range(0, len(rows), 2))


def run(made: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: NDArray[Any] = session.run(["y"], {"x": x})[0]
    return output


def error_of(made: onnx.ModelProto, source: onnx.ModelProto) -> float:
    """The largest difference, as a share of the largest value."""
    right = run(source, values())
    return float(np.abs(run(made, values()) - right).max() / np.abs(right).max())


def check_placement(made: onnx.ModelProto, products: tuple[str, ...]) -> None:
    """Data and weights of the products come by Q/DQ, symmetric and signed; nothing else reads any."""
    graph = made.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        ops = [makers[name].op_type if name in makers else "" for name in node.input]
        if node.name in products:
            assert ops[:2] == ["DequantizeLinear", "DequantizeLinear"], node.name
            assert not any("Linear" in op for op in ops[2:]), "biases stay FP32"
            data, weight = (makers[name] for name in node.input[:2])
            assert makers[data.input[0]].op_type == "QuantizeLinear"
            assert constants[weight.input[0]].dtype == np.int8
            assert constants[weight.input[1]].size == constants[weight.input[0]].shape[channel_axis(node)]
            for one in (data, weight):
                assert not constants[one.input[2]].any(), "symmetric"
                assert constants[one.input[2]].dtype == np.int8
        elif node.op_type != "DequantizeLinear":
            assert not any("Linear" in op for op in ops), f"{node.op_type} {node.name} reads quantized numbers"
    found = Counter(node.op_type for node in graph.node)
    assert found["DequantizeLinear"] == found["QuantizeLinear"] + len(products)
    assert not any("Linear" in makers[value.name].op_type for value in graph.output)


def channel_axis(node: onnx.NodeProto) -> int:
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 0 if transposed else 1}[node.op_type]


def two_convolutions(**others: Any) -> onnx.ModelProto:
    """Scaling, convolution with bias, activation, convolution, a sum with what the second reads, scaling."""
    return model(
        [
            helper.make_node("Mul", ["x", "k"], ["a"], name="front"),
            helper.make_node("Conv", ["a", "w", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("LeakyRelu", ["c"], ["d"], name="middle"),
            helper.make_node("Conv", ["d", "v"], ["e"], name="last", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["d", "e"], ["f"], name="sum"),
            helper.make_node("Mul", ["f", "k"], ["y"], name="behind"),
        ],
        {"k": np.array(3, np.float32), "w": normal(3, 3, 3, 3), "b": normal(3), "v": normal(3, 3, 3, 3)},
        **others,
    )


# Entropy cuts the largest values off, of which evenly distributed ones have many.
@pytest.mark.parametrize(("method", "error"), [("minmax", 0.05), ("entropy", 0.3), ("percentile", 0.05)])
def test_products_read_int8_and_nothing_else_does(method: quantizing.Method, error: float) -> None:
    source = two_convolutions()
    made = to_int8(source, batches(), method)
    assert (made.products, made.kept) == (("first", "last"), ())
    check_placement(made.model, made.products)
    assert 0 < error_of(made.model, source) < error
    assert {one.key: one.value for one in made.model.metadata_props} == {"saccade.input": "rgb_nhwc"}
    assert made.model.graph.input[0] == source.graph.input[0]
    assert made.model.graph.output[0] == source.graph.output[0]


def test_the_source_is_not_changed_and_twice_gives_the_same_bytes() -> None:
    source = two_convolutions()
    before = source.SerializeToString(deterministic=True)
    given = list(batches())
    first, second = (to_int8(source, given).model.SerializeToString(deterministic=True) for _ in range(2))
    assert source.SerializeToString(deterministic=True) == before
    assert first == second


def test_a_scale_is_the_largest_value_over_127() -> None:
    source = two_convolutions()
    x = np.zeros((1, 3, 8, 8), np.float32)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = -0.5, 0.25
    made = to_int8(source, [{"x": x / 4}, {"x": x}, {"x": x / 2}])
    [scale] = [one for one in made.model.graph.initializer if one.name == "a__int8_scale"]
    assert numpy_helper.to_array(scale) == pytest.approx(1.5 / 127)


def test_the_example_is_quantized_but_for_its_decoding_of_boxes() -> None:
    source = onnx.load(DETECTOR)
    image = np.random.default_rng(0).integers(0, 256, (1, 416, 416, 3), np.uint8)
    made = to_int8(source, [{"image": image}])
    assert len(made.products) == 34
    assert made.kept == ("MatMul_rd",), "the mean of a distribution of distances, in pixels"
    check_placement(made.model, made.products)
    before = Counter(node.op_type for node in source.graph.node)
    after = Counter(node.op_type for node in made.model.graph.node)
    # Weights were stored in FP16 and cast; else only Q/DQ nodes are new.
    assert after - before == Counter(QuantizeLinear=34, DequantizeLinear=68)
    assert set(before - after) == {"Cast"}
    assert len(made.model.SerializeToString()) < 0.6 * DETECTOR.stat().st_size


@pytest.mark.parametrize(("keep", "left"), [(["last"], ("first",)), (["first", "middle"], ("last",))])
def test_what_is_named_stays_and_reads_fp32(keep: list[str], left: tuple[str, ...]) -> None:
    made = to_int8(two_convolutions(), batches(), keep=keep)
    assert made.products == left
    check_placement(made.model, left)


def test_a_tensor_and_weights_that_a_kept_node_reads_too_stay_fp32_for_it() -> None:
    source = model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="ours"),
            helper.make_node("Conv", ["x", "w"], ["b"], name="kept"),
            helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
        ],
        {"w": normal(3, 3, 1, 1)},
        more_outputs=("a",),
    )
    made = to_int8(source, batches(), keep=["kept"])
    check_placement(made.model, ("ours",))
    [kept] = [node for node in made.model.graph.node if node.name == "kept"]
    assert list(kept.input) == ["x", "w"]
    assert error_of(made.model, source) < 0.02


def test_matrix_products_and_transposed_convolutions_have_scales_for_their_channels() -> None:
    source = model(
        [
            helper.make_node("ConvTranspose", ["x", "w"], ["a"], name="up", strides=[2, 2]),
            helper.make_node("Flatten", ["a"], ["b"]),
            helper.make_node("Gemm", ["b", "g", "bias"], ["c"], name="gemm", transB=1),
            helper.make_node("MatMul", ["c", "m"], ["y"], name="matmul"),
        ],
        {"w": normal(3, 4, 2, 2), "g": normal(10, 4 * 16 * 16), "bias": normal(10), "m": normal(10, 5)},
        out=(5,),
    )
    made = to_int8(source, batches())
    assert made.products == ("up", "gemm", "matmul")
    check_placement(made.model, made.products)
    assert error_of(made.model, source) < 0.05


def test_products_without_constant_weights_or_with_a_scaled_bias_stay() -> None:
    source = model(
        [
            helper.make_node("MatMul", ["x", "m"], ["a"], name="ours"),
            helper.make_node("MatMul", ["a", "x"], ["b"], name="attention"),
            helper.make_node("MatMul", ["b", "deep"], ["c"], name="deep"),
            helper.make_node("Flatten", ["c"], ["d"]),
            helper.make_node("Gemm", ["d", "g", "bias"], ["y"], name="scaled", beta=0.5),
        ],
        {"m": normal(8, 8), "deep": normal(3, 8, 8), "g": normal(192, 4), "bias": normal(4)},
        out=(4,),
    )
    made = to_int8(source, batches())
    assert (made.products, made.kept) == (("ours",), ("attention", "deep", "scaled"))
    check_placement(made.model, made.products)
    assert error_of(made.model, source) < 0.05


def test_products_without_a_name_get_one_and_an_older_operator_set_is_converted() -> None:
    source = two_convolutions(opset=11)
    for node in source.graph.node:
        node.name = ""
    source.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3, 3, 3]))
    made = to_int8(source, batches())
    assert made.products == ("Conv_c", "Conv_e")
    assert [entry.version for entry in made.model.opset_import] == [13]
    assert [value.name for value in made.model.graph.input] == ["x"], "weights are no inputs"
    check_placement(made.model, made.products)
    assert error_of(made.model, source) < 0.05


def nothing() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], {})


def without_weights() -> onnx.ModelProto:
    return model([helper.make_node("MatMul", ["x", "x"], ["y"], name="square")], {})


@pytest.mark.parametrize(
    ("source", "keep", "part"),
    [
        (nothing(), [], r"no product in FP32 \(Conv, ConvTranspose, Gemm, MatMul\)"),
        (to_fp16(two_convolutions()).model, [], "no product in FP32"),
        (without_weights(), [], r"no product of the graph can be quantized \(square\)"),
        (two_convolutions(), ["Conv"], r"no product of the graph can be quantized \(first, last\): each is kept"),
        (two_convolutions(), ["lats"], "no node and no operator 'lats' to keep in FP32"),
        (to_int8(two_convolutions(), batches()).model, [], "quantized already"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_a_picture_is_read(
    source: onnx.ModelProto, keep: list[str], part: str
) -> None:
    def unread() -> Iterator[Inputs]:
        raise AssertionError("a batch was asked for")
        yield {}

    with pytest.raises(QuantizingError, match=part):
        to_int8(source, unread(), keep=keep)


def test_a_batch_that_does_not_fit_and_an_error_of_the_batches_are_told_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(QuantizingError, match="ONNX Runtime cannot quantize the graph: "):
        to_int8(two_convolutions(), batches(shape=(3, 9, 8)))

    def broken() -> Iterator[Inputs]:
        yield {"x": values()}
        raise ValueError("the batches' own")

    with pytest.raises(ValueError, match="the batches' own"):
        to_int8(two_convolutions(), broken(), "entropy")
    assert capsys.readouterr().out == "", "ONNX Runtime prints, and this does not"


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_no_batch_and_no_tensor_of_one_is_kept(method: quantizing.Method) -> None:
    side, count = 384, 24  # a tensor of a batch has 1.7 MB, and there are four
    tensors = count * 4 * 3 * side * side * 4
    seen: list[weakref.ref[NDArray[Any]]] = []
    resident: list[int] = []

    def watched() -> Iterator[Inputs]:
        for _ in range(count):
            assert sum(ref() is not None for ref in seen) <= 1, "at most the one before"
            array = values((3, side, side))[:1].copy()
            seen.append(weakref.ref(array))
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
            yield {"x": array}

    to_int8(two_convolutions(shape=(3, side, side)), watched(), method)
    assert len(resident) == count
    assert resident[-1] - resident[4] < tensors / 4
