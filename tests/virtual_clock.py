"""Replays in milliseconds, which tests read more easily."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from saccade_serving.scheduling import replay
from saccade_serving.scheduling.scheduler import Scheduler

#: Seconds that YOLOv8m takes on an A100 by batch size: the profile the SLO mode was designed with.
A100 = {1: 0.008, 8: 0.012, 32: 0.022, 64: 0.035, 128: 0.060}


@dataclass(frozen=True)
class Arrival:
    """A request that comes at ``at``."""

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
        refused: number of a request -> why, and when.
        done: number -> when it was answered.
        left: whose client left before.
    """

    batches: list[tuple[float, int, list[int]]] = field(default_factory=list)
    refused: dict[int, tuple[str, float]] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)

    @property
    def groups(self) -> list[list[int]]:
        """The batches' requests alone."""
        return [numbers for _, _, numbers in self.batches]


def play(
    scheduler: Scheduler, arrivals: Iterable[Arrival], takes: Callable[[int], float], concurrency_limit: int = 0
) -> Story:
    """Run until all is done.

    Args:
        scheduler: fresh; its rules and policies are in seconds.
        arrivals: numbered from 0 in the order given.
        takes: milliseconds that a batch of so many rows computes.
        concurrency_limit: the queue-proxy's.
    """
    trace = [
        replay.Arrival(a.at / 1e3, a.rows, a.priority, a.timeout / 1e3, a.deadline / 1e3, a.leaves / 1e3, a.shape)
        for a in arrivals
    ]
    told = replay.replay(scheduler, trace, lambda rows: takes(rows) / 1e3, concurrency_limit)
    return Story(
        [(when * 1e3, lane, numbers) for when, lane, numbers in told.batches],
        {number: (why, when * 1e3) for number, (why, when) in told.refused.items()},
        {number: when * 1e3 for number, when in told.answered.items()},
        set(told.left),
    )
