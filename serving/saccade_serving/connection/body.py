"""Receives a request body over ASGI, within its limits, into one buffer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from starlette.types import Receive

from saccade_serving.errors import DeadlineExceeded, InvalidRequest, Overloaded, PayloadTooLarge, short

#: How long and how much of a refused body is read and thrown away before the refusal is answered. A client that
#: still sends does not read; closing at once would lose the answer.
DISCARD_S = 1.0
DISCARD_BYTES = 256 * 2**20


class ClientLeft(Exception):
    """The client closed the connection before its answer; nobody is there to be told."""


class ByteBudget:
    """Bytes of request bodies that all requests together may hold.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Account for ``size`` further bytes.

        Raises:
            Overloaded: they would not fit; nothing is taken.
        """
        if self.used + size > self.limit:
            raise Overloaded(f"the requests in flight hold {self.used} bytes; the limit is {self.limit}")
        self.used += size

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        self.used -= size


class Body:
    """The body of one request. ``release`` returns its bytes to the budget.

    Attributes:
        size: bytes received so far.
        complete: the last byte has arrived.
    """

    def __init__(self, receive: Receive, headers: Mapping[str, str], limit: int, budget: ByteBudget) -> None:
        self.size = 0
        self.complete = False
        self._receive = receive
        self._limit = limit
        self._declared = headers.get("content-length")
        self._budget = budget
        self._taken = 0

    async def read(self, timeout_s: float) -> bytes | bytearray:
        """Receive the whole body. Memory grows with what comes, not with what a client announces.

        Raises:
            PayloadTooLarge: it is, or says it is, over the limit; found out at the earliest byte.
            Overloaded: all bodies in flight together are over the budget.
            DeadlineExceeded: it did not arrive within ``timeout_s``.
            ClientLeft: the connection broke off.
        """
        self._check_declared()
        buffer = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                while not self.complete:
                    chunk = await self._next()
                    self.size += len(chunk)
                    if self.size > self._limit:
                        raise PayloadTooLarge("the request body", None, self._limit)
                    self._budget.take(len(chunk))
                    self._taken += len(chunk)
                    if self.complete and not buffer:
                        return chunk  # came in one piece: no copy
                    buffer += chunk
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request body did not arrive within {timeout_s:g} s ({self.size} bytes came)"
            ) from None
        return buffer

    def release(self) -> None:
        """Return the body's bytes to the budget, once the request is answered."""
        self._budget.give_back(self._taken)
        self._taken = 0

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

    def _check_declared(self) -> None:
        if self._declared is None:
            return
        if not (self._declared.isascii() and self._declared.isdigit()):
            raise InvalidRequest(f"header content-length is {short(self._declared)}; expected a number of bytes")
        size = int(self._declared[:20])
        if size > self._limit:
            raise PayloadTooLarge("the request body", size, self._limit)
