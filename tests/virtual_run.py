"""Records of runs that never happened: latencies drawn or given, a generator that kept to its plan."""

from __future__ import annotations

from collections.abc import Sequence

from saccade_loadtest.recorder import Recorder
from saccade_loadtest.results import Run, Schedule, Target

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
