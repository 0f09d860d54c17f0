"""The autoscaler's numbers, held against replays of the traffic they are for."""

from __future__ import annotations

import math
import random

import pytest

from saccade_serving.scheduling.autoscaling import batch_at, derive
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue
from saccade_serving.scheduling.replay import Arrival, replay
from saccade_serving.scheduling.scheduler import Scheduler
from virtual_clock import A100

PROFILES = {
    "YOLOv8m on an A100": A100,
    "a CPU": {1: 0.036, 8: 0.250},
    "a GPU that batches for nothing": {1: 0.005, 64: 0.005},
}


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize("instances", [1, 3])
def test_the_soft_target_is_the_concurrency_that_a_replica_at_seven_tenths_of_its_capacity_has(
    name: str, instances: int
) -> None:
    profile = PROFILES[name]
    rules = BatchingRules(max(profile), slo_s=1.0)
    found = derive(LatencyProfile(profile), rules, instances)
    chance = random.Random(5)
    now, seconds = 0.0, 20_000 / found.capacity
    trace = []
    while (now := now + chance.expovariate(0.7 * found.capacity)) < seconds:
        trace.append(Arrival(now))
    scheduler = Scheduler(Queue(), rules, [1] * instances, LatencyProfile(profile))
    told = replay(scheduler, trace, LatencyProfile(profile).seconds)
    inside = sum(when - trace[number].at for number, when in told.answered.items()) / seconds
    # The target is for the autoscaler to aim at: below it, replicas would be added that nobody needs.
    assert 0.75 * found.soft_target <= inside <= 1.2 * found.soft_target


def test_the_numbers_of_the_profile_that_the_design_names() -> None:
    found = derive(LatencyProfile(A100), BatchingRules(128, slo_s=0.1))
    assert found.largest == 90
    assert found.capacity == pytest.approx(1993, abs=1)
    assert found.hard_limit == math.ceil(3 * 90 * 1.25), "of 45 ms, in 100 ms three can end"
    deeper = derive(LatencyProfile(A100), BatchingRules(128, slo_s=0.1), instances=2, depth=2)
    assert deeper.hard_limit == math.ceil(4 * deeper.largest * 2 * 1.25)
    assert derive(LatencyProfile(A100), BatchingRules(128), depth=2).hard_limit == 3 * 128 * 1.25


@pytest.mark.parametrize(("slo_s", "max_rows"), [(0.1, 128), (0.1, 32), (0.5, 32)])
@pytest.mark.parametrize("instances", [1, 3])
def test_the_hard_limit_is_not_felt_under_overload_whatever_bounds_the_batch(
    slo_s: float, max_rows: int, instances: int
) -> None:
    rules = BatchingRules(max_rows, slo_s=slo_s)
    found = derive(LatencyProfile(A100), rules, instances)
    chance = random.Random(6)
    now, trace = 0.0, []
    while (now := now + chance.expovariate(1.5 * found.capacity)) < 1.5:
        trace.append(Arrival(now, deadline=now + slo_s, leaves=now + slo_s))

    def goodput(limit: int) -> int:
        scheduler = Scheduler(Queue(), rules, [1] * instances, LatencyProfile(A100))
        told = replay(scheduler, trace, LatencyProfile(A100).seconds, limit)
        return sum(when - trace[number].at <= slo_s for number, when in told.answered.items())

    free = goodput(0)
    assert free >= 0.9 * 1.5 * found.capacity
    assert goodput(found.hard_limit) == free
    assert goodput(found.largest * instances) < 0.97 * free


@pytest.mark.parametrize(("per_s", "rows"), [(1, 1), (100, 1), (1993, 90), (10_000, 90)])
def test_a_rate_fills_a_batch_of_the_size_that_it_brings_while_one_computes(per_s: float, rows: int) -> None:
    assert batch_at(LatencyProfile(A100), per_s, 90) == pytest.approx(rows, abs=0.6)


def test_without_a_profile_there_is_nothing_to_derive() -> None:
    with pytest.raises(ValueError, match="no batch has been measured"):
        derive(LatencyProfile(), BatchingRules(8))
