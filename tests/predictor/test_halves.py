"""The FP16 rewriting: what becomes FP16, what stays, and that the answers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from saccade_predictor.build.halves import HalvesError, to_fp16

DETECTOR = Path(__file__).parents[2] / "examples" / "model-repository" / "detector" / "1" / "model.onnx"
F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def model(nodes: list[onnx.NodeProto], weights: dict[str, NDArray[Any]], rank: int = 2) -> onnx.ModelProto:
    shape: list[str | int | None] = ["n", *[4] * (rank - 1)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F32, shape)],
        [helper.make_tensor_value_info("y", F32, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


W = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)


def chain() -> onnx.ModelProto:
    """Scaling, product, activation, product, scaling: the middle is between the products."""
    return model(
        [
            helper.make_node("Mul", ["x", "k"], ["a"], name="front"),
            helper.make_node("MatMul", ["a", "w"], ["b"], name="first"),
            helper.make_node("Sigmoid", ["b"], ["c"], name="middle"),
            helper.make_node("MatMul", ["c", "w"], ["d"], name="last"),
            helper.make_node("Mul", ["d", "k"], ["y"], name="behind"),
        ],
        {"w": W, "k": np.array(3, np.float32)},
    )


def types(made: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(made).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return {node.name: found[node.output[0]] for node in graph.node}


def run(made: onnx.ModelProto, rows: int = 3) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    [tensor] = session.get_inputs()
    shape = (rows, *tensor.shape[1:])
    output: NDArray[Any] = session.run(None, {"x": np.random.default_rng(0).random(shape, np.float32)})[0]
    return output


def test_what_lies_between_products_is_fp16_and_the_ends_stay() -> None:
    halves = to_fp16(chain())
    found = types(halves.model)
    assert {name for name, kind in found.items() if kind == F16 and "Cast" not in name} == {"first", "middle", "last"}
    assert (found["front"], found["behind"]) == (F32, F32)
    assert (halves.converted, halves.kept) == (3, ())
    assert halves.model.graph.input[0].type.tensor_type.elem_type == F32
    assert halves.model.graph.output[0].type.tensor_type.elem_type == F32
    assert np.abs(run(halves.model) - run(chain())).max() < 0.01
    assert [tensor.name for tensor in halves.model.graph.initializer] == ["k", "w__fp16"], "no weight is kept twice"


def test_the_source_is_not_changed_and_twice_gives_the_same_bytes() -> None:
    source = chain()
    before = source.SerializeToString(deterministic=True)
    first = to_fp16(source).model.SerializeToString(deterministic=True)
    assert source.SerializeToString(deterministic=True) == before
    assert to_fp16(source).model.SerializeToString(deterministic=True) == first


@pytest.mark.parametrize("keep", [["last"], ["MatMul"]])
def test_what_is_named_stays(keep: list[str]) -> None:
    halves = to_fp16(chain(), keep)
    assert "last" in halves.kept
    assert types(halves.model)["last"] == F32
    assert np.abs(run(halves.model) - run(chain())).max() < 0.01


def test_a_weight_beyond_fp16_stays_and_is_told() -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"], name="big")], {"w": W * np.float32(1e6)})
    halves = to_fp16(made)
    assert (halves.converted, halves.kept) == (0, ("big",))
    assert np.array_equal(run(halves.model), run(made))


def test_a_tensor_that_both_sides_read_has_both_types() -> None:
    made = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
            helper.make_node("MatMul", ["a", "w"], ["b"], name="last"),
            helper.make_node("Add", ["a", "b"], ["y"], name="behind"),
        ],
        {"w": W},
    )
    halves = to_fp16(made)
    assert types(halves.model)["behind"] == F32
    assert np.abs(run(halves.model) - run(made)).max() < 0.02


def test_the_output_of_a_product_keeps_its_name_and_type() -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"], name="only")], {"w": W})
    halves = to_fp16(made)
    assert [value.name for value in halves.model.graph.output] == ["y"]
    assert run(halves.model).dtype == np.float32


def test_sizes_of_a_resize_stay_fp32() -> None:
    kernel = np.ones((4, 4, 1, 1), np.float32)
    made = model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
            helper.make_node("Resize", ["a", "", "scales"], ["b"], name="resize", mode="nearest"),
            helper.make_node("Conv", ["b", "w"], ["y"], name="last"),
        ],
        {"w": kernel, "scales": np.array([1, 1, 1, 1], np.float32)},
        rank=4,
    )
    halves = to_fp16(made)
    assert types(halves.model)["resize"] == F16
    assert np.abs(run(halves.model) - run(made)).max() < 0.02


def test_a_cast_between_products_becomes_one_to_fp16() -> None:
    made = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
            helper.make_node("Cast", ["a"], ["b"], name="down", to=TensorProto.INT32),
            helper.make_node("Cast", ["b"], ["c"], name="up", to=F32),
            helper.make_node("MatMul", ["c", "w"], ["y"], name="last"),
        ],
        {"w": W},
    )
    found = types(to_fp16(made).model)
    assert (found["down"], found["up"]) == (TensorProto.INT32, F16)


def test_branches_read_what_they_read_before() -> None:
    def body(name: str, operator: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, F32, None)
        return helper.make_graph([helper.make_node(operator, ["a"], [name])], name, [], [out])

    made = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
            helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
            helper.make_node("Greater", ["m", "zero"], ["c"]),
            helper.make_node(
                "If", ["c"], ["b"], name="if", then_branch=body("t", "Neg"), else_branch=body("e", "Abs")
            ),
            helper.make_node("MatMul", ["b", "w"], ["y"], name="last"),
        ],
        {"w": W, "zero": np.array(0, np.float32)},
    )
    halves = to_fp16(made)
    assert np.abs(run(halves.model) - run(made)).max() < 0.02


def test_a_graph_without_products_stays_as_it_is() -> None:
    halves = to_fp16(model([helper.make_node("Neg", ["x"], ["y"])], {}))
    assert halves.converted == 0


def test_a_graph_whose_types_disagree_is_refused() -> None:
    made = chain()
    made.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(HalvesError, match="FP16"):
        to_fp16(made)


def test_the_example_keeps_its_pixels_and_boxes_in_fp32() -> None:
    source = onnx.load(DETECTOR)
    halves = to_fp16(source)
    assert halves.kept == ()
    assert halves.converted > 150
    found = types(halves.model)
    ours = {name: kind for name, kind in found.items() if name.startswith("saccade/")}
    assert F16 not in ours.values(), "what saccade-build ready puts around a source stays FP32"
    products = [node.name for node in halves.model.graph.node if node.op_type in ("Conv", "MatMul")]
    assert {found[name] for name in products if name} <= {F16}
