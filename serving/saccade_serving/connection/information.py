"""What a server tells of itself and its models, over REST: all V2 routes that are no inference.

``Information`` answers the questions; ``InformationRoutes`` here and ``InformationCalls`` in ``grpc_information``
put them on the wire. Nothing here is counted or held back by the gate: a probe must be answered when requests are not.

Source of the routes: Triton's http_server.cc; what is not offered is refused with 501 and what to do instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from saccade_serving import __version__
from saccade_serving.connection.answers import EXTENSIONS, SERVER_NAME, error_response, json_response
from saccade_serving.connection.control import CONTROL_EXTENSIONS, control_routes
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.gate import SHUTTING_DOWN, Gate
from saccade_serving.errors import InvalidRequest, Overloaded, PayloadTooLarge, SaccadeError, Unimplemented
from saccade_serving.model import LOADING, ModelConfiguration
from saccade_serving.oip import json_codec, statistics
from saccade_serving.oip.messages import ModelMetadata
from saccade_serving.oip.rules import NO_SHARED_MEMORY
from saccade_serving.statistics import Statistics

NO_TRACE: Final = (
    "trace settings are not served; send a 'traceparent' header, which is passed on, or have every request logged "
    "with the setting request_log"
)
NO_LOG_SETTINGS: Final = (
    "log settings are read when the server starts; set log_level in its environment and start it anew"
)

#: Largest body of a repository index request, whose only field is a boolean.
_MAX_INDEX_BYTES: Final = 4096

Handler = Callable[[Request], Awaitable[Response]]


class Information:
    """What both protocols tell, before it is encoded."""

    def __init__(self, gate: Gate, counted: Statistics) -> None:
        self._gate = gate
        self._counted = counted

    def server(self) -> dict[str, Any]:
        """Name, version and extensions of the server; the extensions that any of its models has are listed."""
        added = [extension for model in self._gate.models.values() for extension in model.extensions]
        control = CONTROL_EXTENSIONS if self._gate.control is not None else ()
        extensions = list(dict.fromkeys([*EXTENSIONS, *added, *control]))
        return {"name": SERVER_NAME, "version": __version__, "extensions": extensions}

    def check_server_ready(self) -> None:
        """Answer the server's readiness probe.

        Raises:
            SaccadeError: a model is not ready, or the server is draining.
        """
        if self._gate.draining:
            raise Overloaded(SHUTTING_DOWN)
        for name in self._gate.models:
            self._gate.check_ready(name)

    def check_model_ready(self, name: str, version: str = "") -> None:
        """Answer a model's readiness probe.

        Raises:
            ModelNotFound: no such model or version.
            Overloaded: it is not ready, or the server is draining.
        """
        self._gate.check_ready(name, version)

    def is_live(self) -> bool:
        """Whether no model needs a new process."""
        return not any(model.must_restart for model in self._gate.models.values())

    def is_server_ready(self) -> bool:
        """Whether all models are ready and the server is not draining."""
        try:
            self.check_server_ready()
        except SaccadeError:
            return False
        return True

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Whether the model is ready, with that version, and the server is not draining.

        Raises:
            ModelNotFound: no such model.
        """
        try:
            self._gate.check_ready(name, version)
        except SaccadeError:
            if name not in self._gate.models:
                raise
            return False
        return True

    def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Describe a model's tensors.

        Raises:
            ModelNotFound: no such model or version.
            Overloaded: it is not ready.
        """
        return self._gate.find(name, version).metadata(version)

    def config(self, name: str, version: str = "") -> ModelConfiguration:
        """Describe how a model is served.

        Raises:
            As ``metadata``; Unimplemented: it has no Triton configuration.
        """
        return self._gate.find(name, version).config(version)

    def statistics(self, name: str = "", version: str = "") -> Iterator[statistics.Entry]:
        """What was counted for a version, for all versions of a model, or for all models that are ready.

        Raises:
            As ``metadata``.
        """
        models = [self._gate.find(name, version)] if name else list(self._gate.models.values())
        for model in models:
            if name or model.ready:
                for served in [version] if version else model.versions():
                    yield model.name, served, self._counted.of(model.name, served)

    async def index(self, ready_only: bool = False) -> list[dict[str, str]]:
        """List the models, version by version where they are loaded; ``reason`` says why one is not ready."""
        control = self._gate.control
        if control is not None:
            await control.look()
        # From here on nothing is awaited: a model that is just being loaded is in one place, not in two or none.
        entries = [entry for name in self._gate.models for entry in self._index_entries(name)]
        entries += control.unserved() if control is not None else []
        return [entry for entry in entries if not ready_only or entry["state"] == "READY"]

    def _index_entries(self, name: str) -> Iterator[dict[str, str]]:
        model = self._gate.models[name]
        try:
            self._gate.check_ready(name)
        except Overloaded as refusal:
            loading = not model.ready and model.not_ready_because == LOADING
            state, reason = "LOADING" if loading else "UNAVAILABLE", str(refusal)
        else:
            state, reason = "READY", ""
        told = model.unserved()
        served = model.versions()
        for version in served or ([] if told else [""]):
            beside = told.pop(version, None) if version else None
            why = f"version {version} goes on; a change of it: {beside[0]} {beside[1]}".rstrip() if beside else reason
            yield {"name": name, "version": version, "state": state, "reason": why}
        for version, (now, why) in told.items():
            yield {"name": name, "version": version, "state": now, "reason": why}


class InformationRoutes:
    """The routes of one server; to be registered before KServe's."""

    def __init__(self, gate: Gate, counted: Statistics) -> None:
        self._gate = gate
        self._told = Information(gate, counted)

    def routes(self) -> list[BaseRoute]:
        """All routes. A model named ``stats`` is hidden by ``/v2/models/stats``, as at Triton."""
        model = "/v2/models/{model_name}"
        routes: list[BaseRoute] = [
            _route("/v2", self._server_metadata),
            _route("/v2/health/live", self._server_live),
            _route("/v2/health/ready", self._server_ready),
            _route("/v2/models/stats", self._statistics),
            _route("/v2/repository/index", self.index, "POST"),
            *control_routes(self._gate),
        ]
        for path in (model, model + "/versions/{version}"):
            routes += [
                _route(path, self._model_metadata),
                _route(path + "/ready", self._model_ready),
                _route(path + "/config", self._config),
                _route(path + "/stats", self._statistics),
            ]
        return routes + _refused_routes()

    async def _server_metadata(self, _request: Request) -> Response:
        return json_response(self._told.server())

    async def _server_live(self, _request: Request) -> Response:
        self._gate.check_live()
        return json_response({"live": True})

    async def _server_ready(self, _request: Request) -> Response:
        self._told.check_server_ready()
        return json_response({"ready": True})

    async def _model_ready(self, request: Request) -> Response:
        name, version = _model_of(request)
        self._told.check_model_ready(name, version)
        return json_response({"name": name, "ready": True})

    async def _model_metadata(self, request: Request) -> Response:
        return json_response(json_codec.encode_metadata(self._told.metadata(*_model_of(request))))

    async def _config(self, request: Request) -> Response:
        return json_response(self._told.config(*_model_of(request)).json)

    async def _statistics(self, request: Request) -> Response:
        return json_response(statistics.describe(self._told.statistics(*_model_of(request))))

    async def index(self, request: Request) -> Response:
        """Answer the repository index."""
        return json_response(await self._told.index(await _read_ready_only(request)))


