"""The transformer's own metrics, beside those of ``saccade_serving.metrics``."""

from __future__ import annotations

from saccade_serving.metrics import Counter, Gauge, Histogram, Metrics
from saccade_transformers.shadow.metrics import ShadowMetrics
from saccade_transformers.workers import ImageWorkers


class TransformerMetrics(Metrics):
    """Calls to the predictor, full candidate tables, images waiting for a thread, shadow traffic."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor_seconds = Histogram(
            "saccade_predictor_seconds", "Time of a call to the predictor.", labels=("model",)
        )
        self.candidates_full = Counter(
            "saccade_candidates_full",
            "Images whose candidate table had no row left: some objects may be missing.",
            ("model", "version"),
        )
        self.shadow = ShadowMetrics()
        self.add(self.predictor_seconds, self.candidates_full, *self.shadow.families)

    def watch_workers(self, workers: ImageWorkers) -> None:
        """Expose the queue of the image threads."""
        self.add(
            Gauge(
                "saccade_image_workers_pending",
                "Images being decoded, drawn or waiting for it.",
                lambda: [((), workers.pending)],
            )
        )
