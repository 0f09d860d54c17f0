"""The HTTP/1.1 client of all REST servers: raw sockets, prebuilt requests, one thread.

Every connection sends its next request when the answer to the last has come. Knows as much of HTTP as the measured
servers' answers need: a status, a Content-Length, no chunks.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from measuring.payload import is_right
from measuring.samples import Batch, ClientError, Load

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 65536


class _Connection:
    """One connection and the request on it."""

    def __init__(self, load: Load) -> None:
        self._request = memoryview(load.request)
        self._sent = len(self._request)
        self._answer = b""
        self.started = 0.0
        self.socket = socket.create_connection(("127.0.0.1", load.port), load.timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def begin(self) -> bool:
        """Start the next request; returns whether all of it is sent."""
        self._sent, self._answer = 0, b""
        self.started = time.perf_counter()
        return self.send()

    def send(self) -> bool:
        """Send as much as the socket takes; returns whether that was all."""
        try:
            while self._sent < len(self._request):
                self._sent += self.socket.send(self._request[self._sent :])
        except BlockingIOError:
            return False
        return True

    def receive(self) -> bool:
        """Read what has come; returns whether the answer is complete.

        Raises:
            ClientError: it is not the right one.
        """
        try:
            piece = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            raise ClientError("the server closed the connection")
        self._answer += piece
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = _LENGTH.search(head)
        if length is None:
            raise ClientError(f"an answer without Content-Length: {head[:100]!r}")
        if len(body) < int(length[1]):
            return False
        if not head.startswith(b"HTTP/1.1 200") or not is_right(body):
            raise ClientError(f"a wrong answer: {self._answer[:300]!r}")
        return True


class RestClient:
    """Open connections to one server; made by ``connect``."""

    def __init__(self, load: Load, connections: Sequence[_Connection], selector: selectors.BaseSelector) -> None:
        self._load, self._connections, self._selector = load, connections, selector

    def send(self, count: int, limit_s: float) -> Batch:
        """Send ``count`` requests, fewer if ``limit_s`` is over before; await the answers.

        Raises:
            ClientError: a wrong answer, or one that did not come in time.
        """
        latencies: list[float] = []
        begun = time.perf_counter()
        waiting = 0
        for connection in self._connections[:count]:
            self._begin(connection)
            waiting += 1
        issued = waiting
        while waiting:
            events = self._selector.select(self._load.timeout_s)
            if not events or time.perf_counter() - begun > limit_s + self._load.timeout_s:
                raise ClientError(f"no answer within {self._load.timeout_s:g} s")
            for key, ready in events:
                connection = key.data
                if ready & selectors.EVENT_WRITE and connection.send():
                    self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
                if not (ready & selectors.EVENT_READ and connection.receive()):
                    continue
                now = time.perf_counter()
                latencies.append(now - connection.started)
                if issued < count and now - begun < limit_s:
                    self._begin(connection)
                    issued += 1
                else:
                    waiting -= 1
        return Batch(latencies, time.perf_counter() - begun)

    def _begin(self, connection: _Connection) -> None:
        if not connection.begin():
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(connection.socket, both, connection)


@contextmanager
def connect(load: Load) -> Iterator[RestClient]:
    """Open the load's connections, close them at the end."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        connections = []
        for _ in range(load.connections):
            connection = _Connection(load)
            stack.callback(connection.socket.close)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connections.append(connection)
        yield RestClient(load, connections, selector)
