"""What tests of the frame cache share: a pipeline with a cache before a predictor whose answers can be told apart."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from fakes import FakeV2Client, candidates, detector_client, detector_metadata
from saccade_serving.connection.exchange import Exchange
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, TensorMetadata
from saccade_transformers.cache.cache import CacheLimits, FrameCache
from saccade_transformers.cache.owner import CameraOwner, LocalOwner
from saccade_transformers.cache.policy import Rules
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.pipeline import Answered, Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.sources import Encoded, Source
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.detection import DetectionTask
from saccade_transformers.workers import ImageWorkers

TASK = DetectionTask(["person", "cat"], 4, 0.05, 0.4, 0.5, 3)
OPTIONS = TASK.options({})
SIDE = 416


def metadata(width: int = SIDE, versions: Sequence[str] = ("3",)) -> ModelMetadata:
    inputs = [TensorMetadata("image", "UINT8", (-1, SIDE, width, 3))]
    return detector_metadata(inputs=inputs, versions=list(versions))


CONTRACT = PredictorContract.of(metadata())


def scene(seed: int = 0, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    grey = 110 + 40 * np.sin(x / 37 + seed * 2.1) + 35 * np.cos(y / 29 + seed * 1.3) + 20 * np.sin(x * y / 9000 + seed)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


_noises = itertools.count(1)


def frame(picture: NDArray[np.uint8], quality: int = 92) -> Encoded:
    """A frame of a camera: its sensor is never twice the same."""
    more = np.random.default_rng(next(_noises)).normal(0, 2.0, picture.shape)
    shown = np.clip(picture + more, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return Encoded(encoded.tobytes())


class Bench:
    """A pipeline with a cache, under a clock of its own."""

    def __init__(
        self,
        client: FakeV2Client,
        rules: Rules | None = None,
        limits: CacheLimits | None = None,
        owner: CameraOwner | None = None,
    ) -> None:
        self.client = client
        self.now = 1000.0
        self.drawn = 0.999
        self.metrics = TransformerMetrics()
        self.workers = ImageWorkers(2, 64)
        self.predictor = Predictor(client, "detector", self.metrics.predictor_seconds)
        self.cache = FrameCache(
            rules or Rules(),
            limits or CacheLimits(),
            self.metrics.cache,
            owner or LocalOwner(lambda: self.now),
            lambda: self.drawn,
        )
        self.pipeline = Pipeline(self.workers, ImageLimits(10_000_000, 10_000_000), self.metrics, self.cache)
        self.target = Target(self.predictor, lambda _contract: TASK, "")
        self.known = Known(CONTRACT, TASK)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    @property
    def asked(self) -> int:
        return len(self.client.requests)

    async def answer(self, source: Source, camera_id: str = "", after_s: float = 0.1, **more: Any) -> Answered:
        self.now += after_s
        options = more.pop("options", OPTIONS)
        parameters = more.pop("parameters", {})
        exchange = more.pop("exchange", None) or Exchange.begin("rest", {}, 10)
        target = more.pop("target", self.target)
        known = more.pop("known", self.known)
        return await self.pipeline.answer(
            source, target, known, options, parameters, exchange, camera_id=camera_id, **more
        )

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def disagreed(self, audits: int) -> bool:
        return self.value("saccade_cache_audits_total", agreed="false") == audits

    def refused(self, reason: str) -> float:
        return self.value("saccade_cache_refusals_total", reason=reason)

    async def close(self) -> None:
        await self.pipeline.close()
        await asyncio.to_thread(self.workers.close)


def numbered(version: str = "3") -> FakeV2Client:
    """A predictor whose answers can be told apart: the n-th one has a score of n / 1000 + 0.5."""
    client = detector_client(metadata=metadata())
    numbers = itertools.count(1)

    async def answer(request: InferRequest) -> InferResponse:
        score = 0.5 + next(numbers) / 1000
        return InferResponse(request.model_name, [candidates((100, 100, 120, 130, score, 0))], version)

    client.answer = answer
    return client


def number_of(answered: Answered) -> int:
    """Which of the predictor's answers it is."""
    return round((float(answered.answer.scores[0]) - 0.5) * 1000)
