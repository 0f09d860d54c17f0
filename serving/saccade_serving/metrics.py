"""Metrics on the hot path: plain dictionaries and lists, read by a Prometheus collector when scraped.

``prometheus_client``'s ``labels().observe()`` locks and hashes on every call and costs more than a small request.
Here the event loop alone writes; the scrape runs in another thread and reads a copy. Names, units and labels follow
Prometheus's conventions; every label has a bounded set of values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from saccade_serving.statistics import Statistics

#: Upper bounds in seconds: 50 us to 30 s, three to a decade.
SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Labels = tuple[str, ...]

#: What KServe's own histograms ``request_<name>_seconds`` cover, in our stages.
KSERVE_STAGES: Final = {
    "preprocess": ("decode",),
    "predict": ("predict", "compute"),
    "postprocess": ("postprocess",),
}


class Counter:
    """A number per label set that only grows. The exposed name ends in ``_total``."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self.values: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        """Add ``amount`` >= 0."""
        self.values[labels] = self.values.get(labels, 0) + amount

    def forget(self, labels: Labels) -> None:
        """Drop the values whose label sets begin so."""
        for key in [key for key in self.values if key[: len(labels)] == labels]:
            del self.values[key]

    def collect(self) -> Metric:
        """Render the present values."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        return family


class Gauge:
    """A number per label set, computed when scraped."""

    def __init__(
        self,
        name: str,
        documentation: str,
        read: Callable[[], Iterable[tuple[Labels, float]]],
        labels: Sequence[str] = (),
    ) -> None:
        self.name, self.documentation, self.labels, self.read = name, documentation, tuple(labels), read

    def collect(self) -> Metric:
        """Render the present values."""
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, value in self.read():
            family.add_metric(labels, value)
        return family


class Histogram:
    """Counts of observations per bucket and label set."""

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float] = SECONDS, labels: Sequence[str] = ()
    ) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self.bounds = tuple(bounds)
        self._rows: dict[Labels, list[float]] = {}

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Count one value. The last slot of a row is the sum, the one before it the bucket above all bounds."""
        row = self.row(labels)
        row[bisect_left(self.bounds, value)] += 1
        row[-1] += value

    def row(self, labels: Labels) -> list[float]:
        """The counts of one label set, for a caller who observes it often."""
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = [0.0] * (len(self.bounds) + 2)
        return row

    def forget(self, labels: Labels) -> None:
        """Drop the counts whose label sets begin so. Who holds a row of theirs counts for nobody."""
        for key in [key for key in self._rows if key[: len(labels)] == labels]:
            del self._rows[key]

    def rows(self) -> list[tuple[Labels, list[float]]]:
        """A copy of all counts."""
        return [(labels, row.copy()) for labels, row in list(self._rows.items())]

    def buckets(self, row: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
        """A row as Prometheus has it: cumulative counts by upper bound, and the sum."""
        *counts, total = row
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(counts), strict=True)), total

    def collect(self) -> Metric:
        """Render the present counts."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, row in self.rows():
            family.add_metric(labels, *self.buckets(row))
        return family


class KServeHistogram:
    """One of KServe's own ``request_*_seconds``, which existing dashboards read, made of our stages when scraped."""

    def __init__(self, name: str, documentation: str, stages: Sequence[str], source: Histogram) -> None:
        self.name, self.documentation = name, documentation
        self._stages, self._source = frozenset(stages), source

    def collect(self) -> Metric:
        """Add up the stages' counts by model."""
        sums: dict[str, list[float]] = {}
        for (model, _version, stage), row in self._source.rows():
            if stage in self._stages and model:
                known = sums.get(model)
                sums[model] = row if known is None else [a + b for a, b in zip(known, row, strict=True)]
        family = HistogramMetricFamily(self.name, self.documentation, labels=("model_name",))
        for model, row in sums.items():
            family.add_metric((model,), *self._source.buckets(row))
        return family


