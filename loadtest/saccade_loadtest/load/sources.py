"""Where requests come from: a schedule that waits for nobody, users who wait for answers, cameras that come and go.

The engine asks a source when its next request is due and takes it then. Pure: no sockets; times are seconds since the
run's first moment, as the engine hands them in.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from saccade_loadtest.load.arrivals import BadSchedule, Profile, arrivals
from saccade_loadtest.load.arrivals import Process as ArrivalProcess
from saccade_loadtest.load.cameras import Fleet
from saccade_loadtest.load.trace import Shot, Trace

#: Multiples of it modulo 1 fill the unit interval evenly from the first few on (a Weyl sequence).
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
#: Among so many cameras it is looked whether each protocol has one.
_MOST_SHARED_OUT: Final = 10_000


class Mix:
    """Which protocol a camera speaks: always the same one, and all of them in the shares that were asked for.

    Args:
        weights: protocol -> weight; at least one is above 0.
        cameras: numbers of all that send, of whom each protocol gets one at least; None: they are not known yet.

    Raises:
        BadSchedule: weights that cannot be, or more protocols than cameras.
    """

    def __init__(self, weights: Mapping[str, float], cameras: Collection[int] | None = None) -> None:
        is_finite = all(math.isfinite(weight) for weight in weights.values())
        if not weights or not is_finite or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise BadSchedule(
                f"a mix of protocols needs weights of at least 0, one above it; these are {dict(weights)}"
            )
        used = {name: weight for name, weight in weights.items() if weight > 0}
        self._names = tuple(used)
        self._assigned: dict[int, str] = {}
        total = sum(used.values())
        self._ends = [end / total for end in itertools.accumulate(used.values())]
        if cameras is not None:
            self._share_out(cameras)

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those with a weight above 0."""
        return self._names

    def assign(self, camera: int, protocol: str) -> None:
        """From now on a camera speaks this one; it must be one of ``protocols``."""
        if protocol not in self._names:
            raise BadSchedule(f"protocol {protocol!r} is not one of this run's: {', '.join(self._names)}")
        self._assigned[camera] = protocol

    def release(self, camera: int) -> None:
        """A camera is gone, and what it was assigned with it."""
        self._assigned.pop(camera, None)

    def of(self, camera: int) -> str:
        """The protocol of a camera."""
        if self._assigned and (assigned := self._assigned.get(camera)):
            return assigned
        if len(self._names) == 1:
            return self._names[0]
        place = (camera + 0.5) * _GOLDEN % 1.0
        for name, end in zip(self._names, self._ends, strict=True):
            if place < end:
                return name
        return self._names[-1]

    def _share_out(self, cameras: Collection[int]) -> None:
        """Give a protocol that no camera would speak one of those of the most spoken."""
        if len(cameras) < len(self._names):
            raise BadSchedule(
                f"{len(cameras)} camera{'s' if len(cameras) != 1 else ''} cannot speak {len(self._names)} protocols "
                f"({', '.join(self._names)}), since each keeps to one; take at least {len(self._names)} cameras, or "
                "fewer protocols"
            )
        if len(self._names) == 1:
            return
        spoken: dict[str, list[int]] = {name: [] for name in self._names}
        for camera in itertools.islice(cameras, _MOST_SHARED_OUT):
            spoken[self.of(camera)].append(camera)
        for name in self._names:
            if not spoken[name]:
                camera = max(spoken.values(), key=len).pop()
                spoken[name].append(camera)
                self._assigned[camera] = name


class Source(Protocol):
    """Gives requests one after the other."""

    #: Whether requests wait for answers.
    loop: str

    def next_due_s(self) -> float:
        """When the next request is due; infinite while there is none."""

    def take(self) -> Shot:
        """The next request, which is due. Its ``due_s`` is when."""

    def ended(self, shot: Shot, at_s: float) -> None:
        """A taken request has ended in one way or another."""

    @property
    def is_over(self) -> bool:
        """Whether there will be no more."""


class SwitchedSource(Source, Protocol):
    """A source of cameras (or users) that are switched on and off while the run goes on, as Locust's users are."""

    def switch_on(self, camera: int, at_s: float) -> None:
        """A camera begins to send; one that is on begins anew."""

    def switch_off(self, camera: int) -> None:
        """A camera sends no more; one that is off stays so."""

    def end(self) -> None:
        """All cameras are off, for good."""


class ScheduledSource:
    """A schedule: the requests of an iterator, at their moments, whatever becomes of them."""

    loop = "open"

    def __init__(self, shots: Iterator[Shot]) -> None:
        self._shots = shots
        self._next = next(shots, None)

    def next_due_s(self) -> float:
        """See ``Source``."""
        return math.inf if self._next is None else self._next.due_s

    def take(self) -> Shot:
        """See ``Source``."""
        assert self._next is not None
        shot, self._next = self._next, next(self._shots, None)
        return shot

    def ended(self, shot: Shot, at_s: float) -> None:
        """A schedule does not care."""

    @property
    def is_over(self) -> bool:
        """See ``Source``."""
        return self._next is None


