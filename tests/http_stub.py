"""A tiny HTTP/1.1 server whose answers are functions that return raw bytes, for tests of clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np

from saccade_serving.oip import binary_codec
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor

HOST = "127.0.0.1"


@dataclass
class Call:
    """One request as the server saw it; ``nth`` counts the requests of its connection from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    nth: int


#: Raw bytes to send, or None to close the connection without an answer.
Answer = Callable[[Call], Awaitable[bytes | None]]


@dataclass
class Stub:
    """An HTTP/1.1 server with keep-alive whose answers are functions."""

    answer: Answer
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    sent: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def open(self) -> int:
        """Connections that still are."""
        return len(self.writers)

    def hang_up(self) -> None:
        """Break all connections, as a process that dies does."""
        for writer in self.writers:
            writer.transport.abort()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            nth = 0
            while True:
                nth += 1
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request_line, *lines = head.strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = request_line.split(" ")
                call = Call(method, path, headers, body, nth)
                self.calls.append(call)
                answering = asyncio.ensure_future(self.answer(call))
                leaving = asyncio.ensure_future(reader.read(1))
                done, _ = await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if answering not in done:
                    answering.cancel()
                    return  # the client has left
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                raw = answering.result()
                if raw is None:
                    return
                writer.write(raw)
                await writer.drain()
                self.sent += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.remove(writer)
            writer.close()


@asynccontextmanager
async def listening(stub: Stub) -> AsyncIterator[Stub]:
    server = await asyncio.start_server(stub.serve, HOST, stub.port, limit=2**24)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        await server.wait_closed()


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def always(raw: bytes | None) -> Answer:
    async def answer(_call: Call) -> bytes | None:
        return raw

    return answer


async def never(_call: Call) -> bytes | None:
    await asyncio.get_running_loop().create_future()
    return None


async def echo(call: Call) -> bytes:
    """Answer the inputs as outputs, as a V2 server would."""
    request = binary_codec.decode_request("m", "", call.body, call.headers.get("inference-header-content-length"))
    answer = InferResponse(unquote(call.path.split("/")[3]), request.inputs, model_version="7", id=request.id)
    encoded = binary_codec.encode_response(request, answer)
    headers = {name.replace("-", "_"): value for name, value in encoded.headers.items()}
    return http(200, b"".join(encoded.parts), **headers)


def request(size: int = 6, **changes: str) -> InferRequest:
    tensor = Tensor.of("x", np.arange(size, dtype=np.int32))
    return InferRequest("m", [tensor], binary_output=True, **changes)  # type: ignore[arg-type]
