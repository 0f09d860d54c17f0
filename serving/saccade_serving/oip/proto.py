"""The Open Inference Protocol's gRPC messages, in a descriptor pool of their own.

``kserve.protocol.grpc`` and ``tritonclient.grpc`` both register the package ``inference`` in protobuf's global
pool and therefore exclude each other; these messages are in a private pool and live beside either. They are
built from the table below: no .proto compiler, no generated code.

Messages and numbers are Triton's (a superset of the protocol's), with two additions on numbers Triton does not
use: ``ModelMetadataResponse.properties`` of the protocol, and the fields of kserve's answers to
RepositoryModelLoad and RepositoryModelUnload. Of the calls that are only ever refused (shared memory, trace and log
settings) the names are here and the fields are not; fields a client sends beyond these are ignored, as protobuf does.
Streaming is not here at all.

Source: ``grpc_service.proto`` of Triton (tritonclient 2.73) and ``grpc_predict_v2.proto`` of KServe (0.21).
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import (  # type: ignore[import-untyped]  # protobuf carries no types
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

PACKAGE: Final = "inference"
SERVICE: Final = "inference.GRPCInferenceService"

# Message -> field -> (number, type). A type may be led by "repeated", by "map" (string keys), or by the name of
# a oneof and a colon. A message "A.B" is nested in "A", which stands before it.
_Fields = dict[str, tuple[int, str]]
_TENSOR: Final[_Fields] = {
    "name": (1, "string"),
    "datatype": (2, "string"),
    "shape": (3, "repeated int64"),
    "parameters": (4, "map InferParameter"),
    "contents": (5, "InferTensorContents"),
}
_NAME_AND_VERSION: Final[_Fields] = {"name": (1, "string"), "version": (2, "string")}
_REPOSITORY_REQUEST: Final[_Fields] = {
    "repository_name": (1, "string"),
    "model_name": (2, "string"),
    "parameters": (3, "map ModelRepositoryParameter"),
}
_DURATION: Final = "StatisticDuration"
_COMPUTE: Final[_Fields] = {
    "compute_input": (2, _DURATION),
    "compute_infer": (3, _DURATION),
    "compute_output": (4, _DURATION),
}
#: Triton's calls that are answered with a refusal, whatever they say.
REFUSED_METHODS: Final = (
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)
_MESSAGES: Final[dict[str, _Fields]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": _NAME_AND_VERSION,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAME_AND_VERSION, "extensions": (3, "repeated string")},
    "ModelMetadataRequest": _NAME_AND_VERSION,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
        "properties": (6, "map string"),
    },
    "ModelMetadataResponse.TensorMetadata": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "repeated int64"),
    },
    "InferParameter": {
        "bool_param": (1, "parameter_choice: bool"),
        "int64_param": (2, "parameter_choice: int64"),
        "string_param": (3, "parameter_choice: string"),
        "double_param": (4, "parameter_choice: double"),
        "uint64_param": (5, "parameter_choice: uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "map InferParameter"),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, "string"),
        "parameters": (2, "map InferParameter"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "map InferParameter"),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "ModelRepositoryParameter": {
        "bool_param": (1, "parameter_choice: bool"),
        "int64_param": (2, "parameter_choice: int64"),
        "string_param": (3, "parameter_choice: string"),
        "bytes_param": (4, "parameter_choice: bytes"),
    },
    "RepositoryModelLoadRequest": _REPOSITORY_REQUEST,
    "RepositoryModelLoadResponse": {"model_name": (1, "string"), "isLoaded": (2, "bool")},
    "RepositoryModelUnloadRequest": _REPOSITORY_REQUEST,
    "RepositoryModelUnloadResponse": {"model_name": (1, "string"), "isUnloaded": (2, "bool")},
    "ModelConfigRequest": _NAME_AND_VERSION,
    # A message of model_config.proto, which only a predictor has: bytes have the same form on the wire.
    "ModelConfigResponse": {"config": (1, "bytes")},
    "ModelStatisticsRequest": _NAME_AND_VERSION,
    "StatisticDuration": {"count": (1, "uint64"), "ns": (2, "uint64")},
    "InferStatistics": {
        "success": (1, _DURATION),
        "fail": (2, _DURATION),
        "queue": (3, _DURATION),
        "compute_input": (4, _DURATION),
        "compute_infer": (5, _DURATION),
        "compute_output": (6, _DURATION),
        "cache_hit": (7, _DURATION),
        "cache_miss": (8, _DURATION),
    },
    "InferResponseStatistics": {
        "compute_infer": (1, _DURATION),
        "compute_output": (2, _DURATION),
        "success": (3, _DURATION),
        "fail": (4, _DURATION),
        "empty_response": (5, _DURATION),
        "cancel": (6, _DURATION),
    },
    "InferBatchStatistics": {"batch_size": (1, "uint64"), **_COMPUTE},
    "MemoryUsage": {"type": (1, "string"), "id": (2, "int64"), "byte_size": (3, "uint64")},
    "ModelStatistics": {
        "name": (1, "string"),
        "version": (2, "string"),
        "last_inference": (3, "uint64"),
        "inference_count": (4, "uint64"),
        "execution_count": (5, "uint64"),
        "inference_stats": (6, "InferStatistics"),
        "batch_stats": (7, "repeated InferBatchStatistics"),
        "memory_usage": (8, "repeated MemoryUsage"),
        "response_stats": (9, "map InferResponseStatistics"),
    },
    "ModelStatisticsResponse": {"model_stats": (1, "repeated ModelStatistics")},
    "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
    "RepositoryIndexResponse": {"models": (1, "repeated RepositoryIndexResponse.ModelIndex")},
    "RepositoryIndexResponse.ModelIndex": {
        "name": (1, "string"),
        "version": (2, "string"),
        "state": (3, "string"),
        "reason": (4, "string"),
    },
    **{f"{method}{part}": {} for method in REFUSED_METHODS for part in ("Request", "Response")},
}

_Field: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _add_field(message: Any, full_name: str, name: str, number: int, declaration: str) -> None:
    """Add one field of the table to a message's DescriptorProto."""
    oneof, _, type_name = declaration.rpartition(": ")
    modifier, _, type_name = type_name.rpartition(" ")
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if oneof:
        if not message.oneof_decl:
            message.oneof_decl.add(name=oneof)
        field.oneof_index = 0
    if modifier:
        field.label = _Field.LABEL_REPEATED
    if modifier == "map":
        # protobuf's own form of a map: a repeated nested message of key and value with the option map_entry.
        entry_name = "".join(map(str.capitalize, name.split("_"))) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        entry_full_name = f"{full_name}.{entry_name}"
        _add_field(entry, entry_full_name, "key", 1, "string")
        _add_field(entry, entry_full_name, "value", 2, type_name)
        type_name = entry_full_name
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{type_name}"