class Account:
    """The books of one model version. Names and versions come from loaded models, so there are few."""

    __slots__ = ("_metrics", "_model", "_rows", "_version", "statistics")

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._metrics, self._model, self._version = metrics, model, version
        self._rows: dict[str, list[float]] = {}
        self.statistics = metrics.statistics.of(model, version) if model and version else None

    def observe(self, stages: Mapping[str, float]) -> None:
        """Count one request's stages: seconds by name."""
        rows = self._rows
        for stage, seconds in stages.items():
            row = rows.get(stage)
            if row is None:
                labels = (self._model, self._version, stage)
                row = rows[stage] = self._metrics.request_seconds.row(labels)
            row[bisect_left(SECONDS, seconds)] += 1
            row[-1] += seconds


class Metrics(Collector):
    """The metrics both services have (DESIGN names). Services add their own with ``add``.

    Attributes:
        received_bytes: of request bodies, so far.
        sent_bytes: of response bodies, so far.
        statistics: what Triton's statistics extension tells, counted beside.
    """

    def __init__(self) -> None:
        self.requests = Counter(
            "saccade_requests",
            "Requests answered, by protocol and HTTP or gRPC code.",
            ("model", "protocol", "code"),
        )
        self.request_seconds = Histogram(
            "saccade_request_seconds", "Time of a request by stage.", labels=("model", "version", "stage")
        )
        self.rejected = Counter(
            "saccade_rejected_requests", "Requests refused or dropped, by reason.", ("model", "reason")
        )
        self.loop_lag = Histogram("saccade_loop_lag_seconds", "Delay of the event loop's timers.")
        self.received_bytes = self.sent_bytes = 0
        self.statistics = Statistics()
        self._accounts: dict[tuple[str, str], Account] = {}
        self._families: list[Counter | Gauge | Histogram | KServeHistogram] = [
            self.requests,
            self.request_seconds,
            self.rejected,
            self.loop_lag,
            *(
                KServeHistogram(f"request_{name}_seconds", f"{name} request latency", stages, self.request_seconds)
                for name, stages in KSERVE_STAGES.items()
            ),
        ]

    def account(self, model: str, version: str) -> Account:
        """What is counted for every request that ends: at hand after one look."""
        account = self._accounts.get((model, version))
        if account is None:
            account = self._accounts[model, version] = Account(self, model, version)
        return account

    def forget(self, model: str, version: str = "") -> None:
        """Drop what was counted for a version that is gone, or for all of a model: versions come and go for ever."""
        self.statistics.forget(model, version)
        for key in [key for key in self._accounts if key[0] == model and version in ("", key[1])]:
            del self._accounts[key]
        for family in self._families:
            if isinstance(family, Counter | Histogram) and family.labels[:1] == ("model",):
                if not version:
                    family.forget((model,))
                elif family.labels[:2] == ("model", "version"):
                    family.forget((model, version))

    def watch_gate(self, inflight: Callable[[], int], arena_bytes: Callable[[], Mapping[str, int]]) -> None:
        """Expose what the gate knows."""
        self.add(
            Gauge("saccade_inflight_requests", "Requests being received or answered.", lambda: [((), inflight())]),
            Gauge(
                "saccade_arena_bytes",
                "Bytes of request bodies by what is done with them; free is mapped and unused.",
                lambda: [((state,), size) for state, size in arena_bytes().items()],
                ("state",),
            ),
        )

    def add(self, *families: Counter | Gauge | Histogram) -> None:
        """Expose further families."""
        self._families.extend(families)

    def collect(self) -> Iterator[Metric]:
        """Render all families; called by the scrape's thread."""
        for family in list(self._families):
            yield family.collect()
        network = CounterMetricFamily(
            "saccade_network_bytes", "Bytes of request and response bodies.", labels=("direction",)
        )
        network.add_metric(("received",), self.received_bytes)
        network.add_metric(("sent",), self.sent_bytes)
        yield network

    def describe(self) -> Iterator[Metric]:
        """Names only, so that registering does not read gauges."""
        return iter(())
