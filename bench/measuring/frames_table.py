"""The rows, tables and goals of ``bench/frames.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

from rich.table import Table

from measuring.goals import Goal
from measuring.samples import Sample
from measuring.summary import percentile
from measuring.table import number

LABELS: Final = {
    "saccade": "Saccade",
    "saccade-raw": "Saccade, raw body",
    "saccade-near": "Saccade, near hit",
    "saccade-exact": "Saccade, exact hit",
    "seeds": "seeds",
    "seeds-threads": "seeds, in threads",
    "seeds-json": "seeds, tensor as JSON",
}
OURS, BASELINE, THREADS = "saccade", "seeds", "seeds-threads"
NEAR, EXACT = "saccade-near", "saccade-exact"
#: Least ratio of frames per second and largest of CPU that are aimed at.
MORE_FRAMES, LESS_CPU = 3.0, 1 / 3
#: Largest shares of the baseline's CPU for frames that the cache answers.
HIT_CPU: Final = {NEAR: 1 / 5, EXACT: 1 / 40}
#: Resident memory may grow by this much of itself between a tenth of the frames and all.
GROWTH: Final = 0.05
NOTES: Final = (
    "Every frame is a miss but for the rows of hits. The baseline looks it up first (imagehash.phash of the whole "
    "frame, in a dict); Saccade takes a digest of its bytes, hash and thumbnail, and keeps the answer (cache=refresh, "
    "with a camera's name). Hits have raw bodies; a near hit is the same frame again, the exact cache kept empty.",
    "CPU: of the transformer's process. All rows call the same stub predictor and post the same multipart form, but "
    "for the raw body. Client, transformer and stub share the cores.",
)

#: Key of the server, name of the frame, connections.
Cell = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class FrameRow:
    """One server under one load; CPU is the mean of the rounds, frames per second and p50 are medians.

    Attributes:
        frame: its size and bytes.
        cpu_ms: per frame.
        cpu_ms_rounds: of each round.
        times_cpu: as a multiple of the baseline's, None without it.
        times_per_second: the same of frames per second.
    """

    key: str
    frame: str
    connections: int
    frames: int
    cpu_ms: float
    cpu_ms_rounds: Sequence[float]
    p50_ms: float
    p99_ms: float
    per_second: float
    times_cpu: float | None
    times_per_second: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one transformer while it answers many frames.

    Attributes:
        rss_bytes: (frames answered so far, resident bytes), from a tenth of the frames on.
    """

    key: str
    rss_bytes: Sequence[tuple[int, int]]

    @property
    def growth(self) -> float:
        """Of the last above the first, as a share of the first."""
        return self.rss_bytes[-1][1] / self.rss_bytes[0][1] - 1


def summarise(samples: Mapping[Cell, Sequence[Sample]]) -> list[FrameRow]:
    """Make a row of every cell that has samples, by frame and connections, in the order of ``LABELS``."""
    cells = {cell: taken for cell, taken in samples.items() if taken}
    cpu_ms = {cell: [one.server_cpu_s / len(one.latencies_s) * 1e3 for one in taken] for cell, taken in cells.items()}
    per_second = {cell: median(len(one.latencies_s) / one.wall_s for one in taken) for cell, taken in cells.items()}

    def row(key: str, frame: str, connections: int) -> FrameRow:
        cell, base = (key, frame, connections), (BASELINE, frame, connections)
        taken = cells[cell]
        return FrameRow(
            key=key,
            frame=frame,
            connections=connections,
            frames=sum(len(one.latencies_s) for one in taken),
            cpu_ms=fmean(cpu_ms[cell]),
            cpu_ms_rounds=cpu_ms[cell],
            p50_ms=median(percentile(one.latencies_s, 0.5) for one in taken) * 1e3,
            p99_ms=percentile([latency for one in taken for latency in one.latencies_s], 0.99) * 1e3,
            per_second=per_second[cell],
            times_cpu=fmean(cpu_ms[cell]) / fmean(cpu_ms[base]) if base in cells else None,
            times_per_second=per_second[cell] / per_second[base] if base in cells else None,
        )

    loads = dict.fromkeys((frame, connections) for _, frame, connections in cells)
    return [row(key, *load) for load in loads for key in LABELS if (key, *load) in cells]


def judge(rows: Sequence[FrameRow], memory: Sequence[Memory]) -> list[Goal]:
    """Hold our row against the goals: CPU at one connection, frames per second at the most."""
    goals = []
    for frame in dict.fromkeys(row.frame for row in rows):
        ours = [row for row in rows if row.frame == frame and row.key == OURS]
        if not ours:
            continue
        alone, busy = (pick(ours, key=lambda row: row.connections) for pick in (min, max))
        goals += [
            Goal("CPU per frame, as a share of the baseline's", frame, LESS_CPU, alone.times_cpu),
            Goal("frames per second, as a multiple", frame, MORE_FRAMES, busy.times_per_second, at_least=True),
        ]
        hits = [row for row in rows if row.frame == frame and row.connections == 1 and row.key in HIT_CPU]
        goals += [Goal(f"CPU, {LABELS[row.key]}", frame, HIT_CPU[row.key], row.times_cpu) for row in hits]
    goals += [
        Goal("growth of resident memory", f"{one.rss_bytes[-1][0]:,} frames", GROWTH, one.growth) for one in memory
    ]
    return goals


def results(rows: Sequence[FrameRow], side: int) -> Table:
    """All rows, a section for each load."""
    table = Table(title=f"A frame in the transformer, model input {side} x {side}", title_justify="left")
    table.add_column("frame")
    table.add_column("conn.", justify="right")
    table.add_column("transformer", no_wrap=True)
    for name in ("CPU ms", "x seeds", "p50 ms", "p99 ms", "frames/s", "x seeds", "frames"):
        table.add_column(name, justify="right")
    before: tuple[str, int] | None = None
    for row in rows:
        load = row.frame, row.connections
        if before is not None and load != before:
            table.add_section()
        table.add_row(
            *((row.frame, str(row.connections)) if load != before else ("", "")),
            LABELS[row.key],
            *(number(value) for value in (row.cpu_ms, row.times_cpu, row.p50_ms, row.p99_ms)),
            *(number(value) for value in (row.per_second, row.times_per_second)),
            str(row.frames),
        )
        before = load
    return table


def memory_table(memory: Sequence[Memory]) -> Table:
    """Resident memory by frames answered."""
    table = Table(title="Resident memory over many frames of both sizes in turn", title_justify="left")
    table.add_column("transformer", no_wrap=True)
    for name in ("frames", "MiB at first", "most", "at last", "growth"):
        table.add_column(name, justify="right")
    for one in memory:
        mib = [rss / 2**20 for _, rss in one.rss_bytes]
        table.add_row(
            LABELS[one.key],
            f"{one.rss_bytes[-1][0]:,}",
            *(f"{value:.1f}" for value in (mib[0], max(mib), mib[-1])),
            f"{one.growth:+.1%}",
        )
    return table
