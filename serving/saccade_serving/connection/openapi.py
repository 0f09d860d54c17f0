"""The OpenAPI 3.1 description of the V2 routes and KServe's lists, for ``/openapi.json`` and the page that shows it.

Written by hand: FastAPI describes only its own routes, and ours are Starlette's. A service adds its routes with
``extra_paths``. gRPC is not in it, nor are ``/metrics`` and operations that are only ever refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from saccade_serving import __version__
from saccade_serving.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NotPermitted,
    Overloaded,
    PayloadTooLarge,
    PredictorUnavailable,
    SaccadeError,
    SlowBody,
    Unimplemented,
    UnsupportedMedia,
)
from saccade_serving.oip.datatypes import DATATYPES

Json = dict[str, Any]

_STRING: Final[Json] = {"type": "string"}
_BOOLEAN: Final[Json] = {"type": "boolean"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_MODEL: Final = "/v2/models/{model_name}"
#: Of every route that runs a model; ``infer`` also refuses shared memory.
INFERENCE_ERRORS: Final = (
    InvalidRequest,
    ModelNotFound,
    SlowBody,
    PayloadTooLarge,
    UnsupportedMedia,
    EngineFailed,
    PredictorUnavailable,
    Overloaded,
    DeadlineExceeded,
)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_TENSOR: Final = {
    "name": _STRING,
    "datatype": {"type": "string", "enum": list(DATATYPES)},
    "shape": _array(_COUNT),
}
_TENSOR_OPTIONS: Final = {
    "parameters": _ref("Parameters"),
    "data": {
        "type": "array",
        "items": {},
        "description": "flat or nested values in row-major order; absent where parameters.binary_data_size is given",
    },
}
_DURATIONS: Final = ("compute_input", "compute_infer", "compute_output")
_SCHEMAS: Final[Json] = {
    "Error": _object({"error": {"type": "string", "description": "one sentence: what was sent, what is expected"}}),
    "Parameters": {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}},
    "Tensor": _object(_TENSOR, _TENSOR_OPTIONS),
    "InferRequest": _object(
        {"inputs": _array(_ref("Tensor"))},
        {
            "id": _STRING,
            "parameters": _ref("Parameters"),
            "outputs": _array(_object({"name": _STRING}, {"parameters": _ref("Parameters")})),
        },
    ),
    "InferResponse": _object(
        {"model_name": _STRING, "outputs": _array(_ref("Tensor"))},
        {"model_version": _STRING, "id": _STRING, "parameters": _ref("Parameters")},
    ),
    "TensorMetadata": _object(
        {**_TENSOR, "shape": _array({"type": "integer", "minimum": -1, "description": "-1 is any size"})}
    ),
    "ModelMetadata": _object(
        {
            "name": _STRING,
            "versions": _array(_STRING),
            "platform": _STRING,
            "inputs": _array(_ref("TensorMetadata")),
            "outputs": _array(_ref("TensorMetadata")),
        },
        {"properties": {"type": "object", "additionalProperties": _STRING}},
    ),
    "ServerMetadata": _object({"name": _STRING, "version": _STRING, "extensions": _array(_STRING)}),
    "ModelReady": _object({"name": _STRING, "ready": _BOOLEAN}),
    "ModelList": _object({"models": _array(_STRING)}),
    "ModelConfig": {
        "type": "object",
        "description": "Triton's ModelConfig as JSON: name, backend, max_batch_size, input, output, ...",
    },
    "Duration": _object({"count": _COUNT, "ns": {**_COUNT, "description": "nanoseconds"}}),
    "Statistics": _object({"model_stats": _array(_ref("ModelStatistics"))}),
    "ModelStatistics": _object(
        {
            "name": _STRING,
            "version": _STRING,
            "last_inference": {**_COUNT, "description": "milliseconds since 1970"},
            "inference_count": {**_COUNT, "description": "rows of successful requests"},
            "execution_count": {**_COUNT, "description": "batches"},
            "inference_stats": _object(
                dict.fromkeys(
                    ("success", "fail", "queue", *_DURATIONS, "cache_hit", "cache_miss"),
                    _ref("Duration"),
                )
            ),
            "batch_stats": _array(
                _object({"batch_size": _COUNT, **dict.fromkeys(_DURATIONS, _ref("Duration"))}),
            ),
        }
    ),
    "RepositoryIndex": _array(
        _object(
            {
                "name": _STRING,
                "version": _STRING,
                "state": {"type": "string", "enum": ["READY", "LOADING", "UNAVAILABLE"]},
                "reason": _STRING,
            }
        )
    ),
}


def describe_api(
    extra_paths: Mapping[str, Json] | None = None, extra_schemas: Mapping[str, Json] | None = None
) -> Json:
    """Build the description.

    Args:
        extra_paths: further path items, such as a service's own ``/detect``; ``errors_of`` helps to write them.
        extra_schemas: schemas these refer to. Neither may redefine what is here.

    Raises:
        ValueError: a path or a schema is already described.
    """
    described = _paths()
    paths, schemas = extra_paths or {}, extra_schemas or {}
    for taken in (paths.keys() & described.keys()) | (schemas.keys() & _SCHEMAS.keys()):
        raise ValueError(f"{taken} is described already; expected only what a service adds")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Saccade",
            "version": __version__,
            "description": "Computer-vision models over the Open Inference Protocol (V2).",
        },
        "paths": {**described, **paths},
        "components": {"schemas": {**_SCHEMAS, **schemas}},
    }


def errors_of(*errors: type[SaccadeError]) -> Json:
    """Describe the error answers of an operation, by status."""
    responses: Json = {}
    for error in sorted(errors, key=lambda error: error.status):
        reason = (error.__doc__ or error.reason).partition("\n")[0]
        responses[str(error.status)] = answer = _answer(reason, _ref("Error"))
        if error is Overloaded:
            answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return responses


def _paths() -> Json:
    paths: Json = {
        "/v2": _get("Server metadata", "server_metadata", "ServerMetadata"),
        "/v2/health/live": _get("Whether the process lives", "server_live", _object({"live": _BOOLEAN})),
        "/v2/health/ready": _get(
            "Whether all models are ready", "server_ready", _object({"ready": _BOOLEAN}), Overloaded
        ),
        "/v2/models": _get("Names of the models", "models", "ModelList"),
        "/v2/models/stats": _get("Statistics of all models", "all_statistics", "Statistics"),
        "/v2/repository/index": {"post": _index()},
        "/": _get("Whether the process lives, as KServe asks", "alive", _object({"status": _STRING})),
        "/v1/models": _get("Names of the models, as KServe's v1 lists them", "v1_models", "ModelList"),
    }
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/{{model_name}}/{verb}"
        paths[path] = {"parameters": [_in_path("model_name")], "post": _control(verb)}
    known = (ModelNotFound, Overloaded)
    paths["/v1/models/{model_name}"] = {
        "parameters": [_in_path("model_name")],
        **_get("Readiness, as KServe's v1 asks", "v1_ready", "ModelReady", *known),
    }
    for path, suffix, of in ((_MODEL, "", ""), (_MODEL + "/versions/{version}", "_of_version", " of a version")):
        described = {
            path: _get(f"Metadata{of}", f"metadata{suffix}", "ModelMetadata", *known),
            path + "/ready": _get(f"Readiness{of}", f"ready{suffix}", "ModelReady", *known),
            path + "/config": _get(f"Configuration{of}", f"config{suffix}", "ModelConfig", *known, Unimplemented),
            path + "/stats": _get(f"Statistics{of}", f"statistics{suffix}", "Statistics", *known),
            path + "/infer": {"post": _infer(suffix)},
        }
        parameters = [_in_path(name) for name in ("model_name", "version") if f"{{{name}}}" in path]
        paths.update({place: {"parameters": parameters, **item} for place, item in described.items()})
    return paths


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _STRING}


def _get(summary: str, operation: str, schema: str | Json, *errors: type[SaccadeError]) -> Json:
    answer = _answer(summary, _ref(schema) if isinstance(schema, str) else schema)
    return {"get": {"summary": summary, "operationId": operation, "responses": {"200": answer, **errors_of(*errors)}}}


def _index() -> Json:
    body = {"content": {"application/json": {"schema": _object({}, {"ready": _BOOLEAN})}}}
    return {
        "summary": "All models with their states",
        "operationId": "repository_index",
        "requestBody": body,
        "responses": {
            "200": _answer("The models; only those that are ready where asked so", _ref("RepositoryIndex")),
            **errors_of(InvalidRequest, PayloadTooLarge),
        },
    }


def _control(verb: str) -> Json:
    key = {"description": f"needed where the service lets models be {verb}ed on request", "schema": _STRING}
    body = {"content": {"application/json": {"schema": _object({}, {"parameters": {"type": "object"}})}}}
    errors = (InvalidRequest, NotPermitted, ModelNotFound, PayloadTooLarge, Unimplemented, Overloaded)
    return {
        "summary": f"{verb.capitalize()} a model",
        "operationId": f"{verb}_model",
        "parameters": [{"name": "x-saccade-control-key", "in": "header", **key}],
        "requestBody": body,
        "responses": {
            "200": _answer("It is done", _object({"name": _STRING, verb: _BOOLEAN})),
            **errors_of(*errors),
        },
    }


def _infer(suffix: str) -> Json:
    length = {
        "description": "bytes of JSON before the binary tensors; present exactly where there are some",
        "schema": {"type": "integer", "minimum": 1},
    }
    headers = {
        "Inference-Header-Content-Length": length,
        "x-deadline-ms": {
            "description": "milliseconds from the first byte after which nobody waits for the answer",
            "schema": {"type": "number", "exclusiveMinimum": 0},
        },
        "x-request-id": {"description": "answered and passed on; a new one if absent", "schema": _STRING},
    }
    answered = {
        "description": "The outputs",
        "headers": {"Inference-Header-Content-Length": length, "x-request-id": {"schema": _STRING}},
        "content": _both("InferResponse"),
    }
    return {
        "summary": "Inference",
        "operationId": f"infer{suffix}",
        "parameters": [{"name": name, "in": "header", **header} for name, header in headers.items()],
        "requestBody": {"required": True, "content": _both("InferRequest")},
        "responses": {"200": answered, **errors_of(*INFERENCE_ERRORS, Unimplemented)},
    }


def _both(schema: str) -> Json:
    """The two encodings: JSON alone, or JSON followed by the bytes of binary tensors."""
    binary = f"the JSON of {schema}, then the tensors with parameters.binary_data_size, in their order, little-endian"
    return {
        "application/json": {"schema": _ref(schema)},
        "application/octet-stream": {"schema": {"description": binary}},
    }
