"""The predictor's batcher on a real event loop: arrivals at their times, and an engine whose thread sleeps.

Requests are made in the same process, whose interpreter they take from the engine's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from saccade_predictor.batcher import Batcher
from saccade_predictor.delivery import Outcome
from saccade_predictor.engines.engine import EngineDescription, Inputs, Outputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_serving.errors import SaccadeError
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import Tensor
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue, QueuePolicy
from saccade_serving.scheduling.replay import Arrival
from saccade_serving.scheduling.submission import Submission, place
from servers.one_instance import OneInstance


async def play(
    trace: Sequence[Arrival], rules: BatchingRules, profile: LatencyProfile, takes: Callable[[int], float]
) -> tuple[list[float], int]:
    """Send a trace of requests of one row, which leave when the SLO is over.

    Args:
        trace: when they come, from now on.
        rules: with an SLO.
        profile: what the batcher knows at first.
        takes: seconds of a batch of so many rows.

    Returns:
        Seconds from its moment to its answer, of all that were answered; how many were refused or left.

    Raises:
        RuntimeError: memory was not given back.
    """
    arena, told = Arena(2**28), {}

    def deliver(one: int, outcome: Outcome) -> None:
        told[one] = time.monotonic() if outcome.error is None else None

    def sleep(_requests: Sequence[Inputs], rows: int) -> Outputs:
        time.sleep(takes(rows))
        return {"y": np.zeros((rows, 1), np.float32)}

    queue = Queue(QueuePolicy(max_queue_size=100_000))
    # In a thread: the event loop's own timers would end up to a millisecond late.
    sleeping = OneInstance(sleep, EngineDescription("sleeping", [], []))
    batcher = Batcher(sleeping, queue, rules, "m", "1", PredictorMetrics(), arena, deliver, profile=profile)
    tensor = Tensor.of("x", np.zeros((1, 8), np.uint8))
    loop = asyncio.get_running_loop()
    begun = time.monotonic() + 0.1
    refused = 0
    came: dict[int, float] = {}
    for one, arrival in enumerate(trace):
        due = begun + arrival.at
        if (pause := due - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        came[one] = due
        lease, tensors = place([tensor], None, arena)
        try:
            batcher.submit(Submission(one, lease.name, tensors, 1, due + rules.slo_s))
        except SaccadeError:
            lease.release()
            refused += 1
            continue
        loop.call_at(loop.time() + rules.slo_s, _leave, batcher, told, one)
    await asyncio.sleep(0.5)
    await batcher.close()
    sleeping.close()
    if arena.leases:
        raise RuntimeError(f"{arena.leases} leases are left")
    times = [when - came[one] for one, when in told.items() if when is not None]
    return times, refused + sum(when is None for when in told.values())


def _leave(batcher: Batcher, told: dict[int, float | None], one: int) -> None:
    if one not in told:
        batcher.withdraw(one)
        told[one] = None
