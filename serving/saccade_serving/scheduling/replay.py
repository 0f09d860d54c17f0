"""Replays an arrival trace through the real queue, policy, door and profile, under a virtual clock.

Only the engine is a model: it takes what it is told a batch takes. Minutes of traffic run in a second, so that
settings can be tried before a GPU is asked. In front there may be Knative's queue-proxy with its hard limit
(``containerConcurrency``), which lets so many requests in and keeps ten times as many waiting, in order. It notices
that a client has left only once it has read the body, so that those wait on; and the server, which counts from the
first byte that it sees, knows nothing of the wait. Source: knative.dev/serving, pkg/queue/breaker.go, handler.go and
sharedmain; Go's net/http.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from saccade_serving.scheduling.queue import Entry, QueueFull
from saccade_serving.scheduling.scheduler import CannotMakeIt, Scheduler

#: What of a request's fate stands in ``Replayed.refused``.
FULL, DOOR, TIMEOUT, LATE, PROXY = "full", "door", "timeout", "late", "proxy"

_NEVER: Final = math.inf
_PROXY_WAITING: Final = 10


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace; seconds.

    Attributes:
        at: when it comes.
        rows: inferences it asks for.
        priority: Triton's.
        timeout: its own queue timeout; 0 is none.
        deadline: after which its answer is worth nothing, on the trace's clock; the server counts the time until
            then from when it is let in.
        leaves: when its client leaves, if it has not been answered.
        signature: only equal ones share a batch.
    """

    at: float
    rows: int = 1
    priority: int = 0
    timeout: float = 0.0
    deadline: float = _NEVER
    leaves: float = _NEVER
    signature: str = ""


@dataclass(slots=True)
class Replayed:
    """What happened; requests are called by their number in the trace.

    Attributes:
        batches: start, instance, and the requests.
        answered: when.
        refused: why, and when.
        left: when the client left without an answer.
    """

    batches: list[tuple[float, int, list[int]]] = field(default_factory=list)
    answered: dict[int, float] = field(default_factory=dict)
    refused: dict[int, tuple[str, float]] = field(default_factory=dict)
    left: dict[int, float] = field(default_factory=dict)


def replay(
    scheduler: Scheduler,
    trace: Iterable[Arrival],
    takes: Callable[[int], float],
    concurrency_limit: int = 0,
) -> Replayed:
    """Run a trace until all is done.

    Args:
        scheduler: fresh.
        trace: in any order.
        takes: seconds that a batch of so many rows computes.
        concurrency_limit: the queue-proxy's hard limit; 0 for none.
    """
    return _Run(scheduler, list(trace), takes, concurrency_limit).run()


class _Run:
    """One replay."""

    def __init__(
        self, scheduler: Scheduler, trace: list[Arrival], takes: Callable[[int], float], concurrency_limit: int
    ) -> None:
        self._scheduler = scheduler
        self._trace = trace
        self._takes = takes
        self._limit = concurrency_limit
        self._told = Replayed()
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = itertools.count()
        self._inside: set[int] = set()
        self._before: deque[int] = deque()  # who waits in the queue-proxy
        self._computing: dict[int, deque[tuple[Sequence[Entry], float]]] = {}
        self._woken = _NEVER

    def run(self) -> Replayed:
        for number, arrival in enumerate(self._trace):
            if arrival.leaves <= arrival.at:
                self._told.left[number] = arrival.leaves  # it never came
                continue
            self._at(arrival.at, "comes", number)
            if arrival.leaves < _NEVER:
                self._at(arrival.leaves, "leaves", number)
        events = self._events
        while events:
            now, _, what, whom = heapq.heappop(events)
            if what == "comes":
                self._come(now, whom)
            elif what == "leaves":
                self._leave(now, whom)
            elif what == "done":
                self._finish(now, whom)
            else:
                self._woken = _NEVER
            if not (events and events[0][0] == now):  # all that happens at one time happens before anything is decided
                self._decide(now)
        return self._told

    def _at(self, when: float, what: str, whom: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, whom))

    def _come(self, now: float, number: int) -> None:
        if not self._limit or len(self._inside) < self._limit:
            self._enter(now, number)
        elif len(self._before) < _PROXY_WAITING * self._limit:
            self._before.append(number)
        else:
            self._told.refused[number] = PROXY, now

    def _enter(self, now: float, number: int) -> None:
        arrival = self._trace[number]
        if number in self._told.left:
            return  # it comes and goes at once
        deadline = arrival.deadline + (now - arrival.at)
        self._inside.add(number)
        try:
            self._scheduler.knock(now, deadline, arrival.rows, arrival.priority)
            entry = Entry(number, arrival.rows, deadline, arrival.signature, arrival.priority, arrival.timeout)
            self._scheduler.push(entry, now)
        except QueueFull:
            self._refuse(now, number, FULL)
        except CannotMakeIt:
            self._refuse(now, number, DOOR)

    def _leave(self, now: float, number: int) -> None:
        if number in self._told.answered or number in self._told.refused:
            return
        self._told.left[number] = now
        if number in self._inside:
            self._scheduler.queue.withdraw(number)
            self._go(now, number)

    def _refuse(self, now: float, number: int, why: str) -> None:
        self._told.refused[number] = why, now
        self._go(now, number)

    def _go(self, now: float, number: int) -> None:
        """One has gone out: the next may come in."""
        self._inside.discard(number)
        while self._before and len(self._inside) < self._limit:
            self._enter(now, self._before.popleft())

    def _finish(self, now: float, lane: int) -> None:
        batch, _ = self._computing[lane].popleft()
        self._scheduler.done(lane, sum(entry.rows for entry in batch), now)
        for entry in batch:
            if entry.id not in self._told.left:
                self._told.answered[entry.id] = now
                self._go(now, entry.id)
        if self._computing[lane]:
            self._at(now + self._computing[lane][0][1], "done", lane)

    def _decide(self, now: float) -> None:
        while True:
            turn = self._scheduler.turn(now)
            for entry in turn.expired:
                self._refuse(now, entry.id, TIMEOUT)
            for entry in turn.late:
                self._refuse(now, entry.id, LATE)
            if not turn.batch:
                if turn.wake_at < self._woken:
                    self._woken = turn.wake_at
                    self._at(turn.wake_at, "wakes")
                return
            self._told.batches.append((now, turn.lane, [entry.id for entry in turn.batch]))
            lane = self._computing.setdefault(turn.lane, deque())
            lane.append((turn.batch, self._takes(sum(entry.rows for entry in turn.batch))))
            if len(lane) == 1:
                self._at(now + lane[0][1], "done", turn.lane)
