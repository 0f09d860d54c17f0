"""What metrics cost: CPU per request on the hot path, and how late a scrape makes the event loop.

Prints both, writes JSON. The scrape is of 20 models with all their stages, once a second, which is fifteen times as
often as Prometheus asks by default.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from measuring import machine
from measuring.summary import percentile
from measuring.table import console
from measuring.targets import BENCH
from saccade_predictor.metrics import PredictorMetrics

RESULTS: Final = BENCH / "results" / "metrics.json"
MODELS: Final = 20
STAGES: Final = {"receive": 0.0003, "queue": 0.002, "compute": 0.02, "output": 0.0001, "total": 0.0224}
_TICK_S: Final = 0.001


def count(metrics: PredictorMetrics, model: str) -> None:
    """What is counted for one request that an engine answered."""
    metrics.requests.add((model, "rest", "200"))
    account = metrics.account(model, "1")
    account.observe(STAGES)
    metrics.received_bytes += 1_228_800
    metrics.sent_bytes += 100
    counted = account.statistics
    if counted is not None:
        counted.succeeded(1, 22_300_000, 2_000_000, 0, 20_000_000)


def per_request_us(requests: int) -> float:
    """CPU microseconds of counting one request."""
    metrics = PredictorMetrics()
    begun = time.process_time()
    for _ in range(requests):
        count(metrics, "detector")
    return (time.process_time() - begun) / requests * 1e6


async def lag_ms(seconds: float, scrape: bool) -> tuple[list[float], int]:
    """How late timers of a millisecond are, and the size of a scrape."""
    metrics = PredictorMetrics()
    for number in range(MODELS):
        for _ in range(50):
            count(metrics, f"model_{number}")
        metrics.batch_size.observe(8, (f"model_{number}", "1"))
    registry = CollectorRegistry()
    registry.register(metrics)
    late: list[float] = []
    size = 0
    ends = time.monotonic() + seconds

    async def scrapes() -> None:
        nonlocal size
        while True:
            size = len(await asyncio.to_thread(generate_latest, registry))
            await asyncio.sleep(1)

    scraping = asyncio.create_task(scrapes()) if scrape else None
    while (begun := time.monotonic()) < ends:
        await asyncio.sleep(_TICK_S)
        late.append((time.monotonic() - begun - _TICK_S) * 1e3)
    if scraping is not None:
        scraping.cancel()
    return late, size


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench/metrics.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, a fortieth of the time")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    requests, seconds, rounds = (20_000, 0.5, 1) if given.quick else (200_000, 20.0, 5)
    cost = median(per_request_us(requests) for _ in range(rounds))
    without, _ = asyncio.run(lag_ms(seconds, scrape=False))
    during, size = asyncio.run(lag_ms(seconds, scrape=True))
    p99 = [percentile(sorted(late), 0.99) for late in (without, during)]
    out = console()
    out.print(f"counting a request: {cost:.2f} us of CPU")
    out.print(f"p99 of the loop's lag: {p99[0]:.2f} ms without scrapes, {p99[1]:.2f} ms with ({size:,} bytes each)")
    content = {
        "bench": "metrics",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "bench/metrics.py", *arguments]),
        "machine": machine.describe(),
        "lines": [{"request_us": cost, "lag_p99_ms": p99[0], "lag_p99_ms_with_scrapes": p99[1], "scrape_bytes": size}],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
