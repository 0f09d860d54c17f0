"""A predictor that computes nothing: a detector's metadata, and the same candidates for every image after a delay.

Answers V2 REST over keep-alive connections, as much HTTP as our own client needs. The delay is a timer's and costs no
CPU, as with a GPU. Does not look at the images.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
from typing import Final

import numpy as np
import orjson

from measuring.payload import ELEMENT
from saccade_serving.oip import binary_codec, json_codec
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

MODEL: Final = "detector"
#: Pixels of a side of the model's input.
SIDE: Final = 640
ROWS: Final = 100
#: Of an object, pixels.
WIDTH: Final = 25
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_METADATA: Final = ModelMetadata(
    MODEL,
    ["1"],
    "stub",
    [TensorMetadata("image", "UINT8", (-1, SIDE, SIDE, 3))],
    [TensorMetadata("candidates", "FP32", (-1, ROWS, 6))],
    {
        "saccade.input": "rgb_nhwc",
        "saccade.candidates": str(ROWS),
        "saccade.min_score": "0.05",
        "saccade.labels": '["person", "bicycle"]',
    },
)


def message(content: bytes, headers: dict[str, str]) -> bytes:
    """An answer of 200, head and body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "content-length": str(len(content))}.items())
    return b"HTTP/1.1 200 OK\r\n" + lines.encode() + b"\r\n" + content


def inference(number: int = 0) -> bytes:
    """The answer for one image: twenty objects, of which one has its left edge at the pixel the bench looks for.

    Args:
        number: of the answer: the first object is so many hundredths of a pixel wider than ``WIDTH``.
    """
    table = np.zeros((1, ROWS, 6), np.float32)
    for i in range(20):
        table[0, i] = (ELEMENT, 30 * i, ELEMENT + WIDTH, 30 * i + 25, 0.9 - i / 100, i % 2)
    table[0, 0, 2] += number / 100
    answer = InferResponse(MODEL, [Tensor.of("candidates", table)], "1")
    encoded = binary_codec.encode_response(InferRequest(MODEL, [], binary_output=True), answer)
    return message(b"".join(bytes(part) for part in encoded.parts), dict(encoded.headers))


async def serve(port: int, delay_s: float, numbered: bool) -> None:
    """Answer until cancelled."""
    numbers = itertools.count(1)
    described = message(orjson.dumps(json_codec.encode_metadata(_METADATA)), {"content-type": "application/json"})
    inferred = inference()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
                is_inference = head.startswith(b"POST")
                if is_inference:
                    await asyncio.sleep(delay_s)
                if is_inference and numbered:
                    writer.write(inference(next(numbers)))
                else:
                    writer.write(inferred if is_inference else described)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(connection, "127.0.0.1", port, limit=2**22) as server:
        await server.serve_forever()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--delay-s", type=float, default=0.005, help="time until an image is answered (seconds)")
    parser.add_argument("--numbered", action="store_true", help="answers can be told apart")
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.delay_s, given.numbered))


if __name__ == "__main__":
    main()
