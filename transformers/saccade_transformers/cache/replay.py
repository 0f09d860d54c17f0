"""What the cache would have answered in a sequence of frames whose fresh answers are known, and how well.

Drives the cache itself under a clock of its own, without audits, with the looks that the transformer itself takes of
a frame; beside it stands the plain perceptual hash. No predictor: whoever replays knows the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, TypeVar

from saccade_transformers.cache.cache import CacheLimits, FrameCache
from saccade_transformers.cache.frames import Frame, Kept, Scope
from saccade_transformers.cache.metrics import CacheMetrics
from saccade_transformers.cache.owner import LocalOwner
from saccade_transformers.cache.perceptual import Look, distance, look
from saccade_transformers.cache.policy import Rules, compare
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.image.grey import greys
from saccade_transformers.preparation import Preparation, Prepared, Work
from saccade_transformers.sources import Encoded, digest
from saccade_transformers.tasks.task import Options, Task

#: Time for which the plain hash's answers hold, as it is usually built.
PLAIN_TTL_S: Final = 2.0

_VERSION: Final = "1"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What the cache is told of a frame.

    Attributes:
        look: as it is taken of the model's input.
        grey_look: as it is taken where a hit is likely, and so only the luminance was decoded at first.
        size: (width, height) of the image.
        digest: of its bytes.
    """

    look: Look
    grey_look: Look
    size: tuple[int, int]
    digest: bytes


def view(image: bytes, input_size: tuple[int, int], limits: ImageLimits) -> tuple[View, Prepared]:
    """Take a frame as the transformer does.

    Args:
        image: encoded.
        input_size: (width, height) of the model's input.
        limits: the largest image.

    Returns:
        What the cache is told, and the frame with the model's input.

    Raises:
        InvalidImage, UnsupportedMedia, PayloadTooLarge: see ``decode``.
    """
    source = Encoded(image)
    prepared = Preparation(limits, None).prepare(Work(source, input_size, takes_look=True, grey_first=True))
    assert prepared.tensor is not None
    assert prepared.look is not None
    seen = look(greys(prepared.tensor[0], prepared.mapping))
    return View(seen, prepared.look, prepared.mapping.image_size, digest(source)), prepared


class Seen:
    """A frame.

    Args:
        view: of it.
        infer: says what a fresh inference says; asked at most once, and then forgotten with all that it holds.
    """

    __slots__ = ("_answer", "_infer", "view")

    def __init__(self, view: View, infer: Callable[[], Any]) -> None:
        self.view = view
        self._infer: Callable[[], Any] | None = infer
        self._answer: Any = None

    @property
    def answer(self) -> Any:
        """What a fresh inference says."""
        if self._infer is not None:
            self._answer = self._infer()
            self._infer = None
        return self._answer


class CacheReplay:
    """One camera before the cache.

    Args:
        rules: the cache's.
        task: of the answers.
    """

    def __init__(self, rules: Rules, task: Task[Any, Any]) -> None:
        self._task = task
        self._now = 0.0
        limits = CacheLimits(camera_bytes=2**30, audit_share=0.0)
        self._cache = FrameCache(rules, limits, CacheMetrics(), LocalOwner(lambda: self._now))
        self._scope = Scope("", "", "", (1, 1), Options())

    def frame(self, seen: Seen, now: float) -> Any | None:
        """Return the answer that the cache gives for a frame; None where it is inferred.

        Args:
            seen: the frame.
            now: when it comes, seconds.
        """
        self._now = now
        return _at_once(self._frame(Frame(self._scope, "camera", "use", self._task, now, seen.view.digest), seen))

    async def _frame(self, frame: Frame, seen: Seen) -> Any | None:
        cache, look, size = self._cache, seen.view.look, seen.view.size
        await cache.arrive(frame)
        hit = await cache.exact(frame, (_VERSION,))
        if hit is None and (before := cache.candidate(frame, (_VERSION,))) is not None:
            known, since = before
            look = seen.view.grey_look if since.is_likely else look
            verdict = compare(known.reference, since, look, size, cache.rules)
            hit = await cache.near(frame, look, size, known, verdict, (_VERSION,))
        if hit is not None:
            return hit.kept.answer
        await cache.keep(frame, look, Kept(seen.answer, self._task, size, _VERSION, frame.came))
        return None


class PlainHashReplay:
    """A dictionary by perceptual hash, as many build it: any earlier frame within ``bits`` that is not too old."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._kept: list[tuple[float, Seen]] = []

    def frame(self, seen: Seen, now: float) -> Any | None:
        """As ``CacheReplay.frame``."""
        self._kept = [one for one in self._kept if now - one[0] <= PLAIN_TTL_S]
        for _, earlier in reversed(self._kept):
            if distance(earlier.view.look.phash, seen.view.look.phash) <= self._bits:
                return earlier.answer
        self._kept.append((now, seen))
        return None


@dataclass(frozen=True, slots=True)
class Quality:
    """How a camera was answered.

    Attributes:
        frames: all of them.
        agreements: of each answer from the cache with a fresh one for the same frame, 0..1.
    """

    frames: int
    agreements: Sequence[float]

    @property
    def hits(self) -> float:
        """Share of the frames that were answered from the cache, 0..1."""
        return len(self.agreements) / self.frames if self.frames else 0.0

    @property
    def f1(self) -> float | None:
        """Mean agreement; None without a hit."""
        return fmean(self.agreements) if self.agreements else None

    @property
    def worst(self) -> float | None:
        """Agreement that one hit in twenty stays under; None without a hit."""
        return sorted(self.agreements)[len(self.agreements) // 20] if self.agreements else None


def play(
    camera: CacheReplay | PlainHashReplay, frames: Sequence[Seen], interval_s: float, task: Task[Any, Any]
) -> Quality:
    """Send all frames, and hold every answer from the cache against a fresh one.

    Args:
        camera: new.
        frames: with their answers.
        interval_s: between two of them.
        task: says how far answers agree.
    """
    agreements = []
    for index, seen in enumerate(frames):
        given = camera.frame(seen, index * interval_s)
        if given is not None:
            agreements.append(task.agreement(seen.answer, given))
    return Quality(len(frames), agreements)


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    work.close()
    raise AssertionError("a cache of one process waits for nobody")
