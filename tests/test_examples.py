"""The scripts under examples/: what the documentation has people run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CANDIDATE = Path(__file__).resolve().parents[1] / "examples" / "rounded-candidate"


def model_of(weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """A product with some weights, and a bias."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[0]])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_rounded_candidate_has_so_many_levels_in_each_channel_and_the_rest_as_it_was(
    tmp_path: Path, bits: int
) -> None:
    generator = np.random.default_rng(1)
    weights = (generator.normal(size=(3, 4000)) * [[1], [100], [0]]).astype(np.float32)
    bias = generator.normal(size=3).astype(np.float32)
    onnx.save(model_of(weights, bias), tmp_path / "in.onnx")
    command = [sys.executable, CANDIDATE / "rounded.py", tmp_path / "in.onnx", tmp_path / "out.onnx", str(bits)]
    subprocess.run([str(part) for part in command], check=True)
    model = onnx.load(tmp_path / "out.onnx")
    rounded, same = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    np.testing.assert_array_equal(same, bias)
    assert [tensor.name for tensor in model.graph.initializer] == ["w", "b"]
    for before, after in zip(weights[:2], rounded[:2], strict=True):
        assert len(np.unique(after)) <= 2**bits - 1
        step = np.abs(before).max() / (2 ** (bits - 1) - 1)
        assert 0.4 * step < np.abs(after - before).max() <= 0.501 * step
    np.testing.assert_array_equal(rounded[2], 0)


def test_the_script_around_it_can_be_read_by_a_plain_shell() -> None:
    subprocess.run(["sh", "-n", str(CANDIDATE / "evaluate.sh")], check=True)
