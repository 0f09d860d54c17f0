"""The HTTP/1.1 client of all REST servers: raw sockets, prebuilt requests, one thread.

Every connection sends its next request when the answer to the last has come; or requests are sent at a rate, on
whatever connections are idle. Knows as much of HTTP as the measured servers' answers need: a status, a Content-Length,
no chunks.
"""

from __future__ import annotations

import itertools
import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from measuring.payload import is_right, numbered
from measuring.samples import Batch, ClientError, Load

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 65536
_CLOSED: Final = "the server closed the connection"
_NOTHING: Final = memoryview(b"")
#: No request with an id of its own is sent twice by one process.
_numbers: Final = itertools.count(1)


class _Connection:
    """One connection and the request on it."""

    def __init__(self, load: Load) -> None:
        self._answer_bytes = load.answer_bytes
        self._unsent: list[memoryview] = []
        self._right = load.right
        self._answer = b""
        self.started = 0.0
        self.waits = self.is_closed = False
        self.sent_bytes = self.received_bytes = 0
        self.socket = socket.create_connection(("127.0.0.1", load.port), load.timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def begin(self, request: bytes, rest: memoryview) -> bool:
        """Start the next request; returns whether all of it is sent.

        Raises:
            ClientError: the server has closed the connection, as it may while nothing is asked.
        """
        if self.is_closed:
            raise ClientError(_CLOSED)
        self.waits = True
        self._unsent = [memoryview(request), rest] if rest else [memoryview(request)]
        self._answer = b""
        self.started = time.perf_counter()
        return self.send()

    def send(self) -> bool:
        """Send as much as the socket takes; returns whether that was all."""
        try:
            while self._unsent:
                pieces = self._unsent
                sent = self.socket.send(pieces[0]) if len(pieces) == 1 else self.socket.sendmsg(pieces)
                self.sent_bytes += sent
                while self._unsent and sent >= len(self._unsent[0]):
                    sent -= len(self._unsent.pop(0))
                if sent:
                    self._unsent[0] = self._unsent[0][sent:]
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
            raise ClientError(_CLOSED)
        self._answer += piece
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = _LENGTH.search(head)
        if length is None:
            raise ClientError(f"an answer without Content-Length: {head[:100]!r}")
        if len(body) < int(length[1]):
            return False
        right = any(one in body for one in self._right) if self._right else is_right(body, self._answer_bytes)
        if not head.startswith(b"HTTP/1.1 200") or not right:
            raise ClientError(f"a wrong answer: {self._answer[:300]!r}")
        self.received_bytes += len(self._answer)
        self.waits = False
        return True


class RestClient:
    """Open connections to one server; made by ``connect``."""

    def __init__(self, load: Load, connections: Sequence[_Connection], selector: selectors.BaseSelector) -> None:
        self._load, self._connections, self._selector = load, connections, selector
        self._requests: Iterator[bytes] = iter(())
        self._rest = _NOTHING

    def send(self, count: int, limit_s: float) -> Batch:
        """Send ``count`` requests, fewer if ``limit_s`` is over before; await the answers.

        Raises:
            ClientError: a wrong answer, or one that did not come in time.
        """
        self._build(count)
        meter = _Meter(self._connections)
        waiting = 0
        for connection in self._connections[:count]:
            self._begin(connection)
            waiting += 1
        issued = waiting
        while waiting:
            for connection in self._answered(self._load.timeout_s):
                meter.latencies_s.append(time.perf_counter() - connection.started)
                if issued < count and meter.elapsed_s() < limit_s:
                    self._begin(connection)
                    issued += 1
                else:
                    waiting -= 1
        return meter.batch()

    def send_at(self, per_s: float, for_s: float) -> Batch:
        """Send evenly at a rate, on whatever connections are idle; await the answers.

        A request that is due while none is idle is sent as soon as one is, and its latency counts from when it was
        due. None is begun after ``for_s``: fewer than were due are sent if answers do not come fast enough.

        Raises:
            ClientError: a wrong answer, or one that did not come in time.
        """
        count = max(1, round(per_s * for_s))
        self._build(count)
        idle = list(self._connections)
        due_s: dict[_Connection, float] = {}
        meter = _Meter(self._connections)
        issued = 0
        while (sending := issued < count and meter.elapsed_s() < for_s) or due_s:
            pause_s = issued / per_s - meter.elapsed_s() if sending and idle else self._load.timeout_s
            if pause_s <= 0:
                connection = idle.pop()
                due_s[connection] = issued / per_s
                self._begin(connection)
                issued += 1
                continue
            for connection in self._answered(pause_s):
                meter.latencies_s.append(meter.elapsed_s() - due_s.pop(connection))
                idle.append(connection)
        return meter.batch()

    def _build(self, count: int) -> None:
        """Make the requests that come next, so that sending them costs the same whether or not they have own ids."""
        if self._load.own_ids:
            made, self._rest = numbered(self._load.request, itertools.islice(_numbers, count))
            self._requests = iter(made)
        else:
            self._requests = itertools.repeat(self._load.request)

    def _begin(self, connection: _Connection) -> None:
        if not connection.begin(next(self._requests), self._rest):
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(connection.socket, both, connection)

    def _answered(self, within_s: float) -> list[_Connection]:
        """Send and receive what can be; returns the connections whose answer is complete.

        Raises:
            ClientError: a wrong answer, or none at all within the load's timeout.
        """
        events = self._selector.select(within_s)
        if not events and within_s >= self._load.timeout_s:
            raise ClientError(f"no answer within {self._load.timeout_s:g} s")
        complete = []
        for key, ready in events:
            connection = key.data
            if ready & selectors.EVENT_WRITE and connection.send():
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if not connection.waits:
                # Some servers close a connection on which nothing is asked while others still get their answers.
                connection.is_closed = True
                self._selector.unregister(connection.socket)
            elif ready & selectors.EVENT_READ and connection.receive():
                complete.append(connection)
        return complete


class _Meter:
    """What a batch takes, from the making of this on."""

    def __init__(self, connections: Sequence[_Connection]) -> None:
        self._connections = connections
        self._bytes_before = self._bytes()
        self.latencies_s: list[float] = []
        self._cpu_before = time.process_time()
        self._begun = time.perf_counter()

    def elapsed_s(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._begun

    def batch(self) -> Batch:
        """What it took."""
        wall_s, cpu_s = self.elapsed_s(), time.process_time() - self._cpu_before
        sent, received = (now - then for now, then in zip(self._bytes(), self._bytes_before, strict=True))
        return Batch(self.latencies_s, wall_s, cpu_s, sent, received)

    def _bytes(self) -> tuple[int, int]:
        return sum(one.sent_bytes for one in self._connections), sum(one.received_bytes for one in self._connections)


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
