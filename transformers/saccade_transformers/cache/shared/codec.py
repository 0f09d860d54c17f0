"""Answers and cameras' records as bytes: msgpack under a seal, since what comes back may be anybody's.

::

    schema (1 byte)   tag (16 bytes)   msgpack array

The tag is BLAKE2b of key and array, keyed with the deployment's secret where there is one. So a value that was
damaged, cut off or moved to another key is none, and with a secret neither is one that somebody else has written.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from typing import Any, Final, Literal, TypeAlias

import msgpack
import numpy as np

from saccade_transformers.cache.frames import Kept, Known
from saccade_transformers.cache.perceptual import Look
from saccade_transformers.cache.trust import Trust
from saccade_transformers.tasks.task import Task

#: Changes with the meaning of the arrays. Values of another schema are no answers.
SCHEMA: Final = 1
#: No record, no answer, and nothing that audits say is larger (bytes).
MOST_RECORD_BYTES: Final = 2**20
MOST_ANSWER_BYTES: Final = 2**17
MOST_TRUST_BYTES: Final = 1024

_TAG_BYTES: Final = 16
_MOST_SIDE: Final = 4096
_MICRO: Final = 1_000_000

Why: TypeAlias = Literal["schema", "seal", "content", "size"]


class Rejected(Exception):
    """A value that is none.

    Args:
        why: "schema": of another version; "seal": damaged, moved, or of somebody else; "content": it says nothing
            that can be used; "size": too large.
    """

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


class Codec:
    """Packs and unpacks.

    Args:
        secret: that the transformers share; may be empty.
    """

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = hashlib.sha256(secret).digest() if secret else b""

    def pack_answer(self, key: bytes, kept: Kept) -> bytes:
        """Pack an answer for a key; empty where it is too large."""
        return self._seal(key, _answer(kept), MOST_ANSWER_BYTES)

    def pack_known(self, key: bytes, known: Known, noise: float) -> bytes:
        """Pack a camera's newest frame and its noise (grey levels) for a key; empty where it is too large."""
        look = known.reference.look
        content = [*_answer(known.kept), look.phash, *look.thumbnail.shape, look.thumbnail.tobytes(), noise]
        return self._seal(key, content, MOST_RECORD_BYTES)

    def pack_trust(self, key: bytes, trust: Trust) -> bytes:
        """Pack what audits say of a camera."""
        return self._seal(key, [list(trust.seen), trust.factor, stamp_of(trust.until)], MOST_TRUST_BYTES)

    def unpack_answer(self, key: bytes, value: bytes, task: Task[Any, Any]) -> Kept:
        """Unpack an answer.

        Args:
            key: that it was found under.
            value: any bytes.
            task: reads it.

        Raises:
            Rejected: it is none.
        """
        return _kept(self._open(key, value, 5, MOST_ANSWER_BYTES), task)

    def unpack_known(self, key: bytes, value: bytes, task: Task[Any, Any]) -> tuple[Known, float]:
        """Unpack a camera's newest frame and its noise; as ``unpack_answer``."""
        content = self._open(key, value, 10, MOST_RECORD_BYTES)
        phash, height, width, pixels, noise = content[5:]
        if not (_is_int(phash, 2**64 - 1) and _is_int(height, _MOST_SIDE) and _is_int(width, _MOST_SIDE)):
            raise Rejected("content")
        if not isinstance(pixels, bytes) or len(pixels) != height * width or not pixels:
            raise Rejected("content")
        if not isinstance(noise, float) or not 0 <= noise <= 255:
            raise Rejected("content")
        thumbnail = np.frombuffer(pixels, np.uint8).reshape(height, width)
        return Known.of(Look(phash, thumbnail), _kept(content, task)), noise

    def unpack_trust(self, key: bytes, value: bytes, into: Trust) -> None:
        """Unpack what audits say of a camera; as ``unpack_answer``."""
        seen, factor, until = self._open(key, value, 3, MOST_TRUST_BYTES)
        if not (isinstance(seen, list) and all(isinstance(one, float) and 0 <= one <= 1 for one in seen)):
            raise Rejected("content")
        if not (_is_int(factor, Trust.MOST_PAUSES) and factor and _is_int(until, 2**60)):
            raise Rejected("content")
        into.seen = deque(seen, into.seen.maxlen)
        into.factor, into.until = factor, came_at(until)

    def _seal(self, key: bytes, content: list[Any], most: int) -> bytes:
        packed: bytes = msgpack.packb(content)
        sealed = bytes([SCHEMA]) + self._tag(key, packed) + packed
        return sealed if len(sealed) <= most else b""

    def _open(self, key: bytes, value: bytes, length: int, most: int) -> list[Any]:
        if len(value) > most:
            raise Rejected("size")
        if value[:1] != bytes([SCHEMA]):
            raise Rejected("schema")
        packed = value[1 + _TAG_BYTES :]
        if not hmac.compare_digest(self._tag(key, packed), value[1 : 1 + _TAG_BYTES]):
            raise Rejected("seal")
        try:
            # Nothing that is large but bytes: a list of a million lists takes seconds.
            content = msgpack.unpackb(packed, max_array_len=16, max_map_len=0, max_ext_len=0, max_str_len=1024)
        except (ValueError, msgpack.UnpackException, RecursionError):
            raise Rejected("content") from None
        if not isinstance(content, list) or len(content) != length:
            raise Rejected("content")
        return content

    def _tag(self, key: bytes, packed: bytes) -> bytes:
        found = hashlib.blake2b(len(key).to_bytes(4, "big") + key, key=self._secret, digest_size=_TAG_BYTES)
        found.update(packed)
        return found.digest()


def stamp_of(came: float) -> int:
    """Seconds as the microseconds they were made of; exact until the year 2255."""
    return round(came * _MICRO)


def came_at(stamp: int) -> float:
    """Microseconds as seconds."""
    return stamp / _MICRO


def _answer(kept: Kept) -> list[Any]:
    return [kept.version, *kept.size, stamp_of(kept.came), kept.task.pack(kept.answer)]


def _kept(content: list[Any], task: Task[Any, Any]) -> Kept:
    version, width, height, stamp, packed = content[:5]
    if not (isinstance(version, str) and _is_int(width, 2**31) and _is_int(height, 2**31) and _is_int(stamp, 2**63)):
        raise Rejected("content")
    if not width or not height or not isinstance(packed, bytes):
        raise Rejected("content")
    try:
        answer = task.unpack(packed)
    except ValueError:
        raise Rejected("content") from None
    return Kept(answer, task, (width, height), version, came_at(stamp))


def _is_int(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
