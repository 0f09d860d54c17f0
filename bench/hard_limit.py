"""What a hard limit (containerConcurrency) costs: Knative's real queue-proxy in front of a predictor in SLO mode.

Goodput is answers per second that clients had within 500 ms; a client without one leaves then. Clients send by chance
(Poisson) at 0.7, 1 and 1.5 times the capacity, whether or not answers come. The queue-proxy has no hard limit, the
derived one (saccade-build profile prints it for a model), (d + 1) x B* x 1.25, and one batch. The server is the
predictor but for its engine, which sleeps; it, the queue-proxy and the clients are processes on 127.0.0.1. Every limit
and every round gets the same requests at the same moments; the limits take turns. Medians of the rounds are shown, the
ratio is the median of the ratios within a round. Prints a table and writes JSON.

Ends with 1 if goodput with the derived limit is not within 3 % of that without one, or clients could not keep up. The
spread of the rounds without a limit says what the machine's own unrest comes to; where others work on it, real-time
priority helps: chrt --rr 10 python bench/hard_limit.py. The queue-proxy is installed with make tools; without it
nothing is measured. The queue-proxy's wait is not part of what the predictor knows, which is the point; networks are
not measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from measuring import machine, proxy, table
from measuring.cpu import cpu_s, own_cpu_s
from measuring.limit_table import DERIVED, FREE, Measured, measured, notes, show, summarise, verdicts
from measuring.open_loop import Told, Traffic, poisson, send
from measuring.payload import rest_request
from measuring.processes import Server, ServerFailed, free_port
from measuring.stopping import end_as_ctrl_c_does
from measuring.targets import BENCH
from saccade_serving.scheduling.autoscaling import HARD_ROOM, Autoscaling, derive
from servers.sleeping import CLIENT_S, MODEL, SLO_S, profile, rules

RESULTS: Final = BENCH / "results" / "hard_limit.json"
_START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        loads: multiples of the capacity.
        counted_s: of requests that count, per load, limit and round.
        uncounted_s: before them, so that queues are as they will be.
    """

    rounds: int = 5
    loads: Sequence[float] = (0.7, 1.0, 1.5)
    counted_s: float = 5.0
    uncounted_s: float = 1.5


QUICK: Final = Plan(rounds=1, loads=(1.5,), counted_s=1.0, uncounted_s=0.5)


def limits(derived: Autoscaling) -> dict[str, int]:
    """The limits by name, the one without first."""
    two_batches = round(2 * derived.largest * HARD_ROOM)
    return {FREE: 0, DERIVED: derived.hard_limit, "(d + 1) B* 1.25": two_batches, "B*": derived.largest}


def measure_all(plan: Plan, derived: Autoscaling, scratch: Path, progress: table.Progress) -> list[Measured]:
    """Start the server, measure every limit at every load in every round.

    Raises:
        proxy.Unavailable: there can be no queue-proxy here.
        ServerFailed: the server did not start.
    """
    proxy.need()
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "servers.saccade_sleeping", *map(str, ports)]
    found: list[Measured] = []
    names = list(limits(derived).items())
    with Server("the predictor", command, {}, BENCH, scratch / "server.log") as server:
        progress.say("starting the predictor, which measures its batches")
        server.wait_ready([ports[0]], {ports[0]: [f"/v2/models/{MODEL}/ready"]}, _START_S)
        for number in range(plan.rounds):
            for place, load in enumerate(plan.loads):
                shift = (number + place) % len(names)  # nobody is always the first
                for name, limit in names[shift:] + names[:shift]:
                    progress.step(f"round {number + 1} of {plan.rounds}, {load:g} x capacity", f"limit: {name}")
                    with proxy.in_front_of(ports[0], scratch / "queue-proxy.log", limit) as running:
                        told, cores = offer(plan, load * derived.capacity, running, server.pid)
                    found.append(measured((number, load, name, limit), told, plan.counted_s, cores))
    return found


def offer(plan: Plan, per_s: float, running: proxy.Proxy, server_pid: int) -> tuple[Told, list[float]]:
    """Send requests through a queue-proxy; returns what became of them, and the cores that it and the server used."""
    # The same moments for all limits and in every round: what differs between rounds is the machine.
    due_s = list(poisson(per_s, plan.uncounted_s + plan.counted_s, seed=round(per_s)))
    traffic = Traffic(running.port, rest_request(MODEL, "353B"), due_s, CLIENT_S, plan.uncounted_s)
    pids = server_pid, running.pid
    before_s = [cpu_s(pid) for pid in pids]
    told = send(traffic)
    return told, [(cpu_s(pid) - before) / told.wall_s for pid, before in zip(pids, before_s, strict=True)]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/hard_limit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of one load, a look in a quarter of a minute that judges nothing",
    )
    parser.add_argument("--rounds", type=int, help="(default: 5, which take about seven minutes)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}; expected at least 1")
    return given


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write; returns the exit status."""
    given = parse(arguments)
    plan = QUICK if given.quick else Plan()
    plan = Plan(given.rounds or plan.rounds, plan.loads, plan.counted_s, plan.uncounted_s)
    end_as_ctrl_c_does()
    derived = derive(profile(), rules())
    load = machine.Load(own_cpu_s)
    progress = table.Progress(plan.rounds * len(plan.loads) * len(limits(derived)))
    with tempfile.TemporaryDirectory(prefix="saccade-bench-") as scratch:
        try:
            found = measure_all(plan, derived, Path(scratch), progress)
        except proxy.Unavailable as why:
            print(f"the hard limit is not measured: {why}")
            return 0
        except KeyboardInterrupt:
            print("stopped; nothing was written", file=sys.stderr)
            return 130
        except (OSError, ServerFailed) as why:
            print(f"{why}; nothing was written", file=sys.stderr)
            return 1
        finally:
            progress.end()
    load.note()
    rows = summarise(found)
    judged = {} if given.quick else verdicts(rows, found)
    console = table.console()
    console.print(show(rows))
    console.print(
        f"B* = {derived.largest} rows, capacity {derived.capacity:.0f} per second; "
        f"clients wait {CLIENT_S * 1e3:g} ms, the predictor has {SLO_S * 1e3:g} ms"
    )
    for note in notes(found):
        console.print(note, markup=False)
    for what, holds in judged.items():
        console.print(f"{'yes' if holds else 'NO ':3} {what}", markup=False)
    content: dict[str, Any] = {
        "bench": "hard_limit",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/hard_limit.py", *arguments]),
        "machine": machine.describe(),
        "load": load.report(),
        "plan": asdict(plan),
        "derived": derived._asdict(),
        "lines": [asdict(row) for row in rows],
        "measured": [asdict(one) for one in found],
        "holds": judged,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(judged.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
