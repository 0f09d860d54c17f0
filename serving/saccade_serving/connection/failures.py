"""What becomes of an exception that ends a request: our own are answered as they are, others are logged and hidden."""

from __future__ import annotations

import logging
from typing import Final

from saccade_serving.errors import EngineFailed, SaccadeError
from saccade_serving.telemetry import Seldom

log = logging.getLogger("saccade.rest")

#: A predictor that is down fails every request; the log need not say so each time.
_seldom: Final = Seldom(1.0)


def as_saccade_error(error: BaseException) -> SaccadeError:
    """Keep our own errors; log anything else and hide it behind a sentence.

    Returns:
        The error, without the frames that led to it: they hold the request's buffers, and an error is part of a cycle
        more often than not, so that they would stay until a full collection.
    """
    if isinstance(error, SaccadeError):
        if error.status in (500, 502) and error.__cause__ is not None and _seldom.due(error.reason):
            log.error("request_failed", extra={"reason": error.reason, "cause": repr(error.__cause__)})
        answered = error
    else:
        log.error("internal_error", exc_info=error)
        answered = EngineFailed("the server failed to answer this request; its log has the cause")
    _forget_frames(error)
    return answered


def _forget_frames(error: BaseException) -> None:
    chain = [error]
    for _ in range(16):
        if not chain:
            return
        error = chain.pop()
        error.__traceback__ = None
        cause, context = error.__cause__, error.__context__
        if cause is not None:
            chain.append(cause)
        if context is not None and context is not cause:
            chain.append(context)
