"""A transformer that does nothing: takes requests of all HTTP protocols and answers with one known detection.

For measuring a load generator: as little work as a server can do in Python (uvloop), so that the generator is what
limits. Answers by the route alone, with a Content-Length, after the whole body has come. Usage:
``python -m servers.null_detector PORT WIDTH HEIGHT``.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import sys
from typing import Final, cast

import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END: Final = b"\r\n\r\n"


def answers(width: int, height: int) -> dict[bytes, bytes]:
    """Whole answers by the first bytes of the request line."""
    box = [1.0, 2.0, width - 1.0, height - 2.0]
    detection = {"box": box, "score": 0.5, "class_id": 0, "label": "person"}
    whole = {
        "detections": [detection],
        "image": {"width": width, "height": height},
        "cache": "bypass",
        "model": {"name": "detector", "version": "1"},
    }
    tensors = [
        ("num_detections", "INT32", [1], struct.pack("<i", 1)),
        ("boxes", "FP32", [1, 1, 4], struct.pack("<4f", *box)),
        ("scores", "FP32", [1, 1], struct.pack("<f", 0.5)),
        ("class_ids", "INT32", [1, 1], struct.pack("<i", 0)),
        ("labels", "BYTES", [1, 1], struct.pack("<I", 6) + b"person"),
        ("cache", "BYTES", [1], struct.pack("<I", 6) + b"bypass"),
    ]
    outputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, kind, shape, raw in tensors
    ]
    metadata = {
        "name": "detector",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind, *_ in tensors],
    }
    header = json.dumps({"model_name": "detector", "model_version": "1", "outputs": outputs}).encode()
    v2 = header + b"".join(raw for *_, raw in tensors)
    return {
        b"POST /detect": _http(json.dumps(whole).encode()),
        b"POST /v1": _http(json.dumps({"predictions": [whole]}).encode()),
        b"POST /v2": _http(v2, f"Inference-Header-Content-Length: {len(header)}\r\n"),
        b"GET /v2/models/detector/ready": _http(b'{"name": "detector", "ready": true}'),
        b"GET /v2/models/detector": _http(json.dumps(metadata).encode()),
        b"GET /v2/models ": _http(b'{"models": ["detector"]}'),
        b"GET /v2/models/": _http(b'{"error": "no such model"}', status="404 Not Found"),
        b"GET ": _http(b'{"live": true}'),
    }


def _http(body: bytes, more: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One connection: a request after the other, each answered once all of it is there.

    Args:
        known: answers by the first bytes of the request line.
    """

    def __init__(self, known: dict[bytes, bytes]) -> None:
        self._known = list(known.items())
        self._head = b""
        self._missing = 0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            head, found, body = self._head.partition(_END)
            if not found:
                return
            length = _LENGTH.search(head)
            self._missing = (int(length[1]) if length else 0) - len(body)
            self._head = b""
            self.begun(head, body)
            self._answer = next(answer for start, answer in self._known if head.startswith(start))
        if self._missing <= 0:
            self._missing = 0
            self.answer(self._answer)

    def begun(self, head: bytes, body: bytes) -> None:
        """A request's head has come, and the beginning of its body."""

    def answer(self, whole: bytes) -> None:
        """Write an answer."""
        self._transport.write(whole)


async def serve(port: int, width: int, height: int) -> None:
    """Serve until the process ends."""
    known = answers(width, height)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(known), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(*map(int, sys.argv[1:4])))
