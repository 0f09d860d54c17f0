"""Every error a client can receive, with its HTTP status and gRPC code.

    SaccadeError                      base; never raised itself
    |- InvalidRequest        400  INVALID_ARGUMENT    the request contradicts the protocol or the model
    |  |- InvalidImage       400  INVALID_ARGUMENT    an image that is damaged or cannot be decoded
    |  |- MalformedBody      400  INVALID_ARGUMENT    the framing of the request's body cannot be understood
    |  |- UnknownTensor      400  INVALID_ARGUMENT    a tensor name that the model does not have
    |  `- WrongShape         400  INVALID_ARGUMENT    datatype, shape or size disagree
    |- NotPermitted          403  PERMISSION_DENIED   a control call without its key
    |- ModelNotFound         404  NOT_FOUND           no such model or version
    |- SlowBody              408  DEADLINE_EXCEEDED   the request body comes too slowly
    |- PayloadTooLarge       413  RESOURCE_EXHAUSTED  bytes, decoded pixels or images over a limit
    |- UnsupportedMedia      415  INVALID_ARGUMENT    a content type or an image format that is not served
    |- EngineFailed          500  INTERNAL            the engine raised or broke its contract
    |- Unimplemented         501  UNIMPLEMENTED       a known operation that this server does not offer
    |- PredictorUnavailable  502  UNAVAILABLE         the transformer cannot reach the predictor
    |- Overloaded            503  UNAVAILABLE         a queue is full, or the service is not ready or draining
    |  `- ArenaFull          503  UNAVAILABLE         the memory for request bodies is used up
    `- DeadlineExceeded      504  DEADLINE_EXCEEDED   the request's time is over

The message is one sentence that names what was sent and what is expected. It never holds a stack trace, a
path of the server or a payload. ``str(error)`` is what the client reads.
"""

from __future__ import annotations

import math
from typing import ClassVar


class SaccadeError(Exception):
    """Base of all errors that are answered to a client.

    Attributes:
        status: HTTP status code.
        grpc_code: name of the gRPC status code (a member of ``grpc.StatusCode``).
        reason: short stable name, used as a metric label and in logs.
    """

    status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "internal"

    #: Seconds after which a retry is worth while; sent as ``Retry-After``.
    retry_after_s: float | None = None

    @property
    def retry_after_seconds(self) -> int | None:
        """``retry_after_s`` as ``Retry-After`` carries it: whole seconds, from 1 to an hour."""
        if self.retry_after_s is None:
            return None
        # The comparison is written so that a number that is none counts as the least.
        return math.ceil(min(self.retry_after_s, 3600.0)) if self.retry_after_s > 1 else 1


class InvalidRequest(SaccadeError):
    """The request contradicts the protocol or the model's contract."""

    status = 400
    grpc_code = "INVALID_ARGUMENT"
    reason = "invalid_request"


class MalformedBody(InvalidRequest):
    """A body whose framing cannot be understood; counted like a head that cannot."""

    reason = "bad_head"


class InvalidImage(InvalidRequest):
    """An image that is damaged, empty, or cannot be decoded."""

    reason = "invalid_image"


class UnknownTensor(InvalidRequest):
    """A tensor name that the model does not have."""

    reason = "unknown_tensor"

    def __init__(self, name: str, known: list[str], direction: str = "input") -> None:
        listed = ", ".join(repr(k) for k in known) or "none"
        super().__init__(f"{direction} {short(name)} is not a tensor of this model; expected {listed}")


class WrongShape(InvalidRequest):
    """A tensor whose datatype, shape or size is not what is expected."""

    reason = "wrong_shape"


class NotPermitted(SaccadeError):
    """A call that changes the server, from somebody who has not shown the key."""

    status = 403
    grpc_code = "PERMISSION_DENIED"
    reason = "not_permitted"


class ModelNotFound(SaccadeError):
    """No such model, or no such version of it."""

    status = 404
    grpc_code = "NOT_FOUND"
    reason = "model_not_found"

    def __init__(self, name: str, version: str = "", known: list[str] | None = None) -> None:
        what = f"version {short(version)} of model {short(name)}" if version else f"model {short(name)}"
        have = f"; available: {', '.join(known)}" if known else ""
        super().__init__(f"{what} is not served here{have}")


class SlowBody(SaccadeError):
    """The request body comes more slowly than a sender may be."""

    status = 408
    grpc_code = "DEADLINE_EXCEEDED"
    reason = "slow_body"

    def __init__(self, received: int, length: int, seconds: float, least_per_s: float) -> None:
        super().__init__(
            f"{received} of {length} bytes of the request body came in {seconds:.1f} s; expected at least "
            f"{least_per_s:g} bytes per second"
        )


class PayloadTooLarge(SaccadeError):
    """More bytes, pixels or images than the limit allows."""

    status = 413
    grpc_code = "RESOURCE_EXHAUSTED"
    reason = "payload_too_large"

    def __init__(self, what: str, size: int | None, limit: int, unit: str = "bytes", advice: str = "") -> None:
        verb = "is" if unit == "bytes" else "has"
        sent = f"{verb} {size} {unit}" if size is not None else "is larger than allowed"
        super().__init__(f"{what} {sent}; the limit is {limit} {unit}{advice}")


class UnsupportedMedia(SaccadeError):
    """A content type, content encoding or image format that is not served."""

    status = 415
    grpc_code = "INVALID_ARGUMENT"
    reason = "unsupported_media"


class EngineFailed(SaccadeError):
    """The engine raised, or broke its contract. The cause stands in the log, not in the message."""

    status = 500
    grpc_code = "INTERNAL"
    reason = "engine_failed"


class Unimplemented(SaccadeError):
    """An operation of the protocol that this server does not offer."""

    status = 501
    grpc_code = "UNIMPLEMENTED"
    reason = "unimplemented"


class PredictorUnavailable(SaccadeError):
    """The transformer cannot reach the predictor, or got no usable answer from it."""

    status = 502
    grpc_code = "UNAVAILABLE"
    reason = "predictor_unavailable"


class Overloaded(SaccadeError):
    """The work would not be done in time: a queue is full, or the service is not ready or draining."""

    status = 503
    grpc_code = "UNAVAILABLE"
    reason = "overloaded"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ArenaFull(Overloaded):
    """The memory for request bodies is used up; nothing was leased."""

    reason = "arena_full"

    def __init__(self, wanted: int, held: int, limit: int, whose: str = "requests in flight") -> None:
        super().__init__(f"{whose} hold {held} of {limit} bytes; {wanted} more do not fit now")


class DeadlineExceeded(SaccadeError):
    """The time the request was given is over."""

    status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    reason = "deadline_exceeded"

    #: Seconds that the predictor had, where it was over while the predictor had the request.
    given_s: float | None = None


def short(value: str, limit: int = 80) -> str:
    """Quote a client's string for an error message, cut to ``limit`` characters, control characters escaped."""
    return repr(value if len(value) <= limit else value[:limit] + "...")
