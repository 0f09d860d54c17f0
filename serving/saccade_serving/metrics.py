"""Metrics on the hot path: plain dictionaries and lists, read by a Prometheus collector when scraped.

``prometheus_client``'s ``labels().observe()`` locks and hashes on every call and costs more than a small request.
Here the event loop alone writes; the scrape runs in another thread and reads a copy. Names, units and labels follow
Prometheus's conventions; every label has a bounded set of values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

#: Upper bounds in seconds: 50 us to 30 s, three to a decade.
SECONDS = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Labels = tuple[str, ...]


class Counter:
    """A number per label set that only grows. The exposed name ends in ``_total``."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self.values: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        """Add ``amount`` >= 0."""
        self.values[labels] = self.values.get(labels, 0) + amount

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
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = [0.0] * (len(self.bounds) + 2)
        row[bisect_left(self.bounds, value)] += 1
        row[-1] += value

    def collect(self) -> Metric:
        """Render the present counts."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        for labels, row in list(self._rows.items()):
            *counts, total = row.copy()
            family.add_metric(labels, list(zip(names, accumulate(counts), strict=True)), sum_value=total)
        return family


class Metrics(Collector):
    """The metrics both services have (DESIGN names). Services add their own with ``add``."""

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
        self.network_bytes = Counter("saccade_network_bytes", "Bytes of request and response bodies.", ("direction",))
        self.loop_lag = Histogram("saccade_loop_lag_seconds", "Delay of the event loop's timers.")
        self.inflight = 0
        self._families: list[Counter | Gauge | Histogram] = [
            self.requests,
            self.request_seconds,
            self.rejected,
            self.network_bytes,
            self.loop_lag,
            Gauge(
                "saccade_inflight_requests",
                "Requests being received or answered.",
                lambda: [((), self.inflight)],
            ),
        ]

    def add(self, *families: Counter | Gauge | Histogram) -> None:
        """Expose further families."""
        self._families.extend(families)

    def collect(self) -> Iterator[Metric]:
        """Render all families; called by the scrape's thread."""
        for family in self._families:
            yield family.collect()

    def describe(self) -> Iterator[Metric]:
        """Names only, so that registering does not read gauges."""
        return iter(())
