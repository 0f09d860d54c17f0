"""One image from its bytes to its answer: cache, decode, letterbox, predictor, task. Knows no protocol and no boxes.

What the cache may answer stands in ``cache``; here it is asked in turn: for the same bytes before anything is decoded,
for the camera's earlier frame before the predictor is asked.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import InvalidRequest, PredictorUnavailable, SaccadeError
from saccade_serving.oip.messages import Parameters
from saccade_transformers.auditing import Auditor
from saccade_transformers.cache.cache import FrameCache
from saccade_transformers.cache.frames import Frame, Hit, Kept, Mode, Outcome, Scope
from saccade_transformers.cache.frames import Known as KnownFrame
from saccade_transformers.cache.policy import Since
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.image.letterbox import Letterbox
from saccade_transformers.image.request_pixels import RequestPixels
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.predictor import PREDICT
from saccade_transformers.preparation import Preparation, Prepared, Work
from saccade_transformers.shadow.sample import Sample
from saccade_transformers.sources import Raw, Source, digest
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.task import ContractBroken, Options, Task
from saccade_transformers.workers import ImageWorkers

#: Weight of the newest call in the running mean of the time postprocessing takes.
_SMOOTHING: Final = 0.1
#: What libjpeg writes at most; a JPEG that is read may be a little larger.
MAX_JPEG_SIDE: Final = 65_500
#: Larger images are digested in a thread: a core takes about a millisecond per megabyte.
_MUCH_TO_DIGEST: Final = 512 * 2**10


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer for one image.

    Attributes:
        answer: the task's own type, in pixels of the upright image.
        task: what made the answer, and so what can read it, whatever model stands at the predictor by now.
        width: of the upright image in pixels.
        height: of the upright image in pixels.
        cache: what the frame cache did.
        version: the model version that answered.
        variant: the target's name; empty where there is but one.
        hit: what a cached answer is of; None where it is fresh.
    """

    answer: Any
    task: Task[Any, Any]
    width: int
    height: int
    cache: Outcome
    version: str
    variant: str = ""
    hit: Hit | None = None


class _Call(NamedTuple):
    """What one image is answered by; see ``Pipeline.answer``."""

    source: Source
    target: Target
    known: Known
    options: Options
    parameters: Parameters
    exchange: Exchange
    model_version: str
    pixels: RequestPixels | None
    sample: Sample | None


