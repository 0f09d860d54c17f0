"""One image from its bytes to its answer: decode, letterbox, predictor, task. Knows no protocol and no boxes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import PredictorUnavailable
from saccade_serving.oip.messages import Buffer, Parameters
from saccade_transformers.image.decode import ImageLimits, decode, decode_base64
from saccade_transformers.image.letterbox import Letterbox, letterbox
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.tasks.task import ContractBroken, Options, Task
from saccade_transformers.workers import ImageWorkers

#: Weight of the newest call in the running mean of the time postprocessing takes.
_SMOOTHING: Final = 0.1


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded image as it came; base64 text where it came in JSON."""

    data: Buffer | str
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """A picture that needs no decoding: [h, w, 3] uint8 RGB."""

    pixels: NDArray[np.uint8]


Source = Encoded | Raw


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer for one image.

    Attributes:
        answer: the task's own type, in pixels of the upright image.
        width: of the upright image in pixels.
        height: of the upright image in pixels.
        cache: what the frame cache did: "miss" or "bypass".
        version: the model version that answered.
        picture: the decoded image, where the caller asked to keep it.
    """

    answer: Any
    width: int
    height: int
    cache: str
    version: str
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    tensor: NDArray[np.uint8]
    mapping: Letterbox
    picture: NDArray[np.uint8]


class Pipeline:
    """Answers single images.

    Args:
        predictor: where the model runs.
        workers: threads for decoding and postprocessing.
        limits: the largest image.
        metrics: the transformer's metrics.
    """

    def __init__(
        self, predictor: Predictor, workers: ImageWorkers, limits: ImageLimits, metrics: TransformerMetrics
    ) -> None:
        self._predictor = predictor
        self._workers = workers
        self._limits = limits
        self._metrics = metrics
        self._postprocess_s = 0.0

    async def answer(
        self,
        source: Source,
        task: Task[Any, Any],
        options: Options,
        contract: PredictorContract,
        parameters: Parameters,
        exchange: Exchange,
        *,
        model_version: str = "",
        cache: str = "miss",
        keep_picture: bool = False,
    ) -> Answered:
        """Answer one image.

        Args:
            source: the image.
            task: what the model's outputs mean.
            options: the request's options, from ``task.options``.
            contract: what the predictor expects.
            parameters: request parameters to pass on.
            exchange: deadline, headers, stage times.
            model_version: the version asked for; empty for the predictor's choice.
            cache: the cache outcome to report.
            keep_picture: return the decoded image too.

        Raises:
            InvalidImage, UnsupportedMedia, PayloadTooLarge: the image is not served.
            PredictorUnavailable, Overloaded, DeadlineExceeded: see ``Predictor.infer``.
        """
        exchange.check_deadline("before the image was decoded")
        with exchange.stage("decode"):
            prepared = await self._workers.admit(lambda: self._prepare(source, contract))
        with exchange.stage("predict"):
            outputs, version = await self._predictor.infer(
                prepared.tensor, contract, parameters, exchange, self._postprocess_s, model_version
            )
        with exchange.stage("postprocess"):
            begun = time.monotonic()
            try:
                answer = await self._workers.run(lambda: _read(task, outputs, options, prepared.mapping))
            except ContractBroken as error:
                self._predictor.forget()
                raise PredictorUnavailable(
                    f"the predictor's answer is not what its model promises: {error}"
                ) from error
            self._postprocess_s += _SMOOTHING * (time.monotonic() - begun - self._postprocess_s)
        if task.is_full(answer):
            self._metrics.candidates_full.add((exchange.model, version))
        height, width = prepared.picture.shape[:2]
        return Answered(answer, width, height, cache, version, prepared.picture if keep_picture else None)

    def _prepare(self, source: Source, contract: PredictorContract) -> _Prepared:
        """Decode and letterbox; runs in a worker thread."""
        if isinstance(source, Raw):
            picture = source.pixels
            self._limits.check_pixels(picture.shape[1], picture.shape[0])
        elif source.is_base64:
            picture = decode(decode_base64(source.data, self._limits), self._limits)
        else:
            assert not isinstance(source.data, str)
            picture = decode(source.data, self._limits)
        width, height = contract.input_size
        tensor = np.empty((1, height, width, 3), np.uint8)
        return _Prepared(tensor, letterbox(picture, tensor[0]), picture)


def _read(task: Task[Any, Any], outputs: dict[str, NDArray[Any]], options: Options, mapping: Letterbox) -> Any:
    """Turn the predictor's outputs into an answer; runs in a worker thread."""
    rows = {name: array[0] for name, array in outputs.items() if array.ndim and len(array) == 1}
    return task.to_image(task.read(rows, options), mapping)
