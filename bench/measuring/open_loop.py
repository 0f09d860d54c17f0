"""A client that does not wait for answers before it sends the next request, and that leaves when its time is over.

Each request goes out at its moment of a trace, on an idle connection or a new one; who has no answer at the limit
closes the connection, as a client with a timeout does. Times count from the moment a request was due, so that a
client which is late itself makes answers look slower, never faster; how late it was is told. Runs on an event loop of
its own. Knows as much of HTTP as the answers need: a status, a Content-Length, no chunks.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from measuring.payload import is_right
from measuring.processes import HOST

IN_TIME: Final = "in time"
LEFT: Final = "left at the limit"
CLOSED: Final = "connection closed"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BEGIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent.

    Attributes:
        port: where to.
        request: as bytes, always the same.
        due_s: moments from the beginning on, ascending.
        limit_s: after so long a client leaves.
        uncounted_s: requests that are due before this do not count.
    """

    port: int
    request: bytes
    due_s: Sequence[float]
    limit_s: float
    uncounted_s: float = 0.0


@dataclass(slots=True)
class Told:
    """What became of the requests that count.

    Attributes:
        outcomes: how many ended how: ``IN_TIME``, ``LEFT``, ``CLOSED``, or a status and who gave it.
        latencies_s: of those in time.
        late_s: how long after its moment each was sent; one whose connection came too late was not.
        most_open: requests that were under way at a time, at most.
        wall_s: from the first moment to the last outcome.
        cpu_s: the client's, over ``wall_s``.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    most_open: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def poisson(per_s: float, for_s: float, seed: int) -> Iterator[float]:
    """Moments by chance."""
    chance = random.Random(seed)
    now = chance.expovariate(per_s)
    while now < for_s:
        yield now
        now += chance.expovariate(per_s)


def send(traffic: Traffic) -> Told:
    """Send everything; returns when nothing is under way any more."""
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(_Client(traffic).run())
    finally:
        gc.enable()


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self, told: Callable[[_Connection, str, float], None]) -> None:
        self._told = told
        self._answer = b""
        self.number: int | None = None  # of the request it carries
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _LENGTH.search(head)
        if length is None:
            self.transport.abort()
            return
        if len(body) >= int(length[1]):
            self._answer = b""
            self._told(self, outcome(int(head[9:12]), body), now)

    def connection_lost(self, _error: Exception | None) -> None:
        self._told(self, CLOSED, time.monotonic())


def outcome(status: int, body: bytes) -> str:
    """What an answer is, and whose: our services say errors as JSON, the queue-proxy in plain text."""
    if status == 200 and is_right(body):
        return IN_TIME
    return f"{status} by the {'server' if body.startswith(b'{') else 'queue-proxy'}"


class _Client:
    """One run."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._told = Told()
        self._idle: list[_Connection] = []
        self._open: dict[int, asyncio.TimerHandle] = {}
        self._carried: dict[int, _Connection] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._begun = 0.0
        self._all_ended = asyncio.Event()

    async def run(self) -> Told:
        loop = asyncio.get_running_loop()
        self._begun, cpu_before_s = time.monotonic() + _BEGIN_S, time.process_time()
        for number, due in enumerate(self._traffic.due_s):
            if (pause := self._begun + due - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            remaining = self._begun + due + self._traffic.limit_s - time.monotonic()
            self._open[number] = loop.call_later(remaining, self._leave, number)
            self._told.most_open = max(self._told.most_open, len(self._open))
            if self._idle:
                self._put(number, self._idle.pop())
            else:
                task = loop.create_task(self._connect(number))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
        if self._open:
            self._all_ended.clear()
            await self._all_ended.wait()
        self._told.wall_s = time.monotonic() - self._begun
        self._told.cpu_s = time.process_time() - cpu_before_s
        for task in self._connecting:
            task.cancel()
        for connection in self._idle:
            connection.transport.abort()
        return self._told

    async def _connect(self, number: int) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._answered), HOST, self._traffic.port
            )
        except OSError:
            if number in self._open:
                self._end(number, CLOSED)
            return
        if number in self._open:
            self._put(number, connection)
        else:
            self._idle.append(connection)

    def _put(self, number: int, connection: _Connection) -> None:
        connection.number = number
        self._carried[number] = connection
        if self._counts(number):
            self._told.late_s.append(time.monotonic() - self._begun - self._traffic.due_s[number])
        connection.transport.write(self._traffic.request)

    def _answered(self, connection: _Connection, what: str, now: float) -> None:
        number, connection.number = connection.number, None
        if what != CLOSED:
            self._idle.append(connection)
        elif number is None and connection in self._idle:
            self._idle.remove(connection)
        if number is not None:
            self._end(number, what, now)

    def _leave(self, number: int) -> None:
        connection = self._carried.get(number)
        self._end(number, LEFT)
        if connection is not None:
            connection.number = None
            connection.transport.abort()

    def _end(self, number: int, what: str, now: float = 0.0) -> None:
        self._open.pop(number).cancel()
        self._carried.pop(number, None)
        taken = now - self._begun - self._traffic.due_s[number]
        if what == IN_TIME and taken > self._traffic.limit_s:
            what = LEFT  # the loop was late to leave
        if self._counts(number):
            self._told.outcomes[what] += 1
            if what == IN_TIME:
                self._told.latencies_s.append(taken)
        if not self._open:
            self._all_ended.set()

    def _counts(self, number: int) -> bool:
        return self._traffic.due_s[number] >= self._traffic.uncounted_s
