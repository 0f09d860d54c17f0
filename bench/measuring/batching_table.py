"""From the samples of the batching bench to its rows, and the tables a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeAlias

from rich.table import Table
from rich.text import Text

from measuring.contenders import ALONE, CONTENDERS, Contender
from measuring.onnx_models import Model
from measuring.samples import Sample
from measuring.summary import percentile
from measuring.table import number

#: What every row's images per second are divided by, in columns of their own.
_COMPARED: Final = (ALONE, "mlserver", "mlserver-patient", "litserve")


@dataclass(frozen=True, slots=True)
class Taken:
    """One measurement: what the client found, how the server batched meanwhile, and what else the machine did.

    Attributes:
        others_cores: cores that processes used which are none of the bench's.
    """

    sample: Sample
    batches: int
    rows: int
    others_cores: float = 0.0

    @property
    def per_second(self) -> float:
        """Images answered per second."""
        return len(self.sample.latencies_s) / self.sample.wall_s


#: Key of the contender, of the model, clients.
Cell: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One server under one load.

    Attributes:
        images: measured, over all rounds.
        per_second: images per second; median of the rounds.
        per_second_rounds: the same of each round.
        p50_ms: median of the rounds' median latencies.
        p99_ms: of the latencies of all rounds together.
        cpu_ms: CPU time of all of the server's processes per image; median of the rounds.
        others_cores: cores that others used meanwhile; median of the rounds. Times of a row with many say little.
        mean_batch: rows per batch that reached ONNX Runtime, over all rounds.
        times: images per second as a multiple of every other contender's that was measured, by its key.
    """

    contender: str
    label: str
    model: str
    clients: int
    images: int
    per_second: float
    per_second_rounds: Sequence[float]
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    client_cpu_ms: float
    others_cores: float
    mean_batch: float
    times: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EngineRow:
    """ONNX Runtime alone, without a server: what batches of one size can give."""

    model: str
    rows: int
    per_second: float
    cpu_ms: float


def summarise(samples: Mapping[Cell, Sequence[Taken]], models: Sequence[Model]) -> list[Row]:
    """Make a row of every cell that has samples, by model, clients, and order of the contenders."""
    per_second = {cell: median(one.per_second for one in taken) for cell, taken in samples.items()}

    def row(contender: Contender, model: str, clients: int) -> Row:
        cell = (contender.key, model, clients)
        taken = samples[cell]
        latencies_ms = [[1e3 * one for one in each.sample.latencies_s] for each in taken]
        others = {one.key: per_second.get((one.key, model, clients)) for one in CONTENDERS}
        return Row(
            contender=contender.key,
            label=contender.label,
            model=model,
            clients=clients,
            images=sum(map(len, latencies_ms)),
            per_second=per_second[cell],
            per_second_rounds=[one.per_second for one in taken],
            p50_ms=median(percentile(one, 0.5) for one in latencies_ms),
            p99_ms=percentile([one for each in latencies_ms for one in each], 0.99),
            cpu_ms=median(1e3 * one.sample.server_cpu_s / len(one.sample.latencies_s) for one in taken),
            client_cpu_ms=median(1e3 * one.sample.client_cpu_s / len(one.sample.latencies_s) for one in taken),
            others_cores=median(one.others_cores for one in taken),
            mean_batch=sum(one.rows for one in taken) / max(1, sum(one.batches for one in taken)),
            times={key: per_second[cell] / other for key, other in others.items() if other and key != contender.key},
        )

    loads = [
        (model.key, clients)
        for model in models
        for clients in sorted({of for _, key, of in samples if key == model.key})
    ]
    return [row(one, *load) for load in loads for one in CONTENDERS if (one.key, *load) in samples]


def results(rows: Sequence[Row], model: Model, skipped: Mapping[str, str]) -> Table:
    """All rows of one model, a section for each number of clients; why others are missing stands below."""
    title = f"{model.key}: {model.what}; {model.parameters / 1e6:.1f} M parameters, {model.flops / 1e9:.3g} GFLOP"
    table = Table(title=title, title_justify="left")
    table.add_column("clients", justify="right")
    table.add_column("server", no_wrap=True)
    names = [
        "images/s",
        "x no\nbatch",
        "x MLS\n5 ms",
        "x MLS\n20 ms",
        "x Lit-\nServe",
        "p50 ms",
        "p99 ms",
        "CPU ms\nan image",
    ]
    for name in (*names, "mean\nbatch", "images", "others,\ncores"):
        table.add_column(name, justify="right")
    before = 0
    for row in rows:
        if row.model != model.key:
            continue
        if before and row.clients != before:
            table.add_section()
        table.add_row(
            str(row.clients) if row.clients != before else "",
            row.label,
            number(row.per_second),
            *(number(row.times.get(key, 1.0 if key == row.contender else None)) for key in _COMPARED),
            number(row.p50_ms),
            number(row.p99_ms),
            number(row.cpu_ms),
            number(row.mean_batch),
            str(row.images),
            number(row.others_cores),
        )
        before = row.clients
    labels = {one.key: one.label for one in CONTENDERS}
    if skipped:
        table.caption = Text("\n".join(f"{labels[key]}: not here: {why}" for key, why in skipped.items()))
    return table


def engine(rows: Sequence[EngineRow], model: Model) -> Table:
    """What there is to gain."""
    table = Table(title=f"{model.key}: ONNX Runtime alone, by batch size", title_justify="left")
    for name in ("batch", "images/s", "x batch 1", "CPU ms\nper image"):
        table.add_column(name, justify="right")
    own = [row for row in rows if row.model == model.key]
    for row in own:
        times = row.per_second / own[0].per_second
        table.add_row(str(row.rows), number(row.per_second), number(times), number(row.cpu_ms))
    return table
