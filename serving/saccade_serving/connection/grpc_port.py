"""gRPC: Triton's service definition over grpcio, behind the same gate, arena and models as REST.

The messages live in a private descriptor pool (``oip.proto``), so that this server can share a process with
kserve's definitions, and its clients with tritonclient's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from saccade_serving.connection.answers import Context, abort
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.gate import CLIENT_LEFT, Gate
from saccade_serving.connection.grpc_information import HealthService, InformationCalls, add_health
from saccade_serving.connection.head import BadHead, joined
from saccade_serving.connection.received import UNREADABLE, Received
from saccade_serving.errors import InvalidRequest, PayloadTooLarge, SaccadeError
from saccade_serving.listener import bind
from saccade_serving.memory.arena import Lease
from saccade_serving.oip import grpc_codec, proto, wire
from saccade_serving.oip.messages import InferRequest
from saccade_serving.oip.rules import MAX_TYPED_ELEMENTS

#: Calls that one connection may have open.
_MAX_STREAMS: Final = 1024
#: Where each raw tensor begins in the arena.
_ALIGNMENT: Final = 64
#: What of a message is no raw tensor is read at once up to this size: a few milliseconds' work at most.
_LITTLE_BYTES: Final = 16 * 2**10


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
        self._reading = ThreadPoolExecutor(1, "saccade-typed")

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the port is in use or may not be bound; the sentence says why and what to do.
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
        bind(host, port, "--grpc_port").close()  # grpcio does not say why it cannot
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise OSError(f"cannot listen on {address}; choose another --grpc_port")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, wait up to ``grace_s`` for those in flight."""
        if self._server is not None:
            await asyncio.gather(self._server.stop(grace_s), self._health.close())
        self._reading.shutdown(wait=False)

    async def _infer(self, received: Received, context: Context) -> bytes:
        gate = self._gate
        size, sent = received.size, 0
        exchange: Exchange | None = None
        error: SaccadeError | None = None
        code = CLIENT_LEFT
        try:
            headers = _headers(context)
            exchange = gate.begin("grpc", headers)
            gate.enter(exchange)
            if (remaining_s := context.time_remaining()) is not None:
                exchange.tighten(time.monotonic() - exchange.started + remaining_s)
            end = AwaitedEnd(asyncio.get_running_loop().create_future())
            exchange.sink = end
            self._begin(received.take(), exchange)
            answer = await end.wait()
            try:
                serialised: bytes = grpc_codec.encode_response(answer, exchange.state).SerializeToString()
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
            answer = None
            await abort(context, error)
            raise AssertionError("abort raises") from None
        finally:
            if exchange is not None:
                exchange.cancel()
                exchange.state = None
            gate.finish(exchange, "grpc", code, size, sent, error)

    def _begin(self, data: bytes, exchange: Exchange) -> None:
        """Hand a message to its model. Its raw tensors are copied into the arena, where engines may read them.

        What may take long to read is read in a thread, one message at a time, so that others have their turn.

        Raises:
            InvalidRequest: it is no such message.
            PayloadTooLarge, ArenaFull: there is no room for the tensors.
        """
        rest, raw = wire.split(data, wire.RAW_INPUTS)
        limit = self._gate.settings.max_json_bytes
        if len(rest) > limit:
            raise PayloadTooLarge("what of the request is not raw contents", len(rest), limit)
        lease, placed = self._place(raw, len(rest))
        exchange.lease = lease
        if len(rest) <= _LITTLE_BYTES:
            self._ask(self._read(rest, placed, exchange), exchange)
            return
        lease.hold()
        exchange.work(lambda: "while its tensors were read")
        reading = asyncio.get_running_loop().run_in_executor(self._reading, self._read, rest, placed, exchange)

        def read(done: asyncio.Future[InferRequest | None]) -> None:
            try:
                self._ask(done.result(), exchange)
            except Exception as error:
                exchange.fail(error)
            finally:
                lease.release()

        reading.add_done_callback(read)

    def _place(self, raw: Sequence[memoryview], rest_bytes: int) -> tuple[Lease, list[memoryview]]:
        arena = self._gate.arena
        total = sum(-(-part.nbytes // _ALIGNMENT) * _ALIGNMENT for part in raw)
        # What is typed is decoded into memory of its own, up to 8 bytes for each byte: it is charged, too.
        typed = rest_bytes + 8 * min(rest_bytes, MAX_TYPED_ELEMENTS) if rest_bytes > _LITTLE_BYTES else 0
        if total + typed > arena.limit_bytes:
            raise PayloadTooLarge("the request", total + typed, arena.limit_bytes)
        lease = arena.lease(total + typed)
        placed: list[memoryview] = []
        at = 0
        for part in raw:
            view = lease.view[at : at + part.nbytes]
            view[:] = part
            placed.append(view)
            at += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
        return lease, placed

    def _read(self, rest: bytes, raw: Sequence[memoryview], exchange: Exchange) -> InferRequest | None:
        """Parse and decode; in a thread it may come too late."""
        if exchange.over:
            return None
        wire.check_request(rest)
        try:
            message = proto.ModelInferRequest.FromString(rest)
        except DecodeError:
            raise InvalidRequest(UNREADABLE) from None
        # Who asks nobody is told so before values are read.
        self._gate.find(message.model_name, message.model_version, exchange)
        return grpc_codec.decode_request(message, raw)

    def _ask(self, request: InferRequest | None, exchange: Exchange) -> None:
        if request is None or exchange.over:
            return
        model = self._gate.find(request.model_name, request.model_version, exchange)
        exchange.state = request
        if request.parameters and model.timeout_is_deadline(request.model_version):
            exchange.tighten_by_parameter(request.parameters)
        model.start_infer(request, exchange)


def _headers(context: Context) -> dict[str, str]:
    """A call's metadata, as an HTTP request's headers.

    Raises:
        InvalidRequest: a key is sent twice that states one thing.
    """
    headers: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        name, text = str(key), str(value)
        try:
            headers[name] = joined(name, headers[name], text) if name in headers else text
        except BadHead as error:
            raise InvalidRequest(str(error)) from None
    return headers
