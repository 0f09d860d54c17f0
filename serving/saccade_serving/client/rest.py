"""V2 over REST with the binary extension, on pooled keep-alive connections."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from saccade_serving.client.client import ConnectionFailed, Refused
from saccade_serving.errors import InvalidRequest
from saccade_serving.oip import binary_codec, json_codec
from saccade_serving.oip.messages import Buffer, InferRequest, InferResponse, ModelMetadata

JSON_LENGTH_HEADER = "inference-header-content-length"


class _Parts(Payload):
    """A body in several buffers, written without joining them."""

    def __init__(self, parts: Sequence[Buffer], size: int, content_type: str) -> None:
        super().__init__(parts, content_type=content_type)
        self._parts = parts
        self._size = size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a tensor body is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for part in self._parts:
            await writer.write(part)


class RestClient:
    """Speaks V2 REST with one server.

    Args:
        base_url: for example ``http://127.0.0.1:8080``.
        connections: most connections open at once; further calls wait for one.
        binary: send and ask for tensors as binary data rather than JSON.
    """

    def __init__(self, base_url: str, connections: int = 256, binary: bool = True) -> None:
        self._base_url = base_url.rstrip("/")
        self._connections = connections
        self._binary = binary
        self._session: aiohttp.ClientSession | None = None

    async def infer(
        self, request: InferRequest, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Send one inference request; see ``V2Client``."""
        encoded = binary_codec.encode_request(request, self._binary)
        all_headers = {**encoded.headers, **(headers or {})}
        path = f"/v2/models/{quote(request.model_name, safe='')}"
        if request.model_version:
            path += f"/versions/{quote(request.model_version, safe='')}"
        body = _Parts(encoded.parts, encoded.size, all_headers["content-type"])
        status, answer_headers, answer = await self.call("POST", path + "/infer", timeout_s, body, all_headers)
        _raise_for_status(status, answer_headers, answer)
        try:
            return binary_codec.decode_response(answer, answer_headers.get(JSON_LENGTH_HEADER))
        except InvalidRequest as error:
            raise ConnectionFailed(f"the server's answer cannot be read: {error}") from error

    async def metadata(self, model: str, timeout_s: float) -> ModelMetadata:
        """Ask what the model's tensors are; see ``V2Client``."""
        status, headers, answer = await self.call("GET", f"/v2/models/{quote(model, safe='')}", timeout_s)
        _raise_for_status(status, headers, answer)
        try:
            return json_codec.decode_metadata(orjson.loads(answer))
        except (InvalidRequest, orjson.JSONDecodeError) as error:
            raise ConnectionFailed(f"the server's model metadata cannot be read: {error}") from error

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model's ready route says yes."""
        try:
            status, _, _ = await self.call("GET", f"/v2/models/{quote(model, safe='')}/ready", timeout_s)
        except (ConnectionFailed, TimeoutError):
            return False
        return status == 200

    async def call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send any request to the server; returns status, headers and body.

        Raises:
            ConnectionFailed: no connection, or it broke off. A request on a kept-alive connection that the server
                had already closed is sent once more: inference may safely be repeated.
            TimeoutError: the answer did not come in time, both attempts together.
        """
        deadline = time.monotonic() + timeout_s
        for attempt in (1, 2):
            timeout = aiohttp.ClientTimeout(total=max(deadline - time.monotonic(), 1e-3))
            try:
                async with self._open().request(
                    method, self._base_url + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer:
                    return answer.status, answer.headers, await answer.read()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if attempt == 2 or isinstance(error, aiohttp.ClientConnectorError):
                    raise ConnectionFailed(f"{self._base_url} cannot be reached: {error}") from error
            except (aiohttp.ClientError, ValueError) as error:
                raise ConnectionFailed(f"{self._base_url} cannot be reached: {error}") from error
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=60),
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
            )
        return self._session


def _raise_for_status(status: int, headers: Mapping[str, str], body: bytes) -> None:
    if status == 200:
        return
    try:
        message = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = f"HTTP status {status}"
    retry_after = headers.get("retry-after", "")
    raise Refused(status, message, float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None)
