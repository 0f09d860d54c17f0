"""Seeds of the fuzz tests, kept: every one is tried at each run, as it is and with bytes changed.

Heads that parsers have been known to understand differently, and bodies that a codec has been known to stumble over.
What a fuzz test finds is added here with a name.
"""

from __future__ import annotations

import json
from typing import Final

_POST: Final = "POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"


def _head(text: str, start: str = _POST) -> bytes:
    return (start + text).encode("latin-1")


#: Name -> request line and headers without the empty line, and the status of the refusal; 0 where it is accepted.
SEED_HEADS: Final[dict[str, tuple[bytes, int]]] = {
    "plain": (_head("Content-Length: 3\r\n"), 0),
    "length with zeros": (_head("Content-Length: 003\r\n"), 0),
    "length in any case": (_head("cOnTeNt-LeNgTh: 3\r\n"), 0),
    "two lengths": (_head("Content-Length: 3\r\nContent-Length: 3\r\n"), 400),
    "two different lengths": (_head("Content-Length: 3\r\nContent-Length: 30\r\n"), 400),
    "lengths in a list": (_head("Content-Length: 3, 3\r\n"), 400),
    "length with a sign": (_head("Content-Length: +3\r\n"), 400),
    "length below zero": (_head("Content-Length: -3\r\n"), 400),
    "length in hexadecimal": (_head("Content-Length: 0x3\r\n"), 400),
    "length with an underscore": (_head("Content-Length: 1_0\r\n"), 400),
    "length of 5000 digits": (_head("Content-Length: " + "9" * 5000 + "\r\n"), 400),
    "length in other digits": (_head("Content-Length: \xb2\r\n"), 400),
    "length and chunks": (_head("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400),
    "chunks and length": (_head("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), 400),
    "chunks": (_head("Transfer-Encoding: chunked\r\n"), 0),
    "chunks twice": (_head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
    "chunks behind gzip": (_head("Transfer-Encoding: gzip, chunked\r\n"), 501),
    "chunks not last": (_head("Transfer-Encoding: chunked, identity\r\n"), 501),
    "chunks with a vertical tab": (_head("Transfer-Encoding: \x0bchunked\r\n"), 400),
    "chunks in HTTP/1.0": (_head("Transfer-Encoding: chunked\r\n", "POST / HTTP/1.0\r\n"), 400),
    "space before the colon": (_head("Content-Length : 3\r\n"), 400),
    "folded": (_head("Content-Length: 3\r\nX-A: b\r\n c\r\n"), 400),
    "folded first line": (_head(" Content-Length: 3\r\n"), 400),
    "bare line feed": (_head("X-A: b\nContent-Length: 3\r\n"), 400),
    "bare carriage return": (_head("X-A: b\rContent-Length: 3\r\n"), 400),
    "NUL": (_head("X-A: b\0c\r\n"), 400),
    "no colon": (_head("X-A\r\n"), 400),
    "no name": (_head(": b\r\n"), 400),
    "no value": (_head("X-A:\r\n"), 0),
    "a name of 200 letters": (_head("X-" + "a" * 200 + ": b\r\n"), 0),
    "300 headers": (_head("X-A: b\r\n" * 300), 431),
    "two hosts": (_head("Host: other\r\n"), 400),
    "no host": (_head("", "GET / HTTP/1.1\r\n"), 400),
    "no host in HTTP/1.0": (_head("", "GET / HTTP/1.0\r\n"), 0),
    "absolute form": (_head("Host: h\r\n", "GET http://other:80/a?b HTTP/1.1\r\n"), 0),
    "asterisk": (_head("Host: h\r\n", "OPTIONS * HTTP/1.1\r\n"), 0),
    "asterisk of another method": (_head("Host: h\r\n", "GET * HTTP/1.1\r\n"), 400),
    "authority form": (_head("Host: h\r\n", "CONNECT h:80 HTTP/1.1\r\n"), 501),
    "fragment": (_head("Host: h\r\n", "GET /a#b HTTP/1.1\r\n"), 400),
    "two spaces": (_head("Host: h\r\n", "GET  / HTTP/1.1\r\n"), 400),
    "lower case method": (_head("Host: h\r\n", "get / HTTP/1.1\r\n"), 501),
    "lower case version": (_head("Host: h\r\n", "GET / http/1.1\r\n"), 400),
    "version 1.2": (_head("Host: h\r\n", "GET / HTTP/1.2\r\n"), 505),
    "version 2": (_head("", "PRI * HTTP/2.0\r\n"), 505),
    "version 0.9": (_head("", "GET /\r\n"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
    "expectation": (_head("Content-Length: 3\r\nExpect: 100-continue\r\n"), 0),
    "another expectation": (_head("Content-Length: 3\r\nExpect: 200-maybe\r\n"), 417),
    "upgrade": (_head("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"), 0),
    "JSON length of 5000 digits": (_head("Inference-Header-Content-Length: " + "9" * 5000 + "\r\n"), 0),
    "two JSON lengths": (_head("Inference-Header-Content-Length: 3\r\n" * 2), 400),
}

_TENSOR: Final = {"name": "x", "datatype": "UINT8", "shape": [1, 4], "parameters": {"binary_data_size": 4}}


def _body(content: object, data: bytes = b"", shift: int = 0) -> tuple[bytes, int | str | None]:
    text = json.dumps(content).encode()
    return text + data, len(text) + shift


#: Name -> a REST body of an inference request, and the value of Inference-Header-Content-Length.
SEED_BODIES: Final[dict[str, tuple[bytes, int | str | None]]] = {
    "right": _body({"inputs": [_TENSOR]}, b"abcd"),
    "JSON alone": (json.dumps({"inputs": [{**_TENSOR, "parameters": {}, "data": [1, 2, 3, 4]}]}).encode(), None),
    "one byte short": _body({"inputs": [_TENSOR]}, b"abc"),
    "one byte long": _body({"inputs": [_TENSOR]}, b"abcde"),
    "JSON length one short": _body({"inputs": [_TENSOR]}, b"abcd", -1),
    "JSON length one long": _body({"inputs": [_TENSOR]}, b"abcd", 1),
    "JSON length of 5000 digits": (b"{}", "9" * 5000),
    "JSON length below zero": (b"{}", "-1"),
    "JSON length of another alphabet": (b"{}", "\u0663"),
    "no inputs": _body({}),
    "inputs no list": _body({"inputs": {"x": 1}}),
    "an input no object": _body({"inputs": [7]}),
    "a huge shape": _body({"inputs": [{**_TENSOR, "shape": [2**62, 2**62]}]}, b"abcd"),
    "a negative shape": _body({"inputs": [{**_TENSOR, "shape": [-1, -4]}]}, b"abcd"),
    "a shape of 0 and much": _body(
        {"inputs": [{**_TENSOR, "shape": [0, 2**62], "parameters": {"binary_data_size": 0}}]}
    ),
    "a shape of booleans": _body({"inputs": [{**_TENSOR, "shape": [True, 4]}]}, b"abcd"),
    "a shape of fractions": _body({"inputs": [{**_TENSOR, "shape": [1.0, 4.0]}]}, b"abcd"),
    "a size of another type": _body({"inputs": [{**_TENSOR, "parameters": {"binary_data_size": "4"}}]}, b"abcd"),
    "a negative size": _body({"inputs": [{**_TENSOR, "parameters": {"binary_data_size": -4}}]}, b"abcd"),
    "size and data": _body({"inputs": [{**_TENSOR, "data": [1, 2, 3, 4]}]}, b"abcd"),
    "the same name twice": _body({"inputs": [_TENSOR, _TENSOR]}, b"abcdabcd"),
    "an unknown datatype": _body({"inputs": [{**_TENSOR, "datatype": "UINT9"}]}, b"abcd"),
    "a lone surrogate": (b'{"id": "\\ud800", "inputs": []}', None),
    "not UTF-8": (b'{"id": "\xff", "inputs": []}', None),
    "nested": (b'{"inputs": ' + b"[" * 5000, None),
    "NaN": (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', None),
    "a number too large": (b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1e400]}]}', None),
    "BYTES with a length beyond the end": _body(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}]},
        b"\xff\xff\xff\xffa",
    ),
    "BYTES with fewer elements": _body(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 5}}]},
        b"\x01\x00\x00\x00a",
    ),
    "two ids": (b'{"id": "a", "id": "b", "inputs": []}', None),
}
