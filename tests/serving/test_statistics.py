"""Triton's statistics: what is added up, and how it looks in JSON and in protobuf."""

from __future__ import annotations

import json
from typing import Any

from saccade_serving.oip import statistics as wire
from saccade_serving.statistics import MAX_BATCH_SIZES, ModelStatistics, Statistics


def counted() -> ModelStatistics:
    stats = ModelStatistics(clock_ns=lambda: 1_795_334_158_608_999_999)
    stats.executed(2, 10, 100, 20)
    stats.succeeded(1, 150, queue_ns=5, input_ns=10, infer_ns=100, output_ns=20)
    stats.succeeded(1, 160, queue_ns=15, input_ns=10, infer_ns=100, output_ns=20)
    stats.executed(5, 11, 200, 21)
    stats.succeeded(5, 250, queue_ns=0, input_ns=11, infer_ns=200, output_ns=21)
    stats.failed(7)
    return stats


def described(stats: ModelStatistics) -> Any:
    return json.loads(json.dumps(wire.describe([("m", "1", stats)])))["model_stats"][0]


def test_rows_are_counted_as_inferences_and_batches_as_executions() -> None:
    stats = described(counted())
    assert stats["inference_count"] == 7
    assert stats["execution_count"] == 2
    assert stats["inference_stats"]["success"] == {"count": 3, "ns": 560}
    assert stats["inference_stats"]["fail"] == {"count": 1, "ns": 7}


def test_queue_and_compute_have_the_count_of_the_successes_as_perf_analyzer_demands() -> None:
    stats = described(counted())["inference_stats"]
    assert stats["queue"] == {"count": 3, "ns": 20}
    assert stats["compute_input"] == {"count": 3, "ns": 31}
    assert stats["compute_infer"] == {"count": 3, "ns": 400}
    assert stats["compute_output"] == {"count": 3, "ns": 61}
    assert stats["cache_hit"] == stats["cache_miss"] == {"count": 0, "ns": 0}


def test_each_batch_size_has_its_own_row_in_ascending_order() -> None:
    stats = counted()
    stats.executed(1, 1, 2, 3)
    stats.executed(2, 1, 2, 3)
    rows = described(stats)["batch_stats"]
    assert [row["batch_size"] for row in rows] == [1, 2, 5]
    assert rows[1] == {
        "batch_size": 2,
        "compute_input": {"count": 2, "ns": 11},
        "compute_infer": {"count": 2, "ns": 102},
        "compute_output": {"count": 2, "ns": 23},
    }


def test_the_last_inference_is_in_milliseconds_and_never_goes_back() -> None:
    times = iter([5_000_000, 9_999_999, 3_000_000])
    stats = ModelStatistics(clock_ns=lambda: next(times))
    assert stats.last_inference_ms == 0
    seen = []
    for _ in range(3):
        stats.succeeded(1, 1)
        seen.append(stats.last_inference_ms)
    assert seen == [5, 9, 9]


def test_a_failure_is_no_inference() -> None:
    stats = ModelStatistics()
    stats.failed(3)
    assert (stats.inference_count, stats.last_inference_ms, stats.success_count) == (0, 0, 0)


def test_the_number_of_batch_sizes_is_bounded_and_no_execution_is_lost() -> None:
    stats = ModelStatistics()
    for rows in range(1, 5000):
        stats.executed(rows, 0, 0, 0)
    assert len(stats.batches) < MAX_BATCH_SIZES + 32
    assert sum(batch.count for batch in stats.batches.values()) == stats.execution_count == 4999
    assert stats.batches[256].count == 1
    assert stats.batches[512].count == 256  # 257 to 512


def test_the_protobuf_says_what_the_json_says() -> None:
    message = wire.encode([("m", "1", counted()), ("n", "", ModelStatistics())])
    first, second = message.model_stats
    assert (first.name, first.version, first.last_inference) == ("m", "1", 1_795_334_158_608)
    assert (first.inference_count, first.execution_count) == (7, 2)
    stats = described(counted())["inference_stats"]
    for name, duration in stats.items():
        field = getattr(first.inference_stats, name)
        assert {"count": field.count, "ns": field.ns} == duration
    assert [batch.batch_size for batch in first.batch_stats] == [2, 5]
    assert first.batch_stats[1].compute_infer.ns == 200
    assert (len(first.memory_usage), len(first.response_stats)) == (0, 0)
    assert second.name == "n"


def test_the_json_has_tritons_fields() -> None:
    stats = described(ModelStatistics())
    assert list(stats) == [
        "name",
        "version",
        "last_inference",
        "inference_count",
        "execution_count",
        "inference_stats",
        "response_stats",
        "batch_stats",
        "memory_usage",
    ]
    assert (stats["response_stats"], stats["batch_stats"], stats["memory_usage"]) == ({}, [], [])


def test_a_negative_time_is_written_as_none() -> None:
    stats = ModelStatistics()
    stats.succeeded(1, 10, output_ns=-3)
    assert described(stats)["inference_stats"]["compute_output"]["ns"] == 0
    assert wire.encode([("m", "1", stats)]).model_stats[0].inference_stats.compute_output.ns == 0


def test_a_version_keeps_its_accumulators() -> None:
    statistics = Statistics()
    assert statistics.of("m", "1") is statistics.of("m", "1")
    assert statistics.of("m", "1") is not statistics.of("m", "2")
    assert statistics.of("n", "1") is not statistics.of("m", "1")
