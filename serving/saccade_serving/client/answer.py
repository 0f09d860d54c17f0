"""Reads one HTTP/1.1 answer after the other, strictly: what could be understood in two ways is no answer.

Pure: it lends the buffers that a connection is read into, and is told how much came. A body of known length is
received where it stays; everything else passes through a scratch that all connections of one loop share, since it is
empty again before another is read from. Not served: HTTP/0.9, trailers (skipped), other codings than chunked, 101.
Source: RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from saccade_serving.client.client import BadAnswer
from saccade_serving.connection.chunks import ChunkedBody
from saccade_serving.connection.head import END_OF_HEAD, LENGTH, MAX_HEAD_BYTES, BadHead, read_fields
from saccade_serving.oip.messages import Buffer

#: Holds most answers whole, head included.
SCRATCH_BYTES: Final = 64 * 2**10

#: Most interim answers (100, 103) before the final one.
MAX_INTERIM: Final = 16

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
#: Answers that never have a body, whatever their head says.
_NO_BODY: Final = frozenset({204, 304})


class Answer(NamedTuple):
    """A complete answer; header names in lower case, values of repeated ones joined by commas."""

    status: int
    headers: Mapping[str, str]
    body: Buffer


class _In(IntEnum):
    IDLE = 0  # nobody has asked
    HEAD = 1
    LENGTH = 2  # a body of known length, received in place
    CHUNKS = 3
    REST = 4  # a body that ends with the connection
    OVER = 5


# In Python 3.11 looking a member up in its class is slow.
_IDLE, _HEAD, _LENGTH, _CHUNKS, _REST, _OVER = _In


class AnswerReader:
    """Reads the answers of one connection.

    Args:
        scratch: what heads are received into; may be shared with other readers of the same loop.
        max_bytes: largest body; a larger one is no answer.

    Attributes:
        answer: the last one, once ``received`` or ``ended`` has said that it is complete.
        began: bytes of the present answer have come.
        keep_alive: another request may be sent on this connection.
    """

    __slots__ = (
        "_body", "_bodyless", "_chunks", "_filled", "_headers", "_interim", "_max_bytes", "_partial", "_scratch",
        "_scratch_view", "_state", "_status", "_view", "answer", "began", "keep_alive",
    )  # fmt: skip

    def __init__(self, scratch: bytearray, max_bytes: int) -> None:
        self.answer: Answer | None = None
        self.began = False
        self.keep_alive = True
        self._scratch = scratch
        self._scratch_view = memoryview(scratch)
        self._max_bytes = max_bytes
        self._state = _IDLE
        self._bodyless = False
        self._partial = bytearray()  # of a head that comes in pieces
        self._interim = 0
        self._body = bytearray()  # of unknown length
        self._view = memoryview(b"")  # of known length
        self._filled = 0
        self._chunks: ChunkedBody | None = None
        self._status = 0
        self._headers: dict[str, str] = {}

    def expect(self, bodyless: bool = False) -> None:
        """A request is being sent; ``bodyless`` if its method was HEAD."""
        self._state = _HEAD
        self._bodyless = bodyless
        self.began = False
        self._interim = 0
        self.answer = None

    def buffer(self) -> memoryview:
        """Where the next bytes are to be received; never empty."""
        return self._view[self._filled :] if self._state == _LENGTH else self._scratch_view

    def received(self, count: int) -> bool:
        """Read ``count`` bytes that have come into the buffer; whether the answer is complete with them.

        Raises:
            BadAnswer: it is malformed, too large, or nobody asked for it.
        """
        if self._state == _LENGTH:
            self._filled += count
            return self._filled == len(self._view) and self._complete(self._view)
        if self._state in (_IDLE, _OVER):
            raise BadAnswer("the server sent something that nobody asked for")
        self.began = True
        try:
            if self._state == _HEAD:
                return self._read_heads(count)
            return self._read_body(0, count)
        except BadHead as error:
            raise BadAnswer(f"the answer is not HTTP/1.1: {error}") from error

    def ended(self) -> bool:
        """The server has closed the connection; whether that completes the answer."""
        return self._state == _REST and self._complete(self._body)

    def _read_heads(self, end: int) -> bool:
        """Look for the end of the head, pass over interim ones."""
        at = 0
        while True:
            if self._partial:
                old = len(self._partial)
                self._partial += self._scratch_view[at:end]
                found = self._partial.find(END_OF_HEAD, max(0, old - 3))
                head, after = bytes(self._partial[: found + 2]), at + found + 4 - old
            else:
                found = self._scratch.find(END_OF_HEAD, at, end)
                head, after = bytes(self._scratch_view[at : found + 2]) if found >= 0 else b"", found + 4
            if found < 0:
                if not self._partial:
                    self._partial += self._scratch_view[at:end]
                # Something else than HTTP is told at its first bytes, not at the deadline.
                if not self._partial.startswith(b"HTTP/1."[: len(self._partial)]):
                    raise BadAnswer("the answer is not HTTP/1.1")
                if len(self._partial) > MAX_HEAD_BYTES:
                    raise BadAnswer(f"the answer's head is over {MAX_HEAD_BYTES} bytes, the limit")
                return False
            self._partial.clear()
            self._read_head(head)
            at = after
            if self._status >= 200:
                return self._begin_body(at, end)
            if self._status == 101:
                raise BadAnswer("the server wants another protocol than HTTP/1.1")
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise BadAnswer(f"the answer has over {MAX_INTERIM} interim heads, the limit")
            if at == end:
                return False

    def _read_head(self, head: bytes) -> None:
        line = _STATUS_LINE.match(head)
        if line is None:
            raise BadAnswer("the answer is not HTTP/1.1")
        self._status = int(line[2])
        self._headers = headers = read_fields(head, line.end())
        options = headers.get("connection")
        if line[1] == b"0":
            self.keep_alive = False
            if "transfer-encoding" in headers:
                raise BadAnswer("the answer has a transfer-encoding in HTTP/1.0")
        elif options is not None and "close" in (option.strip() for option in options.lower().split(",")):
            self.keep_alive = False

    def _begin_body(self, at: int, end: int) -> bool:
        """Decide how long the body is, and take what has come of it with the head."""
        headers = self._headers
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if self._bodyless or self._status in _NO_BODY:
            return self._complete(b"", at < end)
        if coding is not None:
            if length is not None or coding.lower() != "chunked":
                raise BadAnswer("the answer's transfer-encoding is not chunked alone")
            self._state, self._body = _CHUNKS, bytearray()
            self._chunks = ChunkedBody(self._body)
            return at < end and self._read_body(at, end)
        if length is None:
            if self.keep_alive:
                raise BadAnswer("the answer has neither a length nor Connection: close")
            self._state, self._body = _REST, bytearray()
            return at < end and self._read_body(at, end)
        if not LENGTH.fullmatch(length):
            raise BadAnswer("the answer's content-length is not a number of bytes")
        size = int(length)
        self._check_size(size)
        here = end - at
        if here >= size:
            return self._complete(bytes(self._scratch_view[at : at + size]), here > size)
        # Unlike a bytearray it is not zeroed: of what is announced, only what comes is touched.
        self._view = np.empty(size, np.uint8).data
        self._view[:here] = self._scratch_view[at:end]
        self._filled = here
        self._state = _LENGTH
        return False

    def _read_body(self, at: int, end: int) -> bool:
        data = self._scratch_view[at:end]
        if self._chunks is None:
            self._check_size(len(self._body) + len(data))
            self._body += data
            return False
        used = self._chunks.feed(data)
        self._check_size(len(self._body))
        return self._chunks.complete and self._complete(self._body, used < len(data))

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BadAnswer(f"the answer has {size} bytes or more; the limit is {self._max_bytes}")

    def _complete(self, body: Buffer, more_came: bool = False) -> bool:
        """The answer is whole. What came behind it answers nothing: such a connection is not used again."""
        if more_came:
            self.keep_alive = False
        self.answer = Answer(self._status, self._headers, body)
        self._state = _OVER
        # The caller owns it now; the next answer gets memory of its own.
        self._body, self._view, self._chunks = bytearray(), memoryview(b""), None
        return True
