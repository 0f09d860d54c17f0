"""The ASGI application of both services: our routes first, then KServe's, every error in the V2 form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fastapi import FastAPI
from kserve import errors as kserve_errors
from kserve.protocol.rest.server import RESTServer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saccade_serving import __version__
from saccade_serving.connection.answers import error_response, json_response
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.information import InformationRoutes
from saccade_serving.connection.openapi import describe_api
from saccade_serving.connection.operation import Operation
from saccade_serving.connection.rest import OperationRoutes
from saccade_serving.errors import SaccadeError, Unimplemented
from saccade_serving.scrapes import scrape

if TYPE_CHECKING:
    from kserve import ModelServer

#: What KServe's routes raise, and the status it means.
_KSERVE_STATUS: Final[dict[type[Exception], int]] = {
    kserve_errors.InvalidInput: 400,
    kserve_errors.ModelNotFound: 404,
    kserve_errors.ModelNotReady: 503,
    kserve_errors.ServerNotReady: 503,
    kserve_errors.UnsupportedProtocol: 501,
    NotImplementedError: 501,
}


def build_application(server: ModelServer, gate: Gate, operations: Sequence[Operation]) -> ASGIApp:
    """Assemble the application.

    Args:
        server: KServe's server, whose remaining routes are kept.
        gate: admission and accounting.
        operations: all POST routes of ours, for requests that the data plane's connections leave to the application.
    """
    documented = server.enable_docs_url
    app = FastAPI(
        title="Saccade",
        version=__version__,
        docs_url="/docs" if documented else None,
        openapi_url="/openapi.json" if documented else None,
        redoc_url=None,
    )
    app.router.redirect_slashes = False
    app.router.routes += OperationRoutes(gate, operations).routes()
    # KServe's own read a body of any size before they find that the model has no answer.
    app.router.routes += OperationRoutes(gate, [V1Refusal()]).routes()
    app.router.routes += InformationRoutes(gate, gate.metrics.statistics).routes()
    app.router.routes.append(Route("/v1/models/{model_name}", _v1_ready(gate)))
    app.router.routes.append(Route("/metrics", scrape if gate.settings.metrics_on_http else _not_here))
    _KServeRoutes(server, app).register()
    paths = {path: item for operation in operations for path, item in operation.describe().items()}
    app.openapi = lambda: describe_api(paths)  # type: ignore[method-assign]  # FastAPI's documented way
    for handled in (HTTPException, SaccadeError, Exception, *_KSERVE_STATUS):
        app.add_exception_handler(handled, _answer_exception)
    return _ConnectionCloser(app, gate)


class _KServeRoutes(RESTServer):
    """Registers KServe's own routes on our application; its server is not started."""

    def __init__(self, server: ModelServer, app: FastAPI) -> None:
        self.dataplane: Any = server.dataplane
        self.model_repository_extension: Any = server.model_repository_extension
        self._app = app

    def register(self) -> None:
        self._register_endpoints(self._app)


class _ConnectionCloser:
    """While draining, answers carry ``Connection: close``, so that clients move to another replica."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start" and self._gate.draining:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing_send)


async def _answer_exception(request: Request, error: Exception) -> Response:
    """Answer what a KServe route or the router raised, in the V2 form."""
    if isinstance(error, HTTPException):
        text = f"{request.method} {request.url.path[:200]} is not served here: {error.detail}"
        return json_response({"error": text}, error.headers, error.status_code)
    for kind, status in _KSERVE_STATUS.items():
        if isinstance(error, kind):
            return json_response({"error": str(error)}, status=status)
    return error_response(as_saccade_error(error))


class V1Refusal(Operation):
    """v1 inference, where a service brings none of its own."""

    protocol: ClassVar[str] = "v1"
    paths: ClassVar[tuple[str, ...]] = ("/v1/models/{model_name}:predict", "/v1/models/{model_name}:explain")

    def admit(self, exchange: Exchange) -> None:
        """Say what is served instead."""
        raise Unimplemented("v1 is not served here; use POST /v2/models/<model>/infer")

    def start(self, exchange: Exchange, body: memoryview) -> None:
        """Never reached."""
        raise AssertionError


def _v1_ready(gate: Gate) -> Callable[[Request], Awaitable[Response]]:
    """v1's readiness route; KServe's does not know that the server is draining."""

    async def endpoint(request: Request) -> Response:
        name = request.path_params["model_name"]
        gate.check_ready(name)
        return json_response({"name": name, "ready": True})

    return endpoint


async def _not_here(_request: Request) -> Response:
    raise HTTPException(404, "metrics are on the metrics port")
