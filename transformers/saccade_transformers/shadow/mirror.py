"""Sends drawn images to the candidate beside the requests, compares the answers, counts, hands on what to keep.

Whatever happens here, no request waits for it, fails by it or is refused for it: there are few places, and an image
that finds none is not drawn at all, before anything was copied for it. A candidate that fails or is slow is left alone
for a while (``breaker``). Preparing and comparing run in one thread of their own, so that they take no place among the
image threads. That thread is not given a lower priority: it needs the interpreter's lock, and a thread that the kernel
does not let run while it holds that would hold up everybody.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from saccade_serving.connection.exchange import REQUEST_ID_HEADER, Exchange
from saccade_serving.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PredictorUnavailable,
)
from saccade_serving.oip.messages import Parameters
from saccade_serving.telemetry import Seldom
from saccade_transformers.beside import BEHIND_S
from saccade_transformers.breaker import Breaker
from saccade_transformers.image.decode import ImageLimits, decode_for_input
from saccade_transformers.image.header import read_header
from saccade_transformers.image.letterbox import letterbox
from saccade_transformers.origin import read_origin
from saccade_transformers.shadow.metrics import OUTCOMES, ShadowMetrics
from saccade_transformers.shadow.sample import Sample
from saccade_transformers.shadow.sampling import Sampler, camera_digest
from saccade_transformers.shadow.store import IMAGES, WorstStore
from saccade_transformers.shadow.worst import Kept
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.task import ContractBroken
from saccade_transformers.variants import Assigned

log = logging.getLogger("saccade.shadow")

_LOG_EVERY_S: Final = 60.0
#: Time that calls in flight have to notice that they were called off.
_CLOSE_S: Final = 2.0
#: Longer parameters are no option of a task, and are not kept for a candidate.
_MAX_PARAMETER_CHARS: Final = 256
_SUFFIXES: Final = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "BMP": "bmp"}


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """What shadow traffic may use.

    Attributes:
        queue: images that may wait, from when they are drawn; further ones are not drawn.
        concurrency: calls to the candidate at once.
        timeout_s: of one call.
        keeps_images: whether encoded images are kept beside what is kept of their answers.
    """

    queue: int = 16
    concurrency: int = 2
    timeout_s: float = 5.0
    keeps_images: bool = False


class _Incomparable(Exception):
    """The candidate can be asked, but not this."""


class Shadow:
    """Mirrors images to a candidate.

    Args:
        target: the candidate.
        sampler: draws images.
        metrics: counted here.
        limits: what may be used.
        store: keeps the frames that disagree most; None for none.
        breaker: when to leave the candidate alone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        metrics: ShadowMetrics,
        limits: ShadowLimits,
        store: WorstStore | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._sampler = sampler
        self._metrics = metrics
        self._limits = limits
        self._store = store
        self._breaker = breaker or Breaker()
        self._clock = clock
        self._seldom = Seldom(_LOG_EVERY_S, clock)
        self._answered: deque[Sample] = deque()  # whose answers are on their way
        self._waiting: deque[Sample] = deque()
        self._drawn = 0  # images with a place: drawn, answered, waiting or being asked for
        self._mirrors: set[asyncio.Task[None]] = set()
        self._comparing = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._closed = False
        for outcome in OUTCOMES:
            metrics.requests.add((outcome,), 0)  # a rate needs a beginning

    def draw(self, parameters: Parameters, exchange: Exchange) -> Sample | None:
        """Decide on one image of a request; None: it is not mirrored. A sample has to be closed."""
        notes = exchange.notes
        origin = notes.origin if isinstance(notes, Assigned) else read_origin(parameters, exchange.headers)
        camera = origin.camera_id
        if self._closed or exchange.protocol == "warmup" or not self._sampler.takes(camera):
            return None
        if not self._breaker.admits(self._clock()):
            self._metrics.count("paused")
            return None
        if self._drawn >= self._limits.queue + self._limits.concurrency:
            self._metrics.count("dropped")
            return None
        self._drawn += 1
        known = self._target.last
        size = known.contract.input_size if known is not None else None
        keeps_image = self._limits.keeps_images and self._store is not None
        few = {k: v for k, v in parameters.items() if not isinstance(v, str) or len(v) <= _MAX_PARAMETER_CHARS}
        return Sample(self._end_of_request, camera_digest(camera), exchange.request_id, few, size, keeps_image)

    async def close(self) -> None:
        """Call off what is under way, write what is to be kept; takes seconds at most."""
        self._closed = True
        self._drawn -= len(self._answered) + len(self._waiting)
        self._answered.clear()
        self._waiting.clear()
        mirrors = list(self._mirrors)
        for mirror in mirrors:
            mirror.cancel()
        if mirrors:
            await asyncio.wait(mirrors, timeout=_CLOSE_S)
            self._mirrors.clear()  # one that had not begun does not do so itself
        await self._target.predictor.close()
        self._comparing.shutdown(wait=False, cancel_futures=True)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    def _end_of_request(self, sample: Sample) -> None:
        """Mirror a sample whose request was answered; forget any other."""
        if self._closed or not sample.complete:
            self._drawn -= 1
            return
        self._answered.append(sample)
        asyncio.get_running_loop().call_later(BEHIND_S, self._enqueue)

    def _enqueue(self) -> None:
        if not self._answered:  # called off
            return
        self._waiting.append(self._answered.popleft())
        if len(self._mirrors) < self._limits.concurrency:
            self._mirrors.add(asyncio.get_running_loop().create_task(self._mirror_all()))

    async def _mirror_all(self) -> None:
        try:
            while self._waiting:
                sample = self._waiting.popleft()
                try:
                    self._metrics.count(await self._mirror(sample))
                finally:
                    self._drawn -= 1
        finally:  # at once, and not in a callback: an image that comes next has to find this place free
            task = asyncio.current_task()
            assert task is not None
            self._mirrors.discard(task)

    async def _mirror(self, sample: Sample) -> str:
        """Ask and compare; returns the outcome."""
        permit = self._breaker.begin(self._clock())
        if permit is None:
            return "paused"
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await self._ask_and_compare(sample)
        except asyncio.CancelledError:
            self._breaker.withdrawn(permit)
            raise
        except _Incomparable as why:
            self._breaker.withdrawn(permit)
            self._say("shadow_incomparable", why)
            return "incomparable"
        except Exception as error:  # of whatever kind: a candidate's faults are never ours
            if self._breaker.failed(permit, self._clock()):
                self._say("shadow_pauses", error)
            return _outcome(error)
        self._breaker.succeeded(permit)
        return "compared"

    async def _ask_and_compare(self, sample: Sample) -> None:
        exchange = Exchange.begin("shadow", {REQUEST_ID_HEADER: sample.request_id}, self._limits.timeout_s)
        known = await self._target.known(self._limits.timeout_s)
        _check_labels(sample.known.contract.labels, known.contract.labels)
        try:
            options = known.task.options(sample.parameters)
        except InvalidRequest as error:
            raise _Incomparable(f"the candidate cannot do what the request asks for: {error}") from error
        loop = asyncio.get_running_loop()
        if not sample.fits(known.contract.input_size):
            await loop.run_in_executor(self._comparing, _prepare, sample, known.contract.input_size)
        assert sample.tensor is not None
        outputs, version = await self._target.predictor.infer(sample.tensor, known.contract, {}, exchange)
        try:
            agreement, differences = await loop.run_in_executor(
                self._comparing, self._compare, sample, known, outputs, options, version
            )
        except ContractBroken as error:
            self._target.predictor.forget()
            raise PredictorUnavailable(f"the candidate's answer is not what its model promises: {error}") from error
        self._metrics.compared(agreement, differences)

    def _compare(
        self, sample: Sample, known: Known, outputs: Mapping[str, NDArray[Any]], options: Any, version: str
    ) -> tuple[float, Mapping[str, float]]:
        """Read the candidate's answer and hold it against the one that was given; in the thread."""
        served, task = sample.served, sample.served.task
        rows = {name: array[0] for name, array in outputs.items() if array.ndim and len(array) == 1}
        assert sample.mapping is not None
        answer = known.task.to_image(known.task.read(rows, options), sample.mapping)
        agreement = task.agreement(served.answer, answer)
        differences = task.differences(served.answer, answer)
        encoded = sample.image if self._limits.keeps_images else b""
        if self._store is not None and self._store.wants(agreement, len(encoded)):
            name = secrets.token_hex(8)
            image = f"{name}.{_suffix(encoded)}" if encoded else ""
            line = {
                "id": name,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": sample.request_id,
                "camera": sample.camera,
                "width": served.width,
                "height": served.height,
                "agreement": round(agreement, 4),
                "differences": {key: round(value, 4) for key, value in differences.items()},
                "served": {"version": served.version, "answer": task.to_v1(served.answer)},
                "candidate": {"version": version, "answer": known.task.to_v1(answer)},
                "image": f"{IMAGES}/{image}" if image else None,
            }
            kept = Kept(round(agreement, 4), name, orjson.dumps(line), image, len(encoded))
            self._store.offer(kept, encoded)
        return agreement, differences

    def _say(self, event: str, error: Exception) -> None:
        if self._seldom.due(event):
            cause = error.__cause__
            log.warning(event, extra={"why": str(error) or repr(error), **({"cause": repr(cause)} if cause else {})})


