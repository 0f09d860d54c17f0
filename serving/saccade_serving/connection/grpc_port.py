"""gRPC: Triton's service definition over grpcio, behind the same gate, arena and models as REST.

The messages live in a private descriptor pool (``oip.proto``), so that this server can share a process with
kserve's definitions, and its clients with tritonclient's.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from saccade_serving.connection.answers import Context, abort
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.gate import CLIENT_LEFT, Gate
from saccade_serving.connection.grpc_information import HealthService, InformationCalls, add_health
from saccade_serving.connection.received import UNREADABLE, Received
from saccade_serving.errors import InvalidRequest, PayloadTooLarge, SaccadeError
from saccade_serving.memory.arena import Lease
from saccade_serving.oip import grpc_codec, proto, wire

#: Calls that one connection may have open.
_MAX_STREAMS: Final = 1024
#: Where each raw tensor begins in the arena.
_ALIGNMENT: Final = 64


class GrpcPort:
    """The gRPC server. ``start`` binds, ``stop`` lets calls in flight finish."""

    def __init__(self, gate: Gate, max_receive_bytes: int, max_send_bytes: int) -> None:
        self._gate = gate
        self._options = [
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.max_send_message_length", max_send_bytes),
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a silent share of its traffic
        ]
        self._server: Any = None
        self._health = HealthService(gate)

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the port is in use or may not be bound.
        """
        # No maximum_concurrent_rpcs: streams whose message never comes would use it up and lock out probes, too. The
        # gate bounds what is worked on.
        self._server = grpc.aio.server(options=self._options)
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                self._infer, request_deserializer=Received, response_serializer=None
            ),
            **InformationCalls(self._gate, self._gate.metrics.statistics).handlers(),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(proto.SERVICE, handlers),))
        add_health(self._health, self._server)
        if not 0 <= port <= 65535:
            raise OSError(f"cannot listen on port {port}; choose a --grpc_port from 0 to 65535")
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
        await self._health.close()
        if self._server is not None:
            await self._server.stop(grace_s)

    async def _infer(self, received: Received, context: Context) -> bytes:
        gate = self._gate
        size, sent = received.size, 0
        exchange: Exchange | None = None
        error: SaccadeError | None = None
        code = CLIENT_LEFT
        try:
            headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
            exchange = gate.begin("grpc", headers)
            gate.enter(exchange)
            if (remaining_s := context.time_remaining()) is not None:
                exchange.tighten(time.monotonic() - exchange.started + remaining_s)
            end = AwaitedEnd(asyncio.get_running_loop().create_future())
            exchange.sink = end
            message, raw = self._read(received.take(), exchange)
            model = gate.find(message.model_name, message.model_version, exchange)
            request = grpc_codec.decode_request(message, raw)
            exchange.tighten_by_parameter(request.parameters)
            model.start_infer(request, exchange)
            answer = await end.wait()
            try:
                serialised: bytes = grpc_codec.encode_response(answer, request).SerializeToString()
            finally:
                if answer.release is not None:
                    answer.release()
            code, sent = "OK", len(serialised)
            return serialised
        except asyncio.CancelledError:
            raise
        except Exception as raised:
            error = as_saccade_error(raised)
            code = error.grpc_code
            # What comes after holds this frame, and with it whatever it names, until a full collection.
            message = raw = request = answer = None  # type: ignore[assignment]
            await abort(context, error)
            raise AssertionError("abort raises") from None
        finally:
            if exchange is not None:
                exchange.cancel()
            gate.finish(exchange, "grpc", code, size, sent, error)

    def _read(self, data: bytes, exchange: Exchange) -> tuple[Any, list[memoryview] | None]:
        """Parse a message; its raw tensors are copied into the arena, where engines may read them.

        Raises:
            InvalidRequest: it is no such message.
            PayloadTooLarge, ArenaFull: there is no room for the tensors.
        """
        rest, raw = wire.split(data, wire.RAW_INPUTS)
        limit = self._gate.settings.max_json_bytes
        if len(rest) > limit:
            raise PayloadTooLarge("what of the request is not raw contents", len(rest), limit)
        wire.check_request(rest)
        try:
            message = proto.ModelInferRequest.FromString(rest)
        except DecodeError:
            raise InvalidRequest(UNREADABLE) from None
        total = sum(-(-part.nbytes // _ALIGNMENT) * _ALIGNMENT for part in raw)
        # What is typed is decoded into fresh memory of the same size or more: it is charged, too.
        typed = len(rest) if len(rest) > _TYPED_BYTES else 0
        if total + typed > self._gate.arena.limit_bytes:
            raise PayloadTooLarge("the request", total + typed, self._gate.arena.limit_bytes)
        lease: Lease = self._gate.arena.lease(total + typed)
        exchange.lease = lease
        placed: list[memoryview] = []
        at = 0
        for part in raw:
            view = lease.view[at : at + part.nbytes]
            view[:] = part
            placed.append(view)
            at += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
        return message, placed


#: Typed contents below this size are not worth accounting for.
_TYPED_BYTES: Final = 64 * 2**10
