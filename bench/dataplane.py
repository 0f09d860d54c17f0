"""Data plane bench: what a request costs in Saccade, in stock KServe and in Triton, with an engine that does nothing.

Measures the server's CPU time per request and its latency, for a small request and for one picture of 640 x 640,
at 1, 8 and 32 connections. Prints a table and writes it as JSON. Measures no engine, no transformer and no network:
all traffic stays on 127.0.0.1.

How: docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measuring import goals, machine, table
from measuring.client import Client
from measuring.cpu import total_cpu_s, with_descendants
from measuring.payload import SHAPES, Protocol, request_bytes
from measuring.payload import request as build_request
from measuring.plan import DEFAULT, FIRST, QUICK, Count, Plan, requests_for
from measuring.samples import ClientError, Load, Sample
from measuring.stopping import end_as_ctrl_c_does
from measuring.summary import Cell, Row, summarise
from measuring.targets import BENCH, Running, Target, choose, running

RESULTS = BENCH / "results" / "dataplane.json"


class Bench:
    """One run: the servers, the clients, and what was measured.

    Attributes:
        samples: of every server under every load, one for each round.
        skipped: why a row is missing, or has samples of some loads only.
        rounds_done: complete ones.
        load: how busy the machine was; see ``machine.Load``.
        identities: name and version of the servers as they say themselves.
    """

    def __init__(self, plan: Plan, targets: list[Target]) -> None:
        self.plan = plan
        self.targets = targets
        self.samples: dict[Cell, list[Sample]] = {}
        self.skipped: dict[str, str] = {}
        self.rounds_done = 0
        self.load: dict[str, Any] = {}
        self.identities: dict[str, str] = {}
        self._servers: dict[str, Running] = {}
        self._clients: dict[Protocol, Client] = {}
        self._progress = table.Progress(plan.rounds * len(plan.sizes) * len(plan.connections) * len(targets))

    def run(self) -> None:
        """Start everything, measure, stop everything."""
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saccade-bench-")))
            stack.callback(self._progress.end)
            self._servers, failed = stack.enter_context(running(self.targets, scratch, self._progress.say))
            self.skipped.update(failed)
            self.identities = {key: one.identity for key, one in self._servers.items() if one.identity}
            protocols: list[Protocol] = list(dict.fromkeys(target.protocol for target in self.targets))
            self._clients = {protocol: stack.enter_context(Client(protocol)) for protocol in protocols}
            self._progress.say("warming up")
            for target in self.targets:
                self._measure(target, self.plan.sizes[0], self.plan.connections[-1], FIRST)
            load = machine.Load(self._cpu_clock())
            self._run_rounds(load)
            self.load = load.report()

    def _cpu_clock(self) -> Callable[[], float]:
        """What all processes of the bench have used, in CPU seconds."""
        pids = [os.getpid(), *(client.pid for client in self._clients.values())]
        for one in self._servers.values():
            pids += with_descendants(one.server.pid)
        return lambda: total_cpu_s(pids)

    def _run_rounds(self, load: machine.Load) -> None:
        begun = time.monotonic()
        loads = [(size, connections) for size in self.plan.sizes for connections in self.plan.connections]
        for number in range(self.plan.rounds):
            # Another server begins each round, so that none always follows the same one.
            first = number % len(self.targets)
            for size, connections in loads:
                if time.monotonic() - begun > self.plan.budget_s:
                    self._progress.say(f"the time is up after {number} of {self.plan.rounds} rounds")
                    return
                group = f"round {number + 1} of {self.plan.rounds}, {size}, connections: {connections}"
                for target in self.targets[first:] + self.targets[:first]:
                    self._progress.step(group, target.label)
                    count = requests_for(self.plan, target, size, connections, number)
                    if sample := self._measure(target, size, connections, count):
                        self.samples.setdefault((target.key, size, connections), []).append(sample)
            self.rounds_done += 1
            load.note()

    def _measure(self, target: Target, size: str, connections: int, count: Count) -> Sample | None:
        """Measure one server under one load; None if it is left out."""
        if target.key in self.skipped or not count.measured:
            return None
        server = self._servers[target.key]
        load = Load(
            protocol=target.protocol,
            port=server.port(target.protocol),
            server_pid=server.server.pid,
            request=build_request(target.protocol, target.model, size, target.own_ids),
            own_ids=target.own_ids,
            connections=connections,
            warmup=count.warmup,
            requests=count.measured,
            limit_s=self.plan.limit_s,
        )
        try:
            return self._clients[target.protocol].measure(load)
        except ClientError as why:
            self.skipped[target.key] = f"{size}, {connections} connections: {why}"
            self._progress.say(f"{target.label} left out from here: {self.skipped[target.key]}")
            return None


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/dataplane.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few requests, one round, 1 and 8 connections: a look")
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), help="sizes of the request")
    parser.add_argument("--connections", nargs="+", type=_count, help="connections, each with one request in flight")
    parser.add_argument("--requests", type=_count, help="requests per server, load and round")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="SERVER", help="rows or products, such as triton-http or saccade"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    return parser.parse_args(arguments)


def report(bench: Bench, rows: list[Row], arguments: list[str]) -> dict[str, Any]:
    """What is written as JSON."""
    return {
        "bench": "dataplane",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/dataplane.py", *arguments]),
        "machine": machine.describe(),
        "servers": bench.identities,
        "plan": asdict(bench.plan),
        "request_bytes": {size: request_bytes(size) for size in bench.plan.sizes},
        "rounds": bench.rounds_done,
        "load": bench.load,
        "skipped": bench.skipped,
        "results": [asdict(row) for row in rows],
        "notes": table.notes(bench.targets),
        "goals": [
            {**asdict(goal), "reached": goal.reached if bench.plan.judges else None} for goal in goals.judge(rows)
        ],
    }


def main(arguments: list[str]) -> int:
    """Run the bench; returns the exit status: 1 if a row is missing that needs no Triton."""
    given = parse(arguments)
    try:
        targets = choose(given.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    plan = (QUICK if given.quick else DEFAULT).changed(given.sizes, given.connections, given.requests)
    end_as_ctrl_c_does()
    bench = Bench(plan, targets)
    try:
        bench.run()
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    rows = summarise(bench.samples, targets)
    content = report(bench, rows, arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console = table.console()
    for size in plan.sizes:
        console.print(table.results(rows, size))
    for note in content["notes"]:
        console.print(note, markup=False)
    judged = goals.judge(rows)
    if any(goal.measured is not None for goal in judged):
        console.print(table.goals(judged, bench.plan.judges))
    for key, why in bench.skipped.items():
        console.print(f"{key} was left out: {why}", markup=False)
    # Triton is not to be had everywhere; everything else is.
    return 1 if any(target.key in bench.skipped and target.product != "triton" for target in targets) else 0


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
