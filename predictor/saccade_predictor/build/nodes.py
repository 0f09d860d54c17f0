"""Nodes that are put around a source graph, and the names they need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableSequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper

PREFIX: Final = "saccade/"


class Nodes:
    """Nodes being added, in order; their tensors and constants are named ``saccade/...``."""

    def __init__(self, weights: MutableSequence[onnx.TensorProto]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._weights = weights

    def add(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        name = f"{PREFIX}{outputs[0].removeprefix(PREFIX)}/{op}"
        self.nodes.append(helper.make_node(op, inputs, list(outputs), name=name, **attributes))
        return outputs[0]

    def constant(self, name: str, value: ArrayLike, dtype: DTypeLike) -> str:
        """Append an initializer and return its name."""
        self._weights.append(numpy_helper.from_array(np.asarray(value, dtype), f"{PREFIX}{name}"))
        return f"{PREFIX}{name}"


def free_names(graph: onnx.GraphProto, needed: Collection[str]) -> Mapping[str, str]:
    """Rename the source's tensors that bear a name the ready graph needs; returns old name -> new name.

    Args:
        graph: the source; changed.
        needed: names, beside those that begin with ``saccade/``.
    """
    taken = _names(graph)
    renamed = {}
    for old in sorted(name for name in taken if name in needed or name.startswith(PREFIX)):
        new = f"source/{old}"
        while new in taken:
            new += "_"
        taken.add(new)
        renamed[old] = new
    rename(graph, renamed)
    return renamed


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, wherever they are used."""
    for used in _uses(graph):
        for i, name in enumerate(used):
            used[i] = names.get(name, name)
    for value in _values(graph):
        value.name = names.get(value.name, value.name)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the bodies of its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(body)


def _uses(graph: onnx.GraphProto) -> Iterator[MutableSequence[str]]:
    for part in _graphs(graph):
        for node in part.node:
            yield node.input
            yield node.output


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto | onnx.TensorProto]:
    for part in _graphs(graph):
        for group in (part.input, part.output, part.value_info, part.initializer):
            yield from group


def _names(graph: onnx.GraphProto) -> set[str]:
    return {name for used in _uses(graph) for name in used} | {value.name for value in _values(graph)}
