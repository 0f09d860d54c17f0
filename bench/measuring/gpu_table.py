"""From what was measured of a plan to the table, its goals, and the figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from measuring.goals import Goal
from measuring.lanes import Timed
from measuring.served import Served
from measuring.table import number

#: The size of batch that throughput is judged at.
JUDGED: Final = 32


@dataclass(frozen=True, slots=True)
class Size:
    """All of one size of batch.

    Attributes:
        raw: TensorRT alone over resident data: the limit.
        engine: the predictor's engine, with the copies from and to the host.
        served: the predictor as a process, by REST, with requests of one row.
        alone: the same with one connection, for batches of one row only.
        gpu_use: share of the time with work on the GPU during ``served``; None where that is not known.
    """

    rows: int
    raw: Timed
    engine: Timed
    served: Served
    alone: Served | None = None
    gpu_use: float | None = None

    @property
    def engine_to_raw(self) -> float:
        """Throughput of the engine as a share of the limit."""
        return self.engine.per_s / self.raw.per_s

    @property
    def served_to_raw(self) -> float:
        """End-to-end throughput as a share of the limit."""
        return self.served.per_s / self.raw.per_s

    @property
    def served_to_engine(self) -> float:
        """End-to-end throughput as a share of the engine's."""
        return self.served.per_s / self.engine.per_s

    @property
    def added_p50_ms(self) -> float | None:
        """What the server adds to the engine's median latency; None where no connection was alone."""
        return None if self.alone is None else self.alone.p50_ms - self.engine.p50_ms

    def to_json(self) -> dict[str, Any]:
        """What was measured, and the ratios."""
        ratios = ("engine_to_raw", "served_to_raw", "served_to_engine", "added_p50_ms")
        return {**asdict(self), "derived": {name: getattr(self, name) for name in ratios}}


def from_json(content: Mapping[str, Any]) -> Size:
    """Read what ``Size.to_json`` wrote.

    Raises:
        KeyError, TypeError: it is something else.
    """
    alone = content["alone"]
    return Size(
        rows=content["rows"],
        raw=Timed(**content["raw"]),
        engine=Timed(**content["engine"]),
        served=Served(**content["served"]),
        alone=Served(**alone) if alone is not None else None,
        gpu_use=content["gpu_use"],
    )


def show(sizes: Sequence[Size], title: str) -> Table:
    """The table a person reads: latencies in ms, throughput in rows (images) per second."""
    table = Table(title=title, title_justify="left")
    table.add_column("rows", justify="right")
    groups = (
        ("limit\n", ("p50", "p99", "per s")),
        ("engine\n", ("p50", "p99", "per s", "/ limit")),
        ("end to end\n", ("p50", "p99", "per s", "/ engine", "/ limit", "rows/batch", "GPU")),
    )
    for name, columns in groups:
        for column in columns:
            table.add_column(f"{name}{column}", justify="right")
    for size in sizes:
        raw, engine, served = size.raw, size.engine, size.served
        table.add_row(
            str(size.rows),
            *(number(value) for value in (raw.p50_ms, raw.p99_ms)),
            f"{raw.per_s:.0f}",
            *(number(value) for value in (engine.p50_ms, engine.p99_ms)),
            f"{engine.per_s:.0f}",
            f"{size.engine_to_raw:.0%}",
            *(number(value) for value in (served.p50_ms, served.p99_ms)),
            f"{served.per_s:.0f}",
            f"{size.served_to_engine:.0%}",
            f"{size.served_to_raw:.0%}",
            f"{served.mean_batch:.1f}",
            "-" if size.gpu_use is None else f"{size.gpu_use:.0%}",
        )
    return table


def judge(sizes: Sequence[Size]) -> Iterator[Goal]:
    """Hold what was measured against what is aimed at; goals of sizes that were not measured are left out."""
    for size in sizes:
        if size.rows == JUDGED:
            of = f"batches of {JUDGED}"
            yield Goal("the engine's throughput / the limit", of, 0.9, size.engine_to_raw, True)
            yield Goal("end-to-end throughput / the engine's", of, 0.9, size.served_to_engine, True)
            yield Goal("utilisation of the GPU, end to end", of, 0.8, size.gpu_use, True)
        if size.rows == 1:
            yield Goal("p50 added by the server (ms)", "one connection, one row", 1.0, size.added_p50_ms)


def plot(sizes: Sequence[Size], title: str, path: Path) -> None:
    """Draw latency and throughput against the size of batch, into a PNG or SVG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    rows = [size.rows for size in sizes]
    lanes: tuple[tuple[str, str, Sequence[Timed | Served]], ...] = (
        ("limit: TensorRT alone, data resident", "o-", [size.raw for size in sizes]),
        ("engine, with host copies", "s-", [size.engine for size in sizes]),
        ("end to end by REST, three batches in flight", "^-", [size.served for size in sizes]),
    )
    for label, style, taken in lanes:
        [line] = left.plot(rows, [one.p50_ms for one in taken], style, label=f"{label}: p50")
        left.plot(rows, [one.p99_ms for one in taken], style[0] + ":", color=line.get_color(), label="p99")
        right.plot(rows, [one.per_s for one in taken], style, label=label)
    left.set(xlabel="rows of a batch", ylabel="ms", title="Latency", xscale="log", yscale="log")
    right.set(xlabel="rows of a batch", ylabel="images per second", title="Throughput", xscale="log")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xticks(rows, [str(count) for count in rows])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
