"""LitServe around ONNX Runtime with its own batching: a body is one row's bytes, and so is the answer.

Its one worker process infers; the HTTP server is a process of its own.
"""

import argparse
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response
from numpy.typing import NDArray

from servers.onnx_session import Counts, open_session

HOST = "127.0.0.1"
_OCTETS = "application/octet-stream"


class OnnxApi(litserve.LitAPI):  # type: ignore[misc]  # its environment has LitServe, ours has not
    """The hooks as LitServe's documentation names them. Annotations of requests are read when the server starts."""

    def __init__(self, file: Path, counts: Path, threads: int, max_batch: int, delay_ms: float) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=delay_ms / 1e3)
        self._file, self._counts_file, self._threads = file, counts, threads

    def setup(self, _device: str) -> None:
        """Open the file, in the worker process."""
        self._session = open_session(self._file, self._threads)
        self._counts = Counts(self._counts_file)
        [source] = self._session.get_inputs()
        self._input, self._shape = source.name, source.shape[1:]
        self._dtype = np.uint8 if source.type == "tensor(uint8)" else np.float32

    def decode_request(self, request: Annotated[bytes, Body(media_type=_OCTETS)]) -> NDArray[Any]:
        """One row."""
        return np.frombuffer(request, self._dtype).reshape(self._shape)

    def batch(self, inputs: list[NDArray[Any]]) -> NDArray[Any]:
        """All of them."""
        return np.stack(inputs)

    def predict(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Infer what the loop has put together."""
        [answer] = self._session.run(None, {self._input: batch})
        self._counts.add(len(batch))
        found: NDArray[Any] = answer
        return found

    def unbatch(self, output: NDArray[Any]) -> list[NDArray[Any]]:
        """One for each request."""
        return list(output)

    def encode_response(self, output: NDArray[Any]) -> Response:
        """Its bytes."""
        return Response(output.tobytes(), media_type=_OCTETS)


def main() -> None:
    """Serve on the given port until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-batch", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--fast-queue", action="store_true")
    parser.add_argument("http_port", type=int)
    given = parser.parse_args()
    api = OnnxApi(given.file, given.counts, given.threads, given.max_batch, given.delay_ms)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=given.fast_queue)
    server.run(host=HOST, port=given.http_port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
