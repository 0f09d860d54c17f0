"""The time a request has left, stated in it: as a header for ours, as Triton's parameter for everybody.

Whoever sends a request a second time states what is left then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from saccade_serving.connection.exchange import DEADLINE_HEADER
from saccade_serving.oip.messages import InferRequest

#: Triton's request parameter, in microseconds; 0 would mean none.
TIMEOUT_PARAMETER = "timeout"


def timeout_us(remaining_s: float) -> int:
    """The parameter's value, at least 1; three digits, so that most requests say it in the same bytes."""
    microseconds = int(remaining_s * 1e6)
    step: int = 10 ** max(0, len(str(microseconds)) - 3)
    return max(1, microseconds // step * step)


def deadline_ms(remaining_s: float) -> str:
    """The header's value."""
    return f"{remaining_s * 1e3:.3f}"


def restated(
    request: InferRequest, headers: Mapping[str, str] | None, remaining_s: float
) -> tuple[InferRequest, Mapping[str, str] | None]:
    """The same request and headers with the time left now, where they state one."""
    if TIMEOUT_PARAMETER in request.parameters:
        parameters = {**request.parameters, TIMEOUT_PARAMETER: timeout_us(remaining_s)}
        request = replace(request, parameters=parameters)
    if headers is not None and DEADLINE_HEADER in headers:
        headers = {**headers, DEADLINE_HEADER: deadline_ms(remaining_s)}
    return request, headers
