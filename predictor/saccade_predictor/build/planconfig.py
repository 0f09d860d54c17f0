"""The ``config.pbtxt`` around a plan: written where there is none, held against the plan where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.engines.plan import BACKENDS, NAMES, PLAN_FILE, PlanTensor, Shapes
from saccade_predictor.modelconfig import ModelConfig, complete, parse
from saccade_predictor.repository import CONFIG_FILE, ModelDirectory, RepositoryError
from saccade_serving.oip.datatypes import BYTES

LABELS_FILE: Final = "labels.txt"
_FALLBACK: Final = """
# Where there is no GPU, the ONNX file beside the plan serves, on the CPU.
parameters {
  key: "fallback_backend"
  value: { string_value: "onnxruntime" }
}
"""


class ConfigMismatch(ValueError):
    """A model's config.pbtxt would not serve the plan."""


def compose(
    name: str,
    kind: str,
    inputs: Sequence[PlanTensor],
    outputs: Sequence[PlanTensor],
    max_rows: int,
    *,
    labelled: bool,
    fallback: bool,
) -> str:
    """Write a configuration that serves a plan.

    Args:
        name: the model's.
        kind: of the plan.
        inputs: with the batch dimension.
        outputs: likewise.
        max_rows: of the profile; 0 for a model without batches.
        labelled: whether ``labels.txt`` holds the class names of the first output.
        fallback: whether the ONNX file may serve where there is no GPU.
    """
    parts = [
        f"# Written by saccade-build plan; docs/config.md has the fields.\nname: {_quoted(name)}\n"
        f"backend: {_quoted(BACKENDS[kind])}\nmax_batch_size: {max_rows}\n"
    ]
    for direction, tensors in (("input", inputs), ("output", outputs)):
        for index, tensor in enumerate(tensors):
            dims = tensor.shape[1:] if max_rows else tensor.shape
            labels = labelled and direction == "output" and index == 0
            datatype = "TYPE_STRING" if tensor.datatype == BYTES else f"TYPE_{tensor.datatype}"
            lines = [f"name: {_quoted(tensor.name)}", f"data_type: {datatype}"]
            # A tensor without dimensions behind the batch cannot be listed; the plan describes it.
            if not dims:
                continue
            lines.append(f"dims: [ {', '.join(map(str, dims))} ]")
            if labels:
                lines.append(f"label_filename: {_quoted(LABELS_FILE)}")
            parts.append(f"{direction} [\n  {{\n    " + "\n    ".join(lines) + "\n  }\n]\n")
    if max_rows:
        parts.append("dynamic_batching { }\n")
    return "\n".join(parts) + (_FALLBACK if fallback else "")


def check(
    model: Path,
    kind: str,
    inputs: Sequence[PlanTensor],
    outputs: Sequence[PlanTensor],
    profile: dict[str, Shapes],
    max_rows: int,
) -> ModelConfig | None:
    """Hold a model's config.pbtxt, if there is one, against the plan that is to be built.

    Raises:
        ConfigMismatch: it would not serve the plan; the sentence says what to change.
    """
    try:
        text = ModelDirectory(model.name, model).config_text()
        if text is None:
            return None
        config, _ = parse(text, model.name, gpu_available=True)
        _check_backend(config, model, kind)
        config = complete(config, [one.metadata() for one in inputs], [one.metadata() for one in outputs])
    except (ModelConfigError, RepositoryError, OSError) as error:
        raise ConfigMismatch(f"{error}") from None
    where = model / CONFIG_FILE
    if config.max_batch_size > max_rows:
        raise ConfigMismatch(
            f"{where} has max_batch_size {config.max_batch_size}; the profile goes to {max_rows}: build with "
            f"--batch 1,OPT,{config.max_batch_size}, or lower max_batch_size"
        )
    least = max((shapes.min[0] for shapes in profile.values() if shapes.min), default=1)
    if config.max_batch_size and least > 1:
        raise ConfigMismatch(
            f"the profile begins with {least} rows, and {where} has single ones sent; build with --batch 1,..."
        )
    return config


def _check_backend(config: ModelConfig, model: Path, kind: str) -> None:
    where, wanted = model / CONFIG_FILE, BACKENDS[kind]
    if config.backend != wanted:
        raise ConfigMismatch(
            f"{where} has backend {config.backend!r}, which does not run a {NAMES[kind]} plan; change it to "
            f"backend: {wanted!r} (and drop platform), or build the plan into a model of its own"
        )
    if config.default_model_filename != PLAN_FILE:
        raise ConfigMismatch(
            f"{where} names the file {config.default_model_filename!r}; the plan is written as {PLAN_FILE!r}: drop "
            "default_model_filename"
        )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
