"""The predictor's own metrics, beside those of ``saccade_serving.metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from saccade_serving.metrics import BATCH_SIZES, Counter, Gauge, Histogram, Labels, Metrics

VERSIONED = ("model", "version")


class PredictorMetrics(Metrics):
    """Batches, queues, engines."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = Histogram("saccade_batch_size", "Rows of each batch.", BATCH_SIZES, VERSIONED)
        self.busy_seconds = Counter(
            "saccade_engine_busy_seconds", "Time the engine's instances spent on batches.", VERSIONED
        )
        self.model_changes = Counter(
            "saccade_model_changes", "Loads and unloads while serving, by what came of them.", ("model", "outcome")
        )
        self.add(self.batch_size, self.busy_seconds, self.model_changes)

    def watch_queues(
        self,
        depth: Callable[[], Iterable[tuple[Labels, float]]],
        age_s: Callable[[], Iterable[tuple[Labels, float]]],
    ) -> None:
        """Expose the queues of all loaded versions."""
        self.add(
            Gauge("saccade_queue_depth", "Requests waiting for an instance.", depth, VERSIONED),
            Gauge("saccade_queue_age_seconds", "Age of the oldest waiting request.", age_s, VERSIONED),
        )
