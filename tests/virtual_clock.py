"""A scheduler under a virtual clock: arrivals go in, batches with their times come out. Milliseconds throughout."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade_serving.scheduling.queue import Entry, QueueFull
from saccade_serving.scheduling.scheduler import CannotMakeIt, Scheduler

#: Seconds that YOLOv8m takes on an A100 by batch size: the profile the SLO mode was designed with.
A100 = {1: 0.008, 8: 0.012, 32: 0.022, 64: 0.035, 128: 0.060}


@dataclass(frozen=True)
class Arrival:
    """A request that comes at ``at`` and may be withdrawn later."""

    at: float
    rows: int = 1
    priority: int = 0
    shape: str = ""
    timeout: float = 0.0
    deadline: float = math.inf
    leaves: float = math.inf


@dataclass
class Story:
    """What happened.

    Attributes:
        batches: time, instance, and numbers of the requests.
        refused: number of a request -> "full", "door", "timeout" or "late", and when.
        done: number -> when it was answered.
    """

    batches: list[tuple[float, int, list[int]]] = field(default_factory=list)
    refused: dict[int, tuple[str, float]] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)

    @property
    def groups(self) -> list[list[int]]:
        """The batches' requests alone."""
        return [numbers for _, _, numbers in self.batches]


def play(scheduler: Scheduler, arrivals: Iterable[Arrival], takes: Callable[[int], float]) -> Story:
    """Run until all is done.

    Args:
        scheduler: fresh; its rules and policies are in seconds.
        arrivals: numbered from 0 in the order given.
        takes: milliseconds that a batch of so many rows computes.
    """
    story = Story()
    events: list[tuple[float, int, str, Any]] = []  # in seconds, as the scheduler counts
    order = itertools.count()

    def at(when: float, what: str, whom: Any = None) -> None:
        heapq.heappush(events, (when, next(order), what, whom))

    computing: dict[int, list[tuple[Sequence[Entry], float]]] = {}
    for number, arrival in enumerate(arrivals):
        at(arrival.at / 1e3, "comes", (number, arrival))
        if arrival.leaves < math.inf:
            at(arrival.leaves / 1e3, "leaves", number)
    woken = math.inf
    while events:
        now, _, what, whom = heapq.heappop(events)
        if what == "comes":
            if (why := _knock(scheduler, now, *whom)) is not None:
                story.refused[whom[0]] = why, now * 1e3
        elif what == "leaves":
            scheduler.queue.withdraw(whom)
        elif what == "done":
            batch, _ = computing[whom].pop(0)
            scheduler.done(whom, sum(entry.rows for entry in batch), now)
            story.done |= dict.fromkeys([entry.id for entry in batch], now * 1e3)
            if computing[whom]:
                at(now + computing[whom][0][1], "done", whom)
        else:
            woken = math.inf
        if events and events[0][0] == now:
            continue  # everything that happens at this time happens before anything is decided
        while True:
            turn = scheduler.turn(now)
            story.refused |= {entry.id: ("timeout", now * 1e3) for entry in turn.expired}
            story.refused |= {entry.id: ("late", now * 1e3) for entry in turn.late}
            if not turn.batch:
                if turn.wake_at < woken:
                    woken = turn.wake_at
                    at(woken, "wakes")
                break
            story.batches.append((now * 1e3, turn.lane, [entry.id for entry in turn.batch]))
            lane = computing.setdefault(turn.lane, [])
            lane.append((turn.batch, takes(sum(entry.rows for entry in turn.batch)) / 1e3))
            if len(lane) == 1:
                at(now + lane[0][1], "done", turn.lane)
    return story


def _knock(scheduler: Scheduler, now: float, number: int, arrival: Arrival) -> str | None:
    """Let a request in; returns why not."""
    deadline = arrival.deadline / 1e3
    try:
        scheduler.knock(now, deadline, arrival.rows, arrival.priority)
        entry = Entry(number, arrival.rows, deadline, arrival.shape, arrival.priority, arrival.timeout / 1e3)
        scheduler.push(entry, now)
    except QueueFull:
        return "full"
    except CannotMakeIt:
        return "door"
    return None
