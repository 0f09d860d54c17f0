"""gRPC: Triton's service definition over grpcio, behind the same gate and models as REST.

The messages live in a private descriptor pool (``oip.proto``), so that this server can share a process with
kserve's definitions, and its clients with tritonclient's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from saccade_serving import __version__
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import CLIENT_LEFT, Gate
from saccade_serving.connection.rest import EXTENSIONS, SERVER_NAME, as_saccade_error
from saccade_serving.errors import InvalidRequest, SaccadeError, Unimplemented
from saccade_serving.oip import grpc_codec, proto

log = logging.getLogger("saccade.grpc")

#: Trailing metadata that tells our errors from the channel's own.
REASON_KEY = "saccade-reason"
#: Calls that are no inferences and may run beside them.
_PROBES = 64

Context = Any  # grpc.aio.ServicerContext; grpcio carries no types


class GrpcPort:
    """The gRPC server. ``start`` binds, ``stop`` lets calls in flight finish."""

    def __init__(self, gate: Gate, max_receive_bytes: int, max_send_bytes: int) -> None:
        self._gate = gate
        self._options = [
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.max_send_message_length", max_send_bytes),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a silent share of its traffic
        ]
        self._server: Any = None

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the port is in use or may not be bound.
        """
        # Above the gate's own limit, whose refusal says when to come back; grpcio's has the wrong code, and would
        # refuse probes too.
        most = 2 * self._gate.settings.max_inflight_requests + _PROBES
        self._server = grpc.aio.server(options=self._options, maximum_concurrent_rpcs=most)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._readable(getattr(self, f"_{name}")),
                request_deserializer=_reader(request),
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in proto.METHODS.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(proto.SERVICE, handlers),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        if bound == 0:
            raise OSError(f"cannot listen on {address}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait up to ``grace_s`` for those in flight."""
        if self._server is not None:
            await self._server.stop(grace_s)

    async def _ModelInfer(self, message: Any, context: Context) -> Any:  # noqa: N802
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        gate, received = self._gate, message.ByteSize()
        exchange: Exchange | None = None
        code, sent, held = CLIENT_LEFT, 0, 0
        try:
            exchange = gate.begin("grpc", headers)
            gate.budget.take(received)
            held = received
            if (remaining_s := context.time_remaining()) is not None:
                exchange.tighten(time.monotonic() - exchange.started + remaining_s)
            model = gate.find(message.model_name, message.model_version, exchange)
            request = grpc_codec.decode_request(message)
            exchange.tighten_by_parameter(request.parameters)
            answer = grpc_codec.encode_response(await model.infer(request, exchange), request)
            code, sent = "OK", answer.ByteSize()
            return answer
        except asyncio.CancelledError:
            gate.refuse(exchange, "client_left")
            raise
        except Exception as error:
            failure = as_saccade_error(error)
            code = failure.grpc_code
            gate.refuse(exchange, failure.reason)
            await _abort(context, failure)
        finally:
            gate.budget.give_back(held)
            gate.finish(exchange, "grpc", code, received, sent)

    async def _ServerLive(self, _message: Any, _context: Context) -> Any:  # noqa: N802
        return proto.ServerLiveResponse(live=True)

    async def _ServerReady(self, _message: Any, _context: Context) -> Any:  # noqa: N802
        return proto.ServerReadyResponse(ready=all(self._is_ready(name, "") for name in self._gate.models))

    async def _ModelReady(self, message: Any, context: Context) -> Any:  # noqa: N802
        if message.name not in self._gate.models:
            await _guarded(context, lambda: self._gate.check_ready(message.name))
        return proto.ModelReadyResponse(ready=self._is_ready(message.name, message.version))

    async def _ServerMetadata(self, _message: Any, _context: Context) -> Any:  # noqa: N802
        return proto.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)

    async def _ModelMetadata(self, message: Any, context: Context) -> Any:  # noqa: N802
        def describe() -> Any:
            model = self._gate.find(message.name, message.version)
            return grpc_codec.encode_metadata(model.metadata(message.version))

        return await _guarded(context, describe)

    async def _RepositoryModelLoad(self, _message: Any, context: Context) -> Any:  # noqa: N802
        await _abort(context, _no_model_control())

    async def _RepositoryModelUnload(self, _message: Any, context: Context) -> Any:  # noqa: N802
        await _abort(context, _no_model_control())

    def _readable(self, handler: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        """Refuse what is no message before it reaches a handler."""

        async def call(message: Any, context: Context) -> Any:
            if message is _UNREADABLE:
                error = InvalidRequest("the request is not a message of this method; expected its protobuf")
                self._gate.refuse(None, error.reason)
                self._gate.finish(None, "grpc", error.grpc_code)
                await _abort(context, error)
            return await handler(message, context)

        return call

    def _is_ready(self, name: str, version: str) -> bool:
        try:
            self._gate.check_ready(name, version)
        except SaccadeError:
            return False
        return True


#: Stands for a request that cannot be read; grpcio would answer UNKNOWN with the parser's words.
_UNREADABLE = object()


def _reader(message_class: Any) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return message_class.FromString(data)
        except DecodeError:
            return _UNREADABLE

    return read


def _no_model_control() -> Unimplemented:
    return Unimplemented("models are loaded when the server starts; loading and unloading on request is off")


async def _guarded(context: Context, work: Callable[[], Any]) -> Any:
    """Run ``work``, answering its error."""
    try:
        return work()
    except Exception as error:
        await _abort(context, as_saccade_error(error))


def _abort(context: Context, error: SaccadeError) -> Awaitable[None]:
    """End the call with the error's code and sentence."""
    trailing = [(REASON_KEY, error.reason)]
    if error.retry_after_s is not None:
        trailing.append(("retry-after", f"{error.retry_after_s:g}"))
    aborted: Awaitable[None] = context.abort(getattr(grpc.StatusCode, error.grpc_code), str(error), tuple(trailing))
    return aborted
