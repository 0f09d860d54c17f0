"""A predictor that is not one: answers V2 REST as it is told to, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import orjson

from saccade_serving.oip import binary_codec, json_codec
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

LABELS = ("person", "bicycle")
ROWS = 20
METADATA = ModelMetadata(
    name="detector",
    versions=["1"],
    platform="stub",
    inputs=[TensorMetadata("image", "UINT8", (-1, 64, 64, 3))],
    outputs=[TensorMetadata("candidates", "FP32", (-1, ROWS, 6))],
    properties={
        "saccade.input": "rgb_nhwc",
        "saccade.candidates": str(ROWS),
        "saccade.min_score": "0.05",
        "saccade.labels": orjson.dumps(LABELS).decode(),
    },
)


@dataclass(frozen=True)
class Asked:
    """One inference request as it arrived; header names in lower case, repeated ones joined by commas."""

    headers: Mapping[str, str]
    request: InferRequest
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Reply:
    """What the stub sends back; where ``status`` is 0 it sends ``body`` as it is and closes the connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def refusal(status: int, sentence: str, **headers: str) -> Reply:
    """An error in the V2 form."""
    return Reply(status, {"content-type": "application/json", **headers}, orjson.dumps({"error": sentence}))


def answer(request: InferRequest, table: np.ndarray | None = None, version: str = "1") -> Reply:
    """A good answer: one box per image, unless a table is given."""
    if table is None:
        table = np.zeros((len(request.inputs[0].array), ROWS, 6), np.float32)
        table[:, 0] = (8, 8, 40, 56, 0.9, 0)
    response = InferResponse("detector", [Tensor.of("candidates", table)], version)
    encoded = binary_codec.encode_response(request, response)
    return Reply(200, encoded.headers, b"".join(bytes(part) for part in encoded.parts))


class StubPredictor:
    """Serves one model on a free port until closed.

    Attributes:
        reply: makes the reply to an inference request; may block.
        metadata: what the model says of itself.
        asked: all inference requests so far.
    """

    def __init__(self) -> None:
        self.reply: Callable[[InferRequest], Reply] = answer
        self.metadata = METADATA
        self.asked: list[Asked] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def reset(self) -> None:
        """Behave well again and forget."""
        self.reply, self.metadata = answer, METADATA
        self.asked.clear()

    def state(self, **changes: Any) -> None:
        """Change what the model says of itself."""
        self.metadata = replace(METADATA, **changes)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.endswith("/ready"):
                    self._send(Reply(200, {"content-type": "application/json"}, b"{}"))
                else:
                    content = orjson.dumps(json_codec.encode_metadata(stub.metadata))
                    self._send(Reply(200, {"content-type": "application/json"}, content))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
                request = binary_codec.decode_request(
                    "detector", "", body, headers.get("inference-header-content-length")
                )
                stub.asked.append(Asked(headers, request))
                self._send(stub.reply(request))

            def _send(self, reply: Reply) -> None:
                if not reply.status:
                    self.close_connection = True
                    self.wfile.write(reply.body)
                    return
                self.send_response(reply.status)
                for name, value in {**reply.headers, "content-length": str(len(reply.body))}.items():
                    self.send_header(name, value)
                with contextlib.suppress(ConnectionError):  # whoever has left will not read it
                    self.end_headers()
                    self.wfile.write(reply.body)

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler
