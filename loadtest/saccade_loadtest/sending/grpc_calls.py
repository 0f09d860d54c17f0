"""Calls of V2 gRPC that wait for nobody: grpcio's own threads do them, their ends are told to the engine's loop.

Messages are finished bytes in and bytes out, so that no protobuf module is loaded. One channel carries all calls, or
several where one HTTP/2 connection would be the bottleneck. Not for processes that gevent has patched.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import grpc

from saccade_loadtest.record.results import CONNECTION, DEADLINE, OVERLOADED, TIMEOUT
from saccade_loadtest.sending.dialects import GRPC_METHOD, Request

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.use_local_subchannel_pool", 1),  # else equal channels share one connection
]


class CallEnd(NamedTuple):
    """How a call ended.

    Attributes:
        order: what the caller gave with it.
        ended_s: on the caller's clock.
        body: the answer's message; empty unless ``failure`` is.
        failure: kind of failure of ``results``; empty: none.
        text: details of the failure.
    """

    order: Any
    ended_s: float
    body: bytes
    failure: str
    text: str


class GrpcCalls:
    """Calls to one server.

    Args:
        address: host and port.
        clock: seconds; read when a call ends.
        headers: metadata of every call.
        channels: HTTP/2 connections.
        is_secure: TLS with the system's authorities.
    """

    def __init__(
        self,
        address: str,
        clock: Callable[[], float],
        headers: Mapping[str, str],
        channels: int = 1,
        is_secure: bool = False,
    ) -> None:
        self._clock = clock
        self._metadata = [(name.lower(), value) for name, value in headers.items() if name.lower() != "host"]
        options: list[tuple[str, Any]] = list(_OPTIONS)
        host = {name.lower(): value for name, value in headers.items()}.get("host")
        if host:
            options.append(("grpc.default_authority", host))
        self._channels = [
            grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)
            if is_secure
            else grpc.insecure_channel(address, options)
            for _ in range(channels)
        ]
        self._calls = [
            channel.unary_unary(GRPC_METHOD, request_serializer=bytes, response_deserializer=bytes)
            for channel in self._channels
        ]
        self._turn = 0
        self._ends: deque[CallEnd] = deque()
        #: Readable when a call has ended.
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def send(self, request: Request, order: Any, timeout_s: float) -> None:
        """Begin a call; its end comes out of ``ended``."""
        self._turn = (self._turn + 1) % len(self._calls)
        metadata = self._metadata
        if request.camera:
            metadata = [*metadata, ("x-camera-id", request.camera)]
        call = self._calls[self._turn].future(request.first + request.rest, timeout=timeout_s, metadata=metadata)
        call.add_done_callback(lambda done: self._end(done, order))

    def ended(self) -> list[CallEnd]:
        """The calls that have ended since the last time."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return []
        found = []
        while self._ends:
            found.append(self._ends.popleft())
        return found

    def close(self) -> None:
        """Give up what is under way."""
        for channel in self._channels:
            channel.close()
        os.close(self.fd)

    def _end(self, call: Any, order: Any) -> None:
        """In a thread of grpcio's."""
        at = self._clock()
        code = call.code()
        if code is grpc.StatusCode.OK:
            end = CallEnd(order, at, call.result(), "", "")
        else:
            end = CallEnd(order, at, b"", _kind(code, call.trailing_metadata()), str(call.details()))
        self._ends.append(end)
        try:
            os.eventfd_write(self.fd, 1)
        except OSError:
            return  # closed while calls were under way: nobody waits for them


def _kind(code: grpc.StatusCode, trailing: Any) -> str:
    """The failure as ``results`` names it. The server's own refusals carry their reason; grpcio's failures do not."""
    by_server = any(key == "saccade-reason" for key, _ in trailing or ())
    if code is grpc.StatusCode.UNAVAILABLE:
        return OVERLOADED if by_server else CONNECTION
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DEADLINE if by_server else TIMEOUT
    return f"grpc_{code.name.lower()}"
