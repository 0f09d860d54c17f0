"""What ``/openapi.json`` says of the transformer's own routes: ``/detect`` and v1 ``:predict``."""

from __future__ import annotations

from typing import Any, Final

from saccade_serving.connection.openapi import INFERENCE_ERRORS, errors_of

Json = dict[str, Any]

_ERRORS: Final = errors_of(*INFERENCE_ERRORS)
_NUMBER: Final[Json] = {"type": "number"}
_PICTURE: Final[Json] = {"description": "the bytes of a JPEG, PNG, WebP or BMP file"}
#: Request parameters, as a query string, form fields or v1 ``parameters`` have them.
_PARAMETERS: Final[Json] = {
    "score_threshold": {"type": "number", "maximum": 1},
    "iou_threshold": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "max_detections": {"type": "integer", "minimum": 1},
    "cache": {"type": "string", "enum": ["use", "bypass", "refresh"]},
    "camera_id": {"type": "string", "minLength": 1, "maxLength": 128, "description": "no control characters"},
    "user_key": {"type": "string", "minLength": 1, "maxLength": 128, "description": "no control characters"},
    "priority": {"type": "integer", "minimum": 0},
    "timeout": {"type": "integer", "minimum": 0, "description": "microseconds from the first byte; 0 is none"},
}
_DETECTIONS: Final[Json] = {
    "type": "object",
    "required": ["detections", "image", "cache", "model"],
    "properties": {
        "detections": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["box", "score", "class_id", "label"],
                "properties": {
                    "box": {
                        "type": "array",
                        "items": _NUMBER,
                        "minItems": 4,
                        "maxItems": 4,
                        "description": "x1, y1, x2, y2 in pixels of the upright picture",
                    },
                    "score": {"type": "number", "minimum": 0, "maximum": 1},
                    "class_id": {"type": "integer", "minimum": 0},
                    "label": {"type": "string"},
                },
            },
        },
        "image": {
            "type": "object",
            "required": ["width", "height"],
            "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
        },
        "cache": {"type": "string", "enum": ["miss", "exact", "near", "coalesced", "bypass"]},
        "cache_age_ms": {"type": "number", "minimum": 0, "description": "of a cached answer"},
        "cache_distance": {"type": "integer", "minimum": 0, "maximum": 64, "description": "bits; of a near hit"},
        "cache_change": {"type": "number", "minimum": 0, "description": "grey levels; of a near hit"},
        "model": {
            "type": "object",
            "required": ["name", "version"],
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "variant": {"type": "string", "description": "where there are several"},
            },
        },
    },
}
#: Headers of both routes.
_HEADERS: Final[list[Json]] = [
    {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
    for name, text, schema in (
        ("x-camera-id", "the parameter camera_id wins", _PARAMETERS["camera_id"]),
        ("x-user-key", "the parameter user_key wins", _PARAMETERS["user_key"]),
        ("x-saccade-variant", "chooses the variant, where variant_header permits it", {"type": "string"}),
    )
]
_ANSWER_HEADERS: Final[Json] = {
    "x-saccade-cache": {"schema": {"type": "string"}},
    "x-saccade-variant": {"description": "where there are several variants", "schema": {"type": "string"}},
}


def describe_detect() -> Json:
    """The path item of ``POST /detect``."""
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "contentMediaType": "image/*"}, **_PARAMETERS},
    }
    return {
        "post": {
            "summary": "Objects in one picture",
            "operationId": "detect",
            "parameters": [
                {"name": name, "in": "query", "required": False, "schema": schema}
                for name, schema in _PARAMETERS.items()
            ]
            + _HEADERS,
            "requestBody": {
                "required": True,
                "content": {
                    "image/*": {"schema": _PICTURE},
                    "application/octet-stream": {"schema": _PICTURE},
                    "multipart/form-data": {"schema": form},
                },
            },
            "responses": {
                "200": {
                    "description": "The detections, or the picture with them drawn for who accepts image/jpeg",
                    "headers": _ANSWER_HEADERS,
                    "content": {"application/json": {"schema": _DETECTIONS}, "image/jpeg": {"schema": _PICTURE}},
                },
                **_ERRORS,
            },
        }
    }


def describe_predict() -> Json:
    """The path item of v1's ``:predict``."""
    instance = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {
                "type": "object",
                "required": ["b64"],
                "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
            }
        },
    }
    request = {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {"type": "array", "minItems": 1, "items": instance},
            "parameters": {"type": "object", "properties": _PARAMETERS},
        },
    }
    answer = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": _DETECTIONS}},
    }
    return {
        "parameters": [
            {"name": "model_name", "in": "path", "required": True, "schema": {"type": "string"}},
            *_HEADERS,
        ],
        "post": {
            "summary": "Objects in pictures, by KServe's v1 protocol",
            "operationId": "v1_predict",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request}, "image/*": {"schema": _PICTURE}},
            },
            "responses": {
                "200": {
                    "description": "One answer for each picture, in their order",
                    "headers": _ANSWER_HEADERS,
                    "content": {"application/json": {"schema": answer}},
                },
                **_ERRORS,
            },
        },
    }
