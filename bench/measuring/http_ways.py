"""Ways to ask a predictor for one inference: our client, two libraries, and what none of them can go below.

Each does the same: encode a V2 request, send it in binary, read the answer, decode it. The libraries are used as
their documentation advises: one session, keep-alive, no redirects, the body in the form that costs them least.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import aiohttp
import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from saccade_serving.client import RestClient
from saccade_serving.oip import binary_codec
from saccade_serving.oip.body import HEADER_LENGTH, EncodedBody
from saccade_serving.oip.messages import Buffer, InferRequest, InferResponse

PATH: Final = "/v2/models/detector/infer"
TIMEOUT_S: Final = 30.0


class Way(Protocol):
    """One way to ask."""

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """Ask once."""

    async def close(self) -> None:
        """Close its connections."""


class Saccade:
    """``RestClient``, as the transformer has it."""

    def __init__(self, port: int, connections: int) -> None:
        self._client = RestClient(f"http://127.0.0.1:{port}", connections)

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """Ask once."""
        return await self._client.infer(request, TIMEOUT_S, headers)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


class _Parts(Payload):
    """A body in several buffers, written without joining them."""

    def __init__(self, parts: Sequence[Buffer], size: int, content_type: str) -> None:
        super().__init__(parts, content_type=content_type)
        self._parts, self._size = parts, size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a tensor body is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for part in self._parts:
            await writer.write(part)


class Aiohttp:
    """aiohttp, as RestClient used it before."""

    def __init__(self, port: int, connections: int) -> None:
        self._url = f"http://127.0.0.1:{port}{PATH}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """Ask once."""
        encoded = binary_codec.encode_request(request)
        body = _Parts(encoded.parts, encoded.size, encoded.headers["content-type"])
        async with self._session.post(
            self._url,
            data=body,
            headers={**encoded.headers, **headers},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            allow_redirects=False,
        ) as answer:
            assert answer.status == 200
            return binary_codec.decode_response(await answer.read(), answer.headers.get(HEADER_LENGTH))

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


class Httpx:
    """httpx, which KServe's own client is made of."""

    def __init__(self, port: int, connections: int) -> None:
        self._url = f"http://127.0.0.1:{port}{PATH}"
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S, trust_env=False)

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """Ask once."""
        encoded = binary_codec.encode_request(request)
        # It takes parts as well, but joining them costs less than its way with them.
        body = b"".join(encoded.parts)
        answer = await self._client.post(self._url, content=body, headers={**encoded.headers, **headers})
        assert answer.status_code == 200
        return binary_codec.decode_response(answer.content, answer.headers.get(HEADER_LENGTH))

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


class Codec:
    """Encodes and decodes, and sends nothing: what every client pays besides."""

    def __init__(self, answer: bytes) -> None:
        head, _, self._body = answer.partition(b"\r\n\r\n")
        self._json_length = _json_length(head)

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """Encode, decode."""
        binary_codec.encode_request(request)
        return binary_codec.decode_response(self._body, self._json_length)

    async def close(self) -> None:
        """Nothing to close."""


class Socket:
    """A blocking socket with one connection, no event loop: the kernel's part, and the codec's."""

    def __init__(self, port: int, answer: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._answer = bytearray(len(answer))
        self._body_at = answer.index(b"\r\n\r\n") + 4
        self._json_length = _json_length(answer[: self._body_at])

    async def infer(self, request: InferRequest, headers: Mapping[str, str]) -> InferResponse:
        """Ask once; the answer's size is known beforehand."""
        encoded = binary_codec.encode_request(request)
        parts = [memoryview(part) for part in (_head(encoded, headers), *encoded.parts)]
        while parts:
            sent = self._socket.sendmsg(parts)
            while parts and sent >= parts[0].nbytes:
                sent -= parts.pop(0).nbytes
            if parts:
                parts[0] = parts[0][sent:]
        view = memoryview(self._answer)
        while view:
            view = view[self._socket.recv_into(view) :]
        return binary_codec.decode_response(memoryview(self._answer)[self._body_at :], self._json_length)

    async def close(self) -> None:
        """Close it."""
        self._socket.close()


def ways(port: int, connections: int, answer: bytes) -> dict[str, Callable[[], Way]]:
    """All ways that can have so many calls at once, by name."""
    made: dict[str, Callable[[], Way]] = {
        "Saccade": lambda: Saccade(port, connections),
        "aiohttp": lambda: Aiohttp(port, connections),
        "httpx": lambda: Httpx(port, connections),
    }
    if connections == 1:
        made["blocking socket"] = lambda: Socket(port, answer)
        made["encoding, decoding"] = lambda: Codec(answer)
    return made


def _head(encoded: EncodedBody, headers: Mapping[str, Any]) -> bytes:
    lines = {"host": "127.0.0.1", "content-length": str(encoded.size), **encoded.headers, **headers}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {PATH} HTTP/1.1\r\n{text}\r\n".encode()


def _json_length(head: bytes) -> int:
    name = HEADER_LENGTH.encode() + b": "
    return int(head.partition(name)[2].partition(b"\r\n")[0])
