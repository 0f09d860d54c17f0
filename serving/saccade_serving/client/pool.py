"""Keep-alive connections to one server: a bounded number, each with one request at a time.

The last used is used next, so that what is not needed ages and is closed. A call whose answer did not come whole
takes its connection along. Not served: proxies, redirects, pipelining, HTTP/2.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from saccade_serving.client.answer import SCRATCH_BYTES, Answer, AnswerReader
from saccade_serving.client.client import BadAnswer, ConnectionFailed
from saccade_serving.client.link import Link
from saccade_serving.oip.messages import Buffer

Result = TypeVar("Result")
#: Idle connections are closed after this time: before the server does it (120 s) or the queue-proxy (90 s).
IDLE_S: Final = 60.0
#: Longest time that connecting may take, name and TLS included: where nobody answers at all, another server may.
CONNECT_S: Final = 3.0

_REQUEST_TIMEOUT: Final = 408
_CLOSED: Final = "the client was closed"


class Pool:
    """Connections to one server.

    Args:
        host: name or address.
        port: its port.
        tls: use TLS with the system's certificates.
        limit: most connections open at once; further calls wait for one.
        max_answer_bytes: largest body of an answer.
        idle_s: time (seconds) that an unused connection is kept.
    """

    def __init__(
        self, host: str, port: int, tls: bool, limit: int, max_answer_bytes: int, idle_s: float = IDLE_S
    ) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._limit = limit
        self._max_answer_bytes = max_answer_bytes
        self._idle_s = idle_s
        self._scratch = bytearray(SCRATCH_BYTES)
        self._links: set[Link] = set()
        self._idle: list[Link] = []  # the last used last
        self._connecting = 0
        self._closed = 0  # how often: a connection that was being opened meanwhile is not wanted
        self._waiting: OrderedDict[asyncio.Future[Link | None], None] = OrderedDict()
        self._sweeping: asyncio.TimerHandle | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def counts(self) -> tuple[int, int, int]:
        """Connections (being opened included), those of them that are idle, calls that wait for one."""
        return len(self._links) + self._connecting, len(self._idle), len(self._waiting)

    async def request(
        self, parts: Sequence[Buffer], timeout_s: float, read: Callable[[Answer], Result], bodyless: bool = False
    ) -> Result:
        """Send one request and await its answer.

        Args:
            parts: head and body, sent from where they lie; not read any more when this ends, however it ends.
            timeout_s: time for all of it: waiting for a connection, connecting, sending, receiving.
            read: makes the result of the answer. Where it finds that the answer is none (BadAnswer), perhaps another
                request's, the connection is closed.
            bodyless: the answer has no body (HEAD).

        Raises:
            ConnectionFailed: no connection, it broke off, or the answer is none (BadAnswer).
            TimeoutError: the time was over; the connection has been closed.
        """
        link = self._take_idle()
        if link is None:
            begun = time.monotonic()
            async with asyncio.timeout(timeout_s):
                link = await self._obtain()
            timeout_s -= time.monotonic() - begun
        try:
            answered = link.start(parts, bodyless)
            timer = asyncio.get_running_loop().call_later(max(timeout_s, 0), link.expire)
            try:
                answer = await answered
            finally:
                timer.cancel()
            if answer.status == _REQUEST_TIMEOUT and link.calls > 1:  # said when it was idle: a way to close it
                link.abort()
                raise ConnectionFailed("the server closed the connection", reused=True)
            try:
                return read(answer)
            except BadAnswer:
                link.abort()
                raise
        finally:
            self._give_back(link)

    def distrust_idle(self) -> None:
        """Close all idle connections: one of them was dead, and a server that restarts leaves many so."""
        while self._idle:
            link = self._idle[-1]
            link.close()
            self._drop(link)

    def close(self) -> None:
        """Close all connections: calls under way fail, connecting ones when they are. The next call opens new ones."""
        self._closed += 1
        while (waiter := self._next_waiting()) is not None:
            waiter.set_exception(ConnectionFailed(_CLOSED))
        for link in list(self._links):
            link.shut()
            self._drop(link)
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _take_idle(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.reusable:
                return link
            self._drop(link)  # its end has come, but the event loop has not said so yet
        return None

    async def _obtain(self) -> Link:
        """Wait for an idle connection or for room to open one, in the order of the calls."""
        if len(self._links) + self._connecting < self._limit:
            self._connecting += 1
            return await self._connect()
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        try:
            link = await waiter
        except BaseException:
            self._waiting.pop(waiter, None)
            # Cancelled in the very moment in which it got something: that goes to the next one.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._decline(waiter.result())
            raise
        if link is None:
            return await self._connect()
        if not link.reusable:  # closed in the meantime
            self._drop(link)
            return await self._obtain()
        return link

    async def _connect(self) -> Link:
        """Open a connection in a place that was counted already."""
        closed = self._closed
        try:
            if self._tls and self._context is None:
                self._context = ssl.create_default_context()
            async with asyncio.timeout(CONNECT_S):
                _, link = await asyncio.get_running_loop().create_connection(
                    lambda: Link(AnswerReader(self._scratch, self._max_answer_bytes), self._drop),
                    self._host,
                    self._port,
                    ssl=self._context,
                )
        except (OSError, ValueError, OverflowError) as error:
            self._decline(None)
            if isinstance(error, TimeoutError):  # ours, or the system's own
                raise ConnectionFailed("connecting took too long") from error
            raise ConnectionFailed(str(error)) from error
        except BaseException:
            self._decline(None)
            raise
        if closed != self._closed:
            link.abort()
            self._decline(None)
            raise ConnectionFailed(_CLOSED)
        self._connecting -= 1
        self._links.add(link)
        return link

    def _give_back(self, link: Link) -> None:
        if not link.reusable:
            link.abort()
            self._drop(link)
        elif (waiter := self._next_waiting()) is not None:
            waiter.set_result(link)
        else:
            link.idle_since = time.monotonic()
            self._idle.append(link)
            if self._sweeping is None:
                self._sweeping = asyncio.get_running_loop().call_later(self._idle_s, self._sweep)

    def _decline(self, offered: Link | None) -> None:
        """Give back what was not wanted: a connection, or (None) room for one."""
        if offered is not None:
            self._give_back(offered)
            return
        self._connecting -= 1
        self._offer_room()

    def _drop(self, link: Link) -> None:
        """A connection is no more. May be told twice."""
        if link not in self._links:
            return
        self._links.remove(link)
        if link in self._idle:
            self._idle.remove(link)
        self._offer_room()

    def _offer_room(self) -> None:
        if len(self._links) + self._connecting >= self._limit:
            return
        if (waiter := self._next_waiting()) is not None:
            self._connecting += 1
            waiter.set_result(None)

    def _next_waiting(self) -> asyncio.Future[Link | None] | None:
        """The call that has waited longest, waiting no more; those that were just cancelled do not count."""
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        self._sweeping = None
        now = time.monotonic()
        while self._idle and self._idle[0].idle_since + self._idle_s <= now:
            link = self._idle.pop(0)
            link.close()
            self._drop(link)
        if self._idle:
            wait_s = self._idle[0].idle_since + self._idle_s - now
            self._sweeping = asyncio.get_running_loop().call_later(wait_s, self._sweep)
