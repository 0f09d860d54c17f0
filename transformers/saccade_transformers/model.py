"""The transformer's model: images in by V2, detections out. The routes for v1 and ``/detect`` use it too."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import (
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    SaccadeError,
    Unimplemented,
    UnknownTensor,
    WrongShape,
    short,
)
from saccade_serving.model import ModelConfiguration, ServedModel
from saccade_serving.oip.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Parameters,
    ParameterValue,
    Tensor,
    TensorMetadata,
)
from saccade_serving.oip.rules import whole_parameter
from saccade_transformers.cache.frames import Mode
from saccade_transformers.image.request_pixels import RequestPixels
from saccade_transformers.outcome import cache_line, hit_fields
from saccade_transformers.pipeline import Answered, Pipeline
from saccade_transformers.shadow.mirror import Shadow
from saccade_transformers.sources import Encoded, Raw, Source
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.task import Task
from saccade_transformers.variants import Variants
from saccade_transformers.workers import ImageWorkers

log = logging.getLogger("saccade.transformer")

INPUT: Final = "image"
CACHE_MODES: Final[tuple[Mode, ...]] = ("use", "bypass", "refresh")
#: Request parameters, whole numbers, that are passed on to the predictor's scheduler.
PASSED_ON: Final = ("priority",)

_WARMUP_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = (0.1, 2.0)  # first and longest pause between attempts to reach the predictor
#: A predictor that starts beside the transformer usually needs this long: until then waiting is nothing to warn of.
_PATIENCE_S: Final = 10.0
_PROBE_S: Final = 2.0


class TransformerModel(ServedModel):
    """Serves images.

    Args:
        name: the model's name towards clients.
        target: where the model runs; a stable one and a candidate as ``Variants``.
        pipeline: answers single images.
        workers: the threads the pipeline uses; for drawing.
        max_images: images in one request.
        max_pixels: of all of them together.
        probe_predictor: readiness also asks the predictor (KServe's ``--enable_predictor_health_check``).
        shadow: mirrors a share of the images to a candidate; None for none.
    """

    def __init__(
        self,
        name: str,
        target: Target | Variants,
        pipeline: Pipeline,
        workers: ImageWorkers,
        max_images: int,
        max_pixels: int,
        probe_predictor: bool = False,
        shadow: Shadow | None = None,
    ) -> None:
        super().__init__(name)
        self._variants = target if isinstance(target, Variants) else Variants(target)
        self._pipeline = pipeline
        self.workers = workers
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._probing: asyncio.Task[None] | None = None
        self._predictor_ready = True
        self._probe_predictor = probe_predictor
        self._shadow = shadow

    async def prepare(self) -> None:
        """Reach the predictor, however long that takes, and send one image all the way through."""
        self._pipeline.start()
        pause_s, longest_s = _RETRY_S
        begun = time.monotonic()
        logged = logging.NOTSET
        while True:
            try:
                await self._try_out(self._variants.stable)
                break
            except SaccadeError as error:
                level = logging.INFO if time.monotonic() - begun < _PATIENCE_S else logging.WARNING
                if level > logged or str(error) != self.not_ready_because:
                    log.log(level, "waiting_for_predictor", extra=_why(error))
                    logged = level
                self.not_ready_because = str(error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        if self._probe_predictor:
            self._probing = asyncio.create_task(self._watch_predictor())
        self._variants.keep(self._try_out)
        self.ready = True

    async def _try_out(self, target: Target, timeout_s: float | None = None) -> None:
        """Send one grey image all the way through, in so many seconds."""
        known = await target.known(_WARMUP_TIMEOUT_S)
        exchange = Exchange.begin("warmup", {}, min(timeout_s or _WARMUP_TIMEOUT_S, _WARMUP_TIMEOUT_S))
        grey = Raw(np.full((64, 64, 3), 114, np.uint8))
        await self._answer_from(target, known, [grey], {"cache": "bypass"}, exchange, {})

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        """Answer a V2 request: input ``image`` BYTES [n] (encoded) or UINT8 [n, h, w, 3] (RGB)."""
        sources = self._sources(request)
        names = [requested.name for requested in request.outputs]
        for requested in request.outputs:
            if "classification" in requested.parameters:
                raise InvalidRequest(
                    f"output {short(requested.name)} asks for 'classification', which this model's outputs do not have"
                )
        answered = await self.answer(
            sources, request.parameters, exchange, model_version=request.model_version, outputs=names
        )
        task = answered[0].task
        cache = Tensor.of_bytes("cache", (len(answered),), [one.cache.encode() for one in answered])
        return InferResponse(
            model_name=self.name,
            model_version=",".join(sorted({one.version for one in answered})),
            id=request.id,
            outputs=[*task.to_v2([one.answer for one in answered]), cache],
            parameters=_told(answered),
        )

    async def answer(
        self,
        sources: Sequence[Source],
        parameters: Parameters,
        exchange: Exchange,
        *,
        model_version: str = "",
        outputs: Sequence[str] = (),
    ) -> list[Answered]:
        """Answer the images of one request, all or none.

        Each image is a request of its own to the predictor, whose batcher puts them together as it sees fit.

        Raises:
            InvalidRequest: camera, user, variant or a parameter are not what they may be.
            UnknownTensor: one of ``outputs``, the V2 tensors asked for, is none.
            SaccadeError: the first image that failed, named by its index where there are several.
        """
        if len(sources) > self._max_images:
            raise PayloadTooLarge("the request", len(sources), self._max_images, "images")
        passed_on = {key: whole_parameter(parameters, key) for key in PASSED_ON if key in parameters}
        assigned = self._variants.assign(parameters, exchange, model_version)
        answered = await self._variants.answer(
            assigned,
            exchange,
            lambda target, known: self._answer_from(
                target, known, sources, parameters, exchange, passed_on, model_version=model_version, outputs=outputs
            ),
        )
        assigned.items = sum(one.task.count(one.answer) for one in answered)
        return answered

    async def _answer_from(
        self,
        target: Target,
        known: Known,
        sources: Sequence[Source],
        parameters: Parameters,
        exchange: Exchange,
        passed_on: Parameters,
        *,
        model_version: str = "",
        outputs: Sequence[str] = (),
    ) -> list[Answered]:
        """Answer from one target; what the request chose is held against that target's task."""
        task = known.task
        if outputs:
            names = [tensor.name for tensor in self._outputs(task)]
            for name in outputs:
                if name not in names:
                    raise UnknownTensor(name, names, "output")
        options = task.options(parameters)
        cache = _cache_mode(parameters)
        camera_id = exchange.notes.origin.camera_id if exchange.notes is not None else ""
        exchange.rows = len(sources)
        pixels = RequestPixels(self._max_pixels)
        # A candidate is compared with what serves for good, not with another candidate.
        shadow = self._shadow if target is self._variants.stable else None
        samples = [shadow.draw(parameters, exchange) if shadow is not None else None for _ in sources]
        try:
            answered = await _all_or_none(
                [
                    self._pipeline.answer(
                        source,
                        target,
                        known,
                        options,
                        passed_on,
                        exchange,
                        model_version=model_version,
                        cache=cache,
                        camera_id=camera_id,
                        pixels=pixels,
                        sample=sample,
                    )
                    for source, sample in zip(sources, samples, strict=True)
                ]
            )
        finally:
            for sample in samples:
                if sample is not None:
                    sample.close()
        # The version is the predictor's text: as a label only if its metadata states it, too.
        first = answered[0].version
        exchange.version = first if first in known.contract.versions else "other"
        return answered

    async def draw(self, source: Source, answered: Answered, exchange: Exchange) -> bytes:
        """Draw an answer into its image; returns a JPEG."""
        return await self._pipeline.draw(source, answered, exchange)

    def metadata(self, version: str = "") -> ModelMetadata:
        """Inputs and outputs as DESIGN states them; labels, limits and input of the predictor's model as properties.

        Of several variants, the stable one is described unless only the candidate has the version.
        """
        known = next((t.last for t in self._variants.targets if t.last and version in t.last.contract.versions), None)
        known = known or self._variants.stable.last
        if known is None:
            raise Overloaded(f"model {self.name!r} is not ready: {self.not_ready_because}")
        contract, task = known
        if version and version not in contract.versions:
            raise ModelNotFound(self.name, version, list(contract.versions))
        return ModelMetadata(
            name=self.name,
            versions=[version] if version else list(contract.versions),
            platform="saccade_transformer",
            inputs=[TensorMetadata(INPUT, "BYTES", (-1,))],
            outputs=self._outputs(task),
            properties={
                "saccade.also_accepts": f"{INPUT} UINT8 [-1, -1, -1, 3] RGB",
                "saccade.input_size": "{}x{}".format(*contract.input_size),
                **{k: v for k, v in contract.properties.items() if k in ("saccade.labels", "saccade.min_score")},
            },
        )

    def config(self, version: str = "") -> ModelConfiguration:
        """Refuse: the predictor has the configuration.

        Raises:
            Unimplemented: always.
        """
        raise Unimplemented(
            f"model {self.name!r} has no Triton configuration here; the predictor has it: "
            f"GET /v2/models/{self._variants.stable.predictor.model}/config there"
        )

    def versions(self) -> list[str]:
        """Versions of the predictor's model, as it last stated them; of all variants."""
        return self._variants.versions()

    def check_probe(self, version: str = "") -> None:
        """Also refuses while the predictor is not ready, where that is asked for."""
        self.check_ready(version)
        if not self._predictor_ready:
            raise Overloaded(f"model {self.name!r} is not ready: the predictor is not ready")

    async def close(self) -> None:
        """Close connections and threads."""
        self.ready = False
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        if self._shadow is not None:
            await self._shadow.close()
        await self._pipeline.close()
        await self._variants.close()
        await asyncio.to_thread(self.workers.close)

    async def _watch_predictor(self) -> None:
        while True:
            self._predictor_ready = await self._variants.stable.predictor.is_ready(_PROBE_S)
            await asyncio.sleep(_PROBE_S)

    def _sources(self, request: InferRequest) -> list[Source]:
        """Read the images of a V2 request.

        Raises:
            UnknownTensor, InvalidRequest, WrongShape: not exactly one input of one of the two forms.
        """
        for tensor in request.inputs:
            if tensor.name != INPUT:
                raise UnknownTensor(tensor.name, [INPUT])
        if len(request.inputs) != 1:
            raise InvalidRequest(f"{len(request.inputs)} inputs were sent; expected exactly one, {INPUT!r}")
        tensor = request.inputs[0]
        expected = "expected BYTES [n] (encoded images) or UINT8 [n, height, width, 3] (RGB)"
        if tensor.datatype not in ("BYTES", "UINT8"):
            raise WrongShape(f"input {INPUT!r} is {tensor.datatype}; {expected}")
        fits = (
            len(tensor.shape) == 1 if tensor.datatype == "BYTES" else len(tensor.shape) == 4 and tensor.shape[3] == 3
        )
        if not fits or 0 in tensor.shape:
            raise WrongShape(f"input {INPUT!r} is {tensor.datatype} of shape {list(tensor.shape)}; {expected}")
        if tensor.shape[0] > self._max_images:
            raise PayloadTooLarge("the request", tensor.shape[0], self._max_images, "images")
        if tensor.datatype == "BYTES":
            return [Encoded(element, tensor.is_text) for element in tensor.elements]
        return [Raw(picture) for picture in tensor.array]

    def _outputs(self, task: Task[Any, Any]) -> list[TensorMetadata]:
        return [*task.schema(), TensorMetadata("cache", "BYTES", (-1,))]


def v1_answer(answered: Answered, name: str) -> dict[str, Any]:
    """One image's answer as ``/detect`` and v1 give it."""
    return {
        "detections": answered.task.to_v1(answered.answer) if answered.hit is None else answered.hit.kept.to_v1(),
        "image": {"width": answered.width, "height": answered.height},
        "cache": answered.cache,
        **hit_fields(answered.hit),
        "model": {
            "name": name,
            "version": answered.version,
            **({"variant": answered.variant} if answered.variant else {}),
        },
    }


def _told(answered: Sequence[Answered]) -> dict[str, ParameterValue]:
    """Parameters of a V2 answer: the variant where there are several, the cache where it has answered."""
    told: dict[str, ParameterValue] = {"variant": answered[0].variant} if answered[0].variant else {}
    if any(one.hit is not None for one in answered):
        told["cache"] = cache_line(answered)
    return told


def _why(error: SaccadeError) -> dict[str, str]:
    """What the log says of an error: its sentence, and its cause where that tells more."""
    cause = error.__cause__
    why = {"why": str(error)}
    return why if cause is None or str(cause) in why["why"] else {**why, "cause": repr(cause)}


def _cache_mode(parameters: Mapping[str, Any]) -> Mode:
    sent = parameters.get("cache", "use")
    for mode in CACHE_MODES:
        if sent == mode:
            return mode
    raise InvalidRequest(f"parameter 'cache' is {short(str(sent))}; expected one of {', '.join(CACHE_MODES)}")


async def _all_or_none(work: Sequence[Coroutine[Any, Any, Answered]]) -> list[Answered]:
    """Await all; the first failure cancels the rest and is raised, named by its index."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for index, task in enumerate(tasks):
            if task.done() and (error := task.exception()) is not None:
                if isinstance(error, SaccadeError):
                    error.args = (f"image {index}: {error}",)
                raise error
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
