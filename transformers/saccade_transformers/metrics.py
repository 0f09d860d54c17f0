"""The transformer's own metrics, beside those of ``saccade_serving.metrics``."""

from __future__ import annotations

from saccade_serving.client.balance import Balance
from saccade_serving.metrics import Counter, Gauge, Histogram, Metrics
from saccade_transformers.cache.metrics import CacheMetrics
from saccade_transformers.shadow.metrics import ShadowMetrics
from saccade_transformers.workers import ImageWorkers


class TransformerMetrics(Metrics):
    """Calls to the predictor, variants, shadow traffic, full candidate tables, images waiting for a thread."""

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
        self.predictor_retries = Counter(
            "saccade_predictor_retries", "Calls to the predictor that were made a second time.", ("reason",)
        )
        self.predictor_hedges = Counter(
            "saccade_predictor_hedges", "Second requests beside a slow first one.", ("outcome",)
        )
        self.balances: list[Balance] = []
        self.add(self.predictor_seconds, self.candidates_full, self.predictor_retries, self.predictor_hedges)
        self.add(
            Gauge(
                "saccade_predictor_targets",
                "Addresses of predictors by what is done with them.",
                self._targets,
                ("state",),
            )
        )
        self.variant_requests = Counter(
            "saccade_variant_requests",
            "Requests by the variant that answered, where there are several.",
            ("model", "variant", "code"),
        )
        self.variant_seconds = Histogram(
            "saccade_variant_seconds",
            "Time of a request from its last byte to its end, by variant.",
            labels=("model", "variant"),
        )
        self.variant_fallbacks = Counter(
            "saccade_variant_fallbacks",
            "Requests that a variant had and could not answer, so that the stable one did.",
            ("model", "variant"),
        )
        self.shadow = ShadowMetrics()
        self.cache = CacheMetrics()
        self.add(
            self.variant_requests,
            self.variant_seconds,
            self.variant_fallbacks,
            *self.shadow.families,
            *self.cache.families,
        )

    def _targets(self) -> list[tuple[tuple[str], float]]:
        states = [balance.states() for balance in self.balances]
        return [(("asked",), sum(asked for asked, _ in states)), (("set_aside",), sum(aside for _, aside in states))]

    def watch_workers(self, workers: ImageWorkers) -> None:
        """Expose the queue of the image threads."""
        self.add(
            Gauge(
                "saccade_image_workers_pending",
                "Images being decoded, drawn or waiting for it.",
                lambda: [((), workers.pending)],
            )
        )
