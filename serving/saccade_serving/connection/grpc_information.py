"""What a server tells of itself and its models, over gRPC: the calls of Triton's service that are no inference.

Beside them the standard ``grpc.health.v1.Health``, which Kubernetes' gRPC probes, Envoy and grpcio's own client-side
health checks ask.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health_pb2

from saccade_serving.connection.answers import Context, abort, guarded
from saccade_serving.connection.control import CONTROL_KEY, MAX_CONTROL_BYTES, Control, Verb
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.front import peer_of
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.information import (
    NO_LOG_SETTINGS,
    NO_TRACE,
    Information,
)
from saccade_serving.connection.received import Received
from saccade_serving.errors import Overloaded, Unimplemented, short
from saccade_serving.oip import grpc_codec, proto, statistics
from saccade_serving.oip.rules import NO_SHARED_MEMORY
from saccade_serving.statistics import Statistics

HEALTH: Final = "grpc.health.v1.Health"
#: Services whose health can be asked; the empty name is the whole server.
HEALTH_SERVICES: Final = ("", proto.SERVICE)
#: Watches open at once; each holds a stream for as long as its client likes.
MAX_WATCHES: Final = 64
#: Of these, watches of one address; not for this machine's, where Knative's queue-proxy is.
MAX_PEER_WATCHES: Final = 8
#: How late a watcher may learn of a change.
_WATCH_INTERVAL_S: Final = 0.25


class InformationCalls:
    """Handlers for all methods of ``proto.METHODS`` and ``proto.TRITON_METHODS`` but ModelInfer."""

    def __init__(self, gate: Gate, counted: Statistics) -> None:
        self._told = Information(gate, counted)
        self._control = Control(gate)

    def handlers(self) -> dict[str, Any]:
        """Method name -> its handler, as grpcio wants it."""
        answered: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: proto.ServerLiveResponse(live=self._told.is_live()),
            "ServerReady": lambda _: proto.ServerReadyResponse(ready=self._told.is_server_ready()),
            "ServerMetadata": lambda _: proto.ServerMetadataResponse(**self._told.server()),
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
        }
        refused = {
            **dict.fromkeys(proto.REFUSED_METHODS, NO_SHARED_MEMORY),
            "TraceSetting": NO_TRACE,
            "LogSettings": NO_LOG_SETTINGS,
        }
        return (
            {name: _answering(name, work) for name, work in answered.items()}
            | {name: _refusing(sentence) for name, sentence in refused.items()}
            | {
                "RepositoryIndex": _awaited("RepositoryIndex", self._repository_index),
                "RepositoryModelLoad": _awaited("RepositoryModelLoad", self._load),
                "RepositoryModelUnload": _awaited("RepositoryModelUnload", self._unload),
            }
        )

    def _model_ready(self, message: Any) -> Any:
        return proto.ModelReadyResponse(ready=self._told.is_model_ready(message.name, message.version))

    def _model_metadata(self, message: Any) -> Any:
        return grpc_codec.encode_metadata(self._told.metadata(message.name, message.version))

    def _model_config(self, message: Any) -> Any:
        return proto.ModelConfigResponse(config=self._told.config(message.name, message.version).protobuf)

    def _model_statistics(self, message: Any) -> Any:
        return statistics.encode(self._told.statistics(message.name, message.version))

    async def _repository_index(self, received: Received, _context: Context) -> Any:
        message = received.parse(proto.RepositoryIndexRequest)
        if message.repository_name:
            name = short(message.repository_name)
            raise Unimplemented(f"repository {name} is not known by name; there is one, leave repository_name empty")
        return proto.RepositoryIndexResponse(models=await self._told.index(message.ready))

    async def _load(self, received: Received, context: Context) -> Any:
        name = await self._change("load", proto.RepositoryModelLoadRequest, received, context)
        return proto.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def _unload(self, received: Received, context: Context) -> Any:
        name = await self._change("unload", proto.RepositoryModelUnloadRequest, received, context)
        return proto.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def _change(self, verb: Verb, request: Any, received: Received, context: Context) -> str:
        """Load or unload; returns the model's name."""
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        allowed = self._control.check(metadata.get(CONTROL_KEY, ""))
        message = received.parse(request, MAX_CONTROL_BYTES)
        name = proto.repository_model_name(message)
        parameters = {key: _chosen(value) for key, value in message.parameters.items()}
        await self._control.call(verb, name, parameters, allowed)
        return name


def _chosen(parameter: Any) -> Any:
    """The value of a ``ModelRepositoryParameter``; None where it has none."""
    chosen = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, chosen) if chosen else None


def _answering(name: str, work: Callable[[Any], Any]) -> Any:
    request, response = (proto.METHODS | proto.TRITON_METHODS)[name]

    async def call(received: Received, context: Context) -> Any:
        # The message is in no frame that waits for anything: what a refusal leaves behind would keep it.
        return await guarded(context, lambda: work(received.parse(request)))

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=Received, response_serializer=response.SerializeToString
    )


