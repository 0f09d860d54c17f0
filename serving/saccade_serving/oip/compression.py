"""Compressed bodies: gzip and deflate, as Triton's clients send and ask for them.

Pure. A compressed body can be a thousand times smaller than what it holds: it is decompressed into memory that the
caller has been granted, and no further.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal

from saccade_serving.errors import InvalidRequest, UnsupportedMedia, short
from saccade_serving.oip.messages import Buffer
from saccade_serving.oip.raw import byte_view

#: When an answer is compressed: where the client asks for that and nothing else; whenever it can read it; never.
Choice = Literal["asked", "accepted", "off"]

CODINGS: Final = ("gzip", "deflate")
#: Most streams of gzip in one body; a body is one, or was written in blocks of at least some kilobytes.
MAX_MEMBERS: Final = 4096
_STEP_BYTES: Final = 16 * 2**10
_MADE_BYTES: Final = 64 * 2**10
#: zlib's window for gzip's format, and for zlib's own, which HTTP calls deflate.
_GZIP_WINDOW: Final = 31
_ZLIB_WINDOW: Final = 15
_RAW_WINDOW: Final = -15
#: Tensors do not compress well; a higher level costs much and gains little.
_LEVEL: Final = 1


@lru_cache(maxsize=256)
def is_asked_for(accepted: str, choice: Choice) -> str | None:
    """Which coding an answer shall have.

    Args:
        accepted: the header ``Accept-Encoding``.
        choice: "asked": only where the header names nothing but one of our codings. Most HTTP libraries accept
            compression always; only who wants it says nothing else. "accepted": the first that is accepted.

    Returns:
        "gzip", "deflate" or None.
    """
    if choice == "off":
        return None
    names = []
    for part in accepted.lower().split(",")[:16]:
        name, _, quality = part.strip().partition(";")
        if name.strip() and quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            names.append(name.strip())
    if choice == "asked":
        return names[0] if len(names) == 1 and names[0] in CODINGS else None
    return next((name for name in names if name in CODINGS), None)


def inflate(body: Buffer, coding: str) -> Iterator[bytes]:
    """Decompress a request body piece by piece: 64 KiB at most, none of them empty.

    Args:
        body: what was sent.
        coding: the header ``Content-Encoding``.

    Raises:
        UnsupportedMedia: another coding; at the call.
        InvalidRequest: it is damaged, or ends early; where it does.
    """
    name = coding.lower()
    if name == "x-gzip":
        name = "gzip"
    if name not in CODINGS:
        raise UnsupportedMedia(f"content-encoding {short(coding)} is not served; expected gzip, deflate or none")
    return _pieces(byte_view(body), name)


def fill(room: memoryview, pieces: Iterator[bytes], first: bytes = b"") -> tuple[int, bytes]:
    """Write pieces one behind the other while they fit.

    Args:
        room: writable, format ``B``.
        pieces: from ``inflate``.
        first: a piece that did not fit before.

    Returns:
        Bytes written, and the piece that did not fit; empty when nothing is left.
    """
    at = 0
    while piece := first or next(pieces, b""):
        end = at + len(piece)
        if end > room.nbytes:
            return at, piece
        room[at:end] = piece
        at, first = end, b""
    return at, b""


def _pieces(view: memoryview, name: str) -> Iterator[bytes]:
    at = 0
    for _ in range(MAX_MEMBERS):
        # Old clients send deflate without zlib's header, whose first byte always ends in 8.
        raw = name == "deflate" and bool(view.nbytes) and view[0] & 0x0F != 8
        reader = zlib.decompressobj(_GZIP_WINDOW if name == "gzip" else _RAW_WINDOW if raw else _ZLIB_WINDOW)
        while not reader.eof:
            step = view[at : at + _STEP_BYTES]  # small, since zlib copies what it leaves of it
            try:
                made = reader.decompress(step, _MADE_BYTES)
            except zlib.error as error:
                raise InvalidRequest(f"the request body is not valid {name}: {error}") from None
            at += step.nbytes - len(reader.unused_data if reader.eof else reader.unconsumed_tail)
            if made:
                yield made
            elif not step.nbytes:
                raise InvalidRequest(f"the {name} data of the request body ends early")
        if name != "gzip" or at == view.nbytes:
            break
    if at < view.nbytes:
        raise InvalidRequest(f"{view.nbytes - at} bytes follow the {name} data of the request body")


def compress(body: Buffer, coding: str) -> bytes:
    """Compress an answer: "gzip" or "deflate"."""
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW if coding == "gzip" else _ZLIB_WINDOW)
    return writer.compress(body) + writer.flush()
