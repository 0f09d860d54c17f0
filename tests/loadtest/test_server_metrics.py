"""What servers say of themselves: read from the text that our own metrics render, as the difference of two scrapes."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from saccade_loadtest.record.server_metrics import (
    CACHE,
    STAGES,
    Scrape,
    ServerRecord,
    StageTimes,
    UnreadableMetrics,
    parse,
)
from saccade_serving.metrics import Counter, Gauge, Histogram


class Service(Collector):
    """A service's metrics, as both services make them."""

    def __init__(self) -> None:
        self.seconds = Histogram(STAGES, "time", labels=("model", "version", "stage"))
        self.cache = Counter(CACHE, "outcomes", labels=("outcome",))
        self.resident = Gauge("process_resident_memory_bytes", "memory", lambda: [((), 5e8)])

    def collect(self):  # type: ignore[no-untyped-def]
        return [self.seconds.collect(), self.cache.collect(), self.resident.collect()]

    def scrape(self) -> Scrape:
        """As text, and read again."""
        registry = CollectorRegistry()
        registry.register(self)
        return parse(generate_latest(registry).decode())


def test_the_difference_of_two_scrapes_is_what_came_between_them() -> None:
    service = Service()
    for _ in range(50):
        service.seconds.observe(0.003, ("m", "1", "queue"))
    service.cache.add(("miss",), 7)
    before = service.scrape()
    for version in ("1", "2"):
        for _ in range(100):
            service.seconds.observe(0.015, ("m", version, "queue"))
    service.seconds.observe(40.0, ("m", "2", "queue"))
    service.seconds.observe(0.001, ("m", "2", "compute"))
    service.cache.add(("miss",), 3)
    service.cache.add(("near",), 2)
    record = ServerRecord()
    record.add("predictor", before, service.scrape())
    queue = record.stages["predictor/queue"]
    # Versions of a model are added up.
    assert queue.count == 201
    assert queue.percentile_bounds_s(50) == (0.01, 0.02)
    assert queue.percentile_bounds_s(99.9) == (30.0, math.inf)
    assert queue.mean_s == pytest.approx((200 * 0.015 + 40) / 201)
    assert record.stages["predictor/compute"].count == 1
    assert record.cache == {"miss": 3, "near": 2}
    assert record.missing == {}


def test_a_restart_between_two_scrapes_is_noted_and_counts_from_there() -> None:
    old, new = Service(), Service()
    for _ in range(50):
        old.seconds.observe(0.003, ("m", "1", "queue"))
    new.seconds.observe(0.003, ("m", "1", "queue"))
    record = ServerRecord()
    record.add("predictor", old.scrape(), new.scrape())
    assert record.stages["predictor/queue"].count == 1
    assert "restarted" in record.missing["predictor"]


def test_gauges_of_a_long_run_are_thinned_and_keep_their_ends() -> None:
    record = ServerRecord()
    scrape = Service().scrape()
    assert scrape.gauges == {"process_resident_memory_bytes": 5e8}
    for second in range(50_000):
        record.watch("predictor", float(second), scrape)
    [points] = record.gauges.values()
    assert len(points) <= 2_000
    assert (points[0][0], points[-1][0]) == (0.0, 49_999.0)
    assert [at for at, _ in points] == sorted(at for at, _ in points)


def test_two_services_keep_their_stages_apart() -> None:
    service = Service()
    service.seconds.observe(0.003, ("m", "1", "total"))
    record = ServerRecord()
    record.add("predictor", Scrape(), service.scrape())
    record.add("transformer", Scrape(), service.scrape())
    assert sorted(record.stages) == ["predictor/total", "transformer/total"]


def test_a_percentile_on_the_border_of_a_bucket_is_in_the_lower_one() -> None:
    times = StageTimes((0.1, 0.2), (99, 1, 0), 1.0)
    assert times.percentile_bounds_s(99) == (0.0, 0.1)
    assert times.percentile_bounds_s(99.5) == (0.1, 0.2)
    assert all(math.isnan(bound) for bound in StageTimes((0.1,), (0, 0), 0.0).percentile_bounds_s(50))


@pytest.mark.parametrize(
    "text", ['saccade_request_seconds_bucket{stage="queue" 5', "<html>not found</html>", "a b c d"]
)
def test_what_is_no_metrics_text_is_refused(text: str) -> None:
    with pytest.raises(UnreadableMetrics, match="not Prometheus' text format"):
        parse(text)
