"""Replays traffic through the scheduler: what an SLO does to goodput and latency, from idle to four times too much.

The real queue, policy, door and profile run under a virtual clock against a modelled engine: the times of YOLOv8m on
an A100 (8, 12, 22, 35, 60 ms for 1, 8, 32, 64, 128 pictures), up to a twentieth longer by chance. Beside it: the same
engine with a fixed queue delay and preferred sizes, as is usual without an SLO. Prints tables, writes JSON and, with
--plot, the curves. --real-time runs five loads once more in real time, with an engine that sleeps. --trace replays
traffic that a predictor has recorded instead (``measuring.traced``).

Ends with 1 if goodput falls as load rises, a priority starves, or the SLO is not kept in the replay; what was run in
real time is judged, too, but does not end it: a busy machine is no fault of the scheduler.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from measuring import machine, real_time, traced
from measuring.summary import percentile
from measuring.table import Progress, console, number
from measuring.targets import BENCH
from saccade_serving.scheduling.autoscaling import derive
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue, QueuePolicy
from saccade_serving.scheduling.replay import Arrival, replay
from saccade_serving.scheduling.scheduler import Scheduler

RESULTS: Final = BENCH / "results" / "replay.json"
PROFILE: Final = {1: 0.008, 8: 0.012, 32: 0.022, 64: 0.035, 128: 0.060}
SLO_S: Final = 0.1
#: Multiples of the capacity B*/t(B*).
LOADS: Final = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
JITTER: Final = 0.05
WITH_SLO: Final = BatchingRules(128, slo_s=SLO_S)
FIXED: Final = BatchingRules(128, (8, 16, 32, 64), 0.005)


@dataclass(frozen=True, slots=True)
class Line:
    """What came of one load; rates per second, times in milliseconds.

    Attributes:
        goodput: answers within the SLO.
        refused: requests that were told so.
        p50_ms, p99_ms: of those that were answered.
    """

    what: str
    load: float
    offered: float
    answered: float
    goodput: float
    refused: float
    p50_ms: float
    p99_ms: float


def scheduler(rules: BatchingRules, depth: int = 1, levels: int = 0) -> Scheduler:
    """One instance that knows the profile."""
    queue = Queue(QueuePolicy(max_queue_size=100_000), levels, min(levels, 1))
    return Scheduler(queue, rules, (depth,), LatencyProfile(PROFILE))


def engine(seed: int = 0, stall_at: int = -1, jitter: float = JITTER) -> Callable[[int], float]:
    """Seconds that a batch takes: the profile's and up to ``jitter`` of them more; one batch may stall."""
    truth, chance, count = LatencyProfile(PROFILE), random.Random(seed), 0

    def takes(rows: int) -> float:
        nonlocal count
        count += 1
        return truth.seconds(rows) * (1 + chance.uniform(0, jitter)) + (0.3 if count == stall_at else 0.0)

    return takes


def poisson(per_s: float, seconds: float, seed: int, waits: bool) -> Iterator[Arrival]:
    """Arrivals by chance; clients leave at the SLO unless they ``wait``."""
    chance = random.Random(seed)
    now = chance.expovariate(per_s)
    while now < seconds:
        limit = float("inf") if waits else now + SLO_S
        yield Arrival(now, deadline=limit, leaves=limit)
        now += chance.expovariate(per_s)


def run(what: str, rules: BatchingRules, load: float, per_s: float, seconds: float) -> Line:
    """Replay one load."""
    trace = list(poisson(per_s, seconds, 1, waits=not rules.slo_s))
    told = replay(scheduler(rules), trace, engine())
    times = sorted(when - trace[number].at for number, when in told.answered.items())
    good = sum(taken <= SLO_S for taken in times)
    refused = len(told.refused) + len(told.left)
    return line(what, load, len(trace), times, good, refused, seconds)


def line(what: str, load: float, came: int, times: Sequence[float], good: int, refused: int, seconds: float) -> Line:
    """Put a run into figures."""
    ordered = sorted(times) or [float("nan")]
    return Line(
        what,
        load,
        came / seconds,
        len(times) / seconds,
        good / seconds,
        refused / seconds,
        percentile(ordered, 0.5) * 1e3,
        percentile(ordered, 0.99) * 1e3,
    )


