"""V2 over gRPC, on one multiplexed channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import grpc
import grpc.aio

from saccade_serving.client.client import BadAnswer, ConnectionFailed, Refused, check_belongs, cut
from saccade_serving.errors import InvalidRequest
from saccade_serving.oip import grpc_codec, proto
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata

#: gRPC code -> HTTP status, the inverse of the table in ``saccade_serving.errors``.
_STATUS: Final = {
    "INVALID_ARGUMENT": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_OPTIONS: Final = [
    ("grpc.max_send_message_length", -1),
    # The default backs off up to two minutes after a server's restart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # No backoff, whatever its name: the time that one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcClient:
    """Speaks V2 gRPC with one server.

    Args:
        address: ``host:port``.
        tls: use TLS with the system's certificates.
        max_answer_bytes: largest answer; a larger one is refused (413). -1 for any.
    """

    def __init__(self, address: str, tls: bool = False, max_answer_bytes: int = -1) -> None:
        self._address = address
        self._options = [*_OPTIONS, ("grpc.max_receive_message_length", max_answer_bytes)]
        self._tls = tls
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    async def infer(
        self, request: InferRequest, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Send one inference request; see ``V2Client``."""
        answer = await self._call("ModelInfer", grpc_codec.encode_request(request), timeout_s, headers)
        try:
            response = grpc_codec.decode_response(answer)
        except InvalidRequest as error:
            raise BadAnswer(f"the server's answer cannot be read: {error}") from error
        check_belongs(response, request)
        return response

    async def metadata(self, model: str, timeout_s: float) -> ModelMetadata:
        """Ask what the model's tensors are; see ``V2Client``."""
        answer = await self._call("ModelMetadata", proto.ModelMetadataRequest(name=model), timeout_s)
        return grpc_codec.decode_metadata(answer)

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model says it is ready."""
        try:
            answer = await self._call("ModelReady", proto.ModelReadyRequest(name=model), timeout_s)
        except (ConnectionFailed, Refused, TimeoutError):
            return False
        return bool(answer.ready)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
            self._calls.clear()

    async def _call(
        self, method: str, message: Any, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Any:
        # gRPC metadata is printable ASCII; a REST client's headers need not be, and are not worth failing for.
        metadata = tuple((k, v) for k, v in (headers or {}).items() if v.isascii() and v.isprintable())
        try:
            answer = await self._method(method)(message, timeout=max(timeout_s, 1e-3), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        if answer is None:  # grpcio's way to say that it is no such message
            raise BadAnswer("the server's answer cannot be read: it is no message of the protocol")
        return answer

    def _translate(self, error: Any) -> Exception:
        code = error.code().name
        details = cut(error.details() or "")
        trailing = dict(error.trailing_metadata() or ())
        reason, retry_after = trailing.get("saccade-reason"), trailing.get("retry-after")
        if code == "UNAVAILABLE" and reason is None:  # the channel's own word, not the server's
            return ConnectionFailed(f"{self._address} cannot be reached: {details}")
        if code == "DEADLINE_EXCEEDED" and reason is None:
            return TimeoutError(details)
        status = 502 if reason == "predictor_unavailable" else _STATUS.get(code, 500)
        return Refused(status, details, _seconds(retry_after))

    def _method(self, name: str) -> Any:
        if self._channel is None:
            self._channel = (
                grpc.aio.secure_channel(self._address, grpc.ssl_channel_credentials(), self._options)
                if self._tls
                else grpc.aio.insecure_channel(self._address, self._options)
            )
        call = self._calls.get(name)
        if call is None:
            request, response = proto.METHODS[name]
            call = self._calls[name] = self._channel.unary_unary(
                f"/{proto.SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
        return call


def _seconds(text: str | None) -> float | None:
    """The server's ``retry-after``, None if it is missing or no number of seconds."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
