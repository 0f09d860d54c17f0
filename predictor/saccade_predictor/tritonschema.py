"""Triton's configuration schema, and which of its fields have a meaning here.

Every field of ``ModelConfig`` and of the messages the predictor reads stands in exactly one of three tables:
implemented, harmless or refused. Judges fields; their values are read in ``modelconfig.py``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from google.protobuf import json_format  # type: ignore[import-untyped]  # it ships no types

#: Fields that have their meaning here; those that are messages are looked into. Keys: message.field.
IMPLEMENTED: Final = frozenset(
    f"{message}.{name}"
    for message, names in {
        "ModelConfig": "name platform backend version_policy max_batch_size input output dynamic_batching"
        " instance_group default_model_filename parameters model_transaction_policy response_cache model_warmup",
        "ModelVersionPolicy": "latest all specific",
        "Latest": "num_versions",
        "Specific": "versions",
        "ModelInput": "name data_type dims",
        "ModelOutput": "name data_type dims label_filename",
        "ModelDynamicBatching": "preferred_batch_size max_queue_delay_microseconds preserve_ordering priority_levels"
        " default_priority_level default_queue_policy priority_queue_policy",
        "ModelQueuePolicy": "timeout_action default_timeout_microseconds allow_timeout_override max_queue_size",
        "ModelInstanceGroup": "kind count gpus",
        "ModelParameter": "string_value",
        "ModelWarmup": "name batch_size inputs count",
        "Input": "data_type dims zero_data random_data input_data_file",
    }.items()
    for name in names.split()
)

#: Fields that change no answer; the text is what the warning says of them.
HARMLESS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ModelConfig.runtime": "each backend has one runtime here",
        "ModelConfig.optimization": "the engines choose their own optimizations",
        "ModelConfig.metric_tags": "metrics carry the model and its version only",
        "ModelConfig.model_metrics": "the histograms have fixed buckets",
        "ModelInput.format": "no backend here reads it; the graph knows its layout",
        "ModelInstanceGroup.name": "groups are not told apart",
        "ModelInstanceGroup.rate_limiter": "instances share no named resources",
        "ModelInstanceGroup.host_policy": "threads are not pinned",
    }
)

#: Fields that would change answers, or which request is answered; the text is the reason given.
REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ModelConfig.sequence_batching": "requests are independent of one another here",
        "ModelConfig.ensemble_scheduling": "pipelines of models are not served",
        "ModelConfig.batch_input": "tensors made from the batch are not offered",
        "ModelConfig.batch_output": "rows are scattered by their count only",
        "ModelConfig.cc_model_filenames": "one file serves every compute capability",
        "ModelConfig.model_operations": "libraries of custom operators are not loaded",
        "ModelConfig.model_repository_agents": "agents do not run, so a check or decryption would be left out",
        "ModelTransactionPolicy.decoupled": "a request has exactly one answer",
        "ModelResponseCache.enable": "the predictor does not cache answers",
        "ModelInput.reshape": "tensors reach the model in the shape they are sent in",
        "ModelInput.is_shape_tensor": "shape tensors are not served",
        "ModelInput.allow_ragged_batch": "the rows of a batch have one shape",
        "ModelInput.optional": "every input must be sent",
        "ModelInput.is_non_linear_format_io": "tensors are plain row-major arrays",
        "ModelOutput.reshape": "tensors leave in the shape the model gives them",
        "ModelOutput.is_shape_tensor": "shape tensors are not served",
        "ModelOutput.is_non_linear_format_io": "tensors are plain row-major arrays",
        "ModelInstanceGroup.secondary_devices": "a model runs on one kind of device",
        "ModelInstanceGroup.profile": "the engine chooses its optimization profile",
        "ModelInstanceGroup.passive": "every instance takes requests",
    }
)


class Finding(NamedTuple):
    """A field that is set although it has no meaning here."""

    field: str  # message.field, as in the tables
    path: str  # where it stands in the file
    refused: bool
    reason: str


def findings(message: Any, path: str = "") -> Iterator[Finding]:
    """Walk the fields of a ``ModelConfig`` that are set, in the order of their numbers.

    A field at its default value is not set: ``decoupled: false`` is no finding.
    """
    for descriptor, value in message.ListFields():
        key, here = f"{message.DESCRIPTOR.name}.{descriptor.name}", f"{path}{descriptor.name}"
        if key in REFUSED or key in HARMLESS:
            yield Finding(key, here, key in REFUSED, REFUSED.get(key) or HARMLESS[key])
        elif descriptor.message_type is not None:
            for place, part in _parts(descriptor, value):
                yield from findings(part, f"{here}{place}.")


def _parts(descriptor: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """The messages a field holds, each with what tells it from its neighbours."""
    if descriptor.message_type.GetOptions().map_entry:
        yield from ((f"[{key}]", part) for key, part in value.items())
    elif descriptor.is_repeated:
        yield from ((f"[{getattr(part, 'name', '') or i}]", part) for i, part in enumerate(value))
    else:
        yield "", value


def to_json(message: Any) -> dict[str, Any]:
    """Write a ``ModelConfig`` as Triton's REST does: every field of the messages that are there, numbers as numbers.

    protobuf's own JSON has 64-bit integers as strings; Triton turns them back (``ModelConfigToJson`` in core's
    model_config_utils.cc), except for the keys of maps.
    """
    written = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(message.DESCRIPTOR, written)


def _with_numbers(descriptor: Any, written: dict[str, Any]) -> dict[str, Any]:
    """Replace the strings that stand for integers, in the order of the fields."""
    return {field.name: _number(field, written[field.name]) for field in descriptor.fields if field.name in written}


def _number(field: Any, value: Any) -> Any:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return {key: _number(message.fields_by_name["value"], part) for key, part in value.items()}
    if isinstance(value, list):
        return [_number(field, part) for part in value]
    if message is not None:
        return _with_numbers(message, value)
    return int(value) if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) else value


@cache
def load_schema() -> Any:
    """Load Triton's ``model_config_pb2``, by path.

    ``tritonclient.grpc`` itself cannot be imported beside kserve: both register ``inference.GRPCInferenceService``.

    Raises:
        ModuleNotFoundError: tritonclient is not installed.
    """
    package = importlib.util.find_spec("tritonclient")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("saccade_predictor.model_config_pb2", path)
        if path.is_file() and spec and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ModuleNotFoundError("config.pbtxt cannot be read without tritonclient: pip install 'saccade[predictor]'")
