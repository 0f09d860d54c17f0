"""What the load generator reaches on one core, how punctual it is, and whether it tells the latency that a server had.

Against a server that does nothing: the most requests per second with every answer checked (users who wait, so that the
generator is what limits), then half of that on schedule, three times. Against one with planted delays, and one that
stands still: percentiles beside those that the server computes from the same schedule, and beside stock Locust's.
Generator and server are processes on this machine, which share its cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from measuring import cpu, machine
from measuring.processes import HOST, Server, free_port
from measuring.table import console
from measuring.targets import BENCH
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.loads import ClientsLoad, UsersLoad
from saccade_loadtest.load.plan import Pictures, Plan
from saccade_loadtest.load.sources import Clients
from saccade_loadtest.record.results import Run
from saccade_loadtest.sending.conductor import Conductor
from servers.planted import latencies_s

RESULTS: Final = BENCH / "results" / "loadtest.json"
IMAGES: Final = BENCH.parent / "examples" / "images"
PERCENTS: Final = (50.0, 90.0, 99.0, 99.9)
_START_S: Final = 30.0
_USERS: Final = 16
#: On schedule; one of them may meet a moment in which the machine stands still.
_RUNS: Final = 3
_PLANTED_PER_S: Final = 500.0
#: Frames: protocol, width, height, quality of the JPEG, requests per second that are the goal.
LOADS: Final = {
    "small V2 binary": ("v2-binary", 64, 48, 50, 5000.0),
    "100 KB JPEG": ("jpeg", 720, 540, 93, 3000.0),
}
PLANTED: Final = {
    "3 % half a second late": ("--share", "0.03"),
    "0.2 % half a second late": ("--share", "0.002"),
    "a stall of 2 s": ("--stall-at", "6", "--stall", "2"),
}
STOCK: Final = """
from locust import FastHttpUser, constant_throughput, task

class Waiting(FastHttpUser):
    wait_time = constant_throughput(50)

    @task
    def detect(self):
        self.client.post("/detect", data=b"x" * 400, headers={"Content-Type": "image/jpeg"})
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the generator reaches with one kind of request.

    Attributes:
        request: its name.
        request_bytes: of a JPEG, on average.
        most_per_s: right answers per second, users who wait.
        most_cpu: share of one core meanwhile.
        per_core_per_s: what a whole core would do: the most by its CPU time, whoever else uses the machine.
        goal_per_s: what is asked for.
        offered_per_s: on schedule, half of the most.
        answered_per_s: right answers meanwhile.
        late_p50_ms: how long after their moment requests were sent; ``late_p99_ms`` likewise.
        late_p99_ms_runs: of every run on schedule, ascending; the rest is of the middle one.
        cpu: share of one core at half.
    """

    request: str
    request_bytes: int
    most_per_s: float
    most_cpu: float
    per_core_per_s: float
    goal_per_s: float
    offered_per_s: float
    answered_per_s: float
    late_p50_ms: float
    late_p99_ms: float
    late_p99_ms_runs: list[float]
    cpu: float


@dataclass(frozen=True, slots=True)
class Truth:
    """One percentile of a server with planted latency; milliseconds."""

    planted: str
    percentile: float
    server_ms: float
    generator_ms: float
    is_alike: bool
    stock_locust_ms: float | None


@contextmanager
def served(module: str, width: int, height: int, *arguments: str) -> Iterator[str]:
    """A server of bench/servers; gives its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"servers.{module}", str(port), str(width), str(height), *arguments]
        with Server(module, command, {}, BENCH, Path(folder) / "log") as server:
            server.wait_ready([port], {}, _START_S)
            yield f"http://{HOST}:{port}"


def run(url: str, load: ClientsLoad | UsersLoad, protocol: str, pictures: Pictures, warmup_s: float) -> Run:
    """One run of one generator.

    Raises:
        RuntimeError: an answer was wrong, or a request not sent.
    """
    plan = Plan(
        scenario="bench",
        url=url,
        model="detector",
        cache="bypass",
        load=load,
        mix={protocol: 1.0},
        pictures=pictures,
        warmup_s=warmup_s,
        patience_s=30.0,
    )
    found = Conductor(plan).run().run
    total = found.measured()
    if total.failed or total.not_sent or found.faults:
        raise RuntimeError(f"{dict(total.errors)}, {total.not_sent} not sent; {found.notes + found.faults}")
    return found


