"""Reads an A/B test: the transformer's record of its requests (``ab_log``), and outcomes that were found later.

Pure: lines in, requests and values out; which of them count for what. Judges nothing.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from typing import Any, Final, NamedTuple

from saccade_serving.errors import short
from saccade_serving.lines import NotJson, read_lines

_ANSWERED: Final = frozenset({"200", "OK"})
#: The service's fault, or its predictor's. All other codes are the client's.
_ERRORS: Final = frozenset({"500", "502", "503", "504", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN"})
_LEFT: Final = "499"
DEFAULT_OUTCOME: Final = "outcome"
#: The largest that a value may be, either way: squares of squares of it still are numbers.
MOST: Final = 1e15


class UnreadableInput(Exception):
    """A file is not what it should be; the sentence names the line and what is expected."""


class Request(NamedTuple):
    """One line of the record; ``docs/shadow-and-ab.md`` describes them.

    Attributes:
        unix_s: when it ended.
        variant: that answered.
        fell_back: stable answered for the candidate.
        is_chosen: it chose its variant itself.
        key: digest of its camera or user; empty without one.
        salt: digest of the split's salt; empty in older records.
        share: the candidate's at that time.
    """

    unix_s: float
    request_id: str
    variant: str
    fell_back: bool
    is_chosen: bool
    key: str
    salt: str
    share: float
    latency_ms: float
    code: str
    items: int

    @property
    def split(self) -> tuple[str, float]:
        """What has dealt it: requests of another salt or share are of another experiment."""
        return self.salt, self.share

    @property
    def is_answered(self) -> bool:
        """Whether it was answered with a result."""
        return self.code in _ANSWERED

    @property
    def is_error(self) -> bool:
        """Whether it failed, and not by its client's fault."""
        return self.code in _ERRORS

    @property
    def has_left(self) -> bool:
        """Whether its client did not wait for the answer."""
        return self.code == _LEFT


_UNIQUE: Final = ("time", "request_id")
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "time": str,
    "request_id": str,
    "variant": str,
    "fallback": bool,
    "chosen": bool,
    "key": str,
    "salt": str,
    "share": (int, float),
    "latency_ms": (int, float),
    "code": str,
    "items": int,
}
#: Numbers are of 0 to these.
_RANGES: Final[Mapping[str, float]] = {"share": 1.0, "latency_ms": MOST, "items": MOST}
#: What older records do not have.
_DEFAULTS: Final = {"salt": ""}


def read_log(lines: Iterable[bytes], name: str = "the log") -> list[Request]:
    """Read a record.

    Args:
        lines: as they were written, newlines included. A last one without a newline that cannot be read is left out:
            its writer was ended there, or has not got further.
        name: of the file, for errors.

    Raises:
        UnreadableInput: a line is none of a record.
    """
    try:
        return [_request(content, number, name) for number, content in read_lines(lines)]
    except NotJson as error:
        raise UnreadableInput(f"line {error.number} of {name} is not JSON; expected a line of ab_log") from None


def _request(content: Any, number: int, name: str) -> Request:
    values: list[Any] = []
    for key, kind in _KINDS.items():
        value = content.get(key, _DEFAULTS.get(key)) if isinstance(content, dict) else None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UnreadableInput(
                f"line {number} of {name} is no line of ab_log: expected an object with {', '.join(_KINDS)}; "
                f"{key!r} is missing or of another kind"
            )
        # The same few names stand in every line.
        values.append(sys.intern(value) if isinstance(value, str) and key not in _UNIQUE else value)
        most = _RANGES.get(key)
        if most is not None and not 0 <= values[-1] <= most:
            raise UnreadableInput(f"line {number} of {name} has {key} {value!r}; expected a number of 0 to {most:g}")
    try:
        values[0] = datetime.fromisoformat(values[0]).timestamp()
    except ValueError:
        raise UnreadableInput(
            f"line {number} of {name} has the time {values[0]!r}; expected one as 2026-11-27T10:15:02.123Z"
        ) from None
    return Request(*values)


class Outcome(NamedTuple):
    """One value that was found for a request."""

    request_id: str
    name: str
    value: float


@dataclass
class Dropped:
    """Values that cannot be used, for one reason.

    Attributes:
        count: how many.
        example: the first of them, as a person finds it in the file.
    """

    count: int = 0
    example: str = ""

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        self.example = self.example or example


@dataclass
class Outcomes:
    """What a file of outcomes holds.

    Attributes:
        values: those that are numbers.
        unreadable: lines without an id, or whose value is no number.
    """

    values: list[Outcome] = field(default_factory=list)
    unreadable: Dropped = field(default_factory=Dropped)


