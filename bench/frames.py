"""What a frame costs in the transformer, answered by the predictor or by the cache, beside the usual way to write one.

Real processes on 127.0.0.1: a client, the transformer, and a stub predictor that always answers the same
candidates. The baseline ("seeds") is FastAPI with cv2.imdecode of the whole frame, imagehash.phash of it, and an
FP32 tensor; its extra packages are installed into .tools/frames on the first run.

Prints CPU per frame, latency and frames per second, and the resident memory over many frames; writes the same as
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from measuring import frames_table, machine, pictures, table
from measuring.client import Client
from measuring.cpu import own_cpu_s
from measuring.environment import Unavailable, install
from measuring.frames_table import Cell, Memory
from measuring.memory import rss_bytes
from measuring.processes import Server, ServerFailed, free_port
from measuring.samples import ClientError, Load, Sample
from measuring.stopping import end_as_ctrl_c_does
from measuring.targets import BENCH, ROOT

RESULTS: Final = BENCH / "results" / "frames.json"
#: Name of a frame -> width, height, bytes (0: JPEG quality 85).
FRAMES: Final = {"1920x1080": (1920, 1080, 350_000), "640x480": (640, 480, 0)}
#: The answer of either service begins so; an answer without a detection would be a wrong one.
RIGHT: Final = (b'"detections":[{"box":[',)
SIDE: Final = 640
_WARM_UP_FRAMES: Final = 5
_START_S: Final = 90.0
_BOUNDARY: Final = "frame-of-the-bench"
#: Looks at the memory during a run over many frames.
_LOOKS: Final = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of everything, the servers in turns; means of CPU and medians are shown.
        connections: loads, each with one frame in flight per connection.
        frames: per server, load and round.
        json_frames: of the row that sends JSON, which takes a hundred times as long.
        memory_frames: answered by Saccade alone at the end.
    """

    rounds: int = 5
    connections: tuple[int, ...] = (1, 4)
    frames: int = 120
    json_frames: int = 4
    memory_frames: int = 2000


QUICK: Final = Plan(rounds=1, frames=6, json_frames=1, memory_frames=100)


class Bench:
    """One run: servers, client, and what was measured."""

    def __init__(self, plan: Plan, side: int, scratch: Path, say: table.Progress) -> None:
        self.plan, self.side = plan, side
        self.samples: dict[Cell, list[Sample]] = {}
        self.memory: list[Memory] = []
        self.skipped: dict[str, str] = {}
        self.load: dict[str, Any] = {}
        self.frames = {name: pictures.jpeg(*of) for name, of in FRAMES.items()}
        self._scratch, self._progress = scratch, say
        self._servers: dict[str, tuple[Server, int]] = {}

    def label(self, name: str) -> str:
        """A frame's name with its bytes."""
        return f"{name}, {len(self.frames[name]) / 1e3:.0f} kB"

    def run(self) -> None:
        """Measure everything, one after the other."""
        with ExitStack() as stack:
            client = stack.enter_context(Client("rest"))
            load = machine.Load(own_cpu_s)
            for number in range(self.plan.rounds):
                with ExitStack() as servers:
                    self._start(servers)
                    self._warm_up(client)
                    self._round(client, number)
                load.note()
            self._start(stack)
            self._watch_memory(client)
            self.load = load.report()

    def _start(self, stack: ExitStack) -> None:
        """Start the stub and all transformers; they cost nothing until they are asked.

        New processes for every round: what a frame of the baseline costs one connection differs by half between two of
        its processes, probably by how glibc gives its large arrays back to the system. They are warmed up.
        """
        self._progress.say("starting servers")
        predictor = free_port()
        stub = Server("stub", _module("stub_predictor", predictor, self.side), {}, BENCH, self._scratch / "stub.log")
        stack.enter_context(stub)
        stub.wait_ready([predictor], {}, _START_S)
        ready = "/v2/models/detector/ready"
        commands = {
            "saccade": (_saccade(port := free_port(), predictor), _SACCADE, port, ready),
            "saccade-near": (_saccade(port := free_port(), predictor), {**_SACCADE, **_NEAR_ONLY}, port, ready),
        }
        try:
            packages = install(
                ROOT / ".tools" / "frames",
                ROOT / "requirements" / "bench-frames.txt",
                "the baseline's packages (imagehash, scipy, 40 MB)",
                self._progress.say,
            )
        except Unavailable as why:
            self.skipped["seeds"] = str(why)
        else:
            # Behind ours, whose numpy and OpenCV they shall use.
            path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(packages)]))
            for key, options in {"seeds": [], "seeds-threads": ["--threads"], "seeds-json": ["--json"]}.items():
                command = _module("seeds_transformer", port := free_port(), predictor, self.side, *options)
                commands[key] = (command, {"PYTHONPATH": path}, port, "/health")
        for key, (command, environment, port, _) in commands.items():
            server = Server(key, command, environment, BENCH, self._scratch / f"{key}.log")
            self._servers[key] = stack.enter_context(server), port
        for key, (_, _, port, path) in commands.items():
            self._servers[key][0].wait_ready([port], {port: [path]}, _START_S)
        self._servers["saccade-raw"] = self._servers["saccade-exact"] = self._servers["saccade"]

    def _warm_up(self, client: Client) -> None:
        """Have every process do what it does once; the frames count for nothing."""
        for key in self._servers:
            self._progress.say(f"warming up {key}")
            for name in self.frames:
                client.measure(self._load(key, name, 1, _WARM_UP_FRAMES))

    def _round(self, client: Client, number: int) -> None:
        keys = [key for key in frames_table.LABELS if key in self._servers]
        turned = keys[number % len(keys) :] + keys[: number % len(keys)]
        for name in self.frames:
            for connections in self.plan.connections:
                group = f"round {number + 1} of {self.plan.rounds}, {name}, {connections} connections"
                for key in turned:
                    if key in _ONE_CONNECTION and connections > 1:
                        continue
                    self._progress.step(group, key)
                    frames = self.plan.json_frames if key == "seeds-json" else self.plan.frames
                    sample = client.measure(self._load(key, name, connections, frames))
                    self.samples.setdefault((key, self.label(name), connections), []).append(sample)

    def _watch_memory(self, client: Client) -> None:
        """Answer many frames of both sizes in turn, and look at the process's memory meanwhile."""
        each = max(1, self.plan.memory_frames // _LOOKS // len(self.frames))
        pid = self._servers["saccade"][0].pid
        seen, answered = [], 0
        for look in range(_LOOKS):
            self._progress.step("memory over many frames", f"{look + 1} of {_LOOKS}")
            for name in self.frames:
                sample = client.measure(self._load("saccade", name, max(self.plan.connections), each))
                answered += len(sample.latencies_s)
            seen.append((answered, rss_bytes(pid)))
        self.memory.append(Memory("saccade", seen))

    def _load(self, key: str, name: str, connections: int, frames: int) -> Load:
        server, port = self._servers[key]
        return Load(
            protocol="rest",
            port=port,
            server_pid=server.pid,
            request=request(self.frames[name], key),
            connections=connections,
            warmup=2 * connections,
            requests=frames,
            limit_s=3600.0,
            right=RIGHT,
        )


def request(image: bytes, key: str) -> bytes:
    """Head and body of ``POST /detect`` for a row: as a multipart form or raw, with what the cache is to do."""
    kind, query, more = "image/jpeg", "", ""
    if key in ("saccade", "saccade-raw"):
        query = "?cache=refresh"
    if key in ("saccade", "saccade-raw", "saccade-near"):
        more = "x-camera-id: gate\r\n"
    if not key.startswith("saccade-"):
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        part = 'Content-Disposition: form-data; name="file"; filename="frame.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        image = f"--{_BOUNDARY}\r\n{part}".encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = f"POST /detect{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Content-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


_SACCADE: Final = {
    "SACCADE_TRANSFORMER_HOST": "127.0.0.1",
    "SACCADE_TRANSFORMER_METRICS_PORT": "0",
    "SACCADE_TRANSFORMER_LOG_LEVEL": "warning",
    "SACCADE_TRANSFORMER_DRAIN_QUIET_S": "0",
}
#: Nothing but near hits: the same bytes are looked at anew each time, and one answer holds for the whole run.
_NEAR_ONLY: Final = {
    "SACCADE_TRANSFORMER_CACHE_EXACT_TTL_S": "1e-9",
    "SACCADE_TRANSFORMER_CACHE_TTL_S": "3600",
    "SACCADE_TRANSFORMER_CACHE_MAX_AGE_S": "3600",
    "SACCADE_TRANSFORMER_CACHE_HEARTBEAT": "100000",
    "SACCADE_TRANSFORMER_CACHE_AUDIT_SHARE": "0",
}
#: Rows that take long, or whose frames would wait for each other, since they are the same.
_ONE_CONNECTION: Final = ("seeds-json", "saccade-near")


def _saccade(port: int, predictor: int) -> list[str]:
    return [
        *(sys.executable, "-m", "saccade_transformers", "--model_name=detector"),
        *(f"--http_port={port}", f"--grpc_port={free_port()}", f"--predictor_host=127.0.0.1:{predictor}"),
    ]


def _module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"servers.{name}", *map(str, arguments)]


