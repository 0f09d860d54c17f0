"""Finds the end of a chunked body, and keeps its data only if it is told where.

A request's data is decoded by the HTTP parser behind; this only says where the next request begins, and refuses
whatever the two could see differently (bare line feeds, signs and spaces in sizes). Source: RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from saccade_serving.connection.head import BadHead

#: Longest line of a chunk's size with its extensions, and of one trailer.
_MAX_LINE_BYTES: Final = 4096
_MAX_TRAILERS: Final = 64
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class _In(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedBody:
    """Follows one chunked body. ``feed`` it all that arrives until it is ``complete``.

    Args:
        keep: where the data is added; None where nobody wants it.
    """

    __slots__ = ("_keep", "_left", "_line", "_state", "_trailers", "complete")

    def __init__(self, keep: bytearray | None = None) -> None:
        self.complete = False
        self._keep = keep
        self._state = _In.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailers = 0

    def feed(self, data: bytes | memoryview) -> int:
        """Follow the next bytes.

        Returns:
            How many of them belong to this body; fewer than given only at its end.

        Raises:
            BadHead: the chunking is malformed.
        """
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end and not self.complete:
            if self._state is _In.DATA:
                step = min(self._left, end - at)
                if self._keep is not None:
                    self._keep += view[at : at + step]
                at += step
                self._left -= step
                if not self._left:
                    self._state = _In.DATA_END
            else:
                at = self._read_line(view, at)
        return at

    def _read_line(self, view: memoryview, at: int) -> int:
        """Collect a line from ``at`` on; when it is whole, act on it. Returns where to go on."""
        line = self._line
        end = bytes(view[at : at + _MAX_LINE_BYTES]).find(b"\n")
        stop = len(view) if end < 0 else at + end + 1
        line += view[at:stop]
        if len(line) > _MAX_LINE_BYTES:
            raise BadHead("a line of the chunked body is too long")
        if end < 0:
            return stop
        self._end_line(bytes(line))
        line.clear()
        return stop

    def _end_line(self, line: bytes) -> None:
        if self._state is _In.SIZE:
            size = _SIZE_LINE.fullmatch(line)
            if size is None:
                raise BadHead("a chunk's size is malformed; expected a hexadecimal number and CRLF")
            self._left = int(size[1], 16)
            self._state = _In.DATA if self._left else _In.TRAILER
        elif self._state is _In.DATA_END:
            if line != b"\r\n":
                raise BadHead("a chunk is longer than its size says")
            self._state = _In.SIZE
        elif line == b"\r\n":
            self.complete = True
        else:
            self._trailers += 1
            if self._trailers > _MAX_TRAILERS or _TRAILER.fullmatch(line) is None:
                raise BadHead("the trailers of the chunked body are malformed or too many")
