"""From what clients saw behind a hard limit to the rows of the table: medians, ratios, noise, what has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.table import Table

from measuring.open_loop import CLOSED, IN_TIME, LEFT, Told
from measuring.summary import percentile
from servers.sleeping import CLIENT_S

#: Goodput with the derived limit may differ by so much from that without one.
WITHIN: Final = 0.03
#: Clients kept up if so many of the requests went out, 99 of 100 of them within a tenth of what clients wait.
_SENT: Final = 0.99
_LATE_S: Final = CLIENT_S / 10
#: Names of the limits that are compared.
FREE, DERIVED = "none", "derived"


@dataclass(frozen=True, slots=True)
class Measured:
    """One load through one queue-proxy; rates per second, CPU in cores.

    Attributes:
        limit: containerConcurrency.
        due: requests that had to be sent.
        sent: those that were.
        late_p99_ms: how long after its moment a request was sent.
        most_open: requests under way at a time, at most.
        outcomes: all requests that count, by how they ended.
    """

    round: int
    load: float
    name: str
    limit: int
    due: float
    sent: float
    goodput: float
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    most_open: int
    outcomes: dict[str, float]
    client_cores: float
    server_cores: float
    proxy_cores: float

    @property
    def kept_up(self) -> bool:
        """Whether the clients did what they had to."""
        return self.sent >= _SENT * self.due and self.late_p99_ms <= _LATE_S * 1e3


@dataclass(frozen=True, slots=True)
class Row:
    """One load and limit over all rounds: medians.

    Attributes:
        spread: highest less lowest goodput of the rounds, as a part of the median.
        ratio: goodput as a part of that without a limit, median over the rounds.
        refused: by the server.
        proxy: errors of the queue-proxy's own.
        left: clients that had no answer in time, or a cut connection.
    """

    load: float
    name: str
    limit: int
    sent: float
    goodput: float
    spread: float
    ratio: float
    refused: float
    proxy: float
    left: float
    p50_ms: float
    p99_ms: float
    most_open: float


def measured(what: tuple[int, float, str, int], told: Told, counted_s: float, cores: Sequence[float]) -> Measured:
    """Put what clients saw into figures."""
    times, late = told.latencies_s or [float("nan")], told.late_s or [float("inf")]
    outcomes = {outcome: count / counted_s for outcome, count in told.outcomes.items()}
    return Measured(
        *what,
        due=told.outcomes.total() / counted_s,
        sent=len(told.late_s) / counted_s,
        goodput=outcomes.get(IN_TIME, 0.0),
        p50_ms=percentile(times, 0.5) * 1e3,
        p99_ms=percentile(times, 0.99) * 1e3,
        late_p99_ms=percentile(late, 0.99) * 1e3,
        most_open=told.most_open,
        outcomes=outcomes,
        client_cores=told.cpu_s / told.wall_s,
        server_cores=cores[0],
        proxy_cores=cores[1],
    )


def summarise(found: Sequence[Measured]) -> list[Row]:
    """A row for each load and limit, in the order of the limits."""
    rows = []
    for load in dict.fromkeys(one.load for one in found):
        at_load = [one for one in found if one.load == load]
        free = {one.round: one.goodput for one in at_load if one.name == FREE}
        for name, limit in sorted({(one.name, one.limit) for one in at_load}, key=lambda pair: -pair[1] or -1e9):
            of = [one for one in at_load if one.name == name]
            rows.append(_row(load, name, limit, of, free))
    return rows


def _row(load: float, name: str, limit: int, of: Sequence[Measured], free: dict[int, float]) -> Row:
    goodputs = [one.goodput for one in of]

    def ended(*words: str) -> float:
        return median(sum(rate for outcome, rate in one.outcomes.items() if outcome.endswith(words)) for one in of)

    return Row(
        load,
        name,
        limit,
        sent=median(one.sent for one in of),
        goodput=median(goodputs),
        spread=(max(goodputs) - min(goodputs)) / max(median(goodputs), 1e-9),
        ratio=median(one.goodput / max(free[one.round], 1e-9) for one in of),
        refused=ended("by the server"),
        proxy=ended("by the queue-proxy"),
        left=ended(LEFT, CLOSED),
        p50_ms=median(one.p50_ms for one in of),
        p99_ms=median(one.p99_ms for one in of),
        most_open=median(one.most_open for one in of),
    )


def verdicts(rows: Sequence[Row], found: Sequence[Measured]) -> dict[str, bool]:
    """What has to hold."""
    judged = {
        f"at {row.load:g} x capacity the derived limit is within {WITHIN:.0%} of none ({row.ratio - 1:+.1%})": abs(
            row.ratio - 1
        )
        <= WITHIN
        for row in rows
        if row.name == DERIVED
    }
    with_reference = [one for one in found if one.name in (FREE, DERIVED)]
    judged["clients kept up in nine of ten measurements"] = sum(one.kept_up for one in with_reference) >= 0.9 * len(
        with_reference
    )
    return judged


def show(rows: Sequence[Row]) -> Table:
    """The rows as a table."""
    shown = Table(title="Goodput behind Knative's queue-proxy, requests per second", title_justify="left")
    for name in ("x capacity", "hard limit", "container-\nConcurrency"):
        shown.add_column(name, justify="left" if name == "hard limit" else "right")
    for name in ("sent", "goodput", "x none", "spread", "refused", "proxy's\nerrors", "left", "p50 ms", "p99 ms"):
        shown.add_column(name, justify="right")
    shown.add_column("most\nopen", justify="right")
    before = 0.0
    for row in rows:
        if before and row.load != before:
            shown.add_section()
        rates = (f"{rate:.0f}" for rate in (row.refused, row.proxy, row.left, row.p50_ms, row.p99_ms, row.most_open))
        measures = (f"{row.sent:.0f}", f"{row.goodput:.0f}", f"{row.ratio:.3f}", f"{row.spread:.1%}")
        shown.add_row(f"{row.load:g}", row.name, str(row.limit), *measures, *rates)
        before = row.load
    return shown


def notes(found: Sequence[Measured]) -> list[str]:
    """What must be known to read the table."""
    cores = [max(getattr(one, field) for one in found) for field in ("client_cores", "server_cores", "proxy_cores")]
    least = min(one.sent / one.due for one in found)
    noise = max(row.spread for row in summarise(found) if row.name == FREE)
    much = "; too much to judge by: repeat with less other work, or real-time priority" if noise > WITHIN else ""
    return [
        f"clients sent {least:.1%} of what was due or more, 99 of 100 requests at most "
        f"{max(one.late_p99_ms for one in found):.1f} ms late",
        f"cores used at most: clients {cores[0]:.2f}, server {cores[1]:.2f}, queue-proxy {cores[2]:.2f}",
        f"noise: without a limit, goodput of the rounds differs by up to {noise:.1%}, with the same requests{much}",
    ]
