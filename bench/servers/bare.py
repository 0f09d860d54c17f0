"""The floor: asyncio protocols that read a request's body and answer. No parsing beyond what framing needs, no work.

What a client measures here is itself, the kernel and the event loop; a server's added latency is counted from it.
One port speaks HTTP/1.1, one HTTP/2 as gRPC uses it (without TLS).
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import struct
from typing import Final, cast

import uvloop

from measuring.payload import RIGHT_ANSWERS, grpc_answer

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HTTP1_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(RIGHT_ANSWERS[0]), RIGHT_ANSWERS[0])

#: Where heads are read to.
_HEAD_BYTES: Final = 4096
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_ACK = END_STREAM = 1
_END_HEADERS: Final = 4
_PREFACE_BYTES: Final = 24
_LARGEST_WINDOW: Final = 2**31 - 1


class Http1(asyncio.BufferedProtocol):
    """Counts a body's bytes, then answers; one request at a time.

    Attributes:
        answer: the same for every request.
    """

    answer = _HTTP1_ANSWER

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(2**18))
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def get_buffer(self, _sizehint: int) -> memoryview:
        """The same buffer every time; little of it for a head, since what comes behind one is copied with it."""
        return self._buffer if self._left else self._buffer[:_HEAD_BYTES]

    def buffer_updated(self, count: int) -> None:
        """Find the head's end, or count."""
        if not self._left:
            self._head += bytes(self._buffer[:count])
            head, separator, body = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            found = _LENGTH.search(head)
            self._left, count, self._head = int(found[1]) if found else 0, len(body), b""
        self._left -= count
        if not self._left:
            self._transport.write(self.answer)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


#: INITIAL_WINDOW_SIZE and MAX_FRAME_SIZE at their largest: a client never waits for either.
_GREETING: Final = frame(_SETTINGS, 0, 0, struct.pack(">HIHI", 4, _LARGEST_WINDOW, 5, 2**24 - 1)) + frame(
    _WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - 65535)
)
#: HPACK: ":status: 200" from the static table, "content-type" by its index there, the trailer as a new name.
_HEAD: Final = b"\x88\x0f\x10\x10application/grpc"
_TRAILER: Final = b"\x00\x0bgrpc-status\x010"
_MESSAGE: Final = b"\x00" + struct.pack(">I", len(grpc_answer())) + grpc_answer()


class Http2(asyncio.Protocol):
    """Skips all payloads, answers a stream when it ends, keeps the connection alive."""

    def __init__(self) -> None:
        self._head = b""
        self._skip = _PREFACE_BYTES
        self._ending = 0  # the stream that ends with the payload being skipped
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say how much may be sent: anything."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        """Walk over the frames."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
            else:
                missing = 9 - len(self._head)
                self._head += data[at : at + missing]
                at += missing
                if len(self._head) < 9:
                    return
                at = self._begin_frame(data, at)
            if self._ending and not self._skip:
                self._answer()

    def _begin_frame(self, data: bytes, at: int) -> int:
        """Note what a frame's head says; returns where to go on."""
        length, kind, flags, stream = self._head[:3], self._head[3], self._head[4], self._head[5:]
        self._head, self._skip = b"", int.from_bytes(length, "big")
        if kind == _DATA:
            self._received += self._skip
        if kind in (_DATA, _HEADERS) and flags & END_STREAM:
            self._ending = int.from_bytes(stream, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            # 17 bytes that come in one piece in practice; a torn one is answered with what is there.
            self._transport.write(frame(_PING, _ACK, 0, data[at : at + 8].ljust(8, b"\0")))
        return at

    def _answer(self) -> None:
        parts = [
            frame(_HEADERS, _END_HEADERS, self._ending, _HEAD),
            frame(_DATA, 0, self._ending, _MESSAGE),
            frame(_HEADERS, _END_HEADERS | END_STREAM, self._ending, _TRAILER),
        ]
        if self._received:
            parts.append(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
        self._ending = self._received = 0
        self._transport.write(b"".join(parts))


async def serve(http_port: int, grpc_port: int) -> None:
    """Listen until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    for factory, port in ((Http1, http_port), (Http2, grpc_port)):
        await loop.create_server(factory, "127.0.0.1", port)
    await stopping.wait()


def main() -> None:
    """Serve on the given ports."""
    ports = argparse.ArgumentParser()
    ports.add_argument("http_port", type=int)
    ports.add_argument("grpc_port", type=int)
    given = ports.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.http_port, given.grpc_port))


if __name__ == "__main__":
    main()
