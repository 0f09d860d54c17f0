"""The arrival trace: when requests came, what they asked for, how they ended; one JSON line each, to be replayed.

Pure: lines in and out; who writes them stands in ``saccade_serving.recording``. A line holds no payload, id or header,
and nothing else that a client has worded. Lines are in the order of the ends, so who reads them sorts by arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from saccade_serving.errors import short
from saccade_serving.lines import NotJson, read_lines
from saccade_serving.scheduling.replay import Arrival

#: "failed": the engine's fault; "invalid": the client's, so that the request never came to the queue.
Fate: TypeAlias = Literal["answered", "refused", "left", "failed", "invalid"]

_FATES: Final[Mapping[str, Fate]] = {
    "200": "answered",
    "OK": "answered",
    "503": "refused",
    "UNAVAILABLE": "refused",
    "504": "refused",
    "DEADLINE_EXCEEDED": "refused",
    "499": "left",
    "500": "failed",
    "INTERNAL": "failed",
}


#: No timeout is longer: a client may send any 64 bits, which rounded up are no integer for JSON any more.
_LONGEST_US: Final = 2**53


class Recorded(NamedTuple):
    """One line: a request that has ended; seconds.

    Attributes:
        at_s: when its first byte came, since the trace began.
        model: it asked for.
        version: that answered or refused it; empty while the model had none.
        rows: inferences it asked for; guessed, or 1, of who was refused or left before its body was read.
        deadline_s: time it had, counted from ``at_s``, without regard to the model's SLO.
        total_s: time until it ended.
        code: HTTP status, or the name of a gRPC code; 499 where the client left.
        priority: Triton's; 0 is none.
        timeout_s: its own queue timeout; 0 is none.
    """

    at_s: float
    model: str
    version: str
    rows: int
    deadline_s: float
    total_s: float
    code: str
    priority: int = 0
    timeout_s: float = 0.0

    @property
    def fate(self) -> Fate:
        """What became of it."""
        return _FATES.get(self.code, "invalid")


def encode(
    at_s: float,
    model: str,
    version: str,
    rows: int,
    deadline_s: float,
    total_s: float,
    code: str,
    priority: int,
    timeout_s: float,
) -> bytes:
    """Write a line, newline included; the arguments are ``Recorded``'s, of which none need be made for that.

    Times are whole microseconds: to round floats takes several times as long. What is not stated is left out.
    """
    fields = {
        "at_us": int(at_s * 1e6 + 0.5),
        "model": model,
        "version": version,
        "rows": rows,
        "deadline_us": max(0, int(deadline_s * 1e6 + 0.5)),
        "total_us": int(total_s * 1e6 + 0.5),
        "code": code,
    }
    if priority:
        fields["priority"] = priority
    if timeout_s:
        fields["timeout_us"] = min(int(timeout_s * 1e6 + 0.5), _LONGEST_US)
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


class _Expected(NamedTuple):
    """What a key of a line has to be."""

    kind: type
    least: int
    said: str


_TEXT: Final = _Expected(str, 0, "a string")
_MICROSECONDS: Final = _Expected(int, 0, "whole microseconds >= 0")
_KEYS: Final[Mapping[str, _Expected]] = {
    "at_us": _MICROSECONDS,
    "model": _TEXT,
    "version": _TEXT,
    "rows": _Expected(int, 1, "a whole number >= 1"),
    "deadline_us": _MICROSECONDS,
    "total_us": _MICROSECONDS,
    "code": _TEXT,
    "priority": _Expected(int, 0, "a whole number >= 0"),
    "timeout_us": _MICROSECONDS,
}
#: What may be left out.
_DEFAULTS: Final[Mapping[str, int]] = {"priority": 0, "timeout_us": 0}


def read_trace(lines: Iterable[bytes]) -> list[Recorded]:
    """Read a trace.

    Args:
        lines: as they were written, newlines included. A last one without a newline that cannot be read is left out:
            its writer was ended there, or has not got further.

    Returns:
        The requests in the order in which they came.

    Raises:
        ValueError: a line is none of a trace; the message has its number and what is expected.
    """
    try:
        found = [_recorded(number, content) for number, content in read_lines(lines)]
    except NotJson as error:
        raise ValueError(f"line {error.number} is not JSON; expected an object with {', '.join(_KEYS)}") from None
    return sorted(found, key=lambda one: one.at_s)


def _recorded(number: int, content: Any) -> Recorded:
    if not isinstance(content, dict):
        raise ValueError(f"line {number} is no JSON object; expected one with {', '.join(_KEYS)}")
    fields: dict[str, Any] = {**_DEFAULTS, **content}  # keys that nobody knows are of a later release
    values: list[Any] = []
    for key, (kind, least, said) in _KEYS.items():
        if key not in fields:
            raise ValueError(f"line {number} has no {key}; expected {said}")
        value = fields[key]
        if not (isinstance(value, str) if kind is str else type(value) is int and value >= least):
            raise ValueError(f"line {number}: {key} is {short(str(value))}; expected {said}")
        values.append(value / 1e6 if key.endswith("_us") else value)
    return Recorded(*values)


def arrivals(trace: Iterable[Recorded], slo_s: float = 0.0, speed: float = 1.0) -> list[Arrival]:
    """Make a trace the input of a replay. Requests that never came to the queue (fate "invalid") are left out.

    Nobody waits longer than the deadline, and a client that has left would leave again, unless it is answered before.

    Args:
        trace: of one model. Versions share its instances, but no batch.
        slo_s: which all requests get; 0 for none.
        speed: arrivals come so many times as fast; the time that each has stays.
    """
    found = []
    for one in trace:
        if one.fate == "invalid":
            continue
        at = one.at_s / speed
        deadline = at + limit_s(one, slo_s)
        leaves = min(deadline, at + one.total_s) if one.fate == "left" else deadline
        found.append(Arrival(at, one.rows, one.priority, one.timeout_s, deadline, leaves, one.version))
    return found


def limit_s(one: Recorded, slo_s: float) -> float:
    """The time in which an answer is worth something: the request's own, or the SLO if there is one and it is less."""
    return min(one.deadline_s, slo_s) if slo_s else one.deadline_s
