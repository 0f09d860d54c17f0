"""What Knative's autoscaler has to be told of a model, from its profile and not by guessing. Pure.

Source of the formulas: Little's law. A request that comes while a batch computes waits for half of it on average,
then for its own, so that at a rate r and in steady state about 1.5 r t(n) = 1.5 n requests are inside, n = r t(n)
being the batch that this rate fills. ``tests/serving/test_autoscaling.py`` holds them against the replay.

A hard limit must not be felt: the time that a request waits in the queue-proxy is not known to us, and the queue-proxy
lets in who has left meanwhile. With an SLO the door lets in what will be answered within it. An instance ends at most
floor(SLO / t(B*)) + 1 batches in that time, the one it computes among them, so that no more than so many times B* rows
are inside. ``bench/hard_limit.py`` measures it with the real queue-proxy.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from saccade_serving.scheduling.policy import BatchingRules, largest_batch
from saccade_serving.scheduling.profile import LatencyProfile

#: The share of its capacity that a replica shall have to do.
TARGET_LOAD: Final = 0.7
#: Room that a hard limit leaves: for who is being refused or answered, and for an engine that gets faster.
HARD_ROOM: Final = 1.25


class Autoscaling(NamedTuple):
    """Settings of one replica.

    Attributes:
        largest: B*, rows; without an SLO the largest batch.
        capacity: rows per second.
        soft_target: concurrency that the autoscaler aims at (``autoscaling.knative.dev/target``, metric concurrency,
            ``target-utilization-percentage: 100``).
        hard_limit: least ``containerConcurrency``, if there has to be one; 0 is better. Without an SLO what keeps the
            instances busy, (d + 1) B*; nothing bounds what comes then.
    """

    largest: int
    capacity: float
    soft_target: int
    hard_limit: int


def derive(profile: LatencyProfile, rules: BatchingRules, instances: int = 1, depth: int = 1) -> Autoscaling:
    """Compute the settings.

    Args:
        profile: what batches take.
        rules: with or without an SLO.
        instances: of the model in a replica.
        depth: batches that an instance holds at a time.

    Raises:
        ValueError: nothing is known of the model's times.
    """
    if not profile:
        raise ValueError("no batch has been measured")
    most = max(1, rules.max_rows)
    largest = largest_batch(profile, rules, depth) if rules.slo_s else most
    per_instance = largest / profile.seconds(largest)
    ends = math.floor(rules.slo_s / profile.seconds(largest)) + 1
    filled = batch_at(profile, TARGET_LOAD * per_instance, largest)
    return Autoscaling(
        largest,
        instances * per_instance,
        max(1, math.ceil(1.5 * filled * instances)),
        math.ceil(max(depth + 1, ends) * largest * instances * HARD_ROOM),
    )


def batch_at(profile: LatencyProfile, per_s: float, largest: int) -> float:
    """Rows of the batch that a rate fills in steady state: n = r t(n), at least 1, at most ``largest``.

    t grows with n, and the left side faster as long as the rate is below the capacity, so there is one solution.
    """
    low, high = 1.0, float(largest)
    for _ in range(40):
        middle = (low + high) / 2
        if per_s * _seconds(profile, middle) > middle:
            low = middle
        else:
            high = middle
    return high


def _seconds(profile: LatencyProfile, rows: float) -> float:
    below = math.floor(rows)
    first, second = profile.seconds(below), profile.seconds(below + 1)
    return first + (second - first) * (rows - below)
