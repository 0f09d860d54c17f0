"""Whose word holds on what is known of a camera, and on what was given to it: this process's, or Redis's (``shared``).

The cache asks the owner when a frame arrives, before an answer is given, and when one was inferred. A camera's newest
frame and its answer are *one* thing to the owner: they are replaced together, by later ones only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from saccade_transformers.cache.frames import Frame, Kept, Known
from saccade_transformers.cache.health import Condition, Health
from saccade_transformers.cache.trust import Trust

Objection: TypeAlias = Literal["older", "unknown"]


class Camera:
    """One camera in one scope, as this process knows it.

    Attributes:
        known: its newest inferred frame and the answer.
        seen: when its last frame came.
        hits: given from ``known`` in a row.
        noise: grey levels; a running mean.
        given: when the frame came whose answer was given last. Nothing older is given any more.
        own: ``given`` by this process itself, and when that was, on its own clock.
        own_hits: that this process has given from ``known``.
        trust: what audits say of it.
        told_trust: the same as the owner has it; empty for nothing.
        rate: share of hits among the frames that were compared here; a running mean.
        health: what its frames here tell of it.
        told: conditions that were logged.
        digest: stands for its name in logs.
        is_gone: the cache had no room for it: who holds on to it asks for the one that is in its place.
    """

    __slots__ = (
        "digest",
        "given",
        "health",
        "hits",
        "is_gone",
        "known",
        "noise",
        "own",
        "own_hits",
        "rate",
        "seen",
        "told",
        "told_trust",
        "trust",
    )

    def __init__(self, digest: str, trust: Trust, rate: float) -> None:
        self.known: Known | None = None
        self.seen = float("-inf")
        self.hits = 0
        self.noise = 0.0
        self.given = float("-inf")
        self.own = float("-inf"), float("-inf")
        self.own_hits = 0
        self.trust = trust
        self.told_trust = b""
        self.rate = rate
        self.health = Health()
        self.told: tuple[Condition, ...] = ()
        self.digest = digest
        self.is_gone = False


class CameraOwner(Protocol):
    """Keeps what outlives a frame of a camera, ``known`` to ``trust``, or knows who does."""

    def clock(self) -> float:
        """The time on which frames are ordered, seconds."""
        ...

    def start(self) -> None:
        """Begin to connect to others; called once, on the event loop."""
        ...

    async def arrive(self, frame: Frame, camera: Camera | None, wants_answer: bool) -> Kept | None:
        """A frame has come: say when (``frame.came``), and bring its camera up to date.

        Where the owner cannot be asked, ``frame.is_owned`` becomes false: nothing may be given to its camera then.

        Args:
            frame: with its digest.
            camera: whose frame it is; None for nobody's.
            wants_answer: an answer to the same bytes is not known here.

        Returns:
            That answer, if the owner knows one.
        """
        ...

    async def give(self, frame: Frame, camera: Camera, kept: Kept, is_near: bool) -> Objection | None:
        """Ask whether an answer may be given to a camera, which then counts as given.

        Args:
            frame: that is answered.
            camera: whose frame it is.
            kept: the answer.
            is_near: it is the one of ``camera.known``.

        Returns:
            Why it may not: something later has been given ("older"), or that is not known ("unknown"). None if it may.
        """
        ...

    async def keep(self, frame: Frame, camera: Camera | None, known: Known | None, kept: Kept, is_given: bool) -> bool:
        """Keep an answer that was inferred.

        Args:
            frame: that it is the answer to.
            camera: whose frame it is; None for nobody's.
            known: the frame as the camera's newest one, where it has a look.
            kept: the answer.
            is_given: to the camera, now.

        Returns:
            Whether the frame is the camera's newest inferred one; true without a camera.
        """
        ...

    async def audited(self, frame: Frame, camera: Camera, agreement: float) -> bool:
        """Take in an audit, 0..1; returns whether it has just switched the camera's near hits off."""
        ...

    async def close(self) -> None:
        """End connections."""
        ...


class LocalOwner:
    """This process, which is the only one that the camera's frames come to."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock

    def start(self) -> None:
        """See ``CameraOwner``."""

    async def arrive(self, frame: Frame, camera: Camera | None, wants_answer: bool) -> Kept | None:
        """See ``CameraOwner``; there is nobody to ask."""
        return None

    async def give(self, frame: Frame, camera: Camera, kept: Kept, is_near: bool) -> Objection | None:
        """See ``CameraOwner``."""
        if kept.came < camera.given:
            return "older"
        camera.given = kept.came
        camera.seen = max(camera.seen, frame.came)
        camera.hits += is_near
        return None

    async def keep(self, frame: Frame, camera: Camera | None, known: Known | None, kept: Kept, is_given: bool) -> bool:
        """See ``CameraOwner``."""
        if camera is None:
            return True
        camera.seen = max(camera.seen, frame.came)
        if is_given:
            camera.given = max(camera.given, kept.came)
        return camera.known is None or camera.known.kept.came <= kept.came

    async def audited(self, frame: Frame, camera: Camera, agreement: float) -> bool:
        """See ``CameraOwner``."""
        return camera.trust.audited(agreement, self.clock())

    async def close(self) -> None:
        """See ``CameraOwner``."""