def read_outcomes(lines: Iterable[str], name: str = "the outcomes") -> Outcomes:
    """Read outcomes: CSV with a head line and the columns ``request_id``, ``value`` and perhaps ``name``.

    A line whose value is no finite number, or one beyond 1e15, or that has no id, is counted and left out.

    Args:
        lines: of the file.
        name: of the file, for errors.

    Raises:
        UnreadableInput: it is not CSV, or a column is missing.
    """
    reader = csv.DictReader(lines)
    found = Outcomes()
    try:
        if not {"request_id", "value"} <= set(reader.fieldnames or ()):
            raise UnreadableInput(
                f"{name} has the columns {', '.join(reader.fieldnames or ()) or 'none'}; expected request_id, value "
                "and, for several outcomes, name"
            )
        for row in reader:
            try:
                value = float(row["value"])
            except (TypeError, ValueError):
                value = math.nan
            if row["request_id"] and abs(value) <= MOST:
                found.values.append(Outcome(row["request_id"], row.get("name") or DEFAULT_OUTCOME, value))
            else:
                request_id, sent = (short(row[column] or "") for column in ("request_id", "value"))
                found.unreadable.add(f"line {reader.line_num} has request_id {request_id} and value {sent}")
    except csv.Error as error:
        raise UnreadableInput(f"line {reader.line_num} of {name} is not CSV: {error}") from None
    return found


@dataclass
class Experiment:
    """What of a record is one experiment: the requests since the salt or the share last changed.

    Attributes:
        stable: name of the variant.
        candidate: name of the variant.
        share: the candidate's.
        requests: split by key or by chance, all by that share and one salt.
        chosen: requests left out, since they chose their variant.
        earlier: requests left out, since they are from before the last change.
    """

    stable: str
    candidate: str
    share: float
    requests: list[Request] = field(default_factory=list)
    chosen: int = 0
    earlier: int = 0

    def arm(self, request: Request) -> str:
        """The variant that the split gave a request to, whoever answered it then."""
        return self.candidate if request.fell_back else request.variant

    def of(self, variant: str) -> list[Request]:
        """The requests that the split gave to a variant."""
        return [request for request in self.requests if self.arm(request) == variant]

    def own_answers(self, variant: str) -> list[Request]:
        """The requests that a variant itself has answered."""
        return [r for r in self.requests if r.is_answered and not r.fell_back and r.variant == variant]


def experiment_of(requests: list[Request], candidate: str) -> Experiment:
    """Find the experiment in a record.

    Args:
        requests: of all replicas, in any order: their times tell which are the last.
        candidate: the candidate's name; the other name in the record is stable's.

    Raises:
        UnreadableInput: there is nothing to compare, or there are more than two variants.
    """
    names = {request.variant for request in requests}
    if any(request.fell_back for request in requests):
        names.add(candidate)
    listed = ", ".join(sorted(names)) or "none"
    if candidate not in names or len(names) != 2:
        raise UnreadableInput(
            f"the log has requests of these variants: {listed}; expected two, one of them {candidate!r} "
            "(--candidate names another one)"
        )
    [stable] = names - {candidate}
    split = sorted((r for r in requests if not r.is_chosen), key=lambda request: request.unix_s)
    now = list(takewhile(lambda request: request.split == split[-1].split, reversed(split)))[::-1]
    share = float(now[-1].share) if now else 0.0
    return Experiment(stable, candidate, share, now, len(requests) - len(split), len(split) - len(now))


@dataclass
class Joined:
    """Outcomes with the requests they belong to.

    Attributes:
        by_name: of each outcome, the requests and its values, in pairs.
        unreadable: lines that are no outcome.
        unmatched: values whose request is not in the record.
        left_out: values of requests that no variant of the experiment has answered itself.
        ambiguous: values whose request id several requests had.
    """

    by_name: dict[str, list[tuple[Request, float]]] = field(default_factory=dict)
    unreadable: Dropped = field(default_factory=Dropped)
    unmatched: Dropped = field(default_factory=Dropped)
    left_out: Dropped = field(default_factory=Dropped)
    ambiguous: Dropped = field(default_factory=Dropped)

    @property
    def matched(self) -> int:
        """Values that count."""
        return sum(len(pairs) for pairs in self.by_name.values())


def join(outcomes: Outcomes, experiment: Experiment, everything: Iterable[Request]) -> Joined:
    """Join outcomes by request id.

    Args:
        outcomes: as read.
        experiment: whose own answers count.
        everything: the whole record, to tell what is unknown from what is left out.
    """
    times = Counter(request.request_id for request in everything)
    own = {
        request.request_id: request
        for variant in (experiment.stable, experiment.candidate)
        for request in experiment.own_answers(variant)
    }
    joined = Joined(unreadable=outcomes.unreadable)
    for outcome in outcomes.values:
        if not (count := times[outcome.request_id]):
            joined.unmatched.add(short(outcome.request_id))
        elif count > 1:
            joined.ambiguous.add(short(outcome.request_id))
        elif (request := own.get(outcome.request_id)) is None:
            joined.left_out.add(short(outcome.request_id))
        else:
            joined.by_name.setdefault(outcome.name, []).append((request, outcome.value))
    return joined
