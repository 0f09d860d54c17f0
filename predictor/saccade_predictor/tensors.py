"""A version's tensors as clients see them: described, checked where the engine would be too late, answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from saccade_predictor.engines.engine import EngineDescription, Outputs
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_serving.errors import InvalidRequest
from saccade_serving.oip.messages import InferRequest, ModelMetadata, Tensor, TensorMetadata


def describe(
    model: str,
    version: str,
    config: ModelConfig,
    labels: Mapping[str, Sequence[str]],
    description: EngineDescription,
    fallback: str = "",
) -> ModelMetadata:
    """What clients are told of a version: its tensors, and as properties what its graph says of itself, and labels.

    Where another engine than the configured one serves, ``saccade.fallback`` says which and why.
    """
    properties = {key: value for key, value in description.properties.items() if key.startswith("saccade.")}
    if fallback:
        properties["saccade.fallback"] = fallback
    for names in labels.values():
        properties["saccade.labels"] = json.dumps(names, ensure_ascii=False)
    return ModelMetadata(
        name=model,
        versions=[version],
        platform=description.platform,
        inputs=[_metadata(tensor, config) for tensor in config.inputs],
        outputs=[_metadata(tensor, config) for tensor in config.outputs],
        properties=properties,
    )


def _metadata(tensor: TensorConfig, config: ModelConfig) -> TensorMetadata:
    """A tensor as clients see it: a batched model's dims are those of one row."""
    batch = (-1,) if config.max_batch_size else ()
    return TensorMetadata(tensor.name, tensor.datatype, (*batch, *tensor.dims))


def check_text(request: InferRequest) -> None:
    """Refuse BYTES elements that are no text. The engine would find out too late, and fail the whole batch.

    Raises:
        InvalidRequest: an element is not UTF-8.
    """
    for tensor in request.inputs:
        if tensor.datatype != "BYTES":
            continue
        try:
            for element in tensor.elements:
                str(element, "utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"input {tensor.name!r} has an element that is not UTF-8 text, which this model needs"
            ) from None


def answered(outputs: Outputs, metadata: Sequence[TensorMetadata]) -> list[Tensor]:
    """An engine's outputs as the protocol's tensors, those that are described and in their order."""
    tensors = []
    for expected in metadata:
        array = outputs[expected.name]
        if expected.datatype == "BYTES":
            tensors.append(Tensor.of_bytes(expected.name, array.shape, list(array.ravel())))
        else:
            tensors.append(Tensor.of(expected.name, array))
    return tensors
