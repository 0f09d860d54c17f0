"""The operations that only the transformer has: ``POST /detect`` and KServe's v1 ``:predict``, for images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

import orjson

from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.infer import MUCH_JSON
from saccade_serving.connection.operation import Operation, Reply, content_type, json_reply
from saccade_serving.errors import InvalidImage, InvalidRequest, UnsupportedMedia, short
from saccade_serving.oip.json_limits import check_json
from saccade_serving.oip.messages import Buffer, ParameterValue
from saccade_transformers.form import PARAMETERS, read_form
from saccade_transformers.model import TransformerModel, v1_answer
from saccade_transformers.openapi import describe_detect, describe_predict
from saccade_transformers.outcome import cache_line
from saccade_transformers.sources import Encoded

CACHE_HEADER: Final = "x-saccade-cache"
FORM: Final = "multipart/form-data"
_JSON_TYPES: Final = ("", "application/json", "application/x-www-form-urlencoded")
_MAX_FORM_FIELDS: Final = 32
_SMALL_FORM_BYTES: Final = 2**19
#: Values in the JSON of a v1 request: images are one string each.
MAX_V1_VALUES: Final = 2**16


class Detect(Operation):
    """``POST /detect``: one image, raw or in a form; the answer as JSON or drawn into the picture."""

    protocol: ClassVar[str] = "detect"
    paths: ClassVar[tuple[str, ...]] = ("/detect",)

    def __init__(self, model: TransformerModel, gate: Gate) -> None:
        self._model = model
        self._gate = gate

    def admit(self, exchange: Exchange) -> None:
        """Refuse content types that are no image and no form."""
        self._gate.find(self._model.name, "", exchange)
        kind = content_type(exchange.headers)
        if kind not in ("", "application/octet-stream", FORM) and not kind.startswith("image/"):
            raise UnsupportedMedia(
                f"content-type {short(kind)} is not served here; expected image/*, application/octet-stream or "
                "multipart/form-data with a field 'file' (curl: -H 'Content-Type: image/jpeg' or -F file=@photo.jpg)"
            )

    def describe(self) -> Mapping[str, Any]:
        """See ``openapi``."""
        return {self.paths[0]: describe_detect()}

    def start(self, exchange: Exchange, body: memoryview) -> None:
        """Answer in a task."""
        exchange.run(self._answer(exchange, body))

    async def _answer(self, exchange: Exchange, body: memoryview) -> Reply:
        model = self._model
        image = body
        form: dict[str, str] = {}
        if content_type(exchange.headers) == FORM:
            kind = exchange.headers["content-type"]
            if body.nbytes <= _SMALL_FORM_BYTES:  # a thread would cost more
                image, form = read_form(kind, body)
            else:
                image, form = await model.workers.admit(lambda: read_form(kind, body), exchange)
        elif not body.nbytes:
            raise InvalidImage("the request body is empty; expected an encoded image")
        parameters = _query(exchange.query)
        parameters.update(form)
        exchange.tighten_by_parameter(parameters)
        source = Encoded(image)
        [answered] = await model.answer([source], parameters, exchange)
        headers = {CACHE_HEADER: cache_line([answered])}
        if wants_jpeg(exchange.headers.get("accept", "")):
            drawn = await model.draw(source, answered, exchange)
            return Reply(200, {"content-type": "image/jpeg", **headers}, [drawn], len(drawn))
        return json_reply(v1_answer(answered, model.name), headers)


class Predict(Operation):
    """KServe's v1 ``:predict``: base64 images in JSON, or one raw image."""

    protocol: ClassVar[str] = "v1"
    paths: ClassVar[tuple[str, ...]] = ("/v1/models/{model_name}:predict",)

    def __init__(self, model: TransformerModel, gate: Gate) -> None:
        self._model = model
        self._gate = gate

    def admit(self, exchange: Exchange) -> None:
        """Refuse unknown models and content types."""
        self._gate.find(exchange.params["model_name"], "", exchange)
        kind = content_type(exchange.headers)
        if not kind.startswith("image/") and kind not in _JSON_TYPES:
            raise UnsupportedMedia(
                f"content-type {short(kind)} is not served here; expected application/json or image/*"
            )

    def describe(self) -> Mapping[str, Any]:
        """See ``openapi``."""
        return {self.paths[0]: describe_predict()}

    def start(self, exchange: Exchange, body: memoryview) -> None:
        """Answer in a task."""
        exchange.run(self._answer(exchange, body))

    async def _answer(self, exchange: Exchange, body: memoryview) -> Reply:
        parameters: dict[str, ParameterValue] = {}
        if content_type(exchange.headers).startswith("image/"):
            sources = [Encoded(body)]
        else:
            most = self._gate.settings.max_json_bytes
            if body.nbytes > MUCH_JSON:
                sources, parameters = await self._model.workers.admit(lambda: read_instances(body, most), exchange)
            else:
                sources, parameters = read_instances(body, most)
        exchange.tighten_by_parameter(parameters)
        answered = await self._model.answer(sources, parameters, exchange)
        predictions = [v1_answer(one, self._model.name) for one in answered]
        return json_reply({"predictions": predictions}, {CACHE_HEADER: cache_line(answered)})


