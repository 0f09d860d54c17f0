"""Reads the head of an HTTP/1.1 request, strictly: what two parsers could understand differently is refused.

Pure: bytes in, a ``Head`` or a ``BadHead`` out. Where a body begins and ends is decided here alone, for every route,
so that nobody can smuggle one request inside another. Source: RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from saccade_serving.errors import short

#: Largest head, request line included.
MAX_HEAD_BYTES: Final = 64 * 2**10
END_OF_HEAD: Final = b"\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")
# Only where a line begins: else a search in a long line without a colon takes the square of its length.
_FIELD: Final = re.compile(rb"(?<=\n)(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)\r\n")
_AUTHORITY: Final = re.compile(r"(?i:https?)://[A-Za-z0-9._~%!$&'()*+,;=:@\[\]-]+(?=[/?]|\Z)")
#: A content length; a longer number cannot be one.
LENGTH: Final = re.compile(r"[0-9]{1,18}")

#: Those that the application's parser knows, without CONNECT, behind which it sees no more HTTP.
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"})
_MAX_FIELDS: Final = 256

#: Headers of which a second one is a contradiction, not a list.
_SINGLE: Final = frozenset(
    {
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "inference-header-content-length",
        "transfer-encoding",
        "x-camera-id",
        "x-deadline-ms",
        "x-saccade-variant",
        "x-user-key",
    }
)
#: Of these, one whose values are not said again.
_UNSAID: Final = "authorization"
_MAX_SAID: Final = 40
#: Header names in lower case, so that each is decoded once. Clients send few different ones; others are not kept.
_names: dict[bytes, str] = {}
_MAX_NAMES: Final = 512


class BadHead(Exception):
    """A head that is refused; the connection cannot be used any further.

    Attributes:
        status: the HTTP status to answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """The head of one request.

    Attributes:
        method: in the client's own letters; methods are case sensitive.
        path: the target's path, still percent-encoded, without scheme, authority and query.
        query: what follows the question mark, or empty.
        http_1_1: the version is 1.1, not 1.0.
        headers: names in lower case; values of repeated headers joined by commas.
        length: of the body in bytes; None when it is chunked.
        chunked: the body is sent in chunks.
        keep_alive: the client wants to send another request on this connection.
        json_length: of the JSON before the binary tensors, if the client states it readably; else 0.
        expects_continue: the client waits for ``100 Continue`` before it sends the body.
    """

    __slots__ = (
        "chunked",
        "expects_continue",
        "headers",
        "http_1_1",
        "json_length",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
    )

    method: str
    path: str
    query: str
    http_1_1: bool
    headers: dict[str, str]
    length: int | None
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    json_length: int

    @property
    def segments(self) -> list[str]:
        """The path's segments, percent-decoded one by one, so that an encoded slash stays within its segment."""
        return [unquote(part) for part in self.path.split("/")]


def read_head(data: bytes) -> Head:
    """Read a complete head.

    Args:
        data: request line and header lines, each with its CRLF, without the empty line.

    Raises:
        BadHead: it is malformed, ambiguous, or of a version that is not served.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise BadHead("the request line is malformed; expected 'METHOD target HTTP/1.1'")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        text = f"HTTP/{major.decode()}.{minor.decode()} is not served on this port; expected HTTP/1.1"
        raise BadHead(text, 505)
    if method not in _METHODS:
        raise BadHead("the request's method is not served", 501)
    head = Head()
    head.method = method.decode()
    head.http_1_1 = minor == b"1"
    head.headers = headers = read_fields(data, line.end())
    _read_target(head, target.decode())
    _read_framing(head, headers)
    if head.http_1_1 and "host" not in headers:
        raise BadHead("header host is missing; HTTP/1.1 requires it")
    connection = {option.strip() for option in headers.get("connection", "").lower().split(",")}
    head.keep_alive = "close" not in connection if head.http_1_1 else "keep-alive" in connection
    expected = headers.get("expect", "").lower() if head.http_1_1 else ""
    if expected not in ("", "100-continue"):
        raise BadHead("the request's expectation is not met here; expected 100-continue or none", 417)
    head.expects_continue = expected == "100-continue"
    stated = headers.get("inference-header-content-length", "")
    head.json_length = int(stated) if stated.isdecimal() and stated.isascii() and len(stated) < 12 else 0
    return head


def read_fields(data: bytes, at: int) -> dict[str, str]:
    """Read the header lines of a request or an answer.

    Args:
        data: the head, without the empty line.
        at: where the first header line begins.

    Returns:
        Names in lower case; values of repeated headers joined by commas.

    Raises:
        BadHead: one is malformed, or is sent twice and may not be.
    """
    headers: dict[str, str] = {}
    fields = _FIELD.findall(data, at)
    if len(fields) > _MAX_FIELDS:
        raise BadHead(f"there are over {_MAX_FIELDS} header lines, the limit", 431)
    for name, value in fields:
        at += len(name) + len(value) + 3
        key = _names.get(name) or _name_of(name)
        text = value.decode("latin-1").strip(" \t")
        if key in headers:
            text = joined(key, headers[key], text)
        headers[key] = text
    # What the pattern passed over is no header: a space before a colon, a folded line, a control character.
    if at != len(data):
        raise BadHead("a header line is malformed; expected 'name: value' in printable characters")
    return headers


def joined(name: str, first: str, second: str) -> str:
    """The value of a header, or of a key of gRPC metadata, that is sent more than once: a list.

    Args:
        name: in lower case.
        first: what came before.
        second: what comes once more.

    Raises:
        BadHead: it states one thing, so that a second one is a contradiction.
    """
    if name in _SINGLE:
        values = "" if name == _UNSAID else f", as {short(first, _MAX_SAID)} and {short(second, _MAX_SAID)}"
        raise BadHead(f"header {name} is sent twice{values}; expected it once")
    return f"{first}, {second}"


def _name_of(name: bytes) -> str:
    key = name.lower().decode()
    if len(_names) < _MAX_NAMES and len(name) <= 64:
        _names[name] = key
    return key


def _read_target(head: Head, target: str) -> None:
    if "#" in target:
        raise BadHead("the request target has a fragment; expected a path without one")
    if target[0] != "/":
        authority = _AUTHORITY.match(target)
        if authority is not None:
            target = target[authority.end() :]
            target = target if target[:1] == "/" else "/" + target
        elif not (target == "*" and head.method == "OPTIONS"):
            raise BadHead("the request target is malformed; expected a path")
    head.path, _, head.query = target.partition("?")


def _read_framing(head: Head, headers: dict[str, str]) -> None:
    """Decide how long the body is."""
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    head.chunked = False
    if coding is not None:
        if length is not None:
            raise BadHead("both transfer-encoding and content-length are sent; expected one")
        if not head.http_1_1:
            raise BadHead("transfer-encoding is not served in HTTP/1.0")
        if coding.lower() != "chunked":
            raise BadHead("this transfer-encoding is not served; expected chunked", 501)
        head.chunked = True
        head.length = None
    elif length is None:
        head.length = 0
    elif LENGTH.fullmatch(length):
        head.length = int(length)
    else:
        raise BadHead("header content-length is not a number of bytes")
