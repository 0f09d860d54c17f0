"""What a POST route does with a request, whatever connection it came by: admit, start, encode.

The data plane's own connections and the ASGI application both drive these; neither knows what is inside.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import orjson

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import SaccadeError
from saccade_serving.oip.messages import Buffer

#: Paths whose route is remembered. Clients choose them, so they are not kept for ever.
_MAX_KNOWN_PATHS: Final = 1024


@dataclass(slots=True)  # not frozen: one is made for every request
class Reply:
    """An HTTP answer.

    Attributes:
        headers: without the content length; names in lower case.
        parts: the body, in buffers that are sent one after the other.
        size: bytes of all parts together.
        release: gives back the memory of the parts once it has been sent or copied.
        header_lines: the headers with the content length as HTTP/1.1 writes them, where that is known already.
    """

    status: int
    headers: Mapping[str, str]
    parts: Sequence[Buffer]
    size: int
    release: Callable[[], None] | None = None
    header_lines: str = ""


class Operation(ABC):
    """One POST route.

    Attributes:
        protocol: label of its requests in metrics.
        paths: where it is served, placeholders in braces; each matches one segment.
    """

    protocol: ClassVar[str]
    paths: ClassVar[Sequence[str]]

    @abstractmethod
    def admit(self, exchange: Exchange) -> None:
        """Look at the head, before any of the body is received.

        Raises:
            SaccadeError: the request is refused; its body is not received.
        """

    @abstractmethod
    def start(self, exchange: Exchange, body: memoryview) -> None:
        """Decode the body and hand the work to the model, which ends the exchange. Does not block.

        Args:
            exchange: the request.
            body: the whole body; valid until the exchange is closed, or its lease is taken over or held.

        Raises:
            Exception: ends the exchange.
        """

    def describe(self) -> Mapping[str, Any]:
        """OpenAPI path items of its own, by path; the V2 routes are described elsewhere."""
        return {}

    def encode(self, exchange: Exchange, answer: Any) -> Reply:
        """Turn the model's answer into bytes; by default it already is a ``Reply``.

        Raises:
            SaccadeError: it cannot be given in the form that was asked for.
        """
        assert isinstance(answer, Reply)
        return answer


def json_reply(content: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply:
    """Answer with JSON."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(status, {"content-type": "application/json", **(headers or {})}, [body], len(body))


def error_reply(error: SaccadeError) -> Reply:
    """Answer with an error in the V2 form."""
    retry_after = error.retry_after_seconds
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return json_reply({"error": str(error)}, headers, error.status)


def content_type(headers: Mapping[str, str]) -> str:
    """The media type without parameters, in lower case; empty if none was sent."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class Router:
    """Finds the operation of a path."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self._patterns = [(path_pattern(path), operation) for operation in operations for path in operation.paths]
        self._known: dict[str, tuple[Operation, dict[str, str]] | None] = {}

    def find(self, path: str) -> tuple[Operation, dict[str, str]] | None:
        """Look a path up.

        Args:
            path: percent-encoded as it was sent.

        Returns:
            The operation and the placeholders' values, decoded; None if no operation is there.
        """
        try:
            return self._known[path]
        except KeyError:
            pass
        found = None
        for pattern, operation in self._patterns:
            if (params := match_path(pattern, path)) is not None:
                found = operation, params
                break
        if len(self._known) >= _MAX_KNOWN_PATHS:
            self._known.clear()
        if len(path) <= 512:
            self._known[path] = found
        return found


def match_path(pattern: re.Pattern[str], path: str) -> dict[str, str] | None:
    """The placeholders' values in a path as it was sent, decoded one by one; None if it is another path."""
    match = pattern.fullmatch(path)
    return {name: unquote(value) for name, value in match.groupdict().items()} if match else None


def path_pattern(path: str) -> re.Pattern[str]:
    """What matches the percent-encoded paths of a route, placeholders in braces."""
    literals = re.split(r"\{(\w+)\}", path)
    parts = [f"(?P<{text}>[^/]+?)" if index % 2 else re.escape(text) for index, text in enumerate(literals)]
    return re.compile("".join(parts))
