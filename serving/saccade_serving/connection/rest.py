"""REST: the V2 routes, and ``RestPort``, through which every route of ours passes (the transformer's too).

KServe's own infer routes decode tensors element by element, know no versions and answer 200 to
``/v2/health/ready`` always; ours are registered before them and win.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from saccade_serving import __version__
from saccade_serving.connection.body import Body, ClientLeft
from saccade_serving.connection.exchange import REQUEST_ID_HEADER, Exchange
from saccade_serving.connection.gate import CLIENT_LEFT, Gate
from saccade_serving.errors import (
    EngineFailed,
    InvalidRequest,
    Overloaded,
    SaccadeError,
    Unimplemented,
    UnsupportedMedia,
    short,
)
from saccade_serving.oip import binary_codec, json_codec
from saccade_serving.oip.messages import Buffer
from saccade_serving.telemetry import Seldom

log = logging.getLogger("saccade.rest")

T = TypeVar("T")

SERVER_NAME: Final = "saccade"
#: V2 extensions that are served.
EXTENSIONS: Final = ("binary_tensor_data", "parameters")

JSON_LENGTH_HEADER: Final = "inference-header-content-length"
#: ``curl -d`` says form-urlencoded whatever it sends, and many clients say nothing.
V2_CONTENT_TYPES: Final = (
    "",
    "application/json",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
)

#: Bytes of a JSON body above which it is read in a thread.
_MUCH_JSON: Final = 256 * 2**10

Handler = Callable[[Request, Exchange, Body], Awaitable[Response]]


class PartsResponse(Response):
    """A body in several buffers, sent one after the other without joining them."""

    def __init__(self, parts: Sequence[Buffer], size: int, headers: Mapping[str, str], status_code: int = 200) -> None:
        super().__init__(None, status_code, {**headers, "content-length": str(size)})
        self._parts = parts
        self.size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, then the buffers."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def json_response(content: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> PartsResponse:
    """Answer with JSON."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return PartsResponse([body], len(body), {"content-type": "application/json", **(headers or {})}, status)


