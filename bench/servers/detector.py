"""A detector without a model: reads a tensor's bytes, answers one table of candidates (V2 REST, binary)."""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Final

import numpy as np
import uvloop

from saccade_serving.oip import binary_codec
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor
from servers.bare import Http1

#: Rows of six FP32 numbers: 24 KB, as a ready graph answers by default.
ROWS: Final = 1000


def answer() -> bytes:
    """A whole HTTP answer."""
    table = np.zeros((1, ROWS, 6), np.float32)
    table[0, :3] = (8, 8, 40, 56, 0.9, 0)
    request = InferRequest("detector", [], binary_output=True)
    encoded = binary_codec.encode_response(
        request, InferResponse("detector", [Tensor.of("candidates", table)], model_version="1")
    )
    headers = {**encoded.headers, "content-length": str(encoded.size), "x-request-id": "0123456789ab1"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + b"".join(encoded.parts)


class Detector(Http1):
    """Answers every request with the table."""

    answer = answer()


async def serve(port: int) -> None:
    """Listen until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    await loop.create_server(Detector, "127.0.0.1", port)
    await stopping.wait()


def main() -> None:
    """Serve on the given port."""
    ports = argparse.ArgumentParser()
    ports.add_argument("port", type=int)
    given = ports.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.port))


if __name__ == "__main__":
    main()
