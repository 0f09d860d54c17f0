"""What a call to the predictor costs in the caller: our client beside aiohttp and httpx.

CPU time of this process per call: a UINT8 tensor out (416 x 416 and 640 x 640 pixels), 24 KB of candidates back, from
a server of its own on 127.0.0.1 that does nothing. The event loop is uvloop. The ways take turns in every round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import uvloop
from rich.table import Table

from measuring import machine
from measuring.http_ways import Way, ways
from measuring.processes import Server, free_port
from measuring.summary import percentile
from measuring.table import Progress, console, number
from measuring.targets import BENCH
from saccade_serving.oip.messages import InferRequest, Tensor
from servers.detector import ROWS, answer

RESULTS: Final = BENCH / "results" / "client.json"
SIDES: Final = {"0.5MB": 416, "1.2MB": 640}
BASELINE: Final = "aiohttp"
#: What a transformer adds to a request.
HEADERS: Final = {"x-request-id": "0123456789ab1", "x-deadline-ms": "29876.543"}
TIMEOUT_US: Final = 29_800_000
_START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds, calls per way and round, calls at once."""

    rounds: int = 5
    calls: int = 400
    at_once: tuple[int, ...] = (1, 8)


QUICK: Final = Plan(rounds=2, calls=16)


@dataclass(frozen=True, slots=True)
class Row:
    """One way under one load; CPU milliseconds per call, latencies in milliseconds."""

    size: str
    at_once: int
    way: str
    cpu_ms: float
    least_cpu_ms: float
    cpu_ms_of_rounds: list[float]
    times_baseline: float
    p50_ms: float
    p99_ms: float
    calls: int


async def send(way: Way, image: np.ndarray, calls: int, at_once: int) -> list[float]:
    """Make the calls; returns how long each took (seconds)."""
    left = iter(range(calls))
    took: list[float] = []

    async def caller() -> None:
        for _ in left:
            begun = time.perf_counter()
            request = InferRequest(
                "detector",
                [Tensor.of("image", image)],
                parameters={"timeout": TIMEOUT_US},
                binary_output=True,
            )
            response = await way.infer(request, HEADERS)
            took.append(time.perf_counter() - begun)
            assert response.outputs[0].shape == (1, ROWS, 6)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return took


async def measure(port: int, plan: Plan, progress: Progress) -> list[Row]:
    """Measure every way under every load."""
    whole = answer()
    cpu_ms: dict[tuple[str, int, str], list[float]] = {}
    took: dict[tuple[str, int, str], list[float]] = {}
    images = {
        size: np.random.default_rng(1).integers(0, 255, (1, side, side, 3), np.uint8) for size, side in SIDES.items()
    }
    for round_ in range(plan.rounds):
        for size, image in images.items():
            for at_once in plan.at_once:
                made = list(ways(port, at_once, whole).items())
                first = round_ % len(made)
                for name, make in made[first:] + made[:first]:
                    progress.step(f"round {round_ + 1}", f"{size}, {at_once} at once, {name}")
                    way = make()
                    await send(way, image, 4 * at_once, at_once)  # connects
                    before = time.process_time()
                    key = (size, at_once, name)
                    took.setdefault(key, []).extend(await send(way, image, plan.calls, at_once))
                    cpu_ms.setdefault(key, []).append((time.process_time() - before) / plan.calls * 1e3)
                    await way.close()
    return [
        Row(
            *key,
            cpu_ms=median(rounds),
            least_cpu_ms=min(rounds),
            cpu_ms_of_rounds=[round(value, 5) for value in rounds],
            times_baseline=median(rounds) / median(cpu_ms[(*key[:2], BASELINE)]),
            p50_ms=median(took[key]) * 1e3,
            p99_ms=percentile(sorted(took[key]), 0.99) * 1e3,
            calls=len(took[key]),
        )
        for key, rounds in cpu_ms.items()
    ]


def table_of(rows: Sequence[Row]) -> Table:
    """All rows, a section for each load."""
    table = Table(title="One call to the predictor, in the caller", title_justify="left")
    for name in ("tensor", "at once", "client"):
        table.add_column(name, no_wrap=True)
    for name in ("CPU ms", "least", f"x {BASELINE}", "p50 ms", "p99 ms", "calls"):
        table.add_column(name, justify="right")
    before = None
    for row in sorted(rows, key=lambda row: (row.size, row.at_once)):
        load = (row.size, row.at_once)
        if before not in (None, load):
            table.add_section()
        names = ("", "") if load == before else (row.size, str(row.at_once))
        values = (row.cpu_ms, row.least_cpu_ms, row.times_baseline, row.p50_ms, row.p99_ms)
        table.add_row(*names, row.way, *(number(value) for value in values), str(row.calls))
        before = load
    return table


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench/client.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few calls: a look, in seconds")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else Plan()
    progress = Progress(0)
    load = machine.Load(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [sys.executable, "-m", "servers.detector", str(port)]
        log = Path(folder) / "log"
        with Server("the detector", command, {}, BENCH, log) as server:
            server.wait_ready([port], {}, _START_S)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rows = runner.run(measure(port, plan, progress))
    progress.end()
    console().print(table_of(rows))
    content = {
        "bench": "client",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/client.py", *arguments]),
        "machine": machine.describe(),
        "versions": {name: version(name) for name in ("aiohttp", "httpx", "uvloop")},
        "load": load.report(),
        "rounds": plan.rounds,
        "results": [asdict(row) for row in rows],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