def error_response(error: SaccadeError) -> PartsResponse:
    """Answer with an error in the V2 form."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return json_response({"error": str(error)}, headers, error.status)


def content_type(request: Request) -> str:
    """The media type without parameters, in lower case; empty if none was sent."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class RestPort:
    """Wraps handlers: opens the exchange, answers errors, notices clients who leave, accounts."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def route(self, path: str, protocol: str, handler: Handler) -> Route:
        """A POST route whose requests are inferences and so pass the gate."""

        async def endpoint(request: Request) -> Response:
            return await self._answer(request, protocol, handler)

        return Route(path, endpoint, methods=["POST"])

    async def read(self, body: Body, exchange: Exchange) -> Buffer:
        """Receive a body as the stage "receive".

        Raises:
            As ``Body.read``; DeadlineExceeded also when the request's own deadline comes first.
        """
        exchange.check_deadline("before its body was received")
        with exchange.stage("receive"):
            return await body.read(min(self.gate.settings.receive_timeout_s, max(0.0, exchange.remaining_s())))

    async def until_client_leaves(self, work: Coroutine[Any, Any, T], body: Body) -> T:
        """Await ``work``, and cancel it when the client closes the connection.

        Raises:
            ClientLeft: it did.
        """
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(body.client_left())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientLeft
            return task.result()
        finally:
            for future in (task, watch):
                if not future.done():
                    future.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    async def _answer(self, request: Request, protocol: str, handler: Handler) -> Response:
        gate = self.gate
        body = Body(request.receive, request.headers, gate.settings.max_request_bytes, gate.budget)
        exchange: Exchange | None = None
        code, sent = CLIENT_LEFT, 0
        try:
            exchange = gate.begin(protocol, request.headers)
            encoding = request.headers.get("content-encoding", "")
            if encoding.lower() not in ("", "identity"):
                raise UnsupportedMedia(f"content-encoding {short(encoding)} is not served; send the body as it is")
            response = await handler(request, exchange, body)
            code, sent = str(response.status_code), getattr(response, "size", 0)
        except ClientLeft:
            gate.refuse(exchange, "client_left")
            response = Response(status_code=int(CLIENT_LEFT))
        except Exception as error:
            failure = as_saccade_error(error)
            code = str(failure.status)
            gate.refuse(exchange, failure.reason)
            # What came of the body is let go before more of it is thrown away.
            error.__traceback__ = failure.__traceback__ = None
            body.release()
            if not body.complete and (body.size or "expect" not in request.headers):
                await body.discard()
            response = error_response(failure)
        except asyncio.CancelledError:
            if not gate.draining:
                raise
            code = str(Overloaded.status)
            gate.refuse(exchange, "shutdown")
            response = error_response(Overloaded("the server is shutting down, and this request took too long"))
        finally:
            body.release()
            gate.finish(exchange, protocol, code, body.size, sent)
        if exchange is not None:
            response.headers[REQUEST_ID_HEADER] = exchange.request_id
        return response


def as_saccade_error(error: Exception) -> SaccadeError:
    """Keep our own errors; log anything else and hide it behind a sentence."""
    if isinstance(error, SaccadeError):
        if error.status in (500, 502) and error.__cause__ is not None and _seldom.due(error.reason):
            log.error("request_failed", extra={"reason": error.reason, "cause": repr(error.__cause__)})
        return error
    log.error("internal_error", exc_info=error)
    return EngineFailed("the server failed to answer this request; its log has the cause")


#: A predictor that is down fails every request; the log need not say so each time.
_seldom = Seldom(1.0)


class V2Routes:
    """The V2 routes of a server."""

    def __init__(self, gate: Gate, port: RestPort) -> None:
        self._gate = gate
        self._port = port

    def routes(self) -> list[BaseRoute]:
        """All routes, to be registered before KServe's."""
        model = "/v2/models/{model_name}"
        versioned = model + "/versions/{version}"
        routes: list[BaseRoute] = [
            Route("/v2", self._plain(self._server_metadata)),
            Route("/v2/health/ready", self._plain(self._server_ready)),
            Route(
                "/v2/repository/models/{model_name}/load",
                self._plain(self._no_model_control),
                methods=["POST"],
            ),
            Route(
                "/v2/repository/models/{model_name}/unload",
                self._plain(self._no_model_control),
                methods=["POST"],
            ),
        ]
        for path in (model, versioned):
            routes += [
                self._port.route(path + "/infer", "rest", self._infer),
                Route(path + "/ready", self._plain(self._model_ready)),
                Route(path, self._plain(self._model_metadata)),
            ]
        return routes

    async def _infer(self, request: Request, exchange: Exchange, body: Body) -> Response:
        name, version = request.path_params["model_name"], request.path_params.get("version", "")
        model = self._gate.find(name, version, exchange)
        if content_type(request) not in V2_CONTENT_TYPES:
            raise UnsupportedMedia(
                f"content-type {short(content_type(request))} is not served here; expected application/json, or "
                "application/octet-stream with the header Inference-Header-Content-Length"
            )
        json_length = request.headers.get(JSON_LENGTH_HEADER)
        if json_length is None and content_type(request) == "application/octet-stream":
            raise InvalidRequest(
                "content-type application/octet-stream needs the header Inference-Header-Content-Length: "
                "the number of bytes of JSON before the binary tensors"
            )
        data = await self._port.read(body, exchange)
        if not data:
            raise InvalidRequest("the request body is empty; expected a V2 inference request")
        limit = self._gate.settings.max_json_bytes
        decode = partial(binary_codec.decode_request, name, version, data, json_length, limit)
        # Much JSON takes long to read; in a thread, others have their turn meanwhile.
        much = len(data) > _MUCH_JSON and "octet" not in content_type(request)
        infer_request = await asyncio.to_thread(decode) if much else decode()
        exchange.tighten_by_parameter(infer_request.parameters)
        answer = await self._port.until_client_leaves(model.infer(infer_request, exchange), body)
        encoded = binary_codec.encode_response(infer_request, answer)
        return PartsResponse(encoded.parts, encoded.size, encoded.headers)

    async def _server_metadata(self, _request: Request) -> Response:
        return json_response({"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)})

    async def _server_ready(self, _request: Request) -> Response:
        for name in self._gate.models:
            self._gate.check_ready(name)
        return json_response({"ready": True})

    async def _model_ready(self, request: Request) -> Response:
        name = request.path_params["model_name"]
        self._gate.check_ready(name, request.path_params.get("version", ""))
        return json_response({"name": name, "ready": True})

    async def _model_metadata(self, request: Request) -> Response:
        name, version = request.path_params["model_name"], request.path_params.get("version", "")
        return json_response(json_codec.encode_metadata(self._gate.find(name, version).metadata(version)))

    async def _no_model_control(self, _request: Request) -> Response:
        raise Unimplemented("models are loaded when the server starts; loading and unloading on request is off")

    @staticmethod
    def _plain(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a route that is no inference: errors are answered, nothing is counted."""

        async def endpoint(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                return error_response(as_saccade_error(error))

        return endpoint


async def metrics_endpoint(_request: Request) -> Response:
    """Render ``/metrics`` in a worker thread: a scrape never holds up the event loop."""
    return Response(await asyncio.to_thread(generate_latest, REGISTRY), media_type=CONTENT_TYPE_LATEST)
