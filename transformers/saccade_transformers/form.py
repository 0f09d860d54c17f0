"""Reads a multipart form with one image: a view of the file, and the few small fields that are request parameters.

Pure, bounded and linear: the whole form is already received, parts are found by searching for the boundary, and the
image is never copied. Source: RFC 7578 and RFC 2046 section 5.1.
"""

from __future__ import annotations

import re
from typing import Final

from saccade_serving.errors import InvalidImage, InvalidRequest, short

#: Parameters that a query string or a form may hold.
PARAMETERS: Final = frozenset(
    {"camera_id", "user_key", "score_threshold", "iou_threshold", "max_detections", "cache", "priority", "timeout"}
)
FILE: Final = "file"

_MAX_PARTS: Final = 33
_MAX_PART_HEAD_BYTES: Final = 4096
_MAX_FIELD_BYTES: Final = 4096
#: Small enough for a cache of the CPU, and for the way in which Python searches short texts, the fastest here.
_PIECE_BYTES: Final = 24 * 2**10
_BOUNDARY: Final = re.compile(r"""boundary=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))""", re.IGNORECASE)
#: Found one behind the other, so that nothing inside of a quoted value is taken for a parameter.
_PARAMETER: Final = re.compile(rb"""[; \t]([\w*-]+)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^;\s]*))""")


def read_form(content_type: str, body: memoryview) -> tuple[memoryview, dict[str, str]]:
    """Read a form.

    Args:
        content_type: the request's whole header, with the boundary.
        body: the form.

    Returns:
        A view of the bytes of the field ``file``, and the other fields that are request parameters.

    Raises:
        InvalidRequest: the form is damaged, too large in its small parts, or has no field ``file``.
        InvalidImage: the file is empty.
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidRequest("the multipart form cannot be read: content-type has no boundary of 1 to 70 characters")
    boundary = b"--" + (match[1] or match[2]).encode("latin-1")
    image: memoryview | None = None
    fields: dict[str, str] = {}
    names: list[str] = []
    for name, is_file, content in _parts(body, boundary):
        names.append(short(name))
        if name == FILE and is_file:
            if image is not None:
                raise InvalidRequest("the multipart form has two files in 'file'; expected one")
            image = content
        elif name in PARAMETERS and not is_file:
            if content.nbytes > _MAX_FIELD_BYTES:
                raise InvalidRequest(f"field {short(name)} of the form is over {_MAX_FIELD_BYTES} bytes, the limit")
            try:
                value = str(content, "utf-8")
            except UnicodeDecodeError:
                raise InvalidRequest(f"field {short(name)} of the form is not UTF-8 text") from None
            if name in fields:
                raise InvalidRequest(
                    f"the multipart form has {name!r} twice, as {short(fields[name])} and {short(value)}"
                )
            fields[name] = value
    if image is None:
        found = ", ".join(names) or "nothing"
        raise InvalidRequest(f"the multipart form has no file in a field 'file' (found: {found})")
    if not image.nbytes:
        raise InvalidImage("the file in field 'file' is empty; expected an encoded image")
    return image, fields


def _parts(body: memoryview, boundary: bytes) -> list[tuple[str, bool, memoryview]]:
    """Cut a form into its parts: name, whether it is a file, content."""
    damaged = "the multipart form cannot be read: "
    delimiter = b"\r\n" + boundary
    if bytes(body[: len(boundary)]) == boundary:
        at = len(boundary)
    else:
        first = _find(delimiter, body, 0)
        if first < 0:
            raise InvalidRequest(damaged + "the boundary that content-type names is not in it")
        at = first + len(delimiter)
    parts: list[tuple[str, bool, memoryview]] = []
    while True:
        after = bytes(body[at : at + 2])
        if after == b"--":
            return parts
        if after != b"\r\n":
            raise InvalidRequest(damaged + "a boundary is followed by neither a line end nor '--'")
        if len(parts) >= _MAX_PARTS:
            raise InvalidRequest(f"{damaged}it has over {_MAX_PARTS} parts, the limit")
        # The line end that closes the boundary also opens the part's head, which may be empty.
        head = bytes(body[at : at + _MAX_PART_HEAD_BYTES])
        end = head.find(b"\r\n\r\n")
        if end < 0:
            raise InvalidRequest(
                f"{damaged}the head of part {len(parts)} has no end within {_MAX_PART_HEAD_BYTES} bytes"
            )
        begin = at + end + 4
        following = _find(delimiter, body, begin - 2)
        if following < 0:
            raise InvalidRequest(f"{damaged}part {len(parts)} has no end; the last boundary is missing")
        name, is_file = _read_head(head[:end])
        parts.append((name, is_file, body[begin : max(begin, following)]))
        at = following + len(delimiter)


def _find(wanted: bytes, body: memoryview, start: int) -> int:
    """Where some bytes begin, at ``start`` or behind it; -1 if nowhere.

    Only ``bytes`` can be searched fast, three times as fast as by a pattern, so the form is copied in small pieces.
    """
    for at in range(start, len(body), _PIECE_BYTES):
        found = bytes(body[at : at + _PIECE_BYTES + len(wanted) - 1]).find(wanted)
        if found >= 0:
            return at + found
    return -1


def _read_head(head: bytes) -> tuple[str, bool]:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            found = {match[1].lower(): match[2] or match[3] or b"" for match in _PARAMETER.finditer(value)}
            is_file = b"filename" in found or b"filename*" in found
            return found.get(b"name", b"").decode("utf-8", "replace"), is_file
    return "", False