def read_instances(data: Buffer, max_json_bytes: int | None = None) -> tuple[list[Encoded], dict[str, ParameterValue]]:
    """Read a v1 request: ``{"instances": [{"image": {"b64": "..."}}], "parameters": {...}}``.

    Args:
        data: the body.
        max_json_bytes: the largest that is parsed; None for JSON of who is trusted.

    Raises:
        InvalidRequest: not JSON, or not of that form; the sentence names the place.
        PayloadTooLarge: over ``max_json_bytes``, or over ``MAX_V1_VALUES``.
    """
    check_json("the request", data, max_json_bytes, MAX_V1_VALUES)
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error.msg} at character {error.pos}") from error
    expected = 'expected {"instances": [{"image": {"b64": "<base64>"}}]}'
    if not isinstance(content, dict) or not isinstance(content.get("instances"), list):
        raise InvalidRequest(f"the request has no list 'instances'; {expected}")
    if not content["instances"]:
        raise InvalidRequest(f"'instances' is empty; {expected}")
    sources = []
    for index, instance in enumerate(content["instances"]):
        image = instance.get("image") if isinstance(instance, dict) else None
        text = image.get("b64") if isinstance(image, dict) else None
        if not isinstance(text, str):
            raise InvalidRequest(f"instances[{index}] has no string image.b64; {expected}")
        sources.append(Encoded(text, is_base64=True))
    return sources, _parameters(content.get("parameters", {}))


def wants_jpeg(accept: str) -> bool:
    """Whether an ``Accept`` header prefers a drawn picture to JSON; ``*/*`` does not."""
    best = {"image": 0.0, "json": 0.0}
    for part in accept.lower().split(",")[:32]:
        kind, *attributes = (item.strip() for item in part.split(";"))
        quality = 1.0
        for attribute in attributes:
            if attribute.startswith("q="):
                try:
                    quality = float(attribute[2:])
                except ValueError:
                    quality = 0.0
        if kind in ("image/jpeg", "image/*", "image/jpg"):
            best["image"] = max(best["image"], quality)
        elif kind in ("application/json", "application/*"):
            best["json"] = max(best["json"], quality)
    return best["image"] > best["json"]


def _query(text: str) -> dict[str, ParameterValue]:
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise InvalidRequest(f"the query has over {_MAX_FORM_FIELDS} fields, the limit") from None
    parameters: dict[str, ParameterValue] = {}
    for name, value in fields:
        if name in parameters:
            raise InvalidRequest(f"the query has {name!r} twice, as {short(str(parameters[name]))} and {short(value)}")
        if name in PARAMETERS:
            parameters[name] = value
    return parameters


def _parameters(content: Any) -> dict[str, ParameterValue]:
    if not isinstance(content, dict):
        raise InvalidRequest("'parameters' is not an object of names and values")
    for name, value in content.items():
        if not isinstance(value, (bool, int, float, str)):
            raise InvalidRequest(f"parameter {short(name)} is neither a boolean, a number nor a string")
    return content