class WaitingSource:
    """Closed loop: users who send their next request when the answer to their last has come.

    Args:
        users: how many from the beginning on; 0: they are switched on one by one.
        duration_s: nobody begins a request after this.
        pause_s: of a user between an answer and the next request.
    """

    loop = "closed"

    def __init__(self, users: int, duration_s: float, pause_s: float = 0.0) -> None:
        if users < 0:
            raise BadSchedule(f"{users} users cannot be; a closed loop needs at least 1")
        self._duration_s, self._pause_s = duration_s, pause_s
        self._ready = [(0.0, user) for user in range(users)]
        self._sent: Counter[int] = Counter()
        self._waiting: set[int] = set()
        self._on = set(range(users))
        self._ends = users > 0

    def next_due_s(self) -> float:
        """See ``Source``."""
        return self._ready[0][0] if self._ready else math.inf

    def take(self) -> Shot:
        """See ``Source``."""
        due_s, user = heapq.heappop(self._ready)
        self._sent[user] += 1
        self._waiting.add(user)
        return Shot(due_s, user, self._sent[user])

    def switch_on(self, camera: int, at_s: float) -> None:
        """A user begins to send."""
        if camera not in self._on:
            self._on.add(camera)
            if camera not in self._waiting:
                heapq.heappush(self._ready, (at_s, camera))

    def switch_off(self, camera: int) -> None:
        """A user sends no more."""
        self._on.discard(camera)
        self._ready = [one for one in self._ready if one[1] != camera]
        heapq.heapify(self._ready)

    def end(self) -> None:
        """All users are off, for good."""
        self._on.clear()
        self._ready.clear()
        self._ends = True

    def ended(self, shot: Shot, at_s: float) -> None:
        """The user may send the next one."""
        self._waiting.discard(shot.camera)
        if shot.camera in self._on and at_s + self._pause_s < self._duration_s:
            heapq.heappush(self._ready, (at_s + self._pause_s, shot.camera))

    @property
    def is_over(self) -> bool:
        """See ``Source``."""
        return self._ends and not self._ready and not self._waiting


class FleetSource:
    """Cameras that are switched on and off while the run goes on, as Locust's users are; each follows its schedule.

    Args:
        frames_of: the frames of a camera that is switched on at a moment, from that moment on.
        again: whether a camera whose frames are over begins anew.
    """

    loop = "open"

    def __init__(self, frames_of: Callable[[int, float], Iterator[Shot]], again: bool = True) -> None:
        self._frames_of, self._again = frames_of, again
        self._ends = False
        self._on: dict[int, int] = {}  # camera -> which time it is on
        self._turns = itertools.count()
        self._heap: list[tuple[float, int, int, Shot, Iterator[Shot]]] = []
        self._now_s = 0.0

    def switch_on(self, camera: int, at_s: float) -> None:
        """A camera begins to send; one that is on begins anew."""
        turn = self._on[camera] = next(self._turns)
        self._push(self._frames_of(camera, at_s), camera, turn)

    def switch_off(self, camera: int) -> None:
        """A camera sends no more; one that is off stays so."""
        self._on.pop(camera, None)

    def end(self) -> None:
        """All cameras are off, for good."""
        self._on.clear()
        self._heap.clear()
        self._ends = True

    @property
    def cameras(self) -> int:
        """How many are on."""
        return len(self._on)

    def next_due_s(self) -> float:
        """See ``Source``."""
        while self._heap and self._on.get(self._heap[0][3].camera) != self._heap[0][2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take(self) -> Shot:
        """See ``Source``; to be asked after ``next_due_s``."""
        self._now_s, camera, turn, shot, shots = heapq.heappop(self._heap)
        self._push(shots, camera, turn)
        return shot

    def ended(self, shot: Shot, at_s: float) -> None:
        """A camera does not care."""

    @property
    def is_over(self) -> bool:
        """See ``Source``."""
        return self._ends

    def _push(self, shots: Iterator[Shot], camera: int, turn: int) -> None:
        shot = next(shots, None)
        if shot is not None:
            heapq.heappush(self._heap, (shot.due_s, camera, turn, shot, shots))
        elif self._again and self._on.get(camera) == turn:
            self.switch_on(camera, self._now_s)  # its day is over, and the next begins


def fleet_source(fleet: Fleet) -> FleetSource:
    """Switched cameras of a fleet, whose number of cameras does not count."""

    def frames_of(camera: int, at_s: float) -> Iterator[Shot]:
        return (shot._replace(due_s=shot.due_s + at_s) for shot in fleet.frames_of(camera))

    return FleetSource(frames_of)


def trace_source(trace: Trace) -> FleetSource:
    """Switched cameras of a trace: each plays what is left of its frames, at the trace's own moments."""
    by_camera: dict[int, list[Shot]] = {}
    for shot in trace.shots:
        by_camera.setdefault(shot.camera, []).append(shot)

    def frames_of(camera: int, at_s: float) -> Iterator[Shot]:
        return (shot for shot in by_camera.get(camera, ()) if shot.due_s >= at_s)

    return FleetSource(frames_of, again=False)


@dataclass(frozen=True)
class Clients:
    """Independent clients without cameras' habits: every request is another picture.

    Attributes:
        profile: the rate over time.
        process: "even" or "poisson".
        seed: of the arrivals.
        clients: how many take turns, each a camera of its own.
    """

    profile: Profile
    process: ArrivalProcess
    seed: int = 1
    clients: int = 100

    def shots(self, index: int = 0, count: int = 1) -> Iterator[Shot]:
        """The requests of one of ``count`` generators."""
        numbers = itertools.count(index, count)
        moments = arrivals(self.profile, self.process, self.seed, index, count)
        for number, due_s in zip(numbers, moments, strict=False):
            yield Shot(due_s, number % self.clients, number // self.clients)
