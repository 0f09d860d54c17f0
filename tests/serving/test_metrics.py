"""Metrics: plain numbers on the hot path, Prometheus's text when scraped, also while they are written."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from saccade_serving.metrics import BATCH_SIZES, SECONDS, Counter, Gauge, Histogram, Metrics


def scrape(*families: Counter | Gauge | Histogram, metrics: Metrics | None = None) -> dict[str, Metric]:
    """Render as ``/metrics`` does and read the text back, by family name."""
    metrics = metrics or Metrics()
    metrics.add(*families)
    registry = CollectorRegistry()
    registry.register(metrics)
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def samples(family: Metric, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {tuple(sorted(s.labels.items())): s.value for s in family.samples if s.name == name}


def buckets(family: Metric) -> list[tuple[float, float]]:
    """(upper bound, count) in the order of the text."""
    return [(float(s.labels["le"]), s.value) for s in family.samples if s.name.endswith("_bucket")]


def test_a_counter_adds_up_per_label_set() -> None:
    counter = Counter("saccade_x", "X.", ("model", "code"))
    counter.add(("m", "200"))
    counter.add(("m", "200"), 2)
    counter.add(("m", "500"))
    family = scrape(counter)["saccade_x"]
    assert family.type == "counter"
    assert samples(family, "saccade_x_total") == {
        (("code", "200"), ("model", "m")): 3,
        (("code", "500"), ("model", "m")): 1,
    }


def test_a_gauge_is_read_when_it_is_scraped() -> None:
    depth = 3
    gauge = Gauge("saccade_depth", "Depth.", lambda: [(("m",), depth)], ("model",))
    assert samples(scrape(gauge)["saccade_depth"], "saccade_depth") == {(("model", "m"),): 3}
    depth = 7
    assert samples(scrape(gauge)["saccade_depth"], "saccade_depth") == {(("model", "m"),): 7}


def test_a_histogram_is_cumulative_and_ends_in_infinity_at_the_count() -> None:
    histogram = Histogram("saccade_s", "S.", bounds=(1, 2, 4))
    for value in (0.5, 1.0, 1.5, 3.0, 100.0):
        histogram.observe(value)
    family = scrape(histogram)["saccade_s"]
    assert family.type == "histogram"
    # A value on a bound belongs to it: le means at most.
    assert buckets(family) == [(1, 2), (2, 3), (4, 4), (math.inf, 5)]
    assert samples(family, "saccade_s_count") == {(): 5}
    assert samples(family, "saccade_s_sum") == {(): 106}


def test_a_histogram_keeps_label_sets_apart() -> None:
    histogram = Histogram("saccade_s", "S.", (1,), ("stage",))
    histogram.observe(0.5, ("decode",))
    histogram.observe(2, ("total",))
    histogram.observe(3, ("total",))
    family = scrape(histogram)["saccade_s"]
    assert samples(family, "saccade_s_count") == {(("stage", "decode"),): 1, (("stage", "total"),): 2}
    assert samples(family, "saccade_s_sum") == {(("stage", "decode"),): 0.5, (("stage", "total"),): 5}


@pytest.mark.parametrize("bounds", [SECONDS, BATCH_SIZES])
def test_bounds_ascend_so_that_a_value_finds_its_bucket(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    histogram = Histogram("saccade_s", "S.", bounds)
    for bound in bounds:
        histogram.observe(bound)
    assert buckets(scrape(histogram)["saccade_s"]) == [
        *((float(bound), index + 1) for index, bound in enumerate(bounds)),
        (math.inf, len(bounds)),
    ]


def test_labels_with_quotes_and_line_breaks_survive_the_text() -> None:
    counter = Counter("saccade_x", "X.", ("model",))
    counter.add(('a"b\\c\nd',))
    assert samples(scrape(counter)["saccade_x"], "saccade_x_total") == {(("model", 'a"b\\c\nd'),): 1}


def test_a_service_has_the_common_families_and_its_own() -> None:
    metrics = Metrics()
    metrics.requests.add(("m", "rest", "200"))
    metrics.request_seconds.observe(0.1, ("m", "1", "total"))
    metrics.rejected.add(("m", "overloaded"))
    metrics.sent_bytes += 10
    metrics.loop_lag.observe(0.001)
    metrics.watch_gate(lambda: 4, lambda: {"queued": 4096, "free": 8192})
    found = scrape(Counter("saccade_own", "Own."), metrics=metrics)
    assert set(found) == {
        "saccade_requests",
        "saccade_request_seconds",
        "saccade_rejected_requests",
        "saccade_network_bytes",
        "saccade_loop_lag_seconds",
        "saccade_inflight_requests",
        "saccade_arena_bytes",
        "saccade_own",
        "request_preprocess_seconds",
        "request_predict_seconds",
        "request_postprocess_seconds",
    }
    assert samples(found["saccade_network_bytes"], "saccade_network_bytes_total") == {
        (("direction", "received"),): 0,
        (("direction", "sent"),): 10,
    }
    assert samples(found["saccade_arena_bytes"], "saccade_arena_bytes") == {
        (("state", "queued"),): 4096,
        (("state", "free"),): 8192,
    }
    assert samples(found["saccade_inflight_requests"], "saccade_inflight_requests") == {(): 4}


def test_kserves_own_histograms_are_our_stages_added_up_by_model() -> None:
    metrics = Metrics()
    for model, version, stages in (
        ("m", "1", {"decode": 0.25, "predict": 0.5, "postprocess": 0.125, "total": 1.0}),
        ("m", "2", {"decode": 0.75, "compute": 2.0, "queue": 9.0}),
        ("n", "1", {"compute": 4.0}),
        ("", "", {"decode": 8.0}),  # found no model
    ):
        metrics.account(model, version).observe(stages)
    found = scrape(metrics=metrics)
    m, n = (("model_name", "m"),), (("model_name", "n"),)
    for name, sums, counts in (
        ("request_preprocess_seconds", {m: 1.0}, {m: 2}),
        ("request_predict_seconds", {m: 2.5, n: 4.0}, {m: 2, n: 1}),
        ("request_postprocess_seconds", {m: 0.125}, {m: 1}),
    ):
        assert samples(found[name], name + "_sum") == sums
        assert samples(found[name], name + "_count") == counts
        for series in samples_by_labels(found[name]):
            assert series[-1][0] == math.inf
            assert [count for _, count in series] == sorted(count for _, count in series)


def test_stages_that_are_observed_again_are_counted_beside_what_was_observed_before() -> None:
    metrics = Metrics()
    metrics.request_seconds.observe(0.5, ("m", "1", "total"))
    metrics.account("m", "1").observe({"total": 0.25, "queue": 0.0})
    metrics.account("m", "1").observe({"total": 0.25})
    family = scrape(metrics=metrics)["saccade_request_seconds"]
    total = (("model", "m"), ("stage", "total"), ("version", "1"))
    assert samples(family, "saccade_request_seconds_count")[total] == 3
    assert samples(family, "saccade_request_seconds_sum")[total] == 1.0


def test_registering_reads_no_gauge() -> None:
    def read() -> Iterator[tuple[tuple[str, ...], float]]:
        raise AssertionError("read before anybody asked")
        yield

    metrics = Metrics()
    metrics.add(Gauge("saccade_g", "G.", read))
    CollectorRegistry().register(metrics)


def test_a_table_may_grow_between_any_two_steps_of_a_scrape() -> None:
    counter, histogram = Counter("saccade_x", "X.", ("model",)), Histogram("saccade_s", "S.", (1, 2), ("model",))
    met = 0

    class Meeting(tuple[str, ...]):
        """Labels that are read by the scrape just when the loop counts something new."""

        def __iter__(self) -> Iterator[str]:
            nonlocal met
            met += 1
            counter.add((f"new{met}",))
            histogram.observe(1, (f"new{met}",))
            return super().__iter__()

    counter.add(Meeting(("m",)))
    histogram.observe(1, Meeting(("m",)))
    found = scrape(counter, histogram)
    assert met > 1
    assert samples(found["saccade_x"], "saccade_x_total")[(("model", "m"),)] == 1
    assert samples(found["saccade_s"], "saccade_s_count")[(("model", "m"),)] == 1


async def test_scraping_in_another_thread_while_the_loop_writes_gives_whole_numbers() -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    registry.register(metrics)
    stop = threading.Event()
    texts: list[str] = []

    def scraper() -> None:
        while not stop.is_set() or len(texts) < 3:
            texts.append(generate_latest(registry).decode())

    scraping = asyncio.create_task(asyncio.to_thread(scraper))
    written = 0
    try:
        while len(texts) < 6:
            for _ in range(200):
                # New label sets all the time: the tables grow while they are read.
                labels = (f"m{written % 40}", "rest", "200")
                metrics.requests.add(labels)
                metrics.request_seconds.observe(0.001 * (written % 50), (labels[0], "1", "total"))
                written += 1
            await asyncio.sleep(0)
    finally:
        stop.set()
        await scraping

    totals = []
    for text in (*texts, generate_latest(registry).decode()):
        families = {family.name: family for family in text_string_to_metric_families(text)}
        totals.append(sum(samples(families["saccade_requests"], "saccade_requests_total").values()))
        for series in samples_by_labels(families["saccade_request_seconds"]):
            counts = [count for _, count in series]
            assert counts == sorted(counts), "a histogram's buckets never fall"
    assert totals == sorted(totals), "a counter never falls"
    assert totals[-1] == written


def samples_by_labels(family: Metric) -> Iterator[list[tuple[float, float]]]:
    """Buckets of a histogram, one list per label set."""
    found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            rest = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            found.setdefault(rest, []).append((float(sample.labels["le"]), sample.value))
    yield from found.values()


def test_observing_allocates_a_row_once_and_then_only_counts() -> None:
    histogram = Histogram("saccade_s", "S.", SECONDS, ("model",))
    histogram.observe(0.1, ("m",))
    [before] = histogram._rows.values()
    for _ in range(1000):
        histogram.observe(0.1, ("m",))
    [after] = histogram._rows.values()
    assert after is before
    assert len(after) == len(SECONDS) + 2
