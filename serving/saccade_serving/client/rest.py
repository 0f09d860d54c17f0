"""V2 over REST with the binary extension, on pooled keep-alive connections of our own (``pool``).

Sends a request once. Whoever wants failures repeated puts ``Balanced`` in front.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlsplit

import orjson

from saccade_serving.client.answer import Answer
from saccade_serving.client.client import BadAnswer, ConnectionFailed, Refused, check_belongs, cut
from saccade_serving.client.pool import Pool, Result
from saccade_serving.errors import InvalidRequest, PayloadTooLarge
from saccade_serving.oip import binary_codec, json_codec
from saccade_serving.oip.body import HEADER_LENGTH
from saccade_serving.oip.json_limits import check_json
from saccade_serving.oip.messages import Buffer, InferRequest, InferResponse, ModelMetadata

#: Largest body of an answer unless told otherwise.
MAX_ANSWER_BYTES: Final = 64 * 2**20
#: Largest JSON of an answer whose tensors were to come as binary data, and of metadata: parsing it holds up the loop.
MAX_JSON_BYTES: Final = 2**20
#: Largest body of an error that is searched for its sentence.
_MAX_ERROR_BYTES: Final = 64 * 2**10
#: Request lines that are remembered: one for each model and version that is asked.
_MAX_STARTS: Final = 64


class RestClient:
    """Speaks V2 REST with one server.

    Args:
        base_url: for example ``http://127.0.0.1:8080``.
        connections: most connections open at once; further calls wait for one.
        binary: send and ask for tensors as binary data rather than JSON.
        max_answer_bytes: largest body of an answer; a larger one is a failure.
    """

    def __init__(
        self,
        base_url: str,
        connections: int = 256,
        binary: bool = True,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._binary = binary
        self._starts: dict[tuple[str, str], str] = {}
        self.pool: Pool | None = None
        try:
            url = urlsplit(self._base_url)
            tls = url.scheme == "https"
            port = (443 if tls else 80) if url.port is None else url.port
        except ValueError:
            return
        if url.scheme in ("http", "https") and url.hostname and url.username is None:
            self._host, self._prefix = url.netloc, url.path
            self.pool = Pool(url.hostname, port, tls, connections, max_answer_bytes)

    async def infer(
        self, request: InferRequest, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Send one inference request; see ``V2Client``."""
        encoded = binary_codec.encode_request(request, self._binary)
        all_headers = {**encoded.headers, **headers} if headers else encoded.headers
        key = (request.model_name, request.model_version)
        start = self._starts.get(key) or self._remember(key)
        first, *tensors = encoded.parts
        head = _head(start, encoded.size, all_headers)
        return await self._send([head + first, *tensors], timeout_s, lambda answer: _response(answer, request))

    async def metadata(self, model: str, timeout_s: float) -> ModelMetadata:
        """Ask what the model's tensors are; see ``V2Client``."""
        answer = await self._ask("GET", f"/v2/models/{quote(model, safe='')}", timeout_s)
        _raise_for_status(answer)
        try:
            check_json("the metadata", answer.body, MAX_JSON_BYTES)
            return json_codec.decode_metadata(orjson.loads(answer.body))
        except (InvalidRequest, PayloadTooLarge, orjson.JSONDecodeError) as error:
            raise BadAnswer(f"the server's model metadata cannot be read: {error}") from error

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model's ready route says yes."""
        try:
            answer = await self._ask("GET", f"/v2/models/{quote(model, safe='')}/ready", timeout_s)
        except (ConnectionFailed, TimeoutError):
            return False
        return answer.status == 200

    async def call(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: Buffer | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send any request to the server; returns status, headers (names in lower case) and body.

        Raises:
            ConnectionFailed: no connection, or it broke off, or the request cannot be sent as it is. A request on a
                kept-alive connection that the server had already closed is sent once more.
            TimeoutError: the answer did not come in time, both attempts together.
        """
        answer = await self._ask(method, path, timeout_s, body, headers)
        return answer.status, answer.headers, bytes(answer.body)

    async def close(self) -> None:
        """Close all connections."""
        if self.pool is not None:
            self.pool.close()

    async def _ask(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: Buffer | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        deadline = time.monotonic() + timeout_s
        size = None if body is None else memoryview(body).nbytes
        head = _head(self._start(method, path), size, headers or {})
        parts = [head] if body is None else [head, body]
        try:
            return await self._send(parts, timeout_s, _whole, method == "HEAD")
        except ConnectionFailed as error:
            if not error.reused or error.answer_began:
                raise
        return await self._send(parts, deadline - time.monotonic(), _whole, method == "HEAD")

    async def _send(
        self, parts: Sequence[Buffer], timeout_s: float, read: Callable[[Answer], Result], bodyless: bool = False
    ) -> Result:
        if self.pool is None:
            raise ConnectionFailed(f"{self._base_url} cannot be reached: expected http(s)://host:port")
        try:
            return await self.pool.request(parts, timeout_s, read, bodyless)
        except BadAnswer:
            raise
        except ConnectionFailed as error:
            if error.reused:
                self.pool.distrust_idle()
            text = f"{self._base_url} cannot be reached: {error}"
            raise ConnectionFailed(text, error.answer_began, error.reused) from error

    def _remember(self, key: tuple[str, str]) -> str:
        model, version = key
        path = f"/v2/models/{quote(model, safe='')}"
        if version:
            path += f"/versions/{quote(version, safe='')}"
        if len(self._starts) >= _MAX_STARTS:
            self._starts.clear()
        start = self._starts[key] = self._start("POST", path + "/infer")
        return start

    def _start(self, method: str, path: str) -> str:
        """The request line and the host; empty for a client that cannot send anything."""
        if self.pool is None:
            return ""
        target = self._prefix + path
        if not (target.isascii() and target.isprintable()) or " " in target:
            raise ConnectionFailed(f"{target!r} is no path that can be asked for")
        return f"{method} {target} HTTP/1.1\r\nhost: {self._host}\r\n"


def _head(start: str, size: int | None, headers: Mapping[str, str]) -> bytes:
    """A request's head.

    Raises:
        ConnectionFailed: a header has a character that would end it early.
    """
    text = start if size is None else f"{start}content-length: {size}\r\n"
    for name, value in headers.items():
        text += f"{name}: {value}\r\n"
    lines = len(headers) + (2 if size is None else 3)
    if start and (text.count("\n") != lines or text.count("\r") != lines or "\0" in text):
        raise ConnectionFailed("a header holds a line break")
    return f"{text}\r\n".encode()


def _whole(answer: Answer) -> Answer:
    return answer


def _response(answer: Answer, request: InferRequest) -> InferResponse:
    """The answer to a request.

    Raises:
        BadAnswer: it cannot be read, or answers another request: a server said two things to the one before.
        Refused: it is an error.
    """
    _raise_for_status(answer)
    try:
        limit = MAX_JSON_BYTES if request.binary_output and not request.outputs else None
        response = binary_codec.decode_response(answer.body, answer.headers.get(HEADER_LENGTH), limit)
    except (InvalidRequest, PayloadTooLarge) as error:
        raise BadAnswer(f"the server's answer cannot be read: {error}") from error
    check_belongs(response, request)
    return response


def _raise_for_status(answer: Answer) -> None:
    if answer.status == 200:
        return
    message = f"HTTP status {answer.status}"
    if len(answer.body) <= _MAX_ERROR_BYTES:
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
            message = cut(str(orjson.loads(answer.body)["error"]))
    after = answer.headers.get("retry-after", "")
    retry_after_s = float(after) if after.isascii() and after.isdigit() and len(after) < 10 else None
    raise Refused(answer.status, message, retry_after_s)
