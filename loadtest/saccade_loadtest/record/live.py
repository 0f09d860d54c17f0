"""What happens in a run, second by second, while it lasts: deltas that a terminal, or Locust's web page, shows.

A ``LiveRecorder`` records as ``Recorder`` does, and keeps beside it what has ended since the last beat. Its latencies
are rounded to 0.1 ms, for display alone: the record has the exact ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saccade_loadtest.record.recorder import Recorder
from saccade_loadtest.record.results import HELD, Run

#: Cameras of which answers are counted one by one, for fairness.
_MOST_CAMERAS = 20_000


@dataclass(slots=True)
class Beat:
    """What ended since the last one, of one protocol.

    Attributes:
        sent: requests; ``not_sent``, ``answered`` likewise.
        errors: by kind.
        latencies: of right answers: tenths of a millisecond -> how many.
    """

    sent: int = 0
    not_sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        latencies = [[value, count] for value, count in self.latencies.items()]
        return {
            "sent": self.sent,
            "not_sent": self.not_sent,
            "answered": self.answered,
            "errors": dict(self.errors),
            "latencies": latencies,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Beat:
        """What ``to_dict`` gave."""
        latencies = Counter({int(value): int(count) for value, count in found["latencies"]})
        return cls(found["sent"], found["not_sent"], found["answered"], Counter(found["errors"]), latencies)

    def add(self, other: Beat) -> None:
        """Add another's counts."""
        self.sent += other.sent
        self.not_sent += other.not_sent
        self.answered += other.answered
        self.errors.update(other.errors)
        self.latencies.update(other.latencies)

    def percentile_ms(self, percent: float) -> float | None:
        """Of the right answers; None if there are none."""
        total = self.latencies.total()
        wanted = percent / 100 * total
        reached = 0
        for value in sorted(self.latencies):
            reached += self.latencies[value]
            if reached >= wanted:
                return value / 10
        return None


class LiveRecorder(Recorder):
    """A recorder that can tell what is new."""

    def __init__(self, run: Run, worker: str) -> None:
        super().__init__(run, worker)
        self._beats: dict[str, Beat] = {}

    def sent(self, protocol: str, due_s: float, sent_s: float) -> None:
        """See ``Recorder``."""
        super().sent(protocol, due_s, sent_s)
        self._beat(protocol).sent += 1

    def held(self, protocol: str, due_s: float) -> None:
        """See ``Recorder``."""
        super().held(protocol, due_s)
        beat = self._beat(protocol)
        beat.sent += 1
        beat.errors[HELD] += 1

    def not_sent(self, protocol: str, due_s: float) -> None:
        """See ``Recorder``."""
        super().not_sent(protocol, due_s)
        self._beat(protocol).not_sent += 1

    def answered(
        self,
        protocol: str,
        due_s: float,
        sent_s: float,
        ended_s: float,
        *,
        version: str = "",
        cache: str = "",
        agreed: bool | None = None,
    ) -> None:
        """See ``Recorder``."""
        super().answered(protocol, due_s, sent_s, ended_s, version=version, cache=cache, agreed=agreed)
        beat = self._beat(protocol)
        beat.answered += 1
        beat.latencies[round((ended_s - due_s) * 1e4)] += 1

    def failed(self, protocol: str, due_s: float, kind: str, *, version: str = "") -> None:
        """See ``Recorder``."""
        super().failed(protocol, due_s, kind, version=version)
        self._beat(protocol).errors[kind] += 1

    def take_beats(self) -> dict[str, Any]:
        """What is new since the last call, by protocol, as JSON can hold it."""
        beats, self._beats = self._beats, {}
        return {protocol: beat.to_dict() for protocol, beat in beats.items()}

    def _beat(self, protocol: str) -> Beat:
        beat = self._beats.get(protocol)
        if beat is None:
            beat = self._beats[protocol] = Beat()
        return beat


class Fairness:
    """How evenly cameras are served, by Jain's index: 1 when all get the same, 1/n when one gets everything.

    Source: Jain, Chiu, Hawe, A Quantitative Measure of Fairness, DEC-TR-301, 1984.
    """

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.served: Counter[int] = Counter()

    def count(self, camera: int, is_served: bool) -> None:
        """A camera's request has ended."""
        if camera in self.asked or len(self.asked) < _MOST_CAMERAS:
            self.asked[camera] += 1
            self.served[camera] += is_served

    def add(self, other: Fairness) -> None:
        """Add another's counts."""
        self.asked.update(other.asked)
        self.served.update(other.served)

    @property
    def shares(self) -> list[float]:
        """The share of its requests that each camera got answered, ascending."""
        return sorted(self.served[camera] / asked for camera, asked in self.asked.items())

    @property
    def index(self) -> float:
        """Jain's index of the shares; 1 where nobody asked or nobody was served."""
        shares = self.shares
        squares = sum(share * share for share in shares)
        return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
