"""How a V2 REST body is laid out: a JSON object, and behind it the binary data.

The header ``Inference-Header-Content-Length`` says where the JSON ends; without it the whole body is JSON.

Not served: Triton's raw binary request (header length 0, a body without any JSON), since only the model knows
its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from saccade_serving.errors import InvalidRequest
from saccade_serving.oip.json_codec import dump_object, parse_object
from saccade_serving.oip.json_limits import check_json
from saccade_serving.oip.messages import Buffer
from saccade_serving.oip.raw import byte_view

#: The header's name, in lower case as HTTP/2 and ASGI want it.
HEADER_LENGTH: Final = "inference-header-content-length"

# A longer number cannot be the length of anything, and int() refuses very long ones with an error of its own.
_MAX_LENGTH_DIGITS: Final = 18
# The JSON is padded with spaces to a multiple of the largest element, so that the first binary tensor lies
# aligned in the receiver's buffer and need not be copied there.
_ALIGNMENT: Final = 8


@dataclass(slots=True)  # not frozen: one is made for every request
class EncodedBody:
    """A REST body in parts, to be sent one after the other.

    Attributes:
        parts: the JSON, then one buffer per binary tensor; views of the tensors' own memory where possible.
        json_length: bytes of JSON before the binary data; None when the body is JSON alone.
        size: bytes of all parts together.
        headers: the HTTP headers that describe the body, names in lower case; without the content length.
        header_lines: the same as HTTP/1.1 writes them, with the content length, where that is known already.
    """

    parts: list[Buffer]
    json_length: int | None
    size: int
    headers: dict[str, str]
    header_lines: str = ""


def split_body(
    body: Buffer, json_length: int | str | None, owner: str, max_json_bytes: int | None = None
) -> tuple[dict[str, Any], memoryview | None]:
    """Parse a body's JSON and find its binary data.

    Args:
        body: the whole body.
        json_length: the value of ``Inference-Header-Content-Length``, None when the header is absent.
        owner: what the body is, as the sentence calls it: ``the request``.
        max_json_bytes: largest JSON that is parsed; None for JSON of who is trusted, which may be anything.

    Returns:
        The JSON object, and a read-only view of the bytes behind it; None for these without the header.

    Raises:
        InvalidRequest: the header is not a length within the body, or the JSON is not an object.
        PayloadTooLarge: the JSON is over ``max_json_bytes``, or holds too many values.
    """
    view = byte_view(body)
    if json_length is None:
        check_json(owner, view, max_json_bytes)
        return parse_object(view, owner), None
    length = stated_length(json_length)
    if length is None or length > view.nbytes:
        sent = "not a number of 0 or more" if length is None else str(length)
        raise InvalidRequest(f"Inference-Header-Content-Length is {sent}; the body has {view.nbytes} bytes")
    if length == 0:
        raise InvalidRequest(
            "Inference-Header-Content-Length is 0; a body without JSON (a raw binary request) is not served"
        )
    text = view[:length]
    check_json(owner, text, max_json_bytes)
    return parse_object(text, owner), view[length:]


def join_body(header: dict[str, Any], buffers: Sequence[memoryview], owner: str) -> EncodedBody:
    """Put a JSON object and binary data together.

    Args:
        header: the JSON object.
        buffers: the binary tensors' bytes, in the order of their entries in the object.
        owner: what the body is, as the sentence calls it.

    Raises:
        InvalidRequest: a string of the object is not valid Unicode.
    """
    text = dump_object(header, owner)
    if not buffers:
        return EncodedBody([text], None, len(text), {"content-type": "application/json"})
    text += b" " * (-len(text) % _ALIGNMENT)
    size = len(text) + sum(buffer.nbytes for buffer in buffers)
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return EncodedBody([text, *buffers], len(text), size, headers)


def stated_length(value: int | str) -> int | None:
    """Read the value of ``Inference-Header-Content-Length``; None when it is not a number of 0 or more."""
    if isinstance(value, int):
        return value if value >= 0 else None
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_LENGTH_DIGITS):
        return None
    return int(digits)
