"""The rows and tables of ``bench/path.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.table import Table

from measuring.ceiling import SHARE, Ceiling, Step, read
from measuring.samples import Sample
from measuring.summary import percentile
from measuring.table import number

LABELS: Final = {"direct": "client -> server", "proxy": "client -> queue-proxy -> server"}
NOTES: Final = (
    "Every image is a request of its own with a UINT8 tensor of 1,228,800 bytes, an id of its own and a deadline; the "
    "server has batcher, limits and metrics, and an engine that does nothing.",
    "wire: heads and bodies as the client counts them. bodies: saccade_network_bytes_total by the server's count of "
    "answered requests.",
)


@dataclass(frozen=True, slots=True)
class WaySample:
    """One measurement of a way, and what the server counted meanwhile, warm-up included."""

    sample: Sample
    counted_requests: float
    counted_received: float
    counted_sent: float


@dataclass(frozen=True, slots=True)
class Way:
    """An image's cost on one way to the server; CPU in ms and bytes are per image, medians of the rounds.

    Attributes:
        proxy_cpu_ms: None without a proxy.
        wire_sent: head and body of the request, as the client counts them.
        wire_received: of the answer.
        body_received: of the request, as the server counts it.
        body_sent: of the answer.
    """

    key: str
    images: int
    server_cpu_ms: float
    server_cpu_ms_rounds: Sequence[float]
    proxy_cpu_ms: float | None
    proxy_cpu_ms_rounds: Sequence[float]
    client_cpu_ms: float
    p50_ms: float
    p99_ms: float
    per_second: float
    wire_sent: float
    wire_received: float
    body_received: float
    body_sent: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory of one server with and without idle connections."""

    connections: int
    before_bytes: int
    after_bytes: int

    @property
    def bytes_each(self) -> float:
        """Of one connection."""
        return (self.after_bytes - self.before_bytes) / self.connections


def summarise(key: str, taken: Sequence[WaySample]) -> Way:
    """Make a row.

    Args:
        key: of ``LABELS``.
        taken: at least one.
    """
    samples = [one.sample for one in taken]

    def each(values: Sequence[float]) -> list[float]:
        return [value / len(sample.latencies_s) for value, sample in zip(values, samples, strict=True)]

    server = [ms * 1e3 for ms in each([one.server_cpu_s for one in samples])]
    proxied = [ms * 1e3 for ms in each([one.proxy_cpu_s for one in samples])] if key == "proxy" else []
    return Way(
        key=key,
        images=sum(len(one.latencies_s) for one in samples),
        server_cpu_ms=median(server),
        server_cpu_ms_rounds=server,
        proxy_cpu_ms=median(proxied) if proxied else None,
        proxy_cpu_ms_rounds=proxied,
        client_cpu_ms=median(each([one.client_cpu_s for one in samples])) * 1e3,
        p50_ms=median(percentile(one.latencies_s, 0.5) for one in samples) * 1e3,
        p99_ms=percentile([latency for one in samples for latency in one.latencies_s], 0.99) * 1e3,
        per_second=median(len(one.latencies_s) / one.wall_s for one in samples),
        wire_sent=median(each([one.sent_bytes for one in samples])),
        wire_received=median(each([one.received_bytes for one in samples])),
        body_received=median(one.counted_received / one.counted_requests for one in taken),
        body_sent=median(one.counted_sent / one.counted_requests for one in taken),
    )


def tables(
    ways: Sequence[Way],
    connections: int,
    ceiling: Ceiling | None,
    rounds: Sequence[Sequence[Step]],
    idle: Sequence[Idle],
) -> list[Table]:
    """The tables that have something in them.

    Args:
        ways: rows of the first.
        connections: they were measured at.
        ceiling: of the median round.
        rounds: all climbs.
        idle: a measurement for each round.
    """
    found = []
    if ways:
        found.append(_ways(ways, connections))
    if ceiling is not None:
        found.append(_ceiling(ceiling, rounds))
    if idle:
        found.append(_idle(idle))
    return found


def _ways(ways: Sequence[Way], connections: int) -> Table:
    table = Table(title=f"One image of 1.2 MB at {connections} connections", title_justify="left")
    table.add_column("way", no_wrap=True)
    for name in ("server\nCPU ms", "proxy\nCPU ms", "client\nCPU ms", "p50\nms", "p99\nms", "per s"):
        table.add_column(name, justify="right")
    for name in ("bytes out\n(wire)", "back", "bytes out\n(body)", "back", "images"):
        table.add_column(name, justify="right")
    for way in ways:
        table.add_row(
            LABELS[way.key],
            number(way.server_cpu_ms),
            number(way.proxy_cpu_ms),
            number(way.client_cpu_ms),
            number(way.p50_ms),
            number(way.p99_ms),
            f"{way.per_second:.0f}",
            f"{way.wire_sent:,.0f}",
            f"{way.wire_received:,.0f}",
            f"{way.body_received:,.0f}",
            f"{way.body_sent:,.0f}",
            str(way.images),
        )
    return table


def _ceiling(found: Ceiling, rounds: Sequence[Sequence[Step]]) -> Table:
    reached = [one for steps in rounds if (one := read(steps)).reached]
    table = Table(
        title=f"Ceiling of one process: {SHARE:.0%} of a core, sent evenly, no proxy",
        title_justify="left",
    )
    for name in (
        "images per s",
        "rounds:\nlowest to highest",
        "nearest measured:\noffered per s",
        "answered per s",
        "CPU, % of a core",
        "p50 ms",
        "p99 ms",
    ):
        table.add_column(name, justify="right")
    at = found.at
    table.add_row(
        f"{'' if found.reached else 'at least '}{found.per_s:.0f}",
        _range([one.per_s for one in reached], len(rounds)),
        f"{at.offered_per_s:.0f}",
        f"{at.answered_per_s:.0f}",
        f"{at.cpu_share:.0%}",
        number(at.p50_ms),
        number(at.p99_ms),
    )
    return table


def _idle(idle: Sequence[Idle]) -> Table:
    table = Table(title="Idle connections that made one request each", title_justify="left")
    for name in ("connections", "RSS before, MiB", "RSS with them, MiB", "KiB each"):
        table.add_column(name, justify="right")
    for one in idle:
        mib = (one.before_bytes / 2**20, one.after_bytes / 2**20)
        table.add_row(str(one.connections), *(f"{value:.1f}" for value in mib), f"{one.bytes_each / 1024:.2f}")
    return table


def _range(rates: Sequence[float], rounds: int) -> str:
    if not rates:
        return f"none of {rounds} reached it"
    return f"{min(rates):.0f} to {max(rates):.0f} ({len(rates)} of {rounds})"
