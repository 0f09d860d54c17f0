"""The open-loop dispatcher: sends each request at its moment, on an idle connection or a new one, and never waits.

One thread, one epoll. A request that is due while as many are under way as are allowed is recorded as held: a failure
of the server, which does not answer what it has, as a plan's limit is beyond what its patience lets be open. One for
which this machine has no socket is recorded as not sent, which is the generator's failure. Latency counts from the
moment a request was *due*; one without an answer within the patience ends as a timeout, and its connection with it.
Judges nothing.

Waiting has microseconds: ``epoll_wait`` counts in milliseconds, so the loop sleeps in ``select`` on the epoll's own
descriptor.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from saccade_loadtest.load.sources import Mix, Source
from saccade_loadtest.load.trace import Shot
from saccade_loadtest.record.recorder import Recorder
from saccade_loadtest.record.results import CONNECTION, DEADLINE, HELD, OVERLOADED, TIMEOUT, WRONG_ANSWER
from saccade_loadtest.sending.checks import Seen
from saccade_loadtest.sending.dialects import Dialect, Request
from saccade_loadtest.sending.grpc_calls import GrpcCalls
from saccade_loadtest.sending.http1 import Connection, ConnectionLost, HttpAnswer, NoSocket
from saccade_loadtest.sending.oip_wire import WrongAnswer

_IN: Final = select.EPOLLIN | select.EPOLLRDHUP
_BOTH: Final = _IN | select.EPOLLOUT
#: Requests sent in one turn of the loop before it looks for answers again.
_BURST: Final = 16
_LONGEST_SLEEP_S: Final = 0.25
_MOST_SAMPLES: Final = 5
#: A user of a closed loop whose request was not sent tries again after this time; at once, nothing else would be done.
_UNSENT_S: Final = 0.1


class Unreachable(Exception):
    """The target's address is not known."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one generator may do.

    Attributes:
        most_open: requests under way at once; one that is due beyond it is held.
        patience_s: without an answer for so long after it was sent, a request ends as a timeout.
        grpc_channels: HTTP/2 connections for gRPC.
    """

    most_open: int = 1000
    patience_s: float = 10.0
    grpc_channels: int = 2


class _Order:
    """A request under way."""

    __slots__ = ("check", "connection", "due_s", "is_over", "protocol", "sent_s", "shot")

    def __init__(self, protocol: str, shot: Shot, due_s: float, sent_s: float, check: Any) -> None:
        self.protocol, self.shot, self.due_s, self.sent_s, self.check = protocol, shot, due_s, sent_s, check
        self.connection: Connection | None = None
        self.is_over = False


class Engine:
    """Sends what a source gives and records what becomes of it.

    Args:
        dialects: by protocol.
        key: which picture a shot shows, as the dialects know it.
        mix: which protocol a camera speaks.
        source: of the requests.
        recorder: of what happens.
        limits: see there.
        on_end: told of each request that ended, and whether it was rightly answered; None: nobody.
        compare: tells whether what an answer says is what is known of the picture; None where nothing is.
        clock: seconds, monotonic.
        tls: for https; None: the system's authorities.

    Raises:
        Unreachable: the target's name has no address.
    """

    def __init__(
        self,
        dialects: Mapping[str, Dialect],
        key: Callable[[Shot], Any],
        mix: Mix,
        source: Source,
        recorder: Recorder,
        limits: Limits,
        on_end: Callable[[Shot, bool], None] | None = None,
        compare: Callable[[Any, Seen], bool | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._dialects, self._key, self._mix = dialects, key, mix
        self._source, self._recorder, self._limits = source, recorder, limits
        self._compare, self._clock, self._on_end = compare, clock, on_end
        self._epoll = select.epoll()
        self._select = (self._epoll.fileno(),)
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[float, _Order]] = deque()
        self._begun = 0.0
        self._watched: dict[int, Callable[[], None]] = {}
        self._turn = 0
        self.open = 0
        self.stopped = False
        #: The first few failures in words, by kind.
        self.samples: dict[str, str] = {}
        first = next(iter(dialects.values()))
        self._endpoint = first.target
        parts = urlsplit(self._endpoint.url)
        self._tls = None
        if parts.scheme == "https":
            name = urlsplit(f"//{self._endpoint.authority}").hostname
            self._tls = (tls or ssl.create_default_context(), name or "")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._addresses = resolve(parts.hostname or "", port)
        self._grpc: GrpcCalls | None = None
        if "v2-grpc" in dialects:
            address = self._endpoint.grpc or f"{parts.hostname}:{port}"
            headers, channels = self._endpoint.headers, limits.grpc_channels
            self._grpc = GrpcCalls(address, self.now_s, headers, channels, self._tls is not None)
            self._epoll.register(self._grpc.fd, select.EPOLLIN)

    def now_s(self) -> float:
        """Seconds since the run's first moment."""
        return self._clock() - self._begun

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call something whenever a descriptor can be read, between requests; it must not wait."""
        self._watched[fd] = ready
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """No more."""
        del self._watched[fd]
        self._epoll.unregister(fd)

    def stop(self) -> None:
        """Send nothing more; what is under way is awaited."""
        self.stopped = True

    def begin(self, begins_at: float) -> None:
        """Set the run's first moment, on the clock."""
        self._begun = begins_at

    def run(self, tick: Callable[[float], None] | None = None, tick_s: float = 1.0) -> None:
        """Send everything; returns when nothing is under way any more. To be called after ``begin``.

        Args:
            tick: called about every ``tick_s`` with the seconds since the first moment.
            tick_s: between two calls.
        """
        source, next_tick = self._source, tick_s
        is_closed = source.loop == "closed"
        while True:
            now = self.now_s()
            if tick is not None and now >= next_tick:
                tick(now)
                next_tick = max(next_tick + tick_s, self.now_s())
            sent = 0
            while not self.stopped and (due := source.next_due_s()) <= (now := self.now_s()) and sent < _BURST:
                shot = source.take()
                self._send(shot, now if is_closed else due, now)
                sent += 1
            if (self.stopped or source.is_over) and not self.open:
                return
            self._time_out(now)
            pause = 0.0
            if sent < _BURST:
                due = source.next_due_s() if not self.stopped else float("inf")
                deadline = self._waiting[0][0] if self._waiting else float("inf")
                pause = min(due - now, deadline - now, next_tick - now if tick else _LONGEST_SLEEP_S, _LONGEST_SLEEP_S)
            self._receive(pause)

    def close(self) -> None:
        """Give everything back."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        if self._grpc is not None:
            self._epoll.unregister(self._grpc.fd)
            self._grpc.close()
        self._epoll.close()

    def _send(self, shot: Shot, due_s: float, now: float) -> None:
        protocol = self._mix.of(shot.camera)
        if self.open >= self._limits.most_open:
            self._recorder.held(protocol, due_s)
            self._sample(protocol, HELD, f"{self.open} requests were under way, and no more may be (--most-open)")
            self._tell_end(shot, now + _UNSENT_S, False)
            return
        request = self._dialects[protocol].request(self._key(shot), shot)
        order = _Order(protocol, shot, due_s, now, request.check)
        if protocol == "v2-grpc" and self._grpc is not None:
            self._begin(order)
            self._grpc.send(request, order, self._limits.patience_s)
            return
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except NoSocket as error:
            self._recorder.not_sent(protocol, due_s)
            self._sample(protocol, "not sent", str(error))
            self._tell_end(shot, now + _UNSENT_S, False)
            return
        except ConnectionLost as error:
            self._begin(order)
            self._fail(order, CONNECTION, str(error))
            return
        self._waiting.append((now + self._limits.patience_s, order))
        self._begin(order)
        try:
            self._put(order, request, connection)
        except ConnectionLost as error:
            self._fail(order, CONNECTION, str(error))

    def _begin(self, order: _Order) -> None:
        self.open += 1
        self._recorder.sent(order.protocol, order.due_s, order.sent_s)

    def _put(self, order: _Order, request: Request, connection: Connection) -> None:
        """Write a request."""
        order.connection, connection.order = connection, order
        pieces = (request.first, request.rest) if request.rest else (request.first,)
        try:
            if not connection.write(pieces) and connection.wants_write:
                self._epoll.modify(connection.fd, _BOTH)
        except ConnectionLost:
            self._drop(connection)
            raise

    def _connect(self) -> Connection:
        self._turn = (self._turn + 1) % len(self._addresses)
        family, address = self._addresses[self._turn]
        connection = Connection(family, address, self._tls)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, _BOTH)
        return connection

    def _receive(self, pause_s: float) -> None:
        """Take in what has come; wait for it at most ``pause_s``."""
        if pause_s > 0 and not select.select(self._select, (), (), pause_s)[0]:
            return
        for fd, event in self._epoll.poll(0):
            connection = self._connections.get(fd)
            if connection is None:
                if fd in self._watched:
                    self._watched[fd]()
                elif self._grpc is not None and fd == self._grpc.fd:
                    self._end_calls()
                continue
            try:
                if event & select.EPOLLOUT or (event & (select.EPOLLERR | select.EPOLLHUP) and connection.wants_write):
                    connection.flush()
                    if not connection.wants_write:
                        self._epoll.modify(fd, _IN)
                if event & ~select.EPOLLOUT and (answer := connection.read()) is not None:
                    self._answered(connection, answer)
                elif connection.wants_write and not event & select.EPOLLOUT:
                    self._epoll.modify(fd, _BOTH)  # a TLS handshake has ended, and what waited goes out
            except ConnectionLost as error:
                order = connection.order
                self._drop(connection)
                if order is not None:
                    self._fail(order, CONNECTION, str(error))

    def _answered(self, connection: Connection, answer: HttpAnswer) -> None:
        order: _Order | None = connection.order
        now = self.now_s()
        connection.order = None
        if connection.is_reusable and order is not None:
            self._idle.append(connection)
        else:
            self._drop(connection)
        if order is None:
            return  # an answer that nobody asked for: the connection is gone
        if answer.status == 200:
            self._judge(order, answer.head, answer.body, now)
        else:
            kind = {503: OVERLOADED, 504: DEADLINE}.get(answer.status, f"http_{answer.status}")
            self._fail(order, kind, answer.body[:300].decode(errors="replace"))

    def _end_calls(self) -> None:
        assert self._grpc is not None
        for end in self._grpc.ended():
            if end.failure:
                self._fail(end.order, end.failure, end.text)
            else:
                self._judge(end.order, b"", end.body, end.ended_s)

    def _judge(self, order: _Order, head: bytes, body: bytes, ended_s: float) -> None:
        try:
            seen: Seen = order.check(head, body)
        except WrongAnswer as error:
            self._fail(order, WRONG_ANSWER, str(error))
            return
        except Exception as error:  # whatever a server sends, the generator goes on
            self._fail(order, WRONG_ANSWER, f"the answer cannot be read: {type(error).__name__}: {error}"[:300])
            return
        agreed = None if self._compare is None else self._compare(self._key(order.shot), seen)
        self._recorder.answered(
            order.protocol,
            order.due_s,
            order.sent_s,
            ended_s,
            version=seen.version,
            cache=seen.cache,
            agreed=agreed,
        )
        self._end(order, ended_s, True)

    def _fail(self, order: _Order, kind: str, text: str) -> None:
        self._recorder.failed(order.protocol, order.due_s, kind)
        self._sample(order.protocol, kind, text)
        self._end(order, self.now_s(), False)

    def _sample(self, protocol: str, kind: str, text: str) -> None:
        if len(self.samples) < _MOST_SAMPLES:
            self.samples.setdefault(f"{protocol}: {kind}", text)

    def _end(self, order: _Order, at_s: float, is_answered: bool) -> None:
        order.is_over = True
        order.connection = None
        self.open -= 1
        self._tell_end(order.shot, at_s, is_answered)

    def _tell_end(self, shot: Shot, at_s: float, is_answered: bool) -> None:
        self._source.ended(shot, at_s)
        if self._on_end is not None:
            self._on_end(shot, is_answered)

    def _time_out(self, now: float) -> None:
        while self._waiting and (self._waiting[0][1].is_over or self._waiting[0][0] <= now):
            _, order = self._waiting.popleft()
            if not order.is_over:
                if order.connection is not None:
                    self._drop(order.connection, is_abrupt=True)
                self._fail(order, TIMEOUT, f"no answer within {self._limits.patience_s:g} s")

    def _drop(self, connection: Connection, is_abrupt: bool = False) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        self._epoll.unregister(connection.fd)
        if connection.order is None and connection in self._idle:
            self._idle.remove(connection)
        if is_abrupt:
            connection.abort()
        else:
            connection.close()


def resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """All addresses of a name, families and sockets' addresses.

    Raises:
        Unreachable: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{host!r} has no address: {error.strerror or error}") from error
    families = {family for family, *_ in found}
    wanted = socket.AF_INET if socket.AF_INET in families else next(iter(families))
    return list(dict.fromkeys((int(family), address) for family, *_, address in found if family == wanted))
