"""What the data plane is to reach, held against what was measured.

CPU goals hold at 8 connections and for the predictor's whole path (batcher, metrics and admission included). They are
judged for REST: gRPC is grpcio until HTTP/2 comes on the same port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from measuring.summary import KSERVE_GRPC, TRITON_HTTP, Row

#: The rows that the goals are about.
ROWS: Final = {
    "Saccade REST + batcher": "saccade-rest-batched",
    "Saccade REST + batcher, own ids": "saccade-rest-batched-ids",
}
SMALL, LARGE = "353B", "1.2MB"
#: Where CPU and throughput are judged, and where latency is.
BUSY, ALONE = 8, 1


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal of one row.

    Attributes:
        bound: the number to reach.
        at_least: whether more is better; else less is.
        measured: None if the run did not measure what it takes.
    """

    what: str
    row: str
    bound: float
    measured: float | None
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether it is; None without a measurement."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def judge(rows: Sequence[Row]) -> list[Goal]:
    """Hold rows against all goals."""
    found = {(row.target, row.size, row.connections): row for row in rows}

    def cpu(key: str, other: str, size: str) -> float | None:
        row, base = found.get((key, size, BUSY)), found.get((other, size, BUSY))
        return row.cpu_ms / base.cpu_ms if row and base else None

    def added(key: str, size: str) -> float | None:
        row = found.get((key, size, ALONE))
        return row.added_p50_ms if row else None

    def throughput(key: str) -> float | None:
        row, base = found.get((key, LARGE, BUSY)), found.get((TRITON_HTTP, LARGE, BUSY))
        return row.per_second / base.per_second if row and base else None

    goals = []
    for label, key in ROWS.items():
        goals += [
            Goal("CPU, 353 B, as a share of stock KServe gRPC", label, 1 / 8, cpu(key, KSERVE_GRPC, SMALL)),
            Goal("CPU, 1.2 MB, as a share of stock KServe gRPC", label, 1 / 8, cpu(key, KSERVE_GRPC, LARGE)),
            Goal("CPU, 353 B, as a share of Triton HTTP", label, 1 / 2, cpu(key, TRITON_HTTP, SMALL)),
            Goal("CPU, 1.2 MB, as a share of Triton HTTP", label, 1 / 4, cpu(key, TRITON_HTTP, LARGE)),
            Goal("added latency, 353 B, 1 connection (ms)", label, 0.3, added(key, SMALL)),
            Goal("added latency, 1.2 MB, 1 connection (ms)", label, 1.0, added(key, LARGE)),
            Goal("throughput, 1.2 MB, as a multiple of Triton HTTP", label, 3, throughput(key), at_least=True),
        ]
    return goals
