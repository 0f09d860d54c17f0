"""What the cache would have answered in a sequence of frames whose fresh answers are known, and how well.

Drives the cache itself under a clock of its own, without audits; beside it stands the plain perceptual hash. No
predictor, no image: a frame is its look and its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, TypeVar

from saccade_transformers.cache.cache import CacheLimits, FrameCache
from saccade_transformers.cache.frames import Frame, Kept, Scope
from saccade_transformers.cache.metrics import CacheMetrics
from saccade_transformers.cache.owner import LocalOwner
from saccade_transformers.cache.perceptual import Look, distance
from saccade_transformers.cache.policy import Rules, compare
from saccade_transformers.tasks.task import Options, Task

#: Time for which the plain hash's answers hold, as it is usually built.
PLAIN_TTL_S: Final = 2.0

_VERSION: Final = "1"

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Seen:
    """A frame.

    Attributes:
        look: of it.
        size: (width, height) of its image.
        digest: of its bytes.
    """

    look: Look
    size: tuple[int, int]
    digest: bytes
    _infer: Callable[[], Any]
    _answers: list[Any] = field(default_factory=list)

    @property
    def answer(self) -> Any:
        """What a fresh inference says; asked for at most once."""
        if not self._answers:
            self._answers.append(self._infer())
        return self._answers[0]


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
        return _at_once(self._frame(Frame(self._scope, "camera", "use", self._task, now, seen.digest), seen))

    async def _frame(self, frame: Frame, seen: Seen) -> Any | None:
        cache = self._cache
        await cache.arrive(frame)
        hit = await cache.exact(frame, (_VERSION,))
        if hit is None and (before := cache.candidate(frame, (_VERSION,))) is not None:
            verdict = compare(before[0].reference, before[1], seen.look, seen.size, cache.rules)
            hit = await cache.near(frame, seen.look, seen.size, before[0], verdict, (_VERSION,))
        if hit is not None:
            return hit.kept.answer
        await cache.keep(frame, seen.look, Kept(seen.answer, self._task, seen.size, _VERSION, frame.came))
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
            if distance(earlier.look.phash, seen.look.phash) <= self._bits:
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
