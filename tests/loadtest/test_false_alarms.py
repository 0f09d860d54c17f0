"""How often a verdict is wrong: a thousand virtual runs on either side of the limit, at the smallest sample.

The service's true p99 is 0.9 or 1.1 of the limit. A run may be invalid for want of requests; it may not be judged
wrongly in more than one of a hundred. That it is not invalid for ever is tested as well: with the number of requests
that it asks for, it decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from saccade_loadtest.judging import confidence, slo
from saccade_loadtest.judging.verdict import judge
from virtual_run import virtual_run

LIMIT_MS = 100.0
RUNS = 1_000
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def exponential(drawn: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A queue's tail."""
    return drawn.exponential(size=size) / -math.log(0.01)


def lognormal(drawn: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Work of many factors."""
    return np.exp(0.8 * (drawn.standard_normal(size) - 2.3263478740408408))


def pareto(drawn: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A heavy tail, in which a limit a tenth away is passed by nearly as many: the hardest to tell."""
    return (1 + drawn.pareto(2.0, size=size)) / 10


def two_humps(drawn: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Most are fast, a twentieth waits for something else."""
    slow = drawn.random(size) < 0.05
    return np.where(slow, drawn.uniform(0.5, 1.125, size), drawn.uniform(0.05, 0.15, size))


#: Latencies whose p99 is 1.
SHAPES: tuple[Draw, ...] = (exponential, lognormal, pareto, two_humps)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_have_the_p99_that_the_test_supposes(shape: Draw) -> None:
    values = shape(np.random.default_rng(1), 1_000_000)
    assert np.mean(values > 1) == pytest.approx(0.01, abs=0.0005)


def judged(shape: Draw, true_p99_ms: float, requests: int, seed: int) -> str:
    """The verdict on a run of one seed."""
    latencies = shape(np.random.default_rng(seed), requests) * true_p99_ms
    per_s = 30.0  # the smallest sample takes 15 s, more than the fewest seconds
    # Thirty stretches: as many as the verdict compares.
    run = virtual_run(latencies.tolist(), per_s=per_s, bin_s=requests / per_s / 30)
    return judge(run, slo.parse({"name": "p99", "latency": [{"percentile": 99, "limit_ms": LIMIT_MS}]})).outcome


def verdicts(true_share: float, requests: int, runs: int, shapes: tuple[Draw, ...] = SHAPES) -> Counter[str]:
    """Verdicts by outcome, over all shapes."""
    return Counter(
        judged(shapes[seed % len(shapes)], true_share * LIMIT_MS, requests, 7_000 + seed) for seed in range(runs)
    )


@pytest.mark.parametrize(("true_share", "wrong"), [(0.9, "fail"), (1.1, "pass")])
def test_of_a_thousand_runs_at_the_smallest_sample_one_of_a_hundred_is_judged_wrongly_at_most(
    true_share: float, wrong: str
) -> None:
    found = verdicts(true_share, confidence.minimum_sample(99, 0.01), RUNS)
    assert found.total() == RUNS
    assert found[wrong] <= RUNS / 100, found


@pytest.mark.parametrize(("true_share", "wrong", "right"), [(0.9, "fail", "pass"), (1.1, "pass", "fail")])
def test_with_the_sample_that_it_asks_for_it_decides_and_is_right(true_share: float, wrong: str, right: str) -> None:
    over = 0.01 ** (1 / true_share)
    planned = confidence.sample_to_decide(0.01, over, 0.01)
    assert planned is not None
    found = verdicts(true_share, planned, 200, shapes=(exponential,))
    assert found[wrong] <= 2, found
    # Planned for nine of ten; a few of the runs are taken for bursts, which costs them a verdict.
    assert found[right] >= 160, found


def test_far_from_the_limit_the_smallest_sample_decides() -> None:
    least = confidence.minimum_sample(99, 0.01)
    assert verdicts(0.3, least, 40)["pass"] >= 30
    assert verdicts(5.0, least, 40)["fail"] == 40
