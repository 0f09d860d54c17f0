"""A loaded model's configuration as Triton's model configuration extension tells it.

What stood in ``config.pbtxt`` stays, also where it has no effect here; what Triton fills in (``NormalizeModelConfig``,
``NormalizeInstanceGroup`` and ``AutoCompleteBackendFields`` in core's model_config_utils.cc) is filled in with the
values that hold here. Pinned memory, which Triton reports as on, is not: it is not for the configuration to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from saccade_predictor.modelconfig import (
    CPU_BACKENDS,
    DEFAULT_MODEL_FILENAMES,
    PLATFORMS,
    ModelConfig,
    TensorConfig,
)
from saccade_predictor.tritonschema import load_schema, to_json
from saccade_serving.model import ModelConfiguration
from saccade_serving.oip.datatypes import BYTES

_PLATFORM_OF: Final = {backend: platform for platform, backend in PLATFORMS.items()}


def describe(config: ModelConfig, platform: str = "") -> ModelConfiguration:
    """Put a model's configuration into Triton's form.

    Args:
        config: as it is served, so from ``complete`` or ``autocomplete``.
        platform: the engine's own (``EngineDescription.platform``), which tells whether the fallback serves.
    """
    served = _serving_backend(config, platform)
    proto = load_schema().ModelConfig.FromString(config.source)
    proto.name = config.name
    if served != config.backend or not proto.platform:
        proto.platform = _PLATFORM_OF.get(served, "")
    proto.backend = served
    is_fallback = served != config.backend
    proto.default_model_filename = DEFAULT_MODEL_FILENAMES[served] if is_fallback else config.default_model_filename
    proto.max_batch_size = config.max_batch_size
    if not proto.HasField("version_policy"):
        proto.version_policy.latest.num_versions = config.version_policy.count
    _fill_tensors(proto.input, config.inputs)
    _fill_tensors(proto.output, config.outputs)
    _fill_batching(proto, config)
    _fill_instances(proto, config, served)
    return ModelConfiguration(to_json(proto), proto.SerializeToString())


def _serving_backend(config: ModelConfig, platform: str) -> str:
    fallback = config.fallback_backend
    return fallback if fallback is not None and PLATFORMS.get(platform) == fallback else config.backend


def _fill_tensors(target: Any, tensors: Sequence[TensorConfig]) -> None:
    """Datatypes and dims as they hold; formats and the like as they were written."""
    written = {tensor.name: tensor for tensor in target}
    messages = []
    for tensor in tensors:
        message = written.get(tensor.name) or target.add(name=tensor.name)
        type_name = "TYPE_STRING" if tensor.datatype == BYTES else f"TYPE_{tensor.datatype}"
        message.data_type = load_schema().DataType.Value(type_name)
        message.dims[:] = tensor.dims
        messages.append(type(message).FromString(message.SerializeToString()))
    del target[:]
    target.extend(messages)


def _fill_batching(proto: Any, config: ModelConfig) -> None:
    batching = config.dynamic_batching
    if batching is None:
        return
    filled = proto.dynamic_batching
    filled.SetInParent()
    filled.max_queue_delay_microseconds = batching.max_queue_delay_microseconds
    if not filled.preferred_batch_size:
        filled.preferred_batch_size.append(config.max_batch_size)


def _fill_instances(proto: Any, config: ModelConfig, served: str) -> None:
    kinds = type(proto).DESCRIPTOR.fields_by_name["instance_group"].message_type.enum_types_by_name["Kind"]
    cpu, gpu = (kinds.values_by_name[name].number for name in ("KIND_CPU", "KIND_GPU"))
    if not proto.instance_group:
        proto.instance_group.add(name=config.name, count=config.instance_count)
    for number, group in enumerate(proto.instance_group):
        group.name = group.name or f"{config.name}_{number}"
        group.count = group.count or 1
        group.kind = cpu if served in CPU_BACKENDS else gpu
        if group.kind == cpu:
            del group.gpus[:]
        elif not group.gpus:
            group.gpus.extend(config.instance_groups[number].gpus or [0])