def report(bench: Bench, arguments: Sequence[str]) -> dict[str, Any]:
    """What is written as JSON."""
    rows = frames_table.summarise(bench.samples)
    return {
        "bench": "frames",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/frames.py", *arguments]),
        "machine": machine.describe(),
        "plan": asdict(bench.plan),
        "input_side": bench.side,
        "load": bench.load,
        "skipped": bench.skipped,
        "lines": [asdict(row) for row in rows],
        "memory": [{**asdict(one), "growth": one.growth} for one in bench.memory],
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in frames_table.judge(rows, bench.memory)],
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/frames.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, few frames: a look (all of it: five minutes)")
    parser.add_argument("--side", type=int, default=SIDE, help="of the model's square input in pixels (default: 640)")
    parser.add_argument("--frames", type=int, help="for the look at the memory (default: 2000; 50000: ten minutes)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/frames.json)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the bench; returns the exit status: 1 if Saccade could not be measured."""
    given = parse(arguments)
    plan = QUICK if given.quick else Plan()
    if given.frames:
        plan = Plan(plan.rounds, plan.connections, plan.frames, plan.json_frames, given.frames)
    end_as_ctrl_c_does()
    progress = table.Progress(0)
    with tempfile.TemporaryDirectory(prefix="saccade-bench-") as scratch:
        try:
            bench = Bench(plan, given.side, Path(scratch), progress)
            bench.run()
        except KeyboardInterrupt:
            print("stopped; nothing was written", file=sys.stderr)
            return 130
        except (OSError, ServerFailed, ClientError) as why:
            print(f"{why}; nothing was written", file=sys.stderr)
            return 1
        finally:
            progress.end()
    content = report(bench, arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console = table.console()
    rows = frames_table.summarise(bench.samples)
    console.print(frames_table.results(rows, given.side))
    console.print(frames_table.memory_table(bench.memory))
    judged = frames_table.judge(rows, bench.memory)
    console.print(table.goals(judged, not given.quick, title="Goals", counted="frames", shown=table.number))
    for note in frames_table.NOTES:
        console.print(note, markup=False)
    for key, reason in bench.skipped.items():
        console.print(f"{key} was left out: {reason}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
