"""The generator tells the latency that a server really had: against planted delays, and a server that stood still."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from loadtest_support import plan_for, served, truth_of
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.sources import Clients
from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.results import Tally
from saccade_loadtest.sending.conductor import Conductor
from servers.planted import latencies_s

RATE_PER_S = 250.0
SECONDS = 12.0
PERCENTS = (50.0, 90.0, 99.0, 99.9)
#: What other work on the machine may add between an answer and its reading: a tenth of what is planted.
#: bench/loadtest.py holds a quiet machine to 1 ms.
BUSY_MS = 50.0

#: A user of stock Locust, who waits for each answer before the next request.
STOCK = """
from locust import FastHttpUser, constant_throughput, task

class Waiting(FastHttpUser):
    wait_time = constant_throughput(50)

    @task
    def detect(self):
        self.client.post("/detect", data=b"x" * 400, headers={"Content-Type": "image/jpeg"})
"""


@dataclass(frozen=True)
class Measured:
    """A run.

    Attributes:
        total: what the generator counted.
        truth: what the server knows of the same schedule, seconds, ascending.
        late: how late the generator says that it sent its requests.
    """

    total: Tally
    truth: list[float]
    late: Histogram


def measure(*planted: str) -> Measured:
    """A run against a server with planted latency."""
    profile = constant(RATE_PER_S, SECONDS)
    with served("planted", *planted) as url:
        run = Conductor(plan_for(url, profile)).run().run
        due_s = {shot.scene * 100 + shot.camera: shot.due_s for shot in Clients(profile, "even").shots()}
        truth = sorted(latencies_s([due_s[number] for number in range(len(due_s))], truth_of(url)))
    assert run.faults == []
    total = run.measured()
    assert total.sent == total.answered == len(truth) == RATE_PER_S * SECONDS
    return Measured(total, truth, run.workers[0].schedule_error)


def percentile_ms(truth: list[float], percent: float) -> float:
    """By the nearest rank, as ``Histogram`` has it."""
    return truth[max(0, -int(-percent * len(truth) // 100) - 1)] * 1e3


def assert_alike(found: Measured, percent: float) -> None:
    """Within 5 %, what a busy machine adds, and how late the generator says that its requests were.

    The server knows when it wrote an answer, and not when the machine let the client read it.
    """
    measured = found.total.latency.percentile_us(percent) / 1e3
    expected = percentile_ms(found.truth, percent)
    late_ms = found.late.percentile_us(percent) / 1e3
    assert measured >= expected * 0.999 - 0.1, f"p{percent:g}: less than the server took"
    assert measured <= expected + max(0.05 * expected, BUSY_MS) + late_ms, f"p{percent:g}"


def test_three_of_a_hundred_answers_half_a_second_late_are_the_p99_and_the_p999() -> None:
    found = measure("--share", "0.03")
    total = found.total
    assert 500 <= percentile_ms(found.truth, 99) < 600
    for percent in PERCENTS:
        assert_alike(found, percent)
    assert total.latency.percentile_us(99) >= 500_000
    assert total.latency.percentile_us(50) < 250_000


def test_two_of_a_thousand_answers_late_are_the_p999_and_not_the_p99() -> None:
    found = measure("--share", "0.002")
    total = found.total
    assert percentile_ms(found.truth, 99.9) >= 500
    assert total.latency.percentile_us(99.9) >= 500_000
    assert total.latency.percentile_us(99) < 500_000
    for percent in PERCENTS:
        assert_alike(found, percent)


def test_a_server_that_stood_still_shows_in_the_open_loop_and_hides_from_stock_locust(tmp_path: Path) -> None:
    stall = ("--stall-at", "4", "--stall", "2")
    found = measure(*stall)
    total = found.total
    for percent in PERCENTS:
        assert_alike(found, percent)
    # A sixth of the schedule fell into it, so that one of a hundred requests waited for nearly all of it.
    assert total.latency.percentile_us(99) > 1_700_000
    assert total.service.count == total.latency.count

    stock = tmp_path / "stock.py"
    stock.write_text(STOCK)
    with served("planted", *stall) as url:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(stock), "--headless", "--host", url, "-u", "4", "-r", "4"),
                *("-t", f"{SECONDS:g}s", "--csv", str(tmp_path / "stock"), "--stop-timeout", "5"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "stock_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    told = rows["Aggregated"]
    assert float(told["Max Response Time"]) >= 1_900, "the stall happened"
    assert int(told["Request Count"]) > 500
    assert float(told["99%"]) < 1_000, "four users saw it once each, which is no percent of their requests"