def _awaited(name: str, work: Callable[[Received, Context], Awaitable[Any]]) -> Any:
    _, response = (proto.METHODS | proto.TRITON_METHODS)[name]

    async def call(received: Received, context: Context) -> Any:
        try:
            return await work(received, context)
        except Exception as error:
            received.take()
            await abort(context, as_saccade_error(error))

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=Received, response_serializer=response.SerializeToString
    )


def _refusing(sentence: str) -> Any:
    """Whatever the message says, it is not looked at."""

    async def call(received: Received, context: Context) -> Any:
        received.take()
        await abort(context, Unimplemented(sentence))

    return grpc.unary_unary_rpc_method_handler(call, request_deserializer=Received, response_serializer=None)


class HealthService:
    """``grpc.health.v1.Health``: serving while every model is ready and the server is not draining.

    A check asks the gate at once. Readiness is a question to the models, not an event, so for watchers one task
    asks it every ``interval_s``; it runs only while somebody watches.
    """

    def __init__(self, gate: Gate, interval_s: float = _WATCH_INTERVAL_S) -> None:
        self._told = Information(gate, Statistics())
        self._interval_s = interval_s
        self._watches: Counter[str] = Counter()  # by address
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    async def check(self, received: Received, context: Context) -> Any:
        """Answer once; an unknown service is NOT_FOUND, as the protocol says."""
        service = await guarded(context, lambda: _service_of(received))
        if service not in HEALTH_SERVICES:
            known = ", ".join(repr(service) for service in HEALTH_SERVICES)
            sentence = f"service {short(service)} is not here; expected {known}"
            await context.abort(grpc.StatusCode.NOT_FOUND, sentence)
        return self._answer(service)

    async def watch(self, received: Received, context: Context) -> None:
        """Answer at once and whenever the status has changed, until the client leaves or ``close``."""
        service = await guarded(context, lambda: _service_of(received))
        peer = peer_of_call(context.peer())
        if self._watches.total() >= MAX_WATCHES:
            await abort(context, Overloaded(f"{MAX_WATCHES} health watches are open, which is the limit; use Check"))
        if peer and self._watches[peer] >= MAX_PEER_WATCHES:
            sentence = f"{MAX_PEER_WATCHES} health watches are open from this address, which is the limit; use Check"
            await abort(context, Overloaded(sentence))
        self._watches[peer] += 1
        try:
            if self._following is None and not self._closed:
                self._following = asyncio.create_task(self._follow())
            sent = None
            while True:
                changed = self._changed  # taken before the question, so that no change is missed
                answer = self._answer(service)
                if answer != sent:
                    await context.write(answer)
                    sent = answer
                if self._closed:
                    return
                await changed.wait()
        finally:
            self._watches[peer] -= 1
            if not self._watches[peer]:
                del self._watches[peer]
            if not self._watches:
                await self._stop_following()

    async def close(self) -> None:
        """End all watches with NOT_SERVING, so that they do not hold up the server's shutdown."""
        self._closed = True
        await self._stop_following()
        self._wake()

    def _answer(self, service: str) -> Any:
        status = health_pb2.HealthCheckResponse
        if service not in HEALTH_SERVICES:
            return status(status=status.SERVICE_UNKNOWN)
        serving = not self._closed and self._told.is_server_ready()
        return status(status=status.SERVING if serving else status.NOT_SERVING)

    async def _follow(self) -> None:
        last = None
        while True:
            serving = self._told.is_server_ready()
            if serving != last:
                last = serving
                self._wake()
            await asyncio.sleep(self._interval_s)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _stop_following(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def health_servicer(gate: Gate) -> HealthService:
    """Build the health service; add it with ``add_health`` and close it before the server stops."""
    return HealthService(gate)


def add_health(service: HealthService, server: Any) -> None:
    """Register the health service with a ``grpc.aio`` server."""
    write = health_pb2.HealthCheckResponse.SerializeToString
    handlers = {
        "Check": grpc.unary_unary_rpc_method_handler(
            service.check, request_deserializer=Received, response_serializer=write
        ),
        "Watch": grpc.unary_stream_rpc_method_handler(
            service.watch, request_deserializer=Received, response_serializer=write
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH, handlers),))


def peer_of_call(peer: str) -> str:
    """Whose share of the watches a call uses; empty for this machine.

    Args:
        peer: as grpcio names it: "ipv4:10.0.0.1:40000", "ipv6:%5B::1%5D:40000", "unix:...".
    """
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    return peer_of((host.partition("%")[0],)) if kind in ("ipv4", "ipv6") else ""


def _service_of(received: Received) -> str:
    service: str = received.parse(health_pb2.HealthCheckRequest).service
    return service
