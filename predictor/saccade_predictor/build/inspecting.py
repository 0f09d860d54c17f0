"""``saccade-build inspect``: what an ONNX graph holds, or a plan by its sidecar; reads files and runs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import TensorProto

from saccade_predictor.build.onnxfile import read_onnx
from saccade_predictor.build.span import PRODUCTS
from saccade_predictor.engines.plan import PLAN_FILE, SIDECAR_FILE, read_sidecar, sidecar_of
from saccade_predictor.engines.plancheck import refuse_file

_PLANS: Final = frozenset({".plan", ".engine"})


def inspect(path: Path) -> dict[str, Any]:
    """Describe a file: an ONNX graph, a plan, its sidecar, or a version's folder with a plan in it.

    Raises:
        OnnxFileError, SidecarError: it cannot be read; the sentence says why.
    """
    if path.is_dir():
        path = path / (PLAN_FILE if (path / PLAN_FILE).exists() or (path / SIDECAR_FILE).exists() else "model.onnx")
    if path.name == SIDECAR_FILE:
        path = path.with_name(read_sidecar(path).plan.file)
    return _plan(path) if path.suffix in _PLANS else _graph(path)


def _plan(path: Path) -> dict[str, Any]:
    plan = read_sidecar(sidecar_of(path))
    told = plan.model_dump(mode="json")
    return {"file": str(path), "type": "plan", "intact": refuse_file(path, plan, path.name) or True, **told}


def _graph(path: Path) -> dict[str, Any]:
    source = read_onnx(path)
    model = source.model
    weights: Counter[str] = Counter()
    parameters = 0
    for tensor in model.graph.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        parameters += count
        weights[TensorProto.DataType.Name(tensor.data_type)] += tensor.ByteSize()
    operators = Counter(
        f"{node.domain}." * (node.domain not in ("", "ai.onnx")) + node.op_type for node in model.graph.node
    )
    quantized = operators["QuantizeLinear"] + operators["DequantizeLinear"] > 0
    return {
        "file": str(path),
        "type": "onnx",
        "bytes": len(source.content),
        "sha256": source.sha256,
        "opset": source.opset,
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "precision": "int8 (Q/DQ)" if quantized else _precision(model),
        "parameters": parameters,
        "weight_bytes": dict(weights.most_common()),
        "nodes": sum(operators.values()),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        "inputs": [tensor.model_dump(mode="json") for tensor in source.inputs],
        "outputs": [tensor.model_dump(mode="json") for tensor in source.outputs],
        "properties": source.properties,
    }


def _precision(model: onnx.ModelProto) -> str:
    """What most products are computed in; weights may be stored in less."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        return "unknown"
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    names = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.DOUBLE: "fp64"}
    found = Counter(
        names.get(types.get(node.output[0], 0), "unknown") for node in graph.node if node.op_type in PRODUCTS
    )
    if not found:
        return "no products"
    if len(found) == 1:
        return next(iter(found))
    return "mixed: " + ", ".join(f"{count} products in {name}" for name, count in found.most_common())


def lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a person reads: name and text."""
    yield "file", f"{told['file']}"
    if told["type"] == "plan":
        yield from _plan_lines(told)
    else:
        yield (
            "graph",
            f"opset {told['opset']}, IR {told['ir_version']}, by {told['producer'] or 'an unnamed producer'}",
        )
        yield "size", f"{told['bytes']} bytes, {told['parameters']} parameters, SHA-256 {told['sha256']}"
        stored = ", ".join(f"{kind} {size} bytes" for kind, size in told["weight_bytes"].items())
        yield "precision", f"{told['precision']} (weights are stored as {stored or 'none'})"
        yield "nodes", f"{told['nodes']}: " + ", ".join(f"{count} {name}" for name, count in told["operators"].items())
    for direction in ("inputs", "outputs"):
        for tensor in told[direction]:
            shape = ", ".join("?" if dim == -1 else str(dim) for dim in tensor["shape"])
            yield direction[:-1], f"{tensor['name']} {tensor['datatype']} [{shape}]"
    for key, value in told["properties"].items():
        yield "property", f"{key} = {value}"


def _plan_lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    intact = told["intact"]
    yield "plan", f"{told['kind']}, TensorRT {told['tensorrt']}, {told['plan']['bytes']} bytes"
    yield "state", "intact: size and SHA-256 are those of plan.json" if intact is True else str(intact)
    gpus = ", ".join(told["compute_capabilities"])
    also = f" ({told['hardware_compatibility']})" if told["hardware_compatibility"] != "none" else ""
    yield "runs on", f"compute capability {gpus}{also}" + (f", tuned on {told['gpu']}" if told["gpu"] else "")
    chosen = "as the graph says" if told["strongly_typed"] else "chosen by TensorRT layer by layer"
    yield "precision", f"{told['precision']}, {chosen}; TF32 {'allowed' if told['tf32'] else 'not allowed'}"
    for profile in told["profiles"]:
        for name, shapes in profile.items():
            yield "profile", f"{name} {shapes['min']} to {shapes['max']}, tuned for {shapes['opt']}"
    yield "source", f"{told['source']['file']}, {told['source']['bytes']} bytes, SHA-256 {told['source']['sha256']}"
    yield (
        "built",
        f"{told['built_at']} in {told['build_seconds']} s by "
        + ", ".join(f"{name} {version}" for name, version in told["tools"].items()),
    )
    parity = told["parity"]
    if parity is None:
        yield "parity", "not measured"
    else:
        share = parity.get("detections", {}).get("agreement")
        agreed = f", agreement {share:.2%}" if isinstance(share, float) else ""
        yield "parity", f"{'passed' if parity.get('passed') else 'failed'} on {parity.get('on', '?')}{agreed}"
