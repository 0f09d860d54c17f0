"""What Triton's statistics extension tells of each model version: counts and nanoseconds, added up since the start.

The event loop alone writes and reads, so plain integers do. How the numbers look on the wire stands in
``oip.statistics``. Prometheus metrics are elsewhere (``metrics``): these are for Triton's own tools, which read them
before and after a measurement and subtract.

Source of the meanings: Triton, docs/protocol/extension_statistics.md and core/src/infer_stats.cc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Different batch sizes counted apart; what comes beyond is counted under the next power of two.
MAX_BATCH_SIZES: Final = 256


class BatchStatistics:
    """Executions of one batch size; times in nanoseconds."""

    __slots__ = ("count", "infer_ns", "input_ns", "output_ns")

    def __init__(self) -> None:
        self.count = self.input_ns = self.infer_ns = self.output_ns = 0


class ModelStatistics:
    """The accumulators of one model version.

    Attributes:
        inference_count: rows of successful requests.
        execution_count: batches the engine ran.
        last_inference_ms: wall-clock time of the last batch or success, milliseconds since 1970; 0 before the first.
        success_count, success_ns: successful requests, and their time from first byte to answer.
        fail_count, fail_ns: failed requests likewise.
        queue_ns, input_ns, infer_ns, output_ns: what of ``success_ns`` was spent waiting in the queue, on preparing
            inputs, on computing and on extracting outputs. Each request of a batch has the batch's times, so that
            they add up to more than the engine was busy.
        batches: batch size -> executions of that size.
    """

    __slots__ = (
        "_clock_ns",
        "batches",
        "execution_count",
        "fail_count",
        "fail_ns",
        "infer_ns",
        "inference_count",
        "input_ns",
        "last_inference_ms",
        "output_ns",
        "queue_ns",
        "success_count",
        "success_ns",
    )

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self.inference_count = self.execution_count = self.last_inference_ms = 0
        self.success_count = self.success_ns = self.fail_count = self.fail_ns = 0
        self.queue_ns = self.input_ns = self.infer_ns = self.output_ns = 0
        self.batches: dict[int, BatchStatistics] = {}

    def succeeded(
        self, rows: int, total_ns: int, queue_ns: int = 0, input_ns: int = 0, infer_ns: int = 0, output_ns: int = 0
    ) -> None:
        """Count a request that was answered, with its number of rows (1 for a model without batches)."""
        self.inference_count += rows
        self.success_count += 1
        self.success_ns += total_ns
        self.queue_ns += queue_ns
        self.input_ns += input_ns
        self.infer_ns += infer_ns
        self.output_ns += output_ns
        self._touch()

    def failed(self, total_ns: int) -> None:
        """Count a request that an error answered, or whose client left."""
        self.fail_count += 1
        self.fail_ns += total_ns

    def executed(self, batch_rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count a batch that the engine ran successfully."""
        self.execution_count += 1
        batch = self.batches.get(batch_rows)
        if batch is None:
            batch = self._batch_of(batch_rows)
        batch.count += 1
        batch.input_ns += input_ns
        batch.infer_ns += infer_ns
        batch.output_ns += output_ns
        self._touch()

    def _touch(self) -> None:
        now_ms = self._clock_ns() // 1_000_000
        if now_ms > self.last_inference_ms:  # the wall clock may be set back
            self.last_inference_ms = now_ms

    def _batch_of(self, rows: int) -> BatchStatistics:
        if len(self.batches) >= MAX_BATCH_SIZES:
            rows = 1 << max(0, rows - 1).bit_length()
        return self.batches.setdefault(rows, BatchStatistics())


class Statistics:
    """The statistics of a server's models. Names and versions come from loaded models, never from a request."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], ModelStatistics] = {}

    def of(self, model: str, version: str) -> ModelStatistics:
        """The accumulators of a version, at first all 0. Keep the object: it stays the same."""
        key = (model, version)
        found = self._all.get(key)
        if found is None:
            found = self._all[key] = ModelStatistics()
        return found

    def forget(self, model: str, version: str = "") -> None:
        """Drop a version that is gone, or all of a model's."""
        for key in [key for key in self._all if key[0] == model and version in ("", key[1])]:
            del self._all[key]