def by_priority(per_s: float, seconds: float) -> dict[int, float]:
    """Share of each priority level that is answered when a third of what comes is of each."""
    chance = random.Random(3)
    arrivals = poisson(per_s, seconds, 2, waits=False)
    trace = [replace(arrival, priority=chance.choice([1, 2, 3])) for arrival in arrivals]
    told = replay(scheduler(WITH_SLO, levels=3), trace, engine())
    came = {level: sum(arrival.priority == level for arrival in trace) for level in (1, 2, 3)}
    return {
        level: sum(trace[number].priority == level for number in told.answered) / came[level] for level in (1, 2, 3)
    }


def limits(per_s: float, seconds: float) -> dict[str, float]:
    """Goodput behind the queue-proxy without a hard limit, with the derived one, and with one of max batch 16."""
    derived = derive(LatencyProfile(PROFILE), WITH_SLO).hard_limit
    found = {}
    for name, limit in (("0", 0), (f"{derived} (derived)", derived), ("16", 16)):
        trace = list(poisson(per_s, seconds, 4, waits=False))
        told = replay(scheduler(WITH_SLO), trace, engine(), limit)
        found[name] = sum(when - trace[number].at <= SLO_S for number, when in told.answered.items()) / seconds
    return found


def in_real_time(load: float, per_s: float, seconds: float, jitter: float) -> Line:
    """The predictor's batcher on a real event loop, arrivals at their times, and an engine that sleeps."""
    trace = list(poisson(per_s, seconds, 1, waits=False))
    takes = engine(jitter=jitter)
    times, refused = asyncio.run(real_time.play(trace, WITH_SLO, LatencyProfile(PROFILE), takes))
    return line("real time", load, len(trace), times, sum(taken <= SLO_S for taken in times), refused, seconds)


def verdicts(
    lines: Sequence[Line],
    capacity: float,
    levels: dict[float, dict[int, float]],
    hard: dict[float, dict[str, float]],
) -> dict[str, bool]:
    """What has to hold."""
    slo = [one for one in lines if one.what == "SLO 100 ms"]
    best, falls = 0.0, False
    for one in slo:
        falls = falls or one.goodput < 0.95 * best
        best = max(best, one.goodput)
    at = {one.load: one for one in slo}
    return {
        "goodput never falls by more than 5 % as load rises": not falls,
        "goodput at 1x, 2x and 4x is at least 95 % of capacity": all(
            at[load].goodput >= 0.95 * capacity for load in (1.0, 2.0, 4.0)
        ),
        "p99 of the answered is within the SLO at every load": all(one.p99_ms <= SLO_S * 1e3 for one in slo),
        "at the lowest load p50 is at most t(1) + 2 ms": at[LOADS[0]].p50_ms <= PROFILE[1] * 1e3 + 2,
        "below capacity no priority starves": min(levels[0.9].values()) >= 0.99,
        "under twofold overload the first priority is answered": levels[2.0][1] >= 0.95,
        "the derived hard limit is within 3 % of none": all(
            derived >= 0.97 * free for free, derived, _ in (found.values() for found in hard.values())
        ),
    }


def verdicts_in_real_time(lines: Sequence[Line], capacity: float) -> dict[str, bool]:
    """What has to hold of the loads that were run in real time; the machine has a say in it."""
    at = {one.load: one for one in lines if one.what == "real time"}
    if not at:
        return {}
    return {
        "in real time, goodput at 0.5x is at least 99.5 % of what is offered": at[0.5].goodput
        >= 0.995 * at[0.5].offered,
        "in real time, goodput at 1x, 2x and 4x is at least 95 % of capacity": all(
            at[load].goodput >= 0.95 * capacity for load in (1.0, 2.0, 4.0)
        ),
        "in real time, p99 of the answered is within the SLO at every load": all(
            one.p99_ms <= SLO_S * 1e3 for one in at.values()
        ),
        "in real time, at the lowest load p50 is at most t(1) + 2 ms": at[LOADS[0]].p50_ms <= PROFILE[1] * 1e3 + 2,
    }


def show(lines: Sequence[Line]) -> Table:
    """The sweep as a table."""
    shown = Table(title="YOLOv8m on an A100, modelled: requests per second, milliseconds", title_justify="left")
    for name in ("rules", "x capacity", "offered", "answered", "goodput", "refused", "p50", "p99"):
        shown.add_column(name, justify="left" if name == "rules" else "right")
    for one in lines:
        rates = (one.offered, one.answered, one.goodput, one.refused)
        shown.add_row(
            one.what, f"{one.load:g}", *(f"{rate:,.0f}" for rate in rates), number(one.p50_ms), number(one.p99_ms)
        )
    return shown


