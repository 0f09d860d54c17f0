"""The whole path once: what a picture of 640 x 640 costs behind Knative's queue-proxy, and what one process can take.

Three tables, and the same as JSON: CPU time and bytes per image with and without the proxy; images per second at which
one process uses 70 % of one core; memory of an idle connection. The server is the predictor with its batcher and an
engine that does nothing; requests have ids of their own and a deadline. All traffic stays on 127.0.0.1.

The queue-proxy is the real one. `make tools` installs it (it needs Go); without it its row is missing, with the
reason.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from measuring import ceiling, machine, path_table, proxy, table
from measuring.ceiling import Step
from measuring.client import Client
from measuring.cpu import own_cpu_s
from measuring.memory import allow_files, idle_connections, rss_bytes
from measuring.path_table import Idle, Way, WaySample
from measuring.payload import rest_request
from measuring.processes import Server, ServerFailed, free_port, get
from measuring.samples import ClientError, Load, Sample
from measuring.stopping import end_as_ctrl_c_does
from measuring.summary import percentile
from measuring.targets import BENCH

RESULTS: Final = BENCH / "results" / "path.json"
MODEL: Final = "noop_batched"
LARGE, SMALL = "1.2MB", "353B"
#: What a transformer sends beside the tensor and the request's id.
HEADERS: Final = {"X-Deadline-Ms": "30000"}
_START_S: Final = 60.0
#: A server that has just answered may still be freeing memory.
_SETTLE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of everything; medians are shown.
        images: per way and round, at ``connections``.
        step_s: how long each rate is offered.
        idle: connections that stay open.
    """

    rounds: int = 5
    connections: int = 8
    images: int = 1500
    step_s: float = 2.0
    step_connections: int = 32
    idle: int = 2000


QUICK: Final = Plan(rounds=1, images=100, step_s=0.25, idle=200)


class Bench:
    """One run: the server, the proxy, the client, and what was measured."""

    def __init__(self, plan: Plan, scratch: Path, say: table.Progress) -> None:
        self.plan = plan
        self.ways: dict[str, list[WaySample]] = {}
        self.steps: list[list[Step]] = []
        self.idle: list[Idle] = []
        self.skipped: dict[str, str] = {}
        self.load: dict[str, Any] = {}
        self._scratch, self._progress = scratch, say

    def run(self) -> None:
        """Measure everything, one after the other."""
        allow_files(self.plan.idle)
        with Client("rest") as client:
            load = machine.Load(own_cpu_s)
            with _Started(self._scratch) as (server, port):
                self._measure_ways(client, server, port)
                load.note()
                self._measure_ceiling(client, server, port)
                load.note()
            self._measure_idle(client)
            self.load = load.report()

    def _load(self, server: Server, port: int, size: str = LARGE, **changes: Any) -> Load:
        made = Load(
            protocol="rest",
            port=port,
            server_pid=server.pid,
            request=rest_request(MODEL, size, own_id=True, headers=HEADERS),
            connections=self.plan.connections,
            warmup=4 * self.plan.connections,
            requests=self.plan.images,
            limit_s=10.0,
            own_ids=True,
        )
        return replace(made, **changes)

    # With the proxy and without

    def _measure_ways(self, client: Client, server: Server, port: int) -> None:
        with ExitStack() as stack:
            ways: dict[str, tuple[int, int]] = {"direct": (port, 0)}
            try:
                self._progress.say("starting the queue-proxy (waits for others on this machine)")
                running = stack.enter_context(proxy.in_front_of(port, self._scratch / "queue-proxy.log"))
                ways["proxy"] = running.port, running.pid
            except proxy.Unavailable as why:
                self.skipped["proxy"] = str(why)
                self._progress.say(f"without the queue-proxy: {why}")
            for number in range(self.plan.rounds):
                for key, (way_port, pid) in ways.items():
                    self._progress.step(f"CPU and bytes per image, round {number + 1} of {self.plan.rounds}", key)
                    try:
                        sample = self._measure_way(client, self._load(server, way_port, proxy_pid=pid), port)
                    except (ClientError, OSError) as why:
                        self.skipped[key] = str(why)
                        self._progress.say(f"{key}: {why}")
                        continue
                    self.ways.setdefault(key, []).append(sample)

    def _measure_way(self, client: Client, load: Load, metrics_port: int) -> WaySample:
        before = scrape(metrics_port)
        sample = client.measure(load)
        after = scrape(metrics_port)
        counted = {name: after[name] - before[name] for name in after}
        return WaySample(sample, counted["requests"], counted["received"], counted["sent"])

    # The ceiling

    def _measure_ceiling(self, client: Client, server: Server, port: int) -> None:
        direct = self.ways.get("direct")
        if not direct:
            return
        sample = direct[-1].sample
        guess = ceiling.SHARE * len(sample.latencies_s) / sample.server_cpu_s
        for number in range(self.plan.rounds):
            group = f"images per second at {ceiling.SHARE:.0%} of a core, round {number + 1} of {self.plan.rounds}"

            def offer(rate: float, group: str = group) -> Step:
                self._progress.step(group, f"{rate:.0f} per second")
                load = self._load(
                    server, port, connections=self.plan.step_connections, per_s=rate, limit_s=self.plan.step_s
                )
                return as_step(rate, client.measure(load))

            try:
                steps = ceiling.climb(guess, offer)
            except (ClientError, OSError) as why:
                self.skipped["ceiling"] = str(why)
                self._progress.say(f"ceiling: {why}")
                return
            if steps:
                self.steps.append(steps)
                found = ceiling.read(steps)
                guess = found.per_s if found.reached else guess

    # Idle connections

    def _measure_idle(self, client: Client) -> None:
        """In a fresh server each time: memory that a process has freed it may keep."""
        count = self.plan.idle
        for number in range(min(3, self.plan.rounds)):
            group = f"{count} idle connections, round {number + 1} of {min(3, self.plan.rounds)}"
            self._progress.step(group, "starting a server")
            try:
                with _Started(self._scratch) as (server, port):
                    client.measure(self._load(server, port, SMALL, connections=16, requests=2000))
                    request = rest_request(MODEL, SMALL)
                    time.sleep(_SETTLE_S)
                    before = rss_bytes(server.pid)
                    self._progress.step(group, f"{count} connections")
                    with idle_connections(port, count, request):
                        time.sleep(_SETTLE_S)
                        self.idle.append(Idle(count, before, rss_bytes(server.pid)))
            except (ClientError, OSError, ServerFailed) as why:
                self.skipped["idle"] = str(why)
                self._progress.say(f"idle connections: {why}")
                return


