"""A predictor that computes nothing: it reads a request's body to its end and always answers the same candidates.

As cheap as can be, so that what is measured is the transformer before it. Knows as much of V2 as its client needs:
a model's metadata and readiness, and binary tensors. Looks at no byte of the body, so it takes tensors of any
shape, and as JSON, too.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
from typing import Final, cast

import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from saccade_serving.oip import binary_codec, json_codec
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

MODEL: Final = "detector"
INPUT: Final = "image"
OUTPUT: Final = "candidates"
ROWS: Final = 1000
LABELS: Final = tuple(f"class {number}" for number in range(80))
#: Rows of the table that are in use, as of a street scene, and how many of them reach the usual threshold.
CANDIDATES, OBJECTS = 120, 16

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_BYTES: Final = 4096


def table(side: int) -> NDArray[np.float32]:
    """Candidates [1, ROWS, 6] for an input of ``side`` pixels: each object thrice, nearly in the same place."""
    found = np.zeros((1, ROWS, 6), np.float32)
    random = np.random.default_rng(6)
    for row in range(CANDIDATES):
        thing = row % OBJECTS
        x, y = (thing % 4 + 0.1) * side / 4, (thing // 4 + 0.1) * side / 4
        jitter = random.uniform(-2, 2, 4)
        box = np.array([x, y, x + 0.15 * side, y + 0.2 * side]) + jitter
        score = 0.9 - 0.03 * thing / OBJECTS if row < 3 * OBJECTS else 0.35
        found[0, row] = (*box, score - row * 1e-4, thing)
    return found


def metadata(side: int) -> ModelMetadata:
    """What a ready graph says of itself."""
    return ModelMetadata(
        name=MODEL,
        versions=["1"],
        platform="stub",
        inputs=[TensorMetadata(INPUT, "UINT8", (-1, side, side, 3))],
        outputs=[TensorMetadata(OUTPUT, "FP32", (-1, ROWS, 6))],
        properties={
            "saccade.input": "rgb_nhwc",
            "saccade.candidates": str(ROWS),
            "saccade.min_score": "0.05",
            "saccade.labels": orjson.dumps(LABELS).decode(),
        },
    )


def answers(side: int) -> tuple[bytes, bytes]:
    """The answer to an inference and to a GET, whole HTTP answers."""
    response = InferResponse(MODEL, [Tensor.of(OUTPUT, table(side))], "1")
    encoded = binary_codec.encode_response(InferRequest(MODEL, [], binary_output=True), response)
    told = orjson.dumps(json_codec.encode_metadata(metadata(side)))
    return (
        _answer(encoded.headers, b"".join(bytes(part) for part in encoded.parts)),
        _answer({"content-type": "application/json"}, told),
    )


def _answer(headers: dict[str, str], body: bytes) -> bytes:
    lines = {**headers, "content-length": str(len(body))}.items()
    return b"HTTP/1.1 200 OK\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines).encode() + b"\r\n" + body


class Stub(asyncio.BufferedProtocol):
    """Counts a body's bytes, then answers; one request at a time."""

    def __init__(self, inference: bytes, told: bytes) -> None:
        self._inference, self._told = inference, told
        self._buffer = memoryview(bytearray(2**20))
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def get_buffer(self, _sizehint: int) -> memoryview:
        """The same buffer every time; little of it for a head."""
        return self._buffer if self._left else self._buffer[:_HEAD_BYTES]

    def buffer_updated(self, count: int) -> None:
        """Find the head's end, or count."""
        if not self._left:
            self._head += bytes(self._buffer[:count])
            head, separator, body = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = b""
            if not head.startswith(b"POST"):
                self._transport.write(self._told)
                return
            found = _LENGTH.search(head)
            self._left, count = int(found[1]) if found else 0, len(body)
        self._left -= count
        if not self._left:
            self._transport.write(self._inference)


async def serve(port: int, side: int) -> None:
    """Listen until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    inference, told = answers(side)
    await loop.create_server(lambda: Stub(inference, told), "127.0.0.1", port)
    await stopping.wait()


def main() -> None:
    """Serve on the given port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("side", type=int, help="of the model's square input, in pixels")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.port, given.side))


if __name__ == "__main__":
    main()
