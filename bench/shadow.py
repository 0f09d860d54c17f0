"""What shadow traffic does to the requests that are answered: nothing that can be told from noise, it shall be.

One transformer per arm, all of them running, in front of the same predictor that computes nothing: without a
shadow, without one once more, with 5 % mirrored, with a candidate that is dead, with one that never answers in time.
Each round puts the same load on every arm, one after the other, each round in another order. Prints medians over the
rounds of p50 and p99, and how far they are from those without a shadow. The noise is how far the same number of two
random halves of the rounds without a shadow is apart, in 19 of 20 draws. Writes JSON. All traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import cv2
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from measuring import machine
from measuring.client import Client
from measuring.cpu import total_cpu_s, with_descendants
from measuring.processes import Server, ServerFailed, free_port, get
from measuring.samples import ClientError, Load
from measuring.stopping import end_as_ctrl_c_does
from measuring.summary import percentile
from measuring.table import Progress, console
from measuring.targets import BENCH
from servers.detector_stub import MODEL, SIDE

RESULTS: Final = BENCH / "results" / "shadow.json"
PHOTO: Final = BENCH.parent / "examples" / "images" / "astronaut.jpg"
#: Of the images, in every arm with a shadow.
SHARE: Final = 0.05
#: Longer than a call to the candidate may take.
SLOW_S: Final = 20.0
_START_S: Final = 60.0
_DRAWS: Final = 400


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of all arms, many and short: what else the machine does hits all arms alike.
        per_s: requests per second on one arm.
        seconds: that an arm has its load in a round.
    """

    rounds: int = 20
    per_s: float = 25.0
    seconds: float = 4.0


QUICK: Final = Plan(rounds=1, seconds=1.0)


@dataclass
class Arm:
    """One transformer and what was found of it.

    Attributes:
        key: for the JSON.
        label: for the table.
        settings: that make it what it is, by variable.
        latencies_ms: of each round.
    """

    key: str
    label: str
    settings: dict[str, str]
    latencies_ms: list[list[float]] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)


def arms(candidate: int, slow: int, dead: int) -> list[Arm]:
    """All of them; the ports are the candidates'."""

    def shadow(port: int) -> dict[str, str]:
        return {"SHADOW_HOST": f"127.0.0.1:{port}", "SHADOW_SHARE": str(SHARE)}

    return [
        Arm("off", "no shadow", {}),
        Arm("off_again", "no shadow, again", {}),
        Arm("on", f"{SHARE:.0%} mirrored", shadow(candidate)),
        Arm("dead", f"{SHARE:.0%}, candidate dead", shadow(dead)),
        Arm("slow", f"{SHARE:.0%}, candidate slow", shadow(slow)),
    ]


def request() -> bytes:
    """A V2 request for one JPEG of the model's own size, so that a box comes back where the predictor put it."""
    photo = cv2.imread(str(PHOTO))
    assert photo is not None
    image = cv2.imencode(".jpg", cv2.resize(photo, (SIDE, SIDE)), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    raw = len(image).to_bytes(4, "little") + image
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + len(raw)}\r\n\r\n"
    )
    return head.encode() + text + raw


def run(plan: Plan, scratch: Path, say: Progress) -> tuple[list[Arm], dict[str, Any]]:
    """Start everything, measure every arm in every round."""
    load = machine.Load(own_cpu_s)
    with ExitStack() as stack:
        ports = {name: free_port() for name in ("predictor", "candidate", "slow", "dead")}
        stubs = {}
        for name, delay_s in {"predictor": 0.005, "candidate": 0.005, "slow": SLOW_S}.items():
            command = [sys.executable, "-m", "servers.detector_stub", str(ports[name]), "--delay-s", str(delay_s)]
            stubs[name] = stack.enter_context(Server(name, command, {}, BENCH, scratch / f"{name}.log"))
        for name, stub in stubs.items():
            stub.wait_ready([ports[name]], {}, _START_S)
        client = stack.enter_context(Client("rest"))
        found = arms(ports["candidate"], ports["slow"], ports["dead"])
        say.say("starting the transformers")
        running = [_start(stack, arm, ports["predictor"], scratch) for arm in found]
        for server, port, _ in running:
            server.wait_ready([port], {port: [f"/v2/models/{MODEL}/ready"]}, _START_S)
        body, order = request(), random.Random(1)
        for number in range(plan.rounds):
            for index in order.sample(range(len(found)), len(found)):
                arm, (server, port, _) = found[index], running[index]
                say.step(f"round {number + 1} of {plan.rounds}", arm.label)
                sample = client.measure(
                    Load(
                        protocol="rest",
                        port=port,
                        server_pid=server.pid,
                        request=body,
                        connections=16,
                        warmup=20,
                        requests=0,
                        limit_s=plan.seconds,
                        per_s=plan.per_s,
                    )
                )
                arm.latencies_ms.append([latency * 1e3 for latency in sample.latencies_s])
            load.note()
        for arm, (_, _, metrics_port) in zip(found, running, strict=True):
            arm.outcomes = _outcomes(metrics_port)
        return found, load.report()


