"""One HTTP/1.1 connection of the data plane.

Takes the place of uvicorn's protocol class in KServe's server. It reads every head itself. The body of a request to an
``Operation`` is received straight into a slot of the arena (the kernel's copy is the only one), and its answer is
written without an ASGI message in between; all other requests go, untouched, to uvicorn's own protocol behind it.

One request is in flight at a time; what a client sends meanwhile is read and kept, up to ``PENDING_BYTES``, because a
transport that is not read from does not see its peer leave. An end of the stream means that the client has left:
half-closed connections are not served.

It has over 400 lines because it is one state machine: every method reads or moves ``_state``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from saccade_serving.connection.chunks import ChunkedBody
from saccade_serving.connection.exchange import REQUEST_ID_HEADER, Exchange
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.front import peer_of
from saccade_serving.connection.gate import CLIENT_LEFT
from saccade_serving.connection.growth import next_slot
from saccade_serving.connection.head import END_OF_HEAD, MAX_HEAD_BYTES, BadHead, Head, read_head
from saccade_serving.connection.operation import Operation, Reply, error_reply, json_reply
from saccade_serving.connection.ordinary import OrdinaryRequests
from saccade_serving.errors import PayloadTooLarge, SaccadeError, SlowBody
from saccade_serving.memory.arena import Lease
from saccade_serving.settings import FIRST_SLOT_BYTES

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

    from saccade_serving.connection.front import Front

#: What a client may send ahead of an answer before its connection is no longer read from.
PENDING_BYTES: Final = 64 * 2**10
#: Answers up to this size are copied, so that the outputs' memory is free at once.
COPIED_BYTES: Final = 64 * 2**10
#: What is left of a refused request's body is read and thrown away, if it is not more and comes in this time; else the
#: connection is closed after the answer, and what still comes is thrown away for ``LINGER_S``, because closing with
#: unread data makes the client's system throw the answer away.
DISCARD_BYTES: Final = 4 * 2**20
DISCARD_S: Final = 1.0
LINGER_S: Final = 5.0
#: Time a head has from its first byte to its last.
HEAD_S: Final = 10.0
#: Time a new connection from another machine has until its first byte. On this machine is Knative's queue-proxy, which
#: opens connections ahead and may use one after 90 s for the first time.
FIRST_BYTE_S: Final = 30.0
#: A body is not judged by its rate before this time.
RATE_GRACE_S: Final = 5.0

_NEVER: Final = float("inf")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_EMPTY: Final = memoryview(b"")


class _State(IntEnum):
    HEAD = 0  # waiting for a request, or in the middle of its head
    BODY = 1  # receiving into a slot
    WORKING = 2  # the model has it
    WRITING = 3  # the answer is not yet taken by the client's system
    ORDINARY = 4  # uvicorn's protocol has it
    DISCARDING = 5  # throwing the rest of a body away, then going on
    LINGERING = 6  # throwing everything away, then closing
    CLOSED = 7


# In Python 3.11 looking a member up in its class takes 0.2 us, and a request does it twenty times.
_HEAD, _BODY, _WORKING, _WRITING, _ORDINARY, _DISCARDING, _LINGERING, _CLOSED = _State


class Http1Connection(asyncio.BufferedProtocol):
    """One connection. Created by uvicorn, which passes its configuration and state.

    Args:
        front: what all connections share.
        config: uvicorn's, with the ASGI application.
        server_state: uvicorn's, which knows all connections.
        app_state: the application's own.
    """

    __slots__ = (
        "__weakref__",
        "_app_state",
        "_at",
        "_body",
        "_came",
        "_chunks",
        "_closing",
        "_config",
        "_due",
        "_end",
        "_exchange",
        "_feeding",
        "_first_byte",
        "_front",
        "_head",
        "_inner",
        "_left",
        "_operation",
        "_partial",
        "_paused",
        "_peer",
        "_pending",
        "_pending_bytes",
        "_replaying",
        "_server_state",
        "_state",
        "_tls",
        "_transport",
        "_unsent",
        "_write_paused",
    )

    def __init__(
        self,
        front: Front,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._front = front
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._transport: asyncio.Transport | None = None
        self._inner: OrdinaryRequests | None = None
        self._state = _HEAD
        self._due = _NEVER
        self._peer = ""
        self._closing = self._feeding = self._paused = self._tls = self._write_paused = False
        self._partial = bytearray()  # a head of which more must come
        self._pending: deque[tuple[float, bytes]] = deque()  # what was sent ahead, and when it came
        self._pending_bytes = 0
        self._replaying = False
        self._came = self._first_byte = 0.0
        self._head: Head | None = None
        self._operation: Operation | None = None
        self._exchange: Exchange | None = None
        self._body = _EMPTY
        self._at = self._end = 0
        self._left = 0  # bytes of the present body that have not come
        self._chunks: ChunkedBody | None = None
        self._unsent: tuple[Exchange | None, Reply, str, SaccadeError | None] | None = None

    @property
    def is_ordinary(self) -> bool:
        """Whether uvicorn's protocol has a request that it has not answered."""
        return self._state is _ORDINARY

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is no subclass
        """Begin."""
        self._transport = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn needs only ``shutdown``
        self._front.connections.add(self)
        # So that ``resume_writing`` means: nothing of the answer is left, its memory may be used again. A plain
        # transport pauses above the upper mark, one with TLS at it.
        self._tls = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=1 if self._tls else 0, low=0)
        peer = transport.get_extra_info("peername")
        self._peer = peer_of(peer)
        patience_s = self._front.head_s
        self._due = time.monotonic() + (min(patience_s, FIRST_BYTE_S) if self._peer else patience_s)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The rest of the body's slot, or the scratch that all connections of this loop share."""
        if self._state is _BODY:
            return self._body[self._at : self._end]
        return self._front.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Go on with what has come."""
        if self._state is _BODY:
            self._at += nbytes
            self._left -= nbytes
            if not self._left:
                self._body_complete()
            elif self._at == self._end:
                self._grow()
            return
        if self._state >= _LINGERING:
            return
        scratch = self._front.scratch
        if self._state is _DISCARDING and nbytes < self._left:
            self._left -= nbytes  # the common case of a large refused body: not even copied
            return
        data = bytes(scratch[:nbytes])
        if self._pending:
            self._keep(data, time.monotonic())  # behind what came before it
        else:
            self._feed(data, time.monotonic())

    def eof_received(self) -> None:
        """The client has left: stop working for it. Returning None has the transport closed."""
        self._closing = True  # nothing that was sent ahead is begun any more
        if self._exchange is not None:
            self._abandon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back everything."""
        self._state = _CLOSED
        self._server_state.connections.discard(self)
        self._front.connections.discard(self)
        self._abandon()
        self._sent(delivered=False)
        if self._inner is not None:
            self._inner.connection_lost(exc)
            self._inner = None
        self._partial.clear()
        self._pending.clear()

    def pause_writing(self) -> None:
        """Some of what was written has not been taken."""
        self._write_paused = True
        if self._state is _ORDINARY:
            self._due = min(self._due, time.monotonic() + self._front.write_timeout_s)
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """All that was written has been taken."""
        self._write_paused = False
        if self._inner is not None:
            self._inner.resume_writing()
        if self._state is _ORDINARY:
            self._due = self._body_due()
        elif self._state is _WRITING:
            self._sent()
            self._go_on()

    def shutdown(self) -> None:
        """Close after the request in flight; uvicorn calls it when the listener closes."""
        self._closing = True
        if self._state is _HEAD:
            self.close()
        elif self._state is _ORDINARY and self._inner is not None:
            if self._body_is_coming() and not self._is_operation():
                self.close()  # nobody ends what the gate does not know
            else:
                self._inner.shutdown()

    def overdue(self, now: float) -> None:
        """Look whether something takes too long; called every second."""
        if now < self._due:
            return
        state = self._state
        if state is _HEAD and self._partial:
            self._refuse_head(BadHead(f"the request's head did not arrive within {HEAD_S:g} s", 408))
        elif state is _BODY:
            self._check_rate(now)
        elif state is _DISCARDING:
            self._linger(now + DISCARD_S)
        elif self._transport is not None:
            if state in (_HEAD, _LINGERING) and not self._transport.is_closing():
                self.close()
            else:
                if state is _WRITING:
                    self._front.gate.metrics.rejected.add(("", "slow_reader"))
                self._transport.abort()  # the client does not take what was written

    def close(self) -> None:
        """Close, after what was written has been taken."""
        if self._transport is not None and not self._transport.is_closing():
            self._state = max(self._state, _LINGERING)
            self._due = time.monotonic() + self._front.write_timeout_s
            self._transport.close()

    # From bytes to requests

    def _feed(self, data: bytes, came: float) -> None:
        """Go through bytes received at ``came``: heads, bodies, and what is sent ahead."""
        self._feeding = True
        self._came = came
        at, size = 0, len(data)
        try:
            while at < size:
                state = self._state
                if state is _HEAD:
                    at = self._feed_head(data, at)
                elif state is _BODY:
                    at = self._feed_body(data, at)
                elif state is _ORDINARY and self._body_is_coming():
                    at = self._feed_ordinary(data, at)
                elif state is _DISCARDING:
                    at = self._feed_discarded(data, at)
                elif state >= _LINGERING:
                    return
                else:
                    self._keep(data[at:], came)
                    return
            if self._state is _BODY and self._head is not None and self._head.expects_continue:
                self._continue(self._head)
        except BadHead as refusal:
            self._refuse_head(refusal)
        finally:
            self._feeding = False

    def _keep(self, data: bytes, came: float) -> None:
        """Keep what was sent ahead, until the request before it is answered."""
        if self._replaying:
            self._pending.appendleft((came, data))  # the rest of what was kept before
        else:
            self._pending.append((came, data))
        self._pending_bytes += len(data)
        if self._pending_bytes > PENDING_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _feed_head(self, data: bytes, at: int) -> int:
        if not self._partial:
            if data[at : at + 2] == b"\r\n":  # an empty line before a request is allowed
                return at + 2
            self._first_byte = self._came
            end = data.find(END_OF_HEAD, at)
            if 0 <= end <= at + MAX_HEAD_BYTES:
                self._head_complete(data[at : end + 2])
                return end + 4
            self._due = time.monotonic() + HEAD_S
        known = len(self._partial)
        self._partial += memoryview(data)[at:]
        if self._partial[:2] == b"\r\n":  # the empty line came in two pieces
            self._partial.clear()
            return at + 1
        end = self._partial.find(END_OF_HEAD, max(0, known - 3))
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._partial) > MAX_HEAD_BYTES):
            raise BadHead(f"the request's head is over {MAX_HEAD_BYTES} bytes, the limit", 431)
        if end < 0:
            return len(data)
        head = bytes(self._partial[: end + 2])
        self._partial.clear()
        self._head_complete(head)
        return at + end + 4 - known

    def _head_complete(self, data: bytes) -> None:
        self._due = _NEVER
        known = self._front.recall(data)
        if known is not None:
            head, headers, operation, params = known
            self._head = head
            self._left = head.length or 0
            self._begin(head, headers, operation, params)
            return
        head = read_head(data)
        self._head = head
        self._left = head.length or 0
        self._chunks = ChunkedBody() if head.chunked else None
        if head.method == "POST" and head.http_1_1 and not head.chunked:
            headers = head.headers
            if not self._front.ordinary_coding(headers) and (found := self._front.router.find(head.path)) is not None:
                self._front.learn(data, head, found)
                self._begin(head, headers, *found)
                return
        self._begin_ordinary(head, data)

    def _begin(self, head: Head, headers: Mapping[str, str], operation: Operation, params: dict[str, str]) -> None:
        """Decide at the head whether the request is served, and make room for its body."""
        gate = self._front.gate
        self._operation = operation
        length = self._left
        try:
            self._exchange = exchange = gate.begin(operation.protocol, headers, self._first_byte)
        except SaccadeError as error:
            self._reply(None, error_reply(error), error)
            return
        exchange.params = params
        exchange.query = head.query
        exchange.sink = self
        try:
            operation.admit(exchange)
            gate.check_room()
            if length > self._front.largest_body_bytes:
                raise PayloadTooLarge("the request body", length, self._front.largest_body_bytes)
            if exchange.deadline <= time.monotonic():  # it was sent ahead, and has waited for too long
                raise exchange.too_late("before its body was received")
            size = length if length <= FIRST_SLOT_BYTES else FIRST_SLOT_BYTES
            self._receive_into(exchange, gate.arena.lease(size, self._peer, min(head.json_length, size)))
        except Exception as error:
            exchange.fail(error)
            return
        if not length:
            self._body_complete()
            return
        self._state = _BODY
        self._due = self._first_byte + RATE_GRACE_S

    def _receive_into(self, exchange: Exchange, lease: Lease) -> None:
        exchange.lease = lease
        self._body = lease.view
        self._end = lease.size

    def _feed_body(self, data: bytes, at: int) -> int:
        assert self._head is not None
        self._head.expects_continue = False  # it did not wait
        step = min(len(data) - at, self._end - self._at)
        self._body[self._at : self._at + step] = data[at : at + step]
        self._at += step
        self._left -= step
        if not self._left:
            self._body_complete()
        elif self._at == self._end:
            self._grow()
        return at + step

    def _continue(self, head: Head) -> None:
        """Tell a client that waits for it to send its body."""
        head.expects_continue = False
        assert self._transport is not None
        self._transport.write(_CONTINUE)

    def _grow(self) -> None:
        """The slot is full, so the sender really sends: make room for more."""
        exchange, head = self._exchange, self._head
        assert exchange is not None
        assert head is not None
        assert head.length is not None
        first = exchange.take_lease()
        assert first is not None
        try:
            size = next_slot(self._at, head.length, self._front.peer_bytes)
            lease = self._front.gate.arena.lease(size, self._peer, min(head.json_length, size))
            lease.view[: self._at] = first.view[: self._at]
            self._receive_into(exchange, lease)
        except Exception as error:
            exchange.fail(error)
        finally:
            first.release()

    def _body_complete(self) -> None:
        exchange, operation = self._exchange, self._operation
        assert exchange is not None
        assert operation is not None
        assert exchange.lease is not None
        self._state = _WORKING
        self._due = _NEVER
        self._body = _EMPTY
        self._at = 0
        exchange.stages["receive"] = time.monotonic() - exchange.started
        try:
            self._front.gate.enter(exchange)
            operation.start(exchange, exchange.lease.view)
        except Exception as error:
            exchange.fail(error)

    def _check_rate(self, now: float) -> None:
        exchange, head = self._exchange, self._head
        assert exchange is not None
        assert head is not None
        assert head.length is not None
        elapsed = now - exchange.started
        least = self._front.gate.settings.min_receive_bytes_per_s
        received = head.length - self._left
        if received < least * elapsed:
            self._closing = True
            exchange.fail(SlowBody(received, head.length, elapsed, least))
        else:
            self._due = now

    # From answers to bytes

    def answered(self, exchange: Exchange, answer: Any) -> None:
        """Write the model's answer."""
        assert self._operation is not None
        try:
            reply = self._operation.encode(exchange, answer)
        except Exception as error:
            release = getattr(answer, "release", None)
            if release is not None:
                release()
            self.failed(exchange, as_saccade_error(error))
            return
        self._reply(exchange, reply, None)

    def failed(self, exchange: Exchange, error: SaccadeError) -> None:
        """Write an error, whether or not all of the body has come."""
        self._reply(exchange, error_reply(error), error)

    def _reply(self, exchange: Exchange | None, reply: Reply, error: SaccadeError | None) -> None:
        transport, head = self._transport, self._head
        assert transport is not None
        assert head is not None
        self._exchange = None
        self._body = _EMPTY
        self._at = 0
        if self._state is _CLOSED or transport.is_closing():
            self._unsent = exchange, reply, CLIENT_LEFT, error
            self._sent(delivered=False)
            return
        self._state = _WRITING
        # A client that was not told to continue may or may not send its body.
        unasked = self._left > 0 and head.expects_continue
        if self._left > DISCARD_BYTES or unasked or not head.keep_alive or self._front.gate.draining:
            self._closing = True
        begin = self._begin_answer(exchange, reply)
        self._unsent = exchange, reply, str(reply.status), error
        if reply.size <= COPIED_BYTES:
            written = b"".join((begin, *reply.parts))
            if reply.release is not None:
                reply.release()
                reply.parts, reply.release = (), None
            transport.write(written)
        else:
            transport.writelines([begin, *reply.parts])
        if transport.is_closing():
            self._sent(delivered=False)  # the write has failed: the client is gone
        elif transport.get_write_buffer_size():
            self._due = time.monotonic() + self._front.write_timeout_s
        else:
            self._sent()
            self._go_on()

    def _begin_answer(self, exchange: Exchange | None, reply: Reply) -> bytes:
        begin = self._front.begin_answer(reply.status, self._server_state.default_headers)
        fields = reply.header_lines
        if not fields:
            fields = "".join([f"{name}: {value}\r\n" for name, value in reply.headers.items()])
            fields += f"content-length: {reply.size}\r\n"
        named = ""
        if exchange is not None:
            named = f"{REQUEST_ID_HEADER}: {exchange.request_id}\r\n"
            if exchange.answer_headers:
                named += "".join([f"{name}: {value}\r\n" for name, value in exchange.answer_headers.items()])
        end = "connection: close\r\n\r\n" if self._closing else "\r\n"
        return f"{begin}{fields}{named}{end}".encode("latin-1")

    def _sent(self, delivered: bool = True) -> None:
        """The answer has been taken, or nobody is there to take it: account for it."""
        if self._unsent is None:
            return
        exchange, reply, code, error = self._unsent
        self._unsent = None
        if reply.release is not None:
            reply.release()
        head = self._head
        received = head.length - self._left if head is not None and head.length is not None else 0
        operation = self._operation
        protocol = operation.protocol if operation is not None else "rest"
        if delivered:
            self._front.gate.finish(exchange, protocol, code, received, reply.size, error)
        else:
            self._front.gate.finish(exchange, protocol, CLIENT_LEFT, received)

    def _go_on(self) -> None:
        """After an answer: the next request, or the end."""
        if self._state >= _LINGERING:
            return
        if self._closing:
            self._end_connection()
            return
        if self._left or (self._chunks is not None and not self._chunks.complete):
            self._state = _DISCARDING
            self._due = time.monotonic() + DISCARD_S
        else:
            self._state = _HEAD
            self._due = time.monotonic() + self._config.timeout_keep_alive
        if self._pending and not self._feeding:
            self._feed_pending()

    def _feed_pending(self) -> None:
        """Go on with what was sent ahead. All of it that can be taken now is, so that nothing overtakes it."""
        while self._pending and (
            self._state in (_HEAD, _BODY, _DISCARDING) or (self._state is _ORDINARY and self._body_is_coming())
        ):
            came, data = self._pending.popleft()
            self._pending_bytes -= len(data)
            self._replaying = True
            self._feed(data, came)
            self._replaying = False
        if self._paused and self._pending_bytes <= PENDING_BYTES and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _end_connection(self) -> None:
        """Close so that the answer is not lost, whatever the client has sent meanwhile.

        TLS has no half of a connection to close first, so there a client is waited for only if it is known to send.
        """
        if self._tls and not (self._left or self._chunks is not None or self._pending or self._paused):
            self.close()
        else:
            self._linger(time.monotonic() + LINGER_S)

    def _linger(self, until: float) -> None:
        self._state = _LINGERING
        self._due = until
        self._pending.clear()
        self._pending_bytes = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._paused:
            self._paused = False
            transport.resume_reading()
        if not self._tls:
            with contextlib.suppress(OSError):  # a client that is gone
                transport.write_eof()

    def _feed_discarded(self, data: bytes, at: int) -> int:
        if self._chunks is not None:
            at += self._chunks.feed(memoryview(data)[at:])
            done = self._chunks.complete
        else:
            step = min(len(data) - at, self._left)
            self._left -= step
            at += step
            done = not self._left
        if done:
            self._chunks = None
            self._go_on()
        return at

    def _refuse_head(self, refusal: BadHead) -> None:
        """Answer a request that cannot be understood; nothing behind it can be, either."""
        transport = self._transport
        assert transport is not None
        self._partial.clear()
        self._closing = True
        answered = counted = self._state is _DISCARDING
        if self._state is _ORDINARY and self._inner is not None:
            self._state = _LINGERING
            answered = self._inner.give_up(refusal)
            self._inner = None
            # An operation accounts for its request itself.
            head = self._head
            counted = head is not None and head.method == "POST" and self._front.router.find(head.path) is not None
        if not counted:
            self._front.gate.metrics.rejected.add(("", "bad_head"))
            self._front.gate.metrics.requests.add(("", "rest", str(refusal.status)))
        if not answered and not transport.is_closing():
            reply = json_reply({"error": str(refusal)}, status=refusal.status)
            transport.write(b"".join((self._begin_answer(None, reply), *reply.parts)))
        self._linger(time.monotonic() + LINGER_S)

    def _abandon(self) -> None:
        """The client has left its request."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        self._body = _EMPTY
        self._at = 0
        exchange.cancel()
        head = self._head
        received = head.length - self._left if head is not None and head.length is not None else 0
        self._front.gate.finish(exchange, exchange.protocol, CLIENT_LEFT, received)
        if self._state < _LINGERING:
            self._state = _LINGERING

    # Ordinary requests

    def _begin_ordinary(self, head: Head, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._state = _ORDINARY
        self._due = self._body_due()
        if self._inner is None:
            self._inner = OrdinaryRequests(self, transport, self._config, self._server_state, self._app_state)
        self._inner.begin(head, data)

    def _body_due(self) -> float:
        """When the body of an ordinary request has to be there."""
        return self._first_byte + self._front.body_s if self._body_is_coming() else _NEVER

    def _body_is_coming(self) -> bool:
        """Whether more of an ordinary request's body has to come."""
        return self._left > 0 or self._chunks is not None

    def _is_operation(self) -> bool:
        """Whether an ordinary request is one that the gate knows, and ends when its time or the server's is over."""
        head = self._head
        return head is not None and head.method == "POST" and self._front.router.find(head.path) is not None

    def _feed_ordinary(self, data: bytes, at: int) -> int:
        inner = self._inner
        assert inner is not None
        view = memoryview(data)[at:]
        if self._chunks is not None:
            step = self._chunks.feed(view)
            if self._chunks.complete:
                self._chunks = None
        else:
            step = min(len(view), self._left)
            self._left -= step
        if not self._body_is_coming() and not self._write_paused:
            self._due = _NEVER
        inner.data_received(view[:step])  # type: ignore[arg-type]  # its parser takes any buffer
        return at + step

    def ordinary_done(self) -> None:
        """Uvicorn's protocol has answered; the rest of the body, if any, is thrown away."""
        if self._state is not _ORDINARY:
            return
        head = self._head
        if self._body_is_coming():
            if self._inner is not None:
                self._inner.forget_body()
                self._inner = None
            if self._left > DISCARD_BYTES or (head is not None and head.expects_continue):
                self._closing = True
        self._state = _WRITING
        if self._write_paused:
            self._due = time.monotonic() + self._front.write_timeout_s
        else:
            self._go_on()

    def ordinary_closed(self) -> None:
        """Uvicorn's protocol wants the connection closed after its answer."""
        self._closing = True
        if self._state is _ORDINARY:
            self._end_connection()
