"""One request on its way between a connection and a model: its deadline, its stages, what is passed upstream.

Knows no socket and no codec, so that REST, gRPC and what comes later share it.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from saccade_serving.errors import DeadlineExceeded, InvalidRequest, short
from saccade_serving.oip.messages import Parameters

#: Milliseconds the request still has, counted from its first byte.
DEADLINE_HEADER: Final = "x-deadline-ms"
REQUEST_ID_HEADER: Final = "x-request-id"
#: Headers a transformer passes to its predictor: W3C trace context, and the three that KServe passes.
FORWARDED_HEADERS: Final = ("traceparent", "tracestate", "x-b3-traceid", "authorization")

_MAX_ID_CHARS: Final = 128


@dataclass(slots=True)
class Exchange:
    """What accompanies a request from its first byte to its answer.

    Attributes:
        protocol: "rest", "grpc", "v1" or "detect"; a metric label.
        deadline: absolute time on ``time.monotonic()``'s clock after which nobody waits for the answer.
        request_id: the client's ``x-request-id``, else one of our own.
        forwarded: headers for upstream calls, ``x-request-id`` among them.
        started: when the first byte arrived, same clock.
        stages: seconds spent by stage, for ``saccade_request_seconds``.
        model: known model's name once found (a metric label, so never the client's text).
    """

    protocol: str
    deadline: float
    request_id: str
    forwarded: dict[str, str]
    started: float
    stages: dict[str, float] = field(default_factory=dict)
    model: str = ""
    version: str = ""

    @classmethod
    def begin(
        cls, protocol: str, headers: Mapping[str, str], timeout_s: float, started: float | None = None
    ) -> Exchange:
        """Open an exchange from a request's headers (names in lower case).

        Args:
            protocol: label of the protocol the request came by.
            headers: the request's headers or gRPC metadata.
            timeout_s: the time the request has unless it states less.
            started: when its first byte arrived; now if omitted.

        Raises:
            InvalidRequest: ``x-deadline-ms`` is not a positive number.
        """
        started = time.monotonic() if started is None else started
        request_id = headers.get(REQUEST_ID_HEADER, "")[:_MAX_ID_CHARS]
        if not _can_travel(request_id):
            request_id = secrets.token_hex(8)
        forwarded = {name: headers[name] for name in FORWARDED_HEADERS if _can_travel(headers.get(name, ""))}
        forwarded[REQUEST_ID_HEADER] = request_id
        exchange = cls(protocol, started + timeout_s, request_id, forwarded, started)
        if stated := headers.get(DEADLINE_HEADER):
            exchange.tighten(_positive_number(stated) / 1e3)
        return exchange

    def tighten(self, timeout_s: float) -> None:
        """Bring the deadline forward to ``timeout_s`` after the first byte; never moves it back."""
        self.deadline = min(self.deadline, self.started + timeout_s)

    def tighten_by_parameter(self, parameters: Parameters) -> None:
        """Apply Triton's request parameter ``timeout`` (microseconds; 0 means none).

        Raises:
            InvalidRequest: it is not a whole number >= 0.
        """
        timeout_us = parameters.get("timeout", 0)
        if isinstance(timeout_us, str) and timeout_us.isascii() and timeout_us.isdigit():
            timeout_us = int(timeout_us[:18])
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
            raise InvalidRequest(
                f"parameter 'timeout' is {short(str(timeout_us))}; expected a whole number of microseconds >= 0"
            )
        if timeout_us:
            self.tighten(timeout_us / 1e6)

    def remaining_s(self) -> float:
        """Seconds left; negative when the deadline has passed."""
        return self.deadline - time.monotonic()

    def check_deadline(self, where: str) -> None:
        """Stop work nobody waits for.

        Raises:
            DeadlineExceeded: the deadline has passed; ``where`` completes the sentence.
        """
        if self.remaining_s() <= 0:
            raise self.too_late(where)

    def too_late(self, where: str) -> DeadlineExceeded:
        """Build the error for a deadline that passed ``where``."""
        given_ms = (self.deadline - self.started) * 1e3
        return DeadlineExceeded(f"the request's {given_ms:.6g} ms were over {where}")

    def spent(self, stage: str, seconds: float) -> None:
        """Add time to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as a stage."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spent(name, time.monotonic() - begun)


def _can_travel(value: str) -> bool:
    """Whether a value may be a header in HTTP and metadata in gRPC alike: printable ASCII."""
    return bool(value) and value.isascii() and value.isprintable()


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 < number < math.inf):
        raise InvalidRequest(f"header {DEADLINE_HEADER} is {short(text)}; expected milliseconds > 0")
    return number
