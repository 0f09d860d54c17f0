"""The frame cache of one process: looks answers up, keeps them, and stops trusting itself where audits disagree.

It decides nothing about pictures (``policy``) and asks no predictor. All of it runs on the event loop. Two rules hold
whatever happens: nothing but the answer to the very same bytes is ever given to another camera, and the answers given
to one camera never go back in time.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from saccade_transformers.cache.flights import Flights
from saccade_transformers.cache.frames import Frame, Hit, Kept, Known, Outcome, Scope
from saccade_transformers.cache.metrics import CacheMetrics
from saccade_transformers.cache.owner import Camera, CameraOwner
from saccade_transformers.cache.perceptual import Look
from saccade_transformers.cache.policy import Refusal, Rules, Since, Verdict, compare, in_time
from saccade_transformers.cache.shelf import Shelf
from saccade_transformers.cache.trust import Trust

log = logging.getLogger("saccade.cache")

#: Weight of the newest comparison in the running mean of a camera's noise.
_SMOOTHING: Final = 0.1
#: Share of a camera's frames that have to be hits for the next one to be likely. Then a frame is first decoded as
#: grey, which takes 0.4 to 0.7 of the whole; a miss is decoded twice.
_LIKELY: Final = 0.6
#: Beside its pictures and its answer, a camera takes about so many bytes; an answer beside its arrays likewise.
_CAMERA_BYTES: Final = 3000
#: Of the memory for cameras, this part is for what is small of each.
_SHARE_OF_CAMERAS: Final = 8
#: Time without a frame after which nobody wants to know what is wrong with a camera, seconds.
_OF_LATE_S: Final = 60.0
_ANSWER_BYTES: Final = 1000
#: An answer with what is told of it in JSON, in multiples of its arrays (measured: 14 to 20).
_AS_JSON: Final = 20


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How large the cache may become, and how it is supervised.

    Attributes:
        answer_bytes: of exact answers.
        camera_bytes: of what is kept of cameras.
        exact_s: time for which the answer to the same bytes holds.
        audit_share: share of near hits that are inferred all the same, 0..1.
        audit_agreement: mean agreement in audits under which a camera loses its near hits, 0..1.
        audit_pause_s: for so long.
    """

    answer_bytes: int = 32 * 2**20
    camera_bytes: int = 64 * 2**20
    exact_s: float = 60.0
    audit_share: float = 0.02
    audit_agreement: float = 0.8
    audit_pause_s: float = 60.0


