"""What the scheduler costs: CPU per request, by how many wait and how large the batches are.

No engine, no network: requests are pushed, batches taken and finished, so many always waiting. Prints a table and
writes JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from rich.table import Table

from measuring import machine
from measuring.table import console
from measuring.targets import BENCH
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Entry, Queue, QueuePolicy
from saccade_serving.scheduling.scheduler import Scheduler

RESULTS: Final = BENCH / "results" / "scheduler.json"
WAITING: Final = (0, 1_000, 10_000, 100_000)
BATCHES: Final = (1, 8, 32)
ROUNDS: Final = 5
#: Times of a GPU that is never the bottleneck here.
_PROFILE: Final = {1: 0.001, 32: 0.002}


def plain(rows: int) -> Scheduler:
    """Triton's default: one queue, no delay."""
    return Scheduler(Queue(), BatchingRules(rows), profile=LatencyProfile(_PROFILE))


def rich(rows: int) -> Scheduler:
    """Three priorities, each with a timeout, and preferred sizes."""
    queue = Queue(QueuePolicy(default_timeout_s=1e6), 3, 2)
    return Scheduler(queue, BatchingRules(rows, (max(1, rows // 2), rows)), profile=LatencyProfile(_PROFILE))


def slo(rows: int) -> Scheduler:
    """An SLO, far enough away that nobody is refused."""
    return Scheduler(Queue(), BatchingRules(rows, slo_s=1e6), profile=LatencyProfile(_PROFILE))


KINDS: Final[dict[str, Callable[[int], Scheduler]]] = {
    "one queue": plain,
    "3 priorities, timeouts": rich,
    "SLO": slo,
}


def cost_us(make: Callable[[int], Scheduler], rows: int, waiting: int, requests: int) -> float:
    """CPU microseconds per request: the door, its place in the queue, its share of a batch."""
    scheduler = make(rows)
    numbers = itertools.count()
    now = 0.0

    def push() -> None:
        number = next(numbers)
        scheduler.knock(now, 1e9)
        scheduler.push(Entry(number, 1, 1e9, "shape", number % 4), now)

    for _ in range(waiting):
        push()
    begun = time.process_time()
    for _ in range(requests // rows):
        for _ in range(rows):
            push()
        now += 0.001
        turn = scheduler.turn(now)
        scheduler.done(turn.lane, sum([entry.rows for entry in turn.batch]), now + 0.0005)
    return (time.process_time() - begun) / requests * 1e6


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench/scheduler.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, one round, no longest queue")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    requests, rounds, depths = (3_200, 1, WAITING[:-1]) if given.quick else (32_000, ROUNDS, WAITING)
    shown = Table(title="Scheduler: CPU microseconds per request", title_justify="left")
    shown.add_column("rules")
    shown.add_column("batch", justify="right")
    for waiting in depths:
        shown.add_column(f"{waiting:,} waiting", justify="right")
    lines = []
    for (kind, make), rows in itertools.product(KINDS.items(), BATCHES):
        costs = [median(cost_us(make, rows, waiting, requests) for _ in range(rounds)) for waiting in depths]
        lines.append({"rules": kind, "batch": rows, "us": dict(zip(map(str, depths), costs, strict=True))})
        shown.add_row(kind, str(rows), *(f"{cost:.1f}" for cost in costs))
    console().print(shown)
    content = {
        "bench": "scheduler",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "bench/scheduler.py", *arguments]),
        "machine": machine.describe(),
        "requests": requests,
        "rounds": rounds,
        "lines": lines,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