def _outcome(error: Exception) -> str:
    """What became of an image for which the candidate gave no answer."""
    if isinstance(error, DeadlineExceeded | TimeoutError):
        return "late"
    return "refused" if isinstance(error, Overloaded) else "failed"


def _check_labels(served: list[str], candidate: list[str]) -> None:
    """Refuse to compare models whose class ids mean different things; one may have more classes than the other.

    Raises:
        _Incomparable: a class id has two names.
    """
    for class_id, (ours, theirs) in enumerate(zip(served, candidate, strict=False)):
        if ours != theirs:
            raise _Incomparable(f"class {class_id} is {ours!r} here and {theirs!r} at the candidate")


def _prepare(sample: Sample, input_size: tuple[int, int]) -> None:
    """Make the tensor of a candidate whose input has another size, from the copy of the encoded image; in the thread.

    Raises:
        _Incomparable: there is no copy.
    """
    width, height = input_size
    if not sample.image:
        raise _Incomparable(f"the candidate takes {width}x{height}, which was not prepared for")
    # Its own request has decoded it: it is within the limits.
    picture = decode_for_input(sample.image, ImageLimits(len(sample.image), 2**30), input_size)
    tensor = np.empty((1, height, width, 3), np.uint8)
    sample.mapping = letterbox(picture, tensor[0])
    sample.tensor = tensor


def _suffix(image: bytes) -> str:
    return _SUFFIXES[read_header(image).format]
