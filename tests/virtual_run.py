"""Records of runs that never happened: latencies drawn or given, a generator that kept to its plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from saccade_loadtest.record.recorder import Recorder
from saccade_loadtest.record.results import OVERLOADED, TIMEOUT, Phase, Run, Schedule, Target
from saccade_loadtest.record.server_metrics import Scrape, ServerRecord, StageTimes

TARGET = Target("http://127.0.0.1:8080", "transformer", "nanodet")


def virtual_run(
    latencies_ms: Sequence[float],
    *,
    per_s: float = 100.0,
    warmup_s: float = 0.0,
    bin_s: float = 1.0,
    protocol: str = "jpeg",
    failures: dict[int, str] | None = None,
    worker: str = "generator-1",
    version: str = "",
) -> Run:
    """A run whose requests were due evenly.

    Args:
        latencies_ms: one for each request, those of the warm-up first.
        per_s: the rate.
        failures: kind of failure by number of the request.
    """
    schedule = Schedule("constant", per_s, len(latencies_ms) / per_s, warmup_s=warmup_s, bin_s=bin_s)
    run = Run("virtual", TARGET, "open", schedule)
    recorder = Recorder(run, worker)
    for number, latency_ms in enumerate(latencies_ms):
        # In the middle of its time, so that no rounding moves it into another second.
        due_s = (number + 0.5) / per_s
        recorder.sent(protocol, due_s, due_s + 0.0001)
        kind = (failures or {}).get(number)
        if kind is None:
            recorder.answered(protocol, due_s, due_s + 0.0001, due_s + latency_ms / 1e3, version=version)
        else:
            recorder.failed(protocol, due_s, kind, version=version)
    recorder.worker.cpu_s, recorder.worker.wall_s = 0.2 * schedule.duration_s, schedule.duration_s
    return run


def eventful_run(seed: int = 1) -> Run:
    """A run in which everything happened that a report shows: two protocols, a spike, a stall, failures, a canary."""
    drawn = random.Random(seed)
    phases = (Phase("warm-up", 0, 4, 60), Phase("steady", 4, 20, 60), Phase("spike", 20, 30, 150))
    schedule = Schedule(
        "cameras", 94.6, 30, warmup_s=4, nominal_per_s=1000, nominal_limit_ms=100, seed=seed, phases=phases
    )
    target = replace(TARGET, note="example pair, cache bypassed")
    run = Run("spike", target, "open", schedule, began_at="2026-11-27T22:30:00Z", machine={"cpu": "a <fast> one"})
    recorder = Recorder(run, "generator-1")
    due_s = 0.0
    while (due_s := due_s + drawn.expovariate(150 if due_s >= 20 else 60)) < 30:
        protocol = "jpeg" if drawn.random() < 0.7 else "v2-binary"
        version = "2" if drawn.random() < 0.2 else "1"
        sent_s = due_s + drawn.expovariate(5000)
        recorder.sent(protocol, due_s, sent_s)
        if drawn.random() < 0.01:
            recorder.failed(protocol, due_s, drawn.choice([TIMEOUT, OVERLOADED, "<b>odd</b>"]), version=version)
            continue
        stalled_s = max(0.0, 26 - due_s) if due_s > 25 else 0.0
        ended_s = sent_s + drawn.lognormvariate(-3.5, 0.5) * (1.5 if version == "2" else 1) + stalled_s
        cache = drawn.choice(["miss", "near", "exact"])
        recorder.answered(protocol, due_s, sent_s, ended_s, version=version, cache=cache, agreed=True)
    recorder.worker.cpu_s, recorder.worker.wall_s = 5, 26
    run.notes.append("5 fps: not even one camera at 10 fps fits <script>alert(1)</script>")
    run.server = ServerRecord()
    bounds_s = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    for number, stage in enumerate(
        ("transformer/total", "transformer/decode", "predictor/queue", "predictor/compute")
    ):
        counts = [0.0] * 8
        counts[number + 2], counts[number + 3] = 1500, 40
        run.server.stages[stage] = StageTimes(bounds_s, tuple(counts), 1540 * 0.004 * (number + 1))
    for at_s in range(0, 31, 3):
        gauges = {"process_resident_memory_bytes": 2e8 + 1e5 * at_s, "process_open_fds": 40.0 + at_s % 2}
        run.server.watch("transformer", float(at_s), Scrape(gauges=gauges))
    return run
