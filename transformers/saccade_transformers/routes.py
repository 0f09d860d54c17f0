"""The routes that only the transformer has: ``POST /detect`` and KServe's v1 ``:predict``, for images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from saccade_serving.connection.body import Body
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.rest import PartsResponse, RestPort, content_type, json_response
from saccade_serving.errors import InvalidImage, InvalidRequest, UnsupportedMedia, short
from saccade_serving.oip.body import check_json_size
from saccade_serving.oip.messages import Buffer, ParameterValue
from saccade_transformers.model import TransformerModel, v1_answer
from saccade_transformers.pipeline import Encoded

CACHE_HEADER: Final = "x-saccade-cache"
#: Parameters that a query string or a form may hold.
PARAMETERS: Final = (
    "camera_id",
    "score_threshold",
    "iou_threshold",
    "max_detections",
    "cache",
    "priority",
    "timeout",
)
_MAX_FORM_FIELDS: Final = 32


class ImageRoutes:
    """Routes of one transformer model."""

    def __init__(self, model: TransformerModel, port: RestPort) -> None:
        self._model = model
        self._port = port

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, to be registered before KServe's."""
        return [
            self._port.route("/detect", "detect", self._detect),
            self._port.route("/v1/models/{model_name}:predict", "v1", self._predict),
        ]

    async def _detect(self, request: Request, exchange: Exchange, body: Body) -> Response:
        model = self._model
        self._port.gate.find(model.name, "", exchange)
        as_picture = wants_jpeg(request.headers.get("accept", ""))
        image, form = await self._image(request, exchange, body)
        parameters: dict[str, ParameterValue] = {k: v for k, v in request.query_params.items() if k in PARAMETERS}
        parameters.update(form)
        exchange.tighten_by_parameter(parameters)
        source = Encoded(image)
        work = model.answer([source], parameters, exchange)
        [answered] = await self._port.until_client_leaves(work, body)
        headers = {CACHE_HEADER: answered.cache}
        if as_picture:
            drawn = await self._port.until_client_leaves(model.draw(source, answered, exchange), body)
            return PartsResponse([drawn], len(drawn), {"content-type": "image/jpeg", **headers})
        return json_response(v1_answer(answered, model.name), headers)

    async def _predict(self, request: Request, exchange: Exchange, body: Body) -> Response:
        model = self._model
        self._port.gate.find(request.path_params["model_name"], "", exchange)
        kind = content_type(request)
        data = await self._port.read(body, exchange)
        parameters: dict[str, ParameterValue] = {}
        if kind.startswith("image/"):
            sources = [Encoded(data)]
        elif kind in ("", "application/json", "application/x-www-form-urlencoded"):
            check_json_size("the request", len(data), self._port.gate.settings.max_json_bytes)
            sources, parameters = read_instances(data)
        else:
            raise UnsupportedMedia(
                f"content-type {short(kind)} is not served here; expected application/json or image/*"
            )
        exchange.tighten_by_parameter(parameters)
        answered = await self._port.until_client_leaves(model.answer(sources, parameters, exchange), body)
        outcome = ",".join(sorted({one.cache for one in answered}))
        return json_response(
            {"predictions": [v1_answer(one, model.name) for one in answered]}, {CACHE_HEADER: outcome}
        )

    async def _image(self, request: Request, exchange: Exchange, body: Body) -> tuple[Buffer, dict[str, str]]:
        """Receive the image of a ``/detect`` request and its form fields."""
        kind = content_type(request)
        if kind == "multipart/form-data":
            return await read_form(request.headers, await self._port.read(body, exchange))
        if kind not in ("", "application/octet-stream") and not kind.startswith("image/"):
            raise UnsupportedMedia(
                f"content-type {short(kind)} is not served here; expected image/*, application/octet-stream or "
                "multipart/form-data with a field 'file' (curl: -H 'Content-Type: image/jpeg' or -F file=@photo.jpg)"
            )
        image = await self._port.read(body, exchange)
        if not image:
            raise InvalidImage("the request body is empty; expected an encoded image")
        return image, {}


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory: the body, already received and bounded, is there anyway."""

    spool_max_size = 2**31

    def close(self) -> None:
        """Free all files, also one whose end never came and that is in no form."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_form(headers: Headers, data: Buffer) -> tuple[bytes, dict[str, str]]:
    """Read a multipart form.

    Returns:
        The bytes of the field ``file`` and the other fields that are request parameters.

    Raises:
        InvalidRequest: the form is damaged, or has no field ``file``.
    """
    kind = headers.get("content-type", "").lower()
    if "punycode" in kind or "idna" in kind:  # Python decodes these in quadratic time
        raise InvalidRequest("the multipart form states a charset that is not served; expected UTF-8 or none")

    async def stream() -> AsyncIterator[bytes]:
        yield bytes(data)

    parser = _InMemoryParser(headers, stream(), max_files=1, max_fields=_MAX_FORM_FIELDS)  # type: ignore[arg-type]
    try:
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as error:
            detail = getattr(error, "message", "no boundary")
            raise InvalidRequest(f"the multipart form cannot be read: {detail}") from error
        file = form.get("file")
        if not isinstance(file, UploadFile):
            found = ", ".join(short(name) for name in form) or "nothing"
            raise InvalidRequest(f"the multipart form has no file in a field 'file' (found: {found})")
        image = await file.read()
        if not image:
            raise InvalidImage("the file in field 'file' is empty; expected an encoded image")
        return image, {k: v for k, v in form.items() if k in PARAMETERS and isinstance(v, str)}
    finally:
        parser.close()


def read_instances(data: Buffer) -> tuple[list[Encoded], dict[str, ParameterValue]]:
    """Read a v1 request: ``{"instances": [{"image": {"b64": "..."}}], "parameters": {...}}``.

    Raises:
        InvalidRequest: not JSON, or not of that form; the sentence names the place.
    """
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


def _parameters(content: Any) -> dict[str, ParameterValue]:
    if not isinstance(content, dict):
        raise InvalidRequest("'parameters' is not an object of names and values")
    for name, value in content.items():
        if not isinstance(value, (bool, int, float, str)):
            raise InvalidRequest(f"parameter {short(name)} is neither a boolean, a number nor a string")
    return content