class Pipeline:
    """Answers single images.

    A decoded picture can be a hundred times its file, so it lives only in the worker thread that needs it: as many
    exist as there are threads, however many requests wait for the predictor.

    Args:
        workers: threads for decoding and postprocessing.
        limits: the largest image.
        metrics: the transformer's metrics.
        cache: answers frames without the predictor; None for none.
    """

    def __init__(
        self, workers: ImageWorkers, limits: ImageLimits, metrics: TransformerMetrics, cache: FrameCache | None = None
    ) -> None:
        self._workers = workers
        self._preparation = Preparation(limits, cache.rules if cache is not None else None)
        self._metrics = metrics
        self._cache = cache
        self._auditor = Auditor(cache, workers) if cache is not None else None
        self._postprocess_s = 0.0

    def start(self) -> None:
        """Begin what runs beside requests; called once, on the event loop."""
        if self._cache is not None:
            self._cache.start()

    async def answer(
        self,
        source: Source,
        target: Target,
        known: Known,
        options: Options,
        parameters: Parameters,
        exchange: Exchange,
        *,
        model_version: str = "",
        cache: Mode = "use",
        camera_id: str = "",
        pixels: RequestPixels | None = None,
        sample: Sample | None = None,
    ) -> Answered:
        """Answer one image.

        Args:
            source: the image.
            target: the predictor to ask.
            known: what it expects and how its answers are read.
            options: the request's options, from the task.
            parameters: request parameters to pass on.
            exchange: deadline, headers, stage times.
            model_version: the version asked for; empty for the predictor's choice.
            cache: whether the cache may answer, and learn the answer.
            camera_id: whose frame it is; empty for nobody's.
            pixels: what all images of the request have together.
            sample: where the image was drawn to be mirrored: takes what the candidate needs.

        Raises:
            InvalidImage, UnsupportedMedia, PayloadTooLarge: the image is not served.
            PredictorUnavailable, Overloaded, DeadlineExceeded: see ``Predictor.infer``.
        """
        exchange.check_deadline("before the image was decoded")
        call = _Call(source, target, known, options, parameters, exchange, model_version, pixels, sample)
        if self._cache is None or cache == "bypass":
            answered = await self._answer(call, None, "bypass" if cache == "bypass" else "miss")
        else:
            scope = Scope(target.name, target.predictor.model, model_version, known.contract.input_size, options)
            frame = Frame(scope, camera_id, cache, known.task, self._cache.clock())
            answered = await self._with_cache(self._cache, call, frame)
        if self._cache is not None:
            self._cache.count(answered.cache)
        return answered

    async def close(self) -> None:
        """End what runs beside requests."""
        if self._auditor is not None:
            await self._auditor.close()
        if self._cache is not None:
            await self._cache.close()

    async def _with_cache(self, cache: FrameCache, call: _Call, frame: Frame) -> Answered:
        exchange, versions = call.exchange, call.known.contract.versions
        with exchange.stage("cache"):
            frame.digest = await self._digest(call.source, exchange)
            await cache.arrive(frame)
            if (hit := await cache.exact(frame, versions)) is not None:
                return _cached(hit, call.target)
        if frame.mode != "use":
            return await self._answer(call, frame, "miss")
        # Who is asked for with another priority does not wait for those with a lower one.
        key = frame.scope, frame.digest, tuple(call.parameters.items())
        while (flight := cache.flights.board(key)) is not None:
            with exchange.stage("cache"):
                try:
                    async with asyncio.timeout(exchange.remaining_s()):
                        kept, is_over = await asyncio.shield(flight)
                except TimeoutError:
                    raise exchange.too_late("while the same image was inferred for another request") from None
            if not is_over:
                continue
            if kept is not None and (hit := await cache.joined(frame, kept, versions)) is not None:
                return _cached(hit, call.target)
            return await self._answer(call, frame, "miss")
        fresh: Kept | None = None
        is_over = False
        try:
            answered = await self._answer(call, frame, "miss")
            if answered.hit is None:  # else it is the answer to an earlier frame, and good for its camera alone
                fresh, is_over = _kept(answered, frame), True
        except SaccadeError:
            is_over = True  # the others would fare no better one after the other
            raise
        finally:
            cache.flights.land(key, fresh, is_over)
        return answered

    async def _digest(self, source: Source, exchange: Exchange) -> bytes:
        if isinstance(source, Raw):
            height, width, _ = source.pixels.shape
            self._preparation.limits.check_pixels(width, height)
        elif not source.is_base64:
            self._preparation.limits.check_bytes(source.size)
        if source.size <= _MUCH_TO_DIGEST:
            return digest(source)
        try:
            async with asyncio.timeout(exchange.remaining_s()):
                return await self._workers.admit(lambda: digest(source), exchange)
        except TimeoutError:
            raise exchange.too_late("before the image was decoded") from None

    async def _answer(self, call: _Call, frame: Frame | None, outcome: Outcome) -> Answered:
        """Answer from the camera's earlier frame or from the predictor."""
        source, target, known, options, parameters, exchange, model_version, pixels, sample = call
        contract, task = known
        cache = self._cache if frame is not None else None
        before: tuple[KnownFrame, Since] | None = None
        if cache is not None and frame is not None:
            before = cache.candidate(frame, contract.versions)
        # An audit and a shadow need the model's input, whatever the cache says.
        audit = before is not None and cache is not None and cache.wants_audit()
        work = Work(
            source,
            contract.input_size,
            pixels,
            sample,
            takes_look=frame is not None and bool(frame.camera_id),
            before=before,
            grey_first=before is not None and before[1].is_likely and not audit and sample is None,
        )
        prepared = await self._prepare(work, exchange)
        mapping, seen = prepared.mapping, prepared.look
        if seen is not None and cache is not None and frame is not None:
            cache.looked(frame, seen)
            if before is not None and prepared.verdict is not None:
                live = contract.versions
                hit = await cache.near(frame, seen, mapping.image_size, before[0], prepared.verdict, live)
                if hit is not None:
                    if audit and self._auditor is not None and prepared.tensor is not None:
                        self._auditor.audit(frame, seen, prepared.tensor, mapping, hit, target, known, options)
                    return _cached(hit, target)
                if prepared.tensor is None:  # another frame was faster, and this one is not the same as that
                    prepared = await self._prepare(replace(work, pixels=None, before=None, grey_first=False), exchange)
        tensor = prepared.tensor
        assert tensor is not None
        with exchange.stage(PREDICT):
            outputs, version = await target.predictor.infer(
                tensor, contract, parameters, exchange, self._reserve_s(exchange), model_version
            )
        if version not in contract.versions:
            # It is another model's answer than the one that was asked about: its class names may be others, too.
            contract, task = await self._renewed(target, known, version, exchange)
        if version in contract.versions:
            seconds = exchange.stages[PREDICT]
            self._metrics.statistics.of(exchange.model, version).executed(1, 0, int(seconds * 1e9), 0)
        with exchange.stage("postprocess"):
            try:
                rows = {name: array[0] for name, array in outputs.items() if array.ndim and len(array) == 1}
                if task.is_light(rows, options):
                    answer, seconds = _read(task, rows, options, mapping)
                else:
                    answer, seconds = await self._workers.run(lambda: _read(task, rows, options, mapping))
            except ContractBroken as error:
                target.predictor.forget()
                raise PredictorUnavailable(
                    f"the predictor's answer is not what its model promises: {error}"
                ) from error
            self._postprocess_s += _SMOOTHING * (seconds - self._postprocess_s)
        if task.is_full(answer):
            # The version is the predictor's text: as a label only if its metadata states it, too.
            label = version if version in contract.versions else "other"
            self._metrics.candidates_full.add((exchange.model, label))
        width, height = mapping.image_size
        answered = Answered(answer, task, width, height, outcome, version, target.name)
        if cache is not None and frame is not None:
            with exchange.stage("cache"):
                await cache.keep(frame, seen, _kept(answered, frame))
        if sample is not None:
            sample.give(tensor, mapping, Known(contract, task), answered)
        return answered

    async def _prepare(self, work: Work, exchange: Exchange) -> Prepared:
        with exchange.stage("decode"):
            try:
                async with asyncio.timeout(exchange.remaining_s()):
                    prepared = await self._workers.admit(lambda: self._preparation.prepare(work), exchange)
            except TimeoutError:
                raise exchange.too_late("while the image was decoded") from None
        if prepared.look_s:
            exchange.spent("decode", -prepared.look_s)
            exchange.spent("phash", prepared.look_s)
        return prepared

    @staticmethod
    async def _renewed(target: Target, known: Known, version: str, exchange: Exchange) -> Known:
        """What is known of a predictor now, if it knows the version that has answered; else what was known."""
        try:
            now = await target.known(exchange.remaining_s())
        except SaccadeError:
            return known
        fits = now.contract.input_size == known.contract.input_size
        return now if fits and version in now.contract.versions else known

    def _reserve_s(self, exchange: Exchange) -> float:
        """Time to keep for postprocessing; never so much that it alone would refuse a request."""
        return max(0.0, min(self._postprocess_s, 0.1 * exchange.remaining_s()))

    async def draw(self, source: Source, answered: Answered, exchange: Exchange) -> bytes:
        """Draw an answer into its image, decoded once more; returns a JPEG.

        Raises:
            DeadlineExceeded: the request's time is over.
            InvalidRequest: the image is too large for a JPEG.
        """
        if max(answered.width, answered.height) > MAX_JPEG_SIDE:
            raise InvalidRequest(
                f"a {answered.width}x{answered.height} picture cannot be drawn as a JPEG, whose sides are at most "
                f"{MAX_JPEG_SIDE} pixels; ask for JSON"
            )
        with exchange.stage("draw"):
            try:
                async with asyncio.timeout(exchange.remaining_s()):
                    return await self._workers.run(
                        lambda: self._preparation.draw(source, answered.task, answered.answer), exchange
                    )
            except TimeoutError:
                raise exchange.too_late("while the answer was drawn") from None


def _cached(hit: Hit, target: Target) -> Answered:
    kept = hit.kept
    width, height = kept.size
    return Answered(kept.answer, kept.task, width, height, hit.outcome, kept.version, target.name, hit)


def _kept(answered: Answered, frame: Frame) -> Kept:
    return Kept(answered.answer, answered.task, (answered.width, answered.height), answered.version, frame.came)


def _read(
    task: Task[Any, Any], rows: dict[str, NDArray[Any]], options: Options, mapping: Letterbox
) -> tuple[Any, float]:
    """Turn the predictor's outputs for one image into an answer. Returns the seconds it took, too."""
    begun = time.monotonic()
    answer = task.to_image(task.read(rows, options), mapping)
    return answer, time.monotonic() - begun
