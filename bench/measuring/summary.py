"""From samples to the rows of the table: medians over rounds, latency above the floor, ratios between servers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeAlias

from measuring.samples import Sample
from measuring.targets import FLOORS, Target

#: What the others are compared with, by key; the fields of ``Row`` are named for them.
KSERVE_GRPC: Final = "kserve-grpc"
TRITON_HTTP: Final = "triton-http"
TRITON_GRPC: Final = "triton-grpc"

#: Key of the target, size, connections.
Cell: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One server under one load.

    Attributes:
        requests: measured, over all rounds.
        cpu_ms: the server's CPU time per request, user and system of all its processes; median of the rounds.
        cpu_ms_rounds: the same of each round.
        client_cpu_ms: the client's CPU time per request.
        p50_ms: median of the rounds' median latencies.
        p99_ms: of the latencies of all rounds together.
        per_second: answers per second; median of the rounds.
        added_p50_ms: ``p50_ms`` less that of the bare protocol under the same load; None without it.
        times_kserve_grpc: CPU time as a multiple of stock KServe gRPC's under the same load, None without it.
        times_triton_http: the same of Triton HTTP.
        times_triton_grpc: the same of Triton gRPC.
    """

    target: str
    label: str
    protocol: str
    size: str
    connections: int
    requests: int
    cpu_ms: float
    cpu_ms_rounds: Sequence[float]
    client_cpu_ms: float
    p50_ms: float
    p99_ms: float
    per_second: float
    added_p50_ms: float | None
    times_kserve_grpc: float | None
    times_triton_http: float | None
    times_triton_grpc: float | None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all are not above (nearest rank).

    Args:
        values: at least one, in any order.
        share: over 0, at most 1.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def summarise(samples: Mapping[Cell, Sequence[Sample]], targets: Sequence[Target]) -> list[Row]:
    """Make a row of every cell that has samples, by size, connections, and order of the targets."""
    cells: dict[Cell, Sequence[Sample]] = {cell: taken for cell, taken in samples.items() if taken}
    cpu_ms = {cell: median(_cpu_ms(taken)) for cell, taken in cells.items()}
    p50_ms = {cell: median(percentile(s.latencies_s, 0.5) * 1e3 for s in taken) for cell, taken in cells.items()}

    def row(target: Target, size: str, connections: int) -> Row:
        cell = (target.key, size, connections)
        taken = cells[cell]

        def times(other: str) -> float | None:
            base = cpu_ms.get((other, size, connections))
            return None if base is None else cpu_ms[cell] / base

        floor = p50_ms.get((FLOORS[target.protocol], size, connections))
        return Row(
            target=target.key,
            label=target.label,
            protocol=target.protocol,
            size=size,
            connections=connections,
            requests=sum(len(sample.latencies_s) for sample in taken),
            cpu_ms=cpu_ms[cell],
            cpu_ms_rounds=_cpu_ms(taken),
            client_cpu_ms=median(sample.client_cpu_s / len(sample.latencies_s) * 1e3 for sample in taken),
            p50_ms=p50_ms[cell],
            p99_ms=percentile([latency for sample in taken for latency in sample.latencies_s], 0.99) * 1e3,
            per_second=median(len(sample.latencies_s) / sample.wall_s for sample in taken),
            added_p50_ms=None if floor is None else p50_ms[cell] - floor,
            times_kserve_grpc=times(KSERVE_GRPC),
            times_triton_http=times(TRITON_HTTP),
            times_triton_grpc=times(TRITON_GRPC),
        )

    loads = dict.fromkeys((size, connections) for _, size, connections in cells)
    return [row(t, size, count) for size, count in loads for t in targets if (t.key, size, count) in cells]


def _cpu_ms(taken: Sequence[Sample]) -> list[float]:
    return [sample.server_cpu_s / len(sample.latencies_s) * 1e3 for sample in taken]
