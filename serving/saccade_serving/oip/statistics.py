"""Triton's statistics extension on the wire: ``GET .../stats`` and ``ModelStatistics``.

Both are one dictionary: field names are the same, and REST writes all 64-bit numbers as numbers, where protobuf's
own JSON would have strings. Cache hits and memory usage are there because clients read them (perf_analyzer the
former without looking whether they exist); nothing here counts them.

Source: Triton, docs/protocol/extension_statistics.md and ``TRITONSERVER_ServerModelStatistics`` of core, compared
with the answers of tritonserver 2.51.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from saccade_serving.oip import proto
from saccade_serving.statistics import ModelStatistics

#: Model, version, and what was counted for it.
Entry: TypeAlias = tuple[str, str, ModelStatistics]


def describe(entries: Iterable[Entry]) -> dict[str, Any]:
    """Build the REST answer."""
    return {"model_stats": [_describe(*entry) for entry in entries]}


def encode(entries: Iterable[Entry]) -> Any:
    """Build the ``ModelStatisticsResponse``."""
    return proto.ModelStatisticsResponse(**describe(entries))


def _describe(name: str, version: str, stats: ModelStatistics) -> dict[str, Any]:
    # Queue and compute have the count of the successes: perf_analyzer refuses compute counts that differ.
    count = stats.success_count
    return {
        "name": name,
        "version": version,
        "last_inference": stats.last_inference_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": _duration(count, stats.success_ns),
            "fail": _duration(stats.fail_count, stats.fail_ns),
            "queue": _duration(count, stats.queue_ns),
            "compute_input": _duration(count, stats.input_ns),
            "compute_infer": _duration(count, stats.infer_ns),
            "compute_output": _duration(count, stats.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(batch.count, batch.input_ns),
                "compute_infer": _duration(batch.count, batch.infer_ns),
                "compute_output": _duration(batch.count, batch.output_ns),
            }
            for rows, batch in sorted(stats.batches.items())
        ],
        "memory_usage": [],
    }


def _duration(count: int, ns: int) -> dict[str, int]:
    # Stages measured apart may add up to a hair below 0, which no client can read.
    return {"count": count, "ns": max(0, ns)}
