"""The loads that a plan can have, as data: clients at a rate, cameras, a trace, users who wait for their answers.

Each tells how long it lasts, what it offers when, and who sends; its requests come from ``sources``. Sends nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from saccade_loadtest.load.arrivals import Phase, Process, Profile
from saccade_loadtest.load.cameras import Fleet
from saccade_loadtest.load.sources import Clients
from saccade_loadtest.load.trace import Shot, Trace, parse_trace


class Part(BaseModel):
    """A part of a plan: data that does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClientsLoad(Part):
    """Independent clients at a rate; fields as in ``arrivals.Profile`` and ``sources.Clients``."""

    kind: Literal["clients"] = "clients"
    name: str = "poisson"
    knots: tuple[tuple[float, float], ...]
    names: tuple[tuple[str, float], ...] = (("steady", 0.0),)
    process: Process = "poisson"
    seed: int = 1
    clients: int = Field(100, ge=1, le=100_000)

    @classmethod
    def of(cls, profile: Profile, process: Process, name: str, seed: int = 1) -> ClientsLoad:
        """The load of a profile."""
        return cls(knots=profile.knots, names=profile.names, process=process, name=name, seed=seed)

    @cached_property
    def profile(self) -> Profile:
        """The rate over time."""
        return Profile(self.knots, self.names)

    @property
    def duration_s(self) -> float:
        """Seconds of the schedule."""
        return self.profile.duration_s

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Named stretches."""
        return self.profile.phases

    @property
    def lights(self) -> tuple[Literal["day", "night"], ...]:
        """Which pictures are needed."""
        return ("day",)

    @property
    def senders(self) -> Collection[int] | None:
        """Numbers of the cameras that send; None where they are not known before."""
        return range(self.clients)

    @property
    def peak_per_s(self) -> float:
        """The highest rate."""
        return max(per_s for _, per_s in self.knots)

    def expected(self, begin_s: float, end_s: float) -> float:
        """Requests between two moments."""
        return self.profile.expected(end_s) - self.profile.expected(begin_s)

    def shots(self, index: int, count: int) -> Iterator[Shot]:
        """The requests of one of ``count`` generators."""
        return Clients(self.profile, self.process, self.seed, self.clients).shots(index, count)


class FleetLoad(Part):
    """Cameras; fields as in ``cameras.Fleet``. ``switched``: they are switched on and off from outside."""

    kind: Literal["cameras"] = "cameras"
    cameras: int = 1
    fps: float = 10.0
    duration_s: float = 60.0
    jitter: float = 0.1
    static: float = 0.0
    scene_s: float = 10.0
    duplicates: float = 0.0
    burst_every_s: float = 0.0
    burst_s: float = 0.5
    day_s: float = 0.0
    night_fps: float | None = None
    seed: int = 1
    switched: bool = False

    @property
    def name(self) -> str:
        """Of the arrivals."""
        return "cameras"

    @cached_property
    def fleet(self) -> Fleet:
        """The cameras."""
        return Fleet(**self.model_dump(exclude={"kind", "switched"}))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Days and nights."""
        return self.fleet.phases

    @property
    def lights(self) -> tuple[Literal["day", "night"], ...]:
        """Which pictures are needed."""
        return ("day", "night") if self.day_s else ("day",)

    @property
    def senders(self) -> Collection[int] | None:
        """Numbers of the cameras that send; None where they are not known before."""
        return None if self.switched else range(self.fleet.cameras)

    @property
    def peak_per_s(self) -> float:
        """The highest rate, all cameras' bursts at once; unknown of cameras that are switched."""
        if self.switched:
            return math.inf
        bursts_per_s = self.fleet.per_s * self.burst_s if self.burst_every_s else 0.0
        return max(self.fleet.per_s, self.cameras * (self.night_fps or 0)) + bursts_per_s

    def expected(self, begin_s: float, end_s: float) -> float:
        """Requests between two moments, about: without the fewer that jitter moves over the end."""
        return sum(
            phase.per_s * max(0.0, min(end_s, phase.ends_s) - max(begin_s, phase.begins_s)) for phase in self.phases
        )

    def shots(self, index: int, count: int) -> Iterator[Shot]:
        """The frames of one of ``count`` generators."""
        return self.fleet.shots(index, count)


class TraceLoad(Part):
    """A trace file's text, replayed. ``switched``: its cameras are switched on and off from outside."""

    kind: Literal["trace"] = "trace"
    name: str = "trace"
    text: str
    switched: bool = False

    @cached_property
    def trace(self) -> Trace:
        """The frames."""
        return parse_trace(self.text.splitlines(), self.name)

    @property
    def duration_s(self) -> float:
        """Seconds to the last frame."""
        return self.trace.duration_s

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One."""
        return self.trace.phases

    @property
    def lights(self) -> tuple[Literal["day", "night"], ...]:
        """Which pictures are needed."""
        return ("day", "night") if any(shot.light == "night" for shot in self.trace.shots) else ("day",)

    @property
    def senders(self) -> Collection[int] | None:
        """Numbers of the cameras that send; None where they are not known before."""
        return None if self.switched else sorted({shot.camera for shot in self.trace.shots})

    @property
    def peak_per_s(self) -> float:
        """Frames in the second that has most."""
        if self.switched:
            return math.inf
        return float(max(Counter(int(shot.due_s) for shot in self.trace.shots).values()))

    def expected(self, begin_s: float, end_s: float) -> float:
        """Frames between two moments."""
        return sum(begin_s <= shot.due_s < end_s for shot in self.trace.shots)

    def shots(self, index: int, count: int) -> Iterator[Shot]:
        """The frames of one of ``count`` generators."""
        return self.trace.share(index, count)


class UsersLoad(Part):
    """Closed loop: users who wait for their answers. ``switched``: they are switched on and off from outside."""

    kind: Literal["users"] = "users"
    users: int = Field(1, ge=1, le=100_000)
    switched: bool = False
    duration_s: float = Field(60.0, gt=0)
    pause_s: float = Field(0.0, ge=0)

    @property
    def name(self) -> str:
        """Of the arrivals."""
        return f"{self.users} users who wait"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One, whose rate nobody knows before."""
        return (Phase("steady", 0.0, self.duration_s, 0.0),)

    @property
    def lights(self) -> tuple[Literal["day", "night"], ...]:
        """Which pictures are needed."""
        return ("day",)

    @property
    def senders(self) -> Collection[int] | None:
        """Numbers of the users who send; None where they are not known before."""
        return None if self.switched else range(self.users)

    @property
    def peak_per_s(self) -> float:
        """As if each user's one request were open for a second at least."""
        return math.inf if self.switched else float(self.users)

    def expected(self, begin_s: float, end_s: float) -> float:
        """Unknown: the answers decide."""
        return 0.0


Load = Annotated[ClientsLoad | FleetLoad | TraceLoad | UsersLoad, Field(discriminator="kind")]