def _start(stack: ExitStack, arm: Arm, predictor: int, scratch: Path) -> tuple[Server, int, int]:
    """Start an arm's transformer without waiting for it; returns it, its REST port and that of its metrics."""
    port, grpc, metrics = free_port(), free_port(), free_port()
    settings = {"HOST": "127.0.0.1", "METRICS_PORT": str(metrics), "DRAIN_QUIET_S": "0", "CACHE": "off"}
    settings |= arm.settings
    command = [sys.executable, "-m", "saccade_transformers", f"--http_port={port}", f"--grpc_port={grpc}"]
    server = stack.enter_context(
        Server(
            arm.label,
            [*command, f"--predictor_host=127.0.0.1:{predictor}"],
            {f"SACCADE_TRANSFORMER_{name}": value for name, value in settings.items()},
            BENCH,
            scratch / f"{arm.key}.log",
        )
    )
    return server, port, metrics


def _outcomes(port: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for family in text_string_to_metric_families((get(port, "/metrics") or b"").decode()):
        for sample in family.samples:
            if sample.name == "saccade_shadow_requests_total" and sample.value:
                found[sample.labels["outcome"]] = int(sample.value)
    return found


def own_cpu_s() -> float:
    """CPU seconds of this process and everything it started, what has ended included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return total_cpu_s(with_descendants(os.getpid())) + ended.ru_utime + ended.ru_stime


def lines(found: Sequence[Arm], judged: bool) -> list[dict[str, Any]]:
    """What the table and the JSON say: percentiles, differences to the arms without a shadow, the noise.

    Args:
        found: all arms, those without settings being without a shadow.
        judged: whether there are enough requests to say what is within the noise.
    """
    without = [taken for arm in found if not arm.settings for taken in arm.latencies_ms]
    made = []
    for arm in found:
        line: dict[str, Any] = {
            "arm": arm.key,
            "requests": sum(len(taken) for taken in arm.latencies_ms),
            "shadow": arm.outcomes,
        }
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            difference, noise = typical(arm.latencies_ms, share) - typical(without, share), noise_ms(without, share)
            line[name] = {
                "ms": typical(arm.latencies_ms, share),
                "all_ms": percentile([latency for taken in arm.latencies_ms for latency in taken], share),
                "rounds_ms": [percentile(taken, share) for taken in arm.latencies_ms],
                "difference_ms": difference,
                "noise_ms": noise,
                "within_noise": abs(difference) <= noise if judged else None,
            }
        made.append(line)
    return made


def typical(rounds: Sequence[Sequence[float]], share: float) -> float:
    """A percentile of each round, of these the median: what disturbs a round or two does not count."""
    return median(percentile(taken, share) for taken in rounds)


def noise_ms(rounds: Sequence[Sequence[float]], share: float) -> float:
    """How far a percentile of two random halves of the rounds is apart, in 19 of 20 draws.

    Args:
        rounds: latencies of each; at least two.
        share: of the percentile.
    """
    chance = random.Random(1)
    apart = []
    for _ in range(_DRAWS):
        drawn = chance.sample(list(rounds), len(rounds))
        half = len(drawn) // 2
        apart.append(abs(typical(drawn[:half], share) - typical(drawn[half:], share)))
    return percentile(apart, 0.95)


def show(found: Sequence[Arm], made: Sequence[dict[str, Any]]) -> Table:
    """The table."""
    table = Table(title="Latency of answered requests, in milliseconds", title_justify="left")
    table.add_column("arm")
    for name in ("requests", "p50", "difference", "p99", "difference"):
        table.add_column(name, justify="right")
    table.add_column("within noise")
    table.add_column("mirrored")
    for arm, line in zip(found, made, strict=True):
        p50, p99 = line["p50"], line["p99"]
        table.add_row(
            arm.label,
            str(line["requests"]),
            f"{p50['ms']:.2f}",
            f"{p50['difference_ms']:+.2f}",
            f"{p99['ms']:.2f}",
            f"{p99['difference_ms']:+.2f}",
            "-" if p50["within_noise"] is None else "yes" if p50["within_noise"] and p99["within_noise"] else "NO",
            ", ".join(f"{count} {name}" for name, count in sorted(arm.outcomes.items())),
        )
    return table


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench/shadow.py", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short round, too few requests to judge")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else Plan()
    end_as_ctrl_c_does()
    progress = Progress(0)
    try:
        with tempfile.TemporaryDirectory(prefix="saccade-bench-") as scratch:
            found, load = run(plan, Path(scratch), progress)
    except (OSError, ClientError, ServerFailed) as why:
        print(f"{why}; nothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        progress.end()
    made = lines(found, judged=not given.quick)
    out = console()
    out.print(show(found, made))
    out.print(
        f"Differences are to both arms without a shadow; the noise is {made[0]['p50']['noise_ms']:.2f} ms at p50 and "
        f"{made[0]['p99']['noise_ms']:.2f} ms at p99"
    )
    content = {
        "bench": "shadow",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "bench/shadow.py", *arguments]),
        "machine": machine.describe(),
        "load": load,
        "plan": {"rounds": plan.rounds, "per_s": plan.per_s, "seconds": plan.seconds, "share": SHARE},
        "lines": made,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