def reach(name: str, seconds: float, runs: int) -> Reach:
    """Measure one kind of request: the most once, on schedule ``runs`` times, of which the middle one counts."""
    protocol, width, height, quality, goal = LOADS[name]
    pictures = Pictures(folder=str(IMAGES), width=width, height=height, quality=quality)
    with served("null_detector", width, height) as url:
        most = run(url, UsersLoad(users=_USERS, duration_s=seconds + 2), protocol, pictures, 2.0)
        most_per_s = most.measured().answered / seconds
        profile = constant(most_per_s / 2, seconds + 2)
        load = ClientsLoad.of(profile, "even", "even")
        halves = [run(url, load, protocol, pictures, 2.0) for _ in range(runs)]
    halves.sort(key=_late_p99_ms)
    half = halves[runs // 2]
    return Reach(
        request=name,
        request_bytes=_mean_bytes(pictures),
        most_per_s=most_per_s,
        most_cpu=most.workers[0].cpu_share,
        per_core_per_s=most_per_s / most.workers[0].cpu_share,
        goal_per_s=goal,
        offered_per_s=most_per_s / 2,
        answered_per_s=half.measured().answered / seconds,
        late_p50_ms=half.workers[0].schedule_error.percentile_us(50) / 1e3,
        late_p99_ms=_late_p99_ms(half),
        late_p99_ms_runs=[_late_p99_ms(one) for one in halves],
        cpu=half.workers[0].cpu_share,
    )


def _late_p99_ms(of: Run) -> float:
    return of.workers[0].schedule_error.percentile_us(99) / 1e3


def _mean_bytes(pictures: Pictures) -> int:
    from saccade_loadtest.load.frames import Album, read_photos

    album = Album(read_photos(IMAGES), pictures.width, pictures.height, quality=pictures.quality)
    return round(album.mean_bytes)


def compare(name: str, seconds: float) -> list[Truth]:
    """Measure a server with planted latency; at least as long as its stall needs."""
    seconds = max(seconds, 9.0)
    profile = constant(_PLANTED_PER_S, seconds)
    pictures = Pictures(folder=str(IMAGES), width=64, height=48, scenes=4, noises=1)
    with served("planted", 64, 48, *PLANTED[name]) as url:
        total = run(url, ClientsLoad.of(profile, "even", "even"), "jpeg", pictures, 0.0).measured()
        with urllib.request.urlopen(f"{url}/truth", timeout=_START_S) as answer:  # noqa: S310 - our own server
            seen = {number: (came, answered) for number, came, answered in json.load(answer)}
    due_s = {shot.scene * 100 + shot.camera: shot.due_s for shot in Clients(profile, "even").shots()}
    truth = sorted(latencies_s([due_s[number] for number in range(len(due_s))], seen))
    # Stock Locust's requests have no numbers, by which the late ones are chosen; a stall meets everybody.
    stock = _stock(PLANTED[name], seconds) if "--stall" in PLANTED[name] else {}
    rows = []
    for percent in PERCENTS:
        server_ms = truth[max(0, -int(-percent * len(truth) // 100) - 1)] * 1e3
        generator_ms = total.latency.percentile_us(percent) / 1e3
        is_alike = abs(generator_ms - server_ms) <= max(0.05 * server_ms, 1.0)
        rows.append(Truth(name, percent, server_ms, generator_ms, is_alike, stock.get(percent)))
    return rows


def _stock(planted: Sequence[str], seconds: float) -> dict[float, float]:
    """Percentiles that stock Locust tells of the same server: ten users, who wait for each answer."""
    with tempfile.TemporaryDirectory() as folder, served("planted", 64, 48, *planted) as url:
        script = Path(folder) / "stock.py"
        script.write_text(STOCK)
        subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(script), "--headless", "--host", url, "-u", "10"),
                *("-r", "10", "-t", f"{seconds:g}s", "--csv", f"{folder}/stock", "--stop-timeout", "5"),
            ],
            check=True,
            capture_output=True,
            timeout=seconds + 60,
        )
        with Path(folder, "stock_stats.csv").open() as file:
            [told] = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    return {percent: float(told[f"{percent:g}%"]) for percent in PERCENTS}


def reach_table(rows: Sequence[Reach]) -> Table:
    """The first half."""
    table = Table(title="One generator against a server that does nothing, answers checked", title_justify="left")
    table.add_column("request", no_wrap=True)
    for name in (
        "bytes",
        "most/s",
        "goal",
        "CPU",
        "per core",
        "offered/s",
        "late p50 ms",
        "late p99 ms",
        "CPU at half",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.request,
            f"{row.request_bytes:,}",
            f"{row.most_per_s:,.0f}",
            f"{row.goal_per_s:,.0f}",
            f"{row.most_cpu:.0%}",
            f"{row.per_core_per_s:,.0f}",
            f"{row.offered_per_s:,.0f}",
            f"{row.late_p50_ms:.3f}",
            f"{row.late_p99_ms:.3f} ({row.late_p99_ms_runs[0]:.3f} to {row.late_p99_ms_runs[-1]:.3f})",
            f"{row.cpu:.0%}",
        )
    return table


def truth_table(rows: Sequence[Truth]) -> Table:
    """The second half."""
    table = Table(title="Planted latency, milliseconds", title_justify="left")
    table.add_column("planted", no_wrap=True)
    for name in ("percentile", "the server's", "the generator's", "alike", "stock Locust, closed loop"):
        table.add_column(name, justify="right")
    before = ""
    for row in rows:
        if before and before != row.planted:
            table.add_section()
        table.add_row(
            "" if row.planted == before else row.planted,
            f"p{row.percentile:g}",
            f"{row.server_ms:,.1f}",
            f"{row.generator_ms:,.1f}",
            "yes" if row.is_alike else "NO",
            "-" if row.stock_locust_ms is None else f"{row.stock_locust_ms:,.0f}",
        )
        before = row.planted
    return table


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench/loadtest.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a look: few seconds of each")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement (default: 15)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    seconds = 3.0 if given.quick else given.seconds
    load = machine.Load(cpu.own_cpu_s)
    reached = [reach(name, seconds, 1 if given.quick else _RUNS) for name in LOADS]
    console().print(reach_table(reached))
    truths = [row for name in PLANTED for row in compare(name, seconds)]
    console().print(truth_table(truths))
    report: dict[str, Any] = load.report()
    content = {
        "bench": "loadtest",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/loadtest.py", *arguments]),
        "machine": machine.describe(),
        "versions": {name: version(name) for name in ("locust", "hdrhistogram", "uvloop")},
        "load": report,
        "seconds": seconds,
        "reach": [asdict(row) for row in reached],
        "truth": [asdict(row) for row in truths],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n")
    console().print(f"others used {report['cores_used_by_others']} cores meanwhile", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
