"""Loading and unloading models on request: V2's repository extension, who may use it, and what is said to the others.

Whoever loads a model decides what the server answers. So control is off unless the service offers it, and then wants a
key (``CONTROL_KEY``, a header over REST and metadata over gRPC), or comes by a listener of its own on this machine's
loopback address (``admin_application``). What a change does is the service's matter (``ModelControl``).

Source of the routes: Triton, docs/protocol/extension_model_repository.md.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from saccade_serving.connection.answers import error_response, json_response
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.gate import SHUTTING_DOWN, Gate
from saccade_serving.errors import (
    InvalidRequest,
    NotPermitted,
    Overloaded,
    PayloadTooLarge,
    Unimplemented,
    short,
)
from saccade_serving.oip import json_codec

#: The header, or metadata, that carries the key.
CONTROL_KEY: Final = "x-saccade-control-key"
Mode = Literal["none", "poll", "explicit"]
Verb = Literal["load", "unload"]

#: Extensions of the protocol that a server with control has, whatever its mode: the index tells of the repository.
CONTROL_EXTENSIONS: Final = ("model_repository", "model_repository(unload_dependents)")
NOT_OFFERED: Final = "models are loaded when the server starts; loading and unloading on request is not offered here"
_REFUSED: Final[Mapping[Mode, str]] = {
    "none": "models are loaded when the server starts; loading and unloading on request is off "
    "(model_control_mode is 'none'; expected 'explicit')",
    "poll": "the models served follow the model repository; loading and unloading on request is off "
    "(model_control_mode is 'poll'; expected 'explicit')",
}
#: Largest body of a load or unload request: a configuration in JSON.
MAX_CONTROL_BYTES: Final = 2**20
#: What an unload may say that means nothing here: no model has others that depend on it.
_HARMLESS: Final = "unload_dependents"


class ModelControl(Protocol):
    """What a service offers that can change the models it serves."""

    @property
    def mode(self) -> Mode:
        """As Triton's ``--model-control-mode``."""

    @property
    def key(self) -> str:
        """What a control call has to show; empty: none may come but by the admin listener."""

    async def look(self) -> None:
        """Look at the repository, where the index tells of it, unless that has just been done. Never fails."""

    def unserved(self) -> list[dict[str, str]]:
        """Entries of the repository index for models that are not served."""

    async def load(self, name: str, config: str | None = None) -> None:
        """Serve what the repository holds of a model now, beside what it served so far until that is ready.

        Args:
            name: of the model.
            config: its configuration as Triton's JSON, instead of the repository's.

        Raises:
            ModelNotFound: there is no such model.
            InvalidRequest: it cannot be loaded; what was served before goes on.
        """

    async def unload(self, name: str) -> None:
        """Answer no new requests for a model; return when those it has are answered and its memory is free.

        Raises:
            ModelNotFound: there is no such model. One that is not served is unloaded already.
        """

    async def watch(self) -> None:
        """Follow the repository, if that is the mode; until cancelled."""

    async def close(self) -> None:
        """End what is being loaded or unloaded: the server stops."""


class Control:
    """Control calls of both protocols."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def check(self, shown: str | None) -> ModelControl:
        """Let a control call in, or not.

        Args:
            shown: the key it came with; None: it came by the admin listener.

        Raises:
            Unimplemented: control is off.
            NotPermitted: the key is missing or wrong.
            Overloaded: the server is shutting down.
        """
        control: ModelControl | None = self._gate.control
        if control is None or control.mode != "explicit":
            raise Unimplemented(NOT_OFFERED if control is None else _REFUSED[control.mode])
        shown = shown.strip(" \t") if shown is not None else None
        if shown is not None and not (
            control.key and hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), control.key.encode())
        ):
            if not control.key:
                raise NotPermitted("loading and unloading models is for the admin listener only")
            what = "is wrong" if shown else "is missing"
            raise NotPermitted(f"loading and unloading models needs the header {CONTROL_KEY}, which {what}")
        if self._gate.draining:
            raise Overloaded(SHUTTING_DOWN)
        return control

    async def call(self, verb: Verb, name: str, parameters: Mapping[str, Any], control: ModelControl) -> None:
        """Do what was asked.

        Args:
            verb: what to do.
            name: of the model.
            parameters: of the request, by name.
            control: from ``check``.

        Raises:
            InvalidRequest: a parameter is not known, or the model cannot be loaded.
            ModelNotFound: there is no such model.
        """
        if verb == "load":
            await control.load(name, _read_config(parameters))
            return
        for known, value in parameters.items():
            if known != _HARMLESS or not isinstance(value, bool):
                raise InvalidRequest(f"parameter {short(known)} of an unload is not known; expected none")
        await control.unload(name)


def _read_config(parameters: Mapping[str, Any]) -> str | None:
    for name in parameters:
        if name.startswith("file:"):
            raise InvalidRequest(f"parameter {short(name)}: model files come from the repository, not from a request")
        if name != "config":
            raise InvalidRequest(f"parameter {short(name)} of a load is not known; expected 'config' or none")
    config = parameters.get("config")
    if config is not None and not isinstance(config, str):
        raise InvalidRequest("parameter 'config' is not a string; expected the model's configuration as JSON text")
    return config


def control_routes(gate: Gate, guarded: bool = True) -> list[BaseRoute]:
    """The routes that load and unload.

    Args:
        gate: of the server.
        guarded: whether a call has to show the key.
    """
    control = Control(gate)

    def route(verb: Verb) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                # First of all, so that who has no key has no work done.
                allowed = control.check(request.headers.get(CONTROL_KEY, "") if guarded else None)
                name = request.path_params["model_name"]
                await control.call(verb, name, await _read_parameters(request, verb), allowed)
            except Exception as error:
                return error_response(as_saccade_error(error))
            return json_response({"name": name, verb: True})  # KServe's form; Triton's is an empty body

        return Route(f"/v2/repository/models/{{model_name}}/{verb}", endpoint, methods=["POST"])

    return [route("load"), route("unload")]


async def _read_parameters(request: Request, verb: str) -> Mapping[str, Any]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_CONTROL_BYTES:
            raise PayloadTooLarge(f"the {verb} request", None, MAX_CONTROL_BYTES)
    if not body.strip():
        return {}
    parameters = json_codec.parse_object(body, f"the {verb} request").get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"'parameters' of the {verb} request is not an object")
    return parameters


def admin_application(gate: Gate, index: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """What the admin listener serves: index, load and unload, without a key.

    It listens on the loopback address only. A page in a browser on the same machine could send requests there, too:
    they say where they come from (``Origin``) or ask for another host's name, and are refused.

    Args:
        gate: of the server.
        index: answers the repository index.
    """
    routes = [Route("/v2/repository/index", index, methods=["POST"]), *control_routes(gate, guarded=False)]
    return _LocalOnly(Starlette(routes=routes, exception_handlers={404: _not_here, 405: _not_here}))


class _LocalOnly:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = Request(scope).headers
            if "origin" in headers or not _is_loopback(headers.get("host", "")):
                sentence = (
                    "the admin listener answers programs on this machine only: expected no Origin, Host 127.0.0.1"
                )
                await error_response(NotPermitted(sentence))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return "@" not in host and (name == "localhost" or ipaddress.ip_address(name).is_loopback)
    except ValueError:
        return False


async def _not_here(request: Request, error: Exception) -> Response:
    text = f"{request.method} {request.url.path[:200]} is not served here; expected POST /v2/repository/..."
    return JSONResponse({"error": text}, getattr(error, "status_code", 404))
