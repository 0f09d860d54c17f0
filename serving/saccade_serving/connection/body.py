"""Receives a request body over ASGI, within its limits, into one buffer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from starlette.types import Receive

from saccade_serving.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, short

#: How long and how much of a refused body is read and thrown away before the refusal is answered. A client that
#: still sends does not read; closing at once would lose the answer.
DISCARD_S = 1.0
DISCARD_BYTES = 256 * 2**20


class ClientLeft(Exception):
    """The client closed the connection before its answer; nobody is there to be told."""


class Body:
    """The body of one request.

    Attributes:
        size: bytes received so far.
        complete: the last byte has arrived.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], limit: int) -> None:
        self.size = 0
        self.complete = False
        self._receive = receive
        self._limit = limit
        self._declared = headers.get("content-length")

    async def read(self, timeout_s: float) -> bytes | bytearray:
        """Receive the whole body.

        Raises:
            PayloadTooLarge: it is, or says it is, over the limit; found out at the earliest byte.
            DeadlineExceeded: it did not arrive within ``timeout_s``.
            ClientLeft: the connection broke off.
        """
        buffer = bytearray(self._check_declared())
        view = memoryview(buffer)
        try:
            async with asyncio.timeout(timeout_s):
                while not self.complete:
                    chunk = await self._next()
                    end = self.size + len(chunk)
                    if end > self._limit:
                        raise PayloadTooLarge("the request body", None, self._limit)
                    if self.size == 0 and self.complete:
                        self.size = end
                        return chunk  # came in one piece: no copy
                    if end > len(buffer):  # chunked, or more than declared
                        view.release()
                        buffer.extend(bytes(min(self._limit, max(end, 2 * len(buffer))) - len(buffer)))
                        view = memoryview(buffer)
                    view[self.size : end] = chunk
                    self.size = end
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request body did not arrive within {timeout_s:g} s ({self.size} bytes came)"
            ) from None
        view.release()
        if self.size < len(buffer):
            del buffer[self.size :]
        return buffer

    async def discard(self) -> None:
        """Throw away what a refused client still sends, for a bounded time and amount."""
        deadline = time.monotonic() + DISCARD_S
        try:
            async with asyncio.timeout(DISCARD_S):
                while not self.complete and self.size < DISCARD_BYTES and time.monotonic() < deadline:
                    self.size += len(await self._next())
        except (TimeoutError, ClientLeft):
            pass  # the answer is sent anyway; whoever has left will not read it

    async def client_left(self) -> None:
        """Wait until the client closes the connection. Only after the body is complete."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self.complete = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    def _check_declared(self) -> int:
        """Return the declared size, 0 if none is declared."""
        if self._declared is None:
            return 0
        if not (self._declared.isascii() and self._declared.isdigit()):
            raise InvalidRequest(f"header content-length is {short(self._declared)}; expected a number of bytes")
        size = int(self._declared[:20])
        if size > self._limit:
            raise PayloadTooLarge("the request body", size, self._limit)
        return size
