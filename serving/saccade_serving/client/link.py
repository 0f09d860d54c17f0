"""One connection to a server: a request goes out, its answer comes in, never two at a time.

Whoever starts a request awaits its future. A connection that is not certainly at rest afterwards (the answer
incomplete, part of the request unsent, more bytes than the answer, ``Connection: close``) is not ``reusable``, and
closing it at once is what keeps answers from being mixed up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from saccade_serving.client.answer import Answer, AnswerReader
from saccade_serving.client.client import BadAnswer, ConnectionFailed
from saccade_serving.oip.messages import Buffer


class Link(asyncio.BufferedProtocol):
    """One connection, made by the event loop.

    Args:
        reader: reads its answers.
        lost: told when the connection is no more.

    Attributes:
        idle_since: when it was last given back (``time.monotonic()``).
        calls: requests started on it.
    """

    __slots__ = ("_answered", "_lost", "_reader", "_transport", "calls", "idle_since")

    def __init__(self, reader: AnswerReader, lost: Callable[[Link], None]) -> None:
        self.idle_since = 0.0
        self.calls = 0
        self._reader = reader
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Answer] | None = None

    @property
    def reusable(self) -> bool:
        """Nothing is on its way in either direction, and both ends want to go on."""
        transport = self._transport
        return (
            transport is not None
            and self._answered is None
            and self._reader.keep_alive
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def start(self, parts: Sequence[Buffer], bodyless: bool) -> asyncio.Future[Answer]:
        """Send a request; the future becomes its answer, or ConnectionFailed.

        Args:
            parts: head and body. They are sent from where they lie, so they must not change until the future is done;
                if it ends without an answer, not until ``abort`` was called.
            bodyless: the answer has no body, whatever its head says (HEAD).
        """
        assert self._transport is not None
        self.calls += 1
        self._reader.expect(bodyless)
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.writelines(parts)
        return self._answered

    def expire(self) -> None:
        """The caller's time is over."""
        self._fail(TimeoutError("no answer in time"))

    def abort(self) -> None:
        """Close at once: nothing more is sent or heard."""
        answered, self._answered = self._answered, None
        if answered is not None and answered.done() and not answered.cancelled():
            answered.exception()  # seen: a caller who was cancelled meanwhile does not look
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def shut(self) -> None:
        """Close at once, because the client is closed; a call under way is told so."""
        self._fail(ConnectionFailed("the client was closed"))
        self.abort()

    def close(self) -> None:
        """Close an idle connection politely."""
        if self._transport is not None:
            self._transport.close()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where the answer's next bytes belong."""
        return self._reader.buffer()

    def buffer_updated(self, count: int) -> None:
        """Read what came."""
        if self._transport is None:  # given up already
            return
        try:
            complete = self._reader.received(count)
        except BadAnswer as error:
            if self._answered is None:  # idle: who takes it next must not get this
                self._transport.abort()
            self._fail(error)
            return
        if complete:
            self._succeed()

    def eof_received(self) -> None:
        """The server closes its side; the transport closes ours when this returns."""
        if self._answered is not None and self._reader.ended():
            self._reader.keep_alive = False
            self._succeed()

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits for an answer gets none."""
        self._transport = None
        what = str(error) if error else "the server closed the connection"
        self._fail(ConnectionFailed(what, answer_began=self._reader.began, reused=self.calls > 1))
        self._lost(self)

    def pause_writing(self) -> None:
        """Nothing to hold back: all that is sent is there from the start."""

    def resume_writing(self) -> None:
        """See ``pause_writing``."""

    def _succeed(self) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            assert self._reader.answer is not None
            answered.set_result(self._reader.answer)
            self._reader.answer = None

    def _fail(self, error: Exception) -> None:
        # It stays in place: an unanswered request makes the connection unfit for another one.
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