def plot(lines: Sequence[Line], capacity: float, path: Path) -> None:
    """Goodput and p99 against load."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for what, style in (("SLO 100 ms", "o-"), ("fixed delay 5 ms", "s--")):
        of = [one for one in lines if one.what == what]
        left.plot([one.offered for one in of], [one.goodput for one in of], style, label=what)
        right.plot([one.offered for one in of], [one.p99_ms for one in of], style, label=what)
    left.axhline(capacity, color="grey", linewidth=0.8)
    left.set_ylim(0, capacity * 1.15)
    left.annotate("capacity B*/t(B*)", (left.get_xlim()[1] * 0.62, capacity * 1.03), color="grey")
    right.axhline(SLO_S * 1e3, color="grey", linewidth=0.8)
    right.annotate("SLO", (100, SLO_S * 1e3 * 1.1), color="grey")
    left.set(xlabel="requests per second offered", ylabel="answers within 100 ms per second", title="Goodput")
    right.set(xlabel="requests per second offered", ylabel="ms", yscale="log", title="p99 of the answered")
    left.legend()
    right.legend()
    figure.savefig(path, dpi=110)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/replay.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 s of traffic per load instead of 30 s")
    parser.add_argument("--real-time", action="store_true", help="also 10 s each of five loads in real time")
    parser.add_argument(
        "--jitter", type=float, default=0.0, help="the engine that sleeps takes up to this share more (default: 0)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves into a PNG or SVG file")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    traced.add_arguments(parser, PROFILE)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Replay, print, write; returns the exit status."""
    given = parse(arguments)
    if given.trace:
        return traced.run(given)
    seconds, shares_s, limits_s = (2.0, 2.0, 4.0) if given.quick else (30.0, 10.0, 20.0)
    capacity = scheduler(WITH_SLO).capacity()
    progress = Progress(2 * len(LOADS))
    begun = time.process_time()
    lines = []
    for what, rules in (("SLO 100 ms", WITH_SLO), ("fixed delay 5 ms", FIXED)):
        for load in LOADS:
            progress.step(what, f"{load:g} x capacity")
            # A low rate needs more time to say something.
            lines.append(run(what, rules, load, load * capacity, max(seconds, 60 / load / capacity * 10)))
    levels = {load: by_priority(load * capacity, shares_s) for load in (0.9, 2.0)}
    hard = {load: limits(load * capacity, limits_s) for load in (0.9, 1.5)}
    spent = time.process_time() - begun
    if given.real_time:
        for load in (0.01, 0.5, 1.0, 2.0, 4.0):
            progress.say(f"in real time: {load:g} x capacity")
            lines.append(in_real_time(load, load * capacity, 10.0, given.jitter))
    progress.end()
    judged = verdicts(lines, capacity, levels, hard)
    out = console()
    out.print(show(lines))
    out.print(f"B* = {scheduler(WITH_SLO).largest} rows, capacity B*/t(B*) = {capacity:,.0f} per second")
    for load, shares in levels.items():
        out.print(f"answered at {load:g} x capacity, by priority: {_listed(shares, '.0%')}")
    for load, goodputs in hard.items():
        out.print(f"goodput at {load:g} x capacity, by containerConcurrency: {_listed(goodputs, ',.0f')}")
    out.print(f"replayed in {spent:.1f} s of CPU")
    timed = verdicts_in_real_time(lines, capacity)
    for what, holds in {**judged, **timed}.items():
        out.print(f"{'yes' if holds else 'NO ':3} {what}")
    write(given.output, arguments, capacity, lines, levels, hard, judged, timed)
    if given.plot:
        plot([one for one in lines if one.what != "real time"], capacity, given.plot)
    return 0 if all(judged.values()) else 1


def _listed(values: Mapping[Any, float], form: str) -> str:
    return ", ".join(f"{name}: {value:{form}}" for name, value in values.items())


def write(
    path: Path,
    arguments: list[str],
    capacity: float,
    lines: Sequence[Line],
    levels: dict[float, dict[int, float]],
    hard: dict[float, dict[str, float]],
    judged: dict[str, bool],
    timed: dict[str, bool],
) -> None:
    """Write everything as JSON."""
    content: dict[str, Any] = {
        "bench": "replay",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "bench/replay.py", *arguments]),
        "machine": machine.describe(),
        "capacity_per_s": capacity,
        "lines": [asdict(one) for one in lines],
        "answered_by_priority": levels,
        "goodput_by_container_concurrency": hard,
        "holds": judged,
        "holds_in_real_time": timed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