def _model_of(request: Request) -> tuple[str, str]:
    return request.path_params.get("model_name", ""), request.path_params.get("version", "")


async def _read_ready_only(request: Request) -> bool:
    """Read the index request ``{"ready": bool}``; tritonclient sends an empty body.

    Raises:
        InvalidRequest: something else was sent.
        PayloadTooLarge: far more was sent.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_INDEX_BYTES:
            raise PayloadTooLarge("the repository index request", None, _MAX_INDEX_BYTES)
    if not body.strip():
        return False
    ready = json_codec.parse_object(body, "the repository index request").get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidRequest(f"'ready' of the repository index request is {ready!r:.80}; expected true or false")
    return ready


def _route(path: str, handler: Handler, method: str = "GET") -> Route:
    """A route whose errors are answered in the V2 form."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            return error_response(as_saccade_error(error))

    return Route(path, endpoint, methods=[method])


def _refused_routes() -> list[BaseRoute]:
    routes: list[BaseRoute] = []
    for kind in ("system", "cuda"):
        for where in ("", "/region/{region}"):
            path = f"/v2/{kind}sharedmemory{where}/"
            routes.append(_refused(path + "status", NO_SHARED_MEMORY, "GET"))
            routes += [_refused(path + verb, NO_SHARED_MEMORY, "POST") for verb in ("register", "unregister")]
    for method in ("GET", "POST"):
        routes.append(_refused("/v2/trace/setting", NO_TRACE, method))
        routes.append(_refused("/v2/models/{model_name}/trace/setting", NO_TRACE, method))
        routes.append(_refused("/v2/logging", NO_LOG_SETTINGS, method))
    return routes


def _refused(path: str, sentence: str, method: str) -> Route:
    async def refuse(_request: Request) -> Response:
        raise Unimplemented(sentence)

    return _route(path, refuse, method)