class FrameCache:
    """See the module.

    Args:
        rules: what near hits are given by.
        limits: sizes and supervision.
        metrics: counts.
        owner: whose word holds on cameras.
        draw: a number in [0, 1), by which frames are picked for audits.
    """

    def __init__(
        self,
        rules: Rules,
        limits: CacheLimits,
        metrics: CacheMetrics,
        owner: CameraOwner,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.rules = rules
        self.clock = owner.clock
        self.flights: Flights[Kept] = Flights()
        self._limits = limits
        self._metrics = metrics
        self._owner = owner
        self._draw = draw
        self._answers: Shelf[tuple[Scope, bytes], Kept] = Shelf(limits.answer_bytes)
        # What is large of a camera goes long before what keeps its answers in order.
        self._cameras: Shelf[tuple[Scope, str], Camera] = Shelf(limits.camera_bytes // _SHARE_OF_CAMERAS, _gone)
        self._pictures: Shelf[tuple[Scope, str], Camera] = Shelf(
            limits.camera_bytes - limits.camera_bytes // _SHARE_OF_CAMERAS, _forget
        )
        metrics.watch(
            lambda: {"answers": len(self._answers), "cameras": len(self._cameras)},
            lambda: {"answers": self._answers.size, "cameras": self._cameras.size + self._pictures.size},
            self._conditions,
        )

    def start(self) -> None:
        """Begin to connect to whom the owner has to ask; called once, on the event loop."""
        self._owner.start()

    async def arrive(self, frame: Frame) -> None:
        """Take notice of a frame whose digest is known, before anything else."""
        camera = self._camera(frame)
        key = frame.scope, frame.digest
        frame.answer = self._answers.get(key) if frame.mode == "use" else None
        wants_answer = frame.mode == "use" and frame.answer is None
        if camera is not None or wants_answer:
            known = camera.known if camera is not None else None
            found = await self._owner.arrive(frame, camera, wants_answer)
            if camera is not None and camera.known is not known:
                self._account(frame, camera)
            if found is not None:
                frame.answer = found
                self._answers.put(key, found, size_of(found))
        if camera is not None:
            frame.is_new = not camera.health.saw(frame.digest, frame.came)
            self._tell(camera)

    async def exact(self, frame: Frame, live: Collection[str]) -> Hit | None:
        """The answer to the same bytes, if there is one that holds.

        Args:
            frame: that has arrived.
            live: versions of the model that are served now.
        """
        kept = frame.answer
        if kept is None:
            return None
        if kept.version not in live or not 0 <= frame.came - kept.came <= self._limits.exact_s:
            self._answers.drop((frame.scope, frame.digest))
            return None
        return await self._give(frame, "exact", kept)

    async def joined(self, frame: Frame, kept: Kept, live: Collection[str]) -> Hit | None:
        """The answer to the same bytes that has just been inferred for somebody else; None if it is too old here."""
        return await self._give(frame, "coalesced", kept) if kept.version in live else None

    def candidate(self, frame: Frame, live: Collection[str]) -> tuple[Known, Since] | None:
        """What the frame is to be compared with, if there is anything; ``compare`` may then run in any thread."""
        camera = self._camera(frame)
        if camera is None or frame.mode != "use":
            return None
        known = camera.known
        refusal: Refusal | None = None
        since = Since(camera.seen, camera.hits, camera.noise, camera.rate >= _LIKELY)
        if not frame.is_owned:
            refusal = "unknown"
        elif known is None or known.kept.came < camera.given:
            refusal = "first"  # also where a newer frame's answer was given, and is not known
        elif not camera.trust.holds(frame.came):
            refusal = "off"
        else:
            refusal = in_time(known.reference, since, frame.came, live, self.rules)
        if refusal is not None or known is None:
            self._refused(frame, refusal or "first")
            return None
        return known, since

    async def near(
        self,
        frame: Frame,
        look: Look,
        size: tuple[int, int],
        known: Known,
        verdict: Verdict,
        live: Collection[str],
    ) -> Hit | None:
        """The answer to an earlier frame, if this one is found to be the same.

        Args:
            frame: of a camera.
            look: its look.
            size: (width, height) of its image.
            known: from ``candidate``.
            verdict: of ``compare`` with that.
            live: versions of the model that are served now.
        """
        camera = self._camera(frame)
        assert camera is not None
        if camera.known is not known:  # somebody was faster
            another = self.candidate(frame, live)
            if another is None:
                return None
            known = another[0]
            verdict = compare(known.reference, another[1], look, size, self.rules)
        if verdict.noise is not None:
            camera.noise += _SMOOTHING * (verdict.noise - camera.noise)
        camera.rate += _SMOOTHING * (verdict.is_hit - camera.rate)
        if not verdict.is_hit:
            assert verdict.refusal
            self._refused(frame, verdict.refusal)
            return None
        change = verdict.change.outside if verdict.change is not None else None
        return await self._give(frame, "near", known.kept, verdict.distance, change)

    def looked(self, frame: Frame, look: Look) -> None:
        """Take notice of what a camera's frame looks like."""
        camera = self._camera(frame)
        if camera is not None and frame.is_new:
            camera.health.looked(look, frame.came)
            self._account(frame, camera)  # whatever becomes of the frame
            self._tell(camera)

    async def keep(self, frame: Frame, look: Look | None, kept: Kept, is_given: bool = True) -> None:
        """Keep an answer that was inferred.

        Args:
            frame: that it is the answer to.
            look: of the frame, where it is a camera's.
            kept: the answer.
            is_given: to the frame's camera, now.
        """
        if frame.mode == "bypass":
            return
        if frame.digest:
            self._answers.put((frame.scope, frame.digest), kept, size_of(kept))
        camera = self._camera(frame)
        known: Known | None = None
        if camera is not None and look is not None:
            known = Known.of(look, kept)
        is_newest = await self._owner.keep(frame, camera, known, kept, is_given)
        if is_newest and camera is not None and known is not None:
            camera.known = known
            camera.hits = 0
            self._account(frame, camera)

    def wants_audit(self) -> bool:
        """Whether a near hit shall be inferred all the same."""
        return self._limits.audit_share > 0 and self._draw() < self._limits.audit_share

    async def audited(self, frame: Frame, agreement: float) -> None:
        """Take in how far a near hit's answer agrees with a fresh one, 0..1."""
        self._metrics.audited(agreement, agreement >= self._limits.audit_agreement)
        camera = self._camera(frame)
        if camera is not None and await self._owner.audited(frame, camera, agreement):
            self._metrics.switched_off.add()
            log.warning("camera_not_trusted", extra={"camera": camera.digest, "agreement": round(agreement, 3)})

    def audit_failed(self) -> None:
        """An audit had no fresh answer."""
        self._metrics.audit_failures.add()

    def count(self, outcome: Outcome) -> None:
        """Count a frame by what the cache did for it."""
        self._metrics.requests.add((outcome,))

    async def close(self) -> None:
        """End the owner's connections."""
        await self._owner.close()

    async def _give(
        self, frame: Frame, outcome: Outcome, kept: Kept, distance: int | None = None, change: float | None = None
    ) -> Hit | None:
        camera = self._camera(frame)
        if camera is not None:
            objection: Refusal | None = None if frame.is_owned else "unknown"
            if objection is None:
                objection = await self._owner.give(frame, camera, kept, outcome == "near")
            if objection is not None:
                self._refused(frame, objection)
                return None
            if outcome != "near" and frame.is_new:
                camera.health.repeated()
        return Hit(outcome, kept, max(0.0, frame.came - kept.came), distance, change)

    def _account(self, frame: Frame, camera: Camera) -> None:
        """Make room for what is large of a camera."""
        key = frame.scope, frame.camera_id
        taken = camera.health.nbytes
        if camera.known is not None:
            reference = camera.known.reference
            taken += reference.look.thumbnail.nbytes + reference.found.nbytes + size_of(camera.known.kept)
        if taken:
            self._pictures.put(key, camera, taken)
        else:
            self._pictures.drop(key)

    def _camera(self, frame: Frame) -> Camera | None:
        if not frame.camera_id or frame.mode == "bypass":
            return None
        if frame.camera is not None and not frame.camera.is_gone:
            return frame.camera
        key = frame.scope, frame.camera_id
        camera = self._cameras.get(key)
        self._pictures.get(key)  # in use
        if camera is None:
            digest = hashlib.blake2b(frame.camera_id.encode(), digest_size=6).hexdigest()
            trust = Trust(self._limits.audit_agreement, self._limits.audit_pause_s)
            camera = Camera(digest, trust, _LIKELY)
            self._cameras.put(key, camera, _CAMERA_BYTES)
        frame.camera = camera
        return camera

    def _refused(self, frame: Frame, why: Refusal) -> None:
        """Count it, once for a frame: its exact answer and the near one may be refused for one reason."""
        if why not in frame.refusals:
            frame.refusals.add(why)
            self._metrics.refused.add((why,))

    def _tell(self, camera: Camera) -> None:
        conditions = camera.health.conditions
        if conditions != camera.told:
            for condition in conditions:
                if condition not in camera.told:
                    log.warning(f"camera_{condition}", extra={"camera": camera.digest})
            for ended in camera.told:
                if ended not in conditions:
                    log.info(f"camera_not_{ended}", extra={"camera": camera.digest})
            camera.told = conditions

    def _conditions(self) -> dict[str, int]:
        now = self.clock()
        of_late = [camera for camera in self._cameras.values() if now - camera.seen <= _OF_LATE_S]
        return {
            "frozen": sum("frozen" in camera.told for camera in of_late),
            "black": sum("black" in camera.told for camera in of_late),
            "not_trusted": sum(not camera.trust.holds(now) for camera in of_late),
        }


def _gone(camera: Camera) -> None:
    camera.is_gone = True


def _forget(camera: Camera) -> None:
    """Forget what is large of a camera."""
    camera.known = None
    camera.health.forget()


def size_of(kept: Kept) -> int:
    """About how many bytes an answer takes."""
    return _AS_JSON * kept.task.nbytes(kept.answer) + _ANSWER_BYTES
