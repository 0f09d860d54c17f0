"""A short run of a plan through the predictor's engine, two instances in turn: what compute-sanitizer watches.

compute-sanitizer --error-exitcode 9 python tests/gpu_short_run.py MODEL/1/model.plan
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring.lanes import Effort, InstanceLane, place, rows_of, time_lane
from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.engines.plan import read_sidecar, sidecar_of
from saccade_serving.memory.arena import Arena

BATCHES = 10


def run(gpus: Gpus, arena: Arena, path: Path) -> Mapping[int, int]:
    """Run batches of the least and the largest size on both instances; returns how many of each."""
    plan = read_sidecar(sidecar_of(path))
    engine = gpus.open_plan(path, plan, (0, 0))
    counts: dict[int, int] = {}
    try:
        for rows in plan.rows() or (1, 1):
            requests, leases = place(arena, rows_of(engine.describe().inputs, rows))
            for instance in engine.instances():
                timed = asyncio.run(time_lane(InstanceLane(instance, requests), Effort(0.0, BATCHES, 0)))
                counts[rows] = counts.get(rows, 0) + timed.batches + timed.looped
            del requests
            for lease in leases:
                lease.release()
    finally:
        engine.close()
    return counts


def main(path: str) -> None:
    """Run a plan on this machine's GPU, and say how many batches of which size that were."""
    arena = Arena(2**30)
    found: dict[str, Any] = {str(rows): count for rows, count in run(Gpus(arena), arena, Path(path)).items()}
    arena.close()
    print(found)


if __name__ == "__main__":
    main(sys.argv[1])
