"""Replays a recorded arrival trace: what the scheduler would have made of that traffic, beside what came of it.

The engine is modelled by a profile, and nothing is known of the model's ``config.pbtxt``: SLO, instances, largest
batch and priority levels are given. Replayed times have no network, reading and writing in them. Writes nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.table import Table

from measuring.summary import percentile
from measuring.table import console, number
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue, QueuePolicy
from saccade_serving.scheduling.replay import replay
from saccade_serving.scheduling.scheduler import Scheduler
from saccade_serving.scheduling.trace import Recorded, arrivals, limit_s, read_trace

#: The predictor's ``max_queue_size`` where nothing else is set.
MAX_QUEUE_SIZE: Final = 1024


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of the requests of a trace.

    Attributes:
        came: all that came to the queue.
        seconds: from the first to the last of them.
        good: answered within the time they had and the SLO.
        refused: told so, for lack of room or time.
        times: seconds until the answer, of those that were answered.
    """

    what: str
    came: int
    seconds: float
    good: int
    refused: int
    left: int
    failed: int
    times: Sequence[float]


def profile(text: str) -> dict[int, float]:
    """Read ``1:8,8:12``: milliseconds by rows; returns seconds by rows.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    found: dict[int, float] = {}
    for part in text.split(","):
        rows, _, ms = part.partition(":")
        try:
            found[int(rows)] = float(ms) / 1e3
        except ValueError:
            found[0] = 0.0
    if any(rows < 1 or not 0 < seconds < math.inf for rows, seconds in found.items()):
        raise argparse.ArgumentTypeError(f"{text!r} is no profile; expected rows:milliseconds, such as 1:8,8:12,32:22")
    return found


def above_zero(text: str) -> float:
    """Read a number above 0.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def count(text: str) -> int:
    """Read a whole number of at most 1000, which is more than anybody has.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1000")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser, default: Mapping[int, float]) -> None:
    """Add the command line of a traced replay.

    Args:
        parser: of the bench.
        default: profile, seconds by rows.
    """
    shown = ",".join(f"{rows}:{seconds * 1e3:g}" for rows, seconds in default.items())
    group = parser.add_argument_group("recorded traffic", "replayed instead of all else; prints a table")
    group.add_argument("--trace", type=Path, metavar="FILE", help="recorded by SACCADE_PREDICTOR_ARRIVAL_TRACE")
    group.add_argument("--model", metavar="NAME", help="whose requests; needed where the file has several models")
    group.add_argument("--profile", type=profile, default=dict(default), help=f"rows:milliseconds (default: {shown})")
    group.add_argument("--slo-ms", type=above_zero, default=0.0, help="SLO of the model (default: none)")
    group.add_argument("--instances", type=count, default=1, help="of the engine (default: 1)")
    group.add_argument("--max-batch-size", type=count, metavar="ROWS", help="default: the profile's largest")
    group.add_argument("--priority-levels", type=count, default=0, help="default: none; who states none is of the 1st")
    group.add_argument(
        "--speed", type=above_zero, default=1.0, help="arrivals come so many times as fast (default: 1)"
    )


def run(given: argparse.Namespace) -> int:
    """Read, replay, print; returns the exit status."""
    try:
        with given.trace.open("rb") as lines:
            trace, model = of_model(read_trace(lines), given.model)
    except OSError as error:
        print(f"{given.trace}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"{given.trace}: {error}", file=sys.stderr)
        return 2
    most = given.max_batch_size or max(given.profile)
    slo_s = given.slo_ms / 1e3
    queue = Queue(QueuePolicy(max_queue_size=MAX_QUEUE_SIZE), given.priority_levels, min(given.priority_levels, 1))
    rules = BatchingRules(most, slo_s=slo_s)
    scheduler = Scheduler(queue, rules, (1,) * given.instances, LatencyProfile(given.profile))
    largest, capacity = scheduler.largest, scheduler.capacity()
    before = recorded(trace, slo_s)
    after = replayed(trace, scheduler, LatencyProfile(given.profile), slo_s, given.speed)
    out = console()
    out.print(show(f"{model}: requests, and milliseconds to the answer", [before, after]))
    slo = f"SLO {given.slo_ms:g} ms" if slo_s else "no SLO"
    out.print(f"replayed: {slo}, {given.instances} instance(s), arrivals {given.speed:g} times as fast")
    out.print(f"batches of up to {largest} rows, capacity {capacity:,.0f} rows per second")
    if left_out := sum(one.fate == "invalid" for one in trace):
        out.print(f"left out: {left_out} that were refused for what they asked")
    return 0


def of_model(trace: Sequence[Recorded], name: str | None) -> tuple[list[Recorded], str]:
    """Choose one model's requests.

    Raises:
        ValueError: the trace has none, or several models where no name is given.
    """
    known = sorted({one.model for one in trace if one.fate != "invalid"})
    listed = ", ".join(map(repr, known)) or "none"
    if name is None and len(known) != 1:
        raise ValueError(f"models with requests in it: {listed}; choose one with --model" if known else "no requests")
    chosen = known[0] if name is None else name
    if chosen not in known:
        raise ValueError(f"no requests of model {chosen!r}; models in it: {listed}")
    return [one for one in trace if one.model == chosen], chosen


def recorded(trace: Sequence[Recorded], slo_s: float) -> Fates:
    """What came of it."""
    came = [one for one in trace if one.fate != "invalid"]
    fates = Counter(one.fate for one in came)
    answered = [one for one in came if one.fate == "answered"]
    good = sum(one.total_s <= limit_s(one, slo_s) for one in answered)
    times = [one.total_s for one in answered]
    span = came[-1].at_s - came[0].at_s
    return Fates("recorded", len(came), span, good, fates["refused"], fates["left"], fates["failed"], times)


def replayed(
    trace: Sequence[Recorded], scheduler: Scheduler, takes: LatencyProfile, slo_s: float, speed: float
) -> Fates:
    """What would have come of it. Who was not answered within its time counts as refused, as a server answers 504."""
    came = arrivals(trace, slo_s, speed)
    told = replay(scheduler, came, takes.seconds)
    times = [when - came[number].at for number, when in told.answered.items()]
    good = sum(when <= came[number].deadline for number, when in told.answered.items())
    left = sum(when < came[number].deadline for number, when in told.left.items())
    refused = len(told.refused) + len(told.left) - left
    return Fates("replayed", len(came), came[-1].at - came[0].at, good, refused, left, 0, times)


def show(title: str, lines: Sequence[Fates]) -> Table:
    """The two side by side."""
    table = Table(title=title, title_justify="left")
    for name in ("", "came", "per s", "answered", "goodput", "refused", "client left", "failed", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right" if name else "left")
    for one in lines:
        parts = (len(one.times), one.good, one.refused, one.left, one.failed)
        times = [number(percentile(one.times, share) * 1e3) if one.times else "-" for share in (0.5, 0.99)]
        per_s = number(one.came / one.seconds) if one.seconds else "-"
        shares = (f"{part:,} ({part / one.came:.1%})" for part in parts)
        table.add_row(one.what, f"{one.came:,}", per_s, *shares, *times)
    return table