class _Started:
    """A server of the bench, ready; a context manager that gives it and its REST port."""

    def __init__(self, scratch: Path) -> None:
        ports = free_port(), free_port()
        self._port = ports[0]
        command = [sys.executable, "-m", "servers.saccade_noop", *map(str, ports)]
        self._server = Server("Saccade", command, {}, BENCH, scratch / f"server-{ports[0]}.log")

    def __enter__(self) -> tuple[Server, int]:
        try:
            self._server.wait_ready([self._port], {self._port: [f"/v2/models/{MODEL}/ready"]}, _START_S)
        except BaseException:
            self._server.stop()
            raise
        return self._server, self._port

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def scrape(port: int) -> dict[str, float]:
    """What a server has counted so far: requests answered with 200, bytes of bodies received and sent.

    Raises:
        OSError: it does not say.
    """
    text = get(port, "/metrics")
    if text is None:
        raise OSError("the server's metrics cannot be read")
    found = {"requests": 0.0, "received": 0.0, "sent": 0.0}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == "saccade_requests_total" and sample.labels["code"] == "200":
                found["requests"] += sample.value
            elif sample.name == "saccade_network_bytes_total":
                found[sample.labels["direction"]] += sample.value
    return found


def as_step(offered_per_s: float, sample: Sample) -> Step:
    """Read a sample of an offered rate."""
    return Step(
        offered_per_s,
        len(sample.latencies_s) / sample.wall_s,
        sample.server_cpu_s / sample.wall_s,
        percentile(sample.latencies_s, 0.5) * 1e3,
        percentile(sample.latencies_s, 0.99) * 1e3,
    )


def report(bench: Bench, ways: Sequence[Way], arguments: Sequence[str]) -> dict[str, Any]:
    """What is written as JSON."""
    found = ceiling.median_of(bench.steps)
    return {
        "bench": "path",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/path.py", *arguments]),
        "machine": machine.describe(),
        "plan": asdict(bench.plan),
        "load": bench.load,
        "skipped": bench.skipped,
        "ways": [asdict(way) for way in ways],
        "ceiling": {
            "share_of_a_core": ceiling.SHARE,
            "median": None if found is None else asdict(found),
            "rounds": [asdict(ceiling.read(one)) for one in bench.steps],
            "steps": [[asdict(step) for step in one] for one in bench.steps],
        },
        "idle": {
            "bytes_per_connection": median(one.bytes_each for one in bench.idle) if bench.idle else None,
            "rounds": [asdict(one) for one in bench.idle],
        },
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/path.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round, few images: a look in half a minute (all of it: two minutes)"
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/path.json)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the bench; returns the exit status: 1 if something is missing that needs no queue-proxy."""
    given = parse(arguments)
    plan = QUICK if given.quick else Plan()
    end_as_ctrl_c_does()
    progress = table.Progress(0)
    with tempfile.TemporaryDirectory(prefix="saccade-bench-") as scratch:
        bench = Bench(plan, Path(scratch), progress)
        try:
            bench.run()
        except KeyboardInterrupt:
            print("stopped; nothing was written", file=sys.stderr)
            return 130
        except (OSError, ServerFailed) as why:
            print(f"{why}; nothing was written", file=sys.stderr)
            return 1
        finally:
            progress.end()
    ways = [path_table.summarise(key, taken) for key, taken in bench.ways.items()]
    content = report(bench, ways, arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console = table.console()
    found = ceiling.median_of(bench.steps)
    for one in path_table.tables(ways, plan.connections, found, bench.steps, bench.idle):
        console.print(one)
    for note in path_table.NOTES:
        console.print(note, markup=False)
    for key, reason in bench.skipped.items():
        console.print(f"{key} was left out: {reason}", markup=False)
    return 1 if set(bench.skipped) - {"proxy"} else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
