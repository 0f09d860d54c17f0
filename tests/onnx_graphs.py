"""Tiny ONNX graphs for tests, written to disk with onnx's own helpers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

Dim = int | str


def tensor(name: str, kind: str, *dims: Dim) -> onnx.ValueInfoProto:
    """A graph's input or output; ``kind`` is onnx's name of the datatype, for example FLOAT."""
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(dims))


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    properties: Mapping[str, str] | None = None,
    initializers: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Write a model file, and the folders above it."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if properties:
        helper.set_model_props(model, dict(properties))
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def identity(
    path: Path, kind: str = "FLOAT", dims: Sequence[Dim] = ("n", 2), properties: Mapping[str, str] | None = None
) -> Path:
    """``y`` is ``x``."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [tensor("x", kind, *dims)], [tensor("y", kind, *dims)], properties)


def doubling(path: Path, kind: str = "FLOAT", dims: Sequence[Dim] = ("n", 2)) -> Path:
    """``y`` is ``x + x``."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return save(path, [node], [tensor("x", kind, *dims)], [tensor("y", kind, *dims)])


def summing(path: Path) -> Path:
    """``sum`` is ``a + b``, ``product`` is ``a * b``: two inputs, two outputs, FP32 [n, 3]."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])]
    inputs = [tensor(name, "FLOAT", "n", 3) for name in ("a", "b")]
    return save(path, nodes, inputs, [tensor(name, "FLOAT", "n", 3) for name in ("sum", "product")])


def picking(path: Path) -> Path:
    """``y`` is row ``x`` of a table of 4; an index of 4 or more fails while it runs. INT64 [n] to FP32 [n, 2]."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 2], [float(v) for v in range(8)])
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return save(path, [node], [tensor("x", "INT64", "n")], [tensor("y", "FLOAT", "n", 2)], initializers=[table])
