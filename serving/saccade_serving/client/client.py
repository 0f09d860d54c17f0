"""What both clients offer, and the ways in which a call fails besides ``TimeoutError``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata

#: Longest sentence of a server that is passed on.
MAX_SENTENCE: Final = 300


class ConnectionFailed(Exception):
    """No connection, or it broke off before the answer was complete.

    Attributes:
        answer_began: bytes of an answer had come; without any the request may be repeated elsewhere.
        reused: the connection had served a call before: perhaps the server closed it just then.
    """

    def __init__(self, message: str, answer_began: bool = False, reused: bool = False) -> None:
        super().__init__(message)
        self.answer_began = answer_began
        self.reused = reused


class BadAnswer(ConnectionFailed):
    """An answer came, but not one that can be read: no HTTP, no V2, or too large."""

    def __init__(self, message: str) -> None:
        super().__init__(message, answer_began=True)


class Refused(Exception):
    """The server answered with an error.

    Attributes:
        status: HTTP status; gRPC codes are translated by the table of ``saccade_serving.errors``.
        retry_after_s: when a retry is worth while, if the server said so.
    """

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


def cut(sentence: str) -> str:
    """A server's sentence as it may be passed on: of bounded length, control characters escaped."""
    begin = sentence[:MAX_SENTENCE]
    if not begin.isprintable():
        begin = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in begin)[:MAX_SENTENCE]
    return begin + "..." if len(sentence) > MAX_SENTENCE else begin


def check_belongs(response: InferResponse, request: InferRequest) -> None:
    """Check that an answer is one to this request, as far as it says.

    Raises:
        BadAnswer: it has another id, or names another model.
    """
    if response.id and request.id and response.id != request.id:
        raise BadAnswer("the server's answer belongs to another request: it has another id")
    if response.model_name and response.model_name != request.model_name:
        raise BadAnswer("the server's answer belongs to another request: it names another model")


class V2Client(Protocol):
    """A client of one server. Every call may raise ConnectionFailed (BadAnswer), Refused or TimeoutError."""

    async def infer(
        self, request: InferRequest, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Send one request, once, and await its answer for at most ``timeout_s`` seconds.

        However it ends, the memory of the request's tensors is not read afterwards.
        """

    async def metadata(self, model: str, timeout_s: float) -> ModelMetadata:
        """Ask what the model's tensors are."""

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model answers requests; False where the server cannot be reached."""

    async def close(self) -> None:
        """Close all connections."""
