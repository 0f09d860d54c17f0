"""The predictor's own metrics, beside those of ``saccade_serving.metrics``."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from typing import Final

from saccade_serving.metrics import BATCH_SIZES, Counter, Gauge, Histogram, Labels, Metrics

VERSIONED = ("model", "version")
#: A version's counts stay for so long after it has gone: the next scrape shall still see its last ones.
FORGET_AFTER_S: Final = 600.0


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

        self._versions: Counts[tuple[str, str]] = Counts()
        self._going: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def hold(self, model: str, version: str) -> None:
        """A version is there, whose counts are kept; beside another of that name while it takes over."""
        key = model, version
        self._versions[key] += 1
        if key in self._going:
            self._going.pop(key).cancel()

    def let_go(self, model: str, version: str) -> None:
        """It has gone. Its counts stay for a while, and for good if it comes back."""
        key = model, version
        self._versions[key] -= 1
        if not self._versions[key]:
            timer = asyncio.get_running_loop().call_later(FORGET_AFTER_S, self._forget, model, version)
            self._going[key] = timer

    def _forget(self, model: str, version: str) -> None:
        del self._going[model, version]
        del self._versions[model, version]
        self.forget(model, version)
        if not any(known == model for known, _ in self._versions):
            self.forget(model)

    def watch_queues(
        self,
        depth: Callable[[], Iterable[tuple[Labels, float]]],
        age_s: Callable[[], Iterable[tuple[Labels, float]]],
        fallback: Callable[[], Iterable[tuple[Labels, float]]],
    ) -> None:
        """Expose the queues of all loaded versions, and which of them are served by another engine than configured."""
        self.add(
            Gauge("saccade_queue_depth", "Requests waiting for an instance.", depth, VERSIONED),
            Gauge("saccade_queue_age_seconds", "Age of the oldest waiting request.", age_s, VERSIONED),
            Gauge(
                "saccade_engine_fallback",
                "1 where the ONNX file serves on the CPU in place of the configured plan, else 0.",
                fallback,
                VERSIONED,
            ),
        )

    def watch_models(self, unavailable: Callable[[], Iterable[Labels]]) -> None:
        """Expose what should be served and cannot be: model, version, and a word for the reason."""
        self.add(
            Gauge(
                "saccade_model_unavailable",
                "1 for what should be served and cannot be, by the kind of reason; nothing for what is served.",
                lambda: [(labels, 1.0) for labels in unavailable()],
                (*VERSIONED, "reason"),
            )
        )

    def watch_gpus(
        self, memory: Callable[[], Iterable[tuple[Labels, float]]], locked_bytes: Callable[[], int]
    ) -> None:
        """Expose what engines have taken of the GPUs, and what of the arena is page-locked for them."""
        self.add(
            Gauge(
                "saccade_gpu_memory_bytes",
                "Memory by what it is for; outputs are page-locked memory of the host, free and total the GPU's own.",
                memory,
                ("gpu", "kind"),
            ),
            Gauge(
                "saccade_arena_locked_bytes",
                "Memory of the arena that is page-locked for GPUs.",
                lambda: [((), locked_bytes())],
            ),
        )