def _build_file() -> Any:
    """Build the FileDescriptorProto of the whole table."""
    file = descriptor_pb2.FileDescriptorProto(name="saccade_inference.proto", package=PACKAGE, syntax="proto3")
    messages: dict[str, Any] = {}
    for full_name, fields in _MESSAGES.items():
        parent, _, name = full_name.rpartition(".")
        message = messages[parent].nested_type.add(name=name) if parent else file.message_type.add(name=name)
        messages[full_name] = message
        for field_name, (number, declaration) in fields.items():
            _add_field(message, full_name, field_name, number, declaration)
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_build_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ServerLiveRequest: Any = _class("ServerLiveRequest")
ServerLiveResponse: Any = _class("ServerLiveResponse")
ServerReadyRequest: Any = _class("ServerReadyRequest")
ServerReadyResponse: Any = _class("ServerReadyResponse")
ModelReadyRequest: Any = _class("ModelReadyRequest")
ModelReadyResponse: Any = _class("ModelReadyResponse")
ServerMetadataRequest: Any = _class("ServerMetadataRequest")
ServerMetadataResponse: Any = _class("ServerMetadataResponse")
ModelMetadataRequest: Any = _class("ModelMetadataRequest")
ModelMetadataResponse: Any = _class("ModelMetadataResponse")
InferParameter: Any = _class("InferParameter")
InferTensorContents: Any = _class("InferTensorContents")
ModelInferRequest: Any = _class("ModelInferRequest")
ModelInferResponse: Any = _class("ModelInferResponse")
RepositoryModelLoadRequest: Any = _class("RepositoryModelLoadRequest")
RepositoryModelLoadResponse: Any = _class("RepositoryModelLoadResponse")
RepositoryModelUnloadRequest: Any = _class("RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse: Any = _class("RepositoryModelUnloadResponse")
ModelConfigRequest: Any = _class("ModelConfigRequest")
ModelConfigResponse: Any = _class("ModelConfigResponse")
ModelStatisticsRequest: Any = _class("ModelStatisticsRequest")
ModelStatisticsResponse: Any = _class("ModelStatisticsResponse")
RepositoryIndexRequest: Any = _class("RepositoryIndexRequest")
RepositoryIndexResponse: Any = _class("RepositoryIndexResponse")


def _classes(*methods: str) -> dict[str, tuple[Any, Any]]:
    return {name: (_class(f"{name}Request"), _class(f"{name}Response")) for name in methods}


#: Method of ``SERVICE`` that KServe's definition and Triton's share -> (request class, response class); all unary.
METHODS: Final = _classes(
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
#: The same for the methods that only Triton has.
TRITON_METHODS: Final = _classes("ModelConfig", "ModelStatistics", "RepositoryIndex", *REFUSED_METHODS)


def repository_model_name(message: Any) -> str:
    """Name the model of a RepositoryModelLoadRequest or RepositoryModelUnloadRequest, of either wire form.

    Triton sends the repository as field 1 and the model as field 2; kserve sends the model as field 1.
    """
    return str(message.model_name or message.repository_name)
