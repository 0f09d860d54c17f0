"""KServe's stock server, with its defaults, around a model that does nothing.

The only change: it listens on 127.0.0.1, where the stock server takes every address. With ``--quiet`` it does not log,
which stock servers do for every request.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import grpc.aio
import kserve
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse

from servers.noop import INPUT, MODEL, OUTPUT, first_byte

HOST = "127.0.0.1"


class NoopModel(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A custom model as KServe's documentation writes them."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.load()

    async def predict(self, payload: InferRequest, *_args: Any, **_kwargs: Any) -> InferResponse:
        """Read one byte."""
        image = next(tensor for tensor in payload.inputs if tensor.name == INPUT).as_numpy()
        output = InferOutput(OUTPUT, [1], "FP32")
        output.set_data_from_numpy(first_byte(image))
        return InferResponse(payload.id, self.name, [output])


def listen_on_loopback() -> None:
    """KServe writes 0.0.0.0 and [::] into its code; replace them where they arrive."""
    configure, make_server = uvicorn.Config.__init__, grpc.aio.server

    def configure_loopback(self: Any, *args: Any, **kwargs: Any) -> None:
        configure(self, *args, **{**kwargs, "host": HOST})

    def make_loopback_server(*args: Any, **kwargs: Any) -> Any:
        server = make_server(*args, **kwargs)
        add_port = server.add_insecure_port
        server.add_insecure_port = lambda address: add_port(f"{HOST}:{address.rpartition(':')[2]}")
        return server

    uvicorn.Config.__init__ = configure_loopback  # type: ignore[method-assign]
    grpc.aio.server = make_loopback_server


def main() -> None:
    """Serve on the given ports until SIGTERM."""
    ports = argparse.ArgumentParser()
    ports.add_argument("http_port", type=int)
    ports.add_argument("grpc_port", type=int)
    ports.add_argument("--quiet", action="store_true")
    given = ports.parse_args()
    listen_on_loopback()
    server = kserve.ModelServer(
        http_port=given.http_port, grpc_port=given.grpc_port, enable_latency_logging=not given.quiet
    )
    if given.quiet:
        logging.disable(logging.INFO)
    server.start([NoopModel()])


if __name__ == "__main__":
    main()
