"""A gRPC message as it came: its bytes, which are parsed only by who wants them, and only up to a size.

Protobuf makes far more of a message than it weighs (a map with one key a million times: ten times its size), and does
so without a pause. Whoever asks a question sends a few names, so that what is much larger is not parsed at all.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from saccade_serving.errors import InvalidRequest, PayloadTooLarge

#: Largest message of a call that is no inference.
MAX_QUESTION_BYTES: Final = 64 * 2**10

UNREADABLE: Final = "the request is not a message of this method; expected its protobuf"


class Received:
    """A message's bytes, which grpcio would otherwise keep until the answer. It is a request deserializer."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def take(self) -> bytes:
        """The bytes, once."""
        data, self._data = self._data, b""
        return data

    def parse(self, message: Any, limit: int = MAX_QUESTION_BYTES) -> Any:
        """The message of a call that is no inference.

        Args:
            message: its class.
            limit: bytes it may have.

        Raises:
            PayloadTooLarge: it has more.
            InvalidRequest: it is no such message.
        """
        data = self.take()
        if len(data) > limit:
            raise PayloadTooLarge("the message of a call that is no inference", len(data), limit)
        try:
            return message.FromString(data)
        except DecodeError:
            raise InvalidRequest(UNREADABLE) from None
