"""Redis as the owner of cameras: any of several transformers may have a camera's next frame.

Every frame of a camera is announced to Redis, which stamps it, and says what is known of the camera. What this
process has of it is only used if Redis says that it is still the newest (its *generation*). Before an answer is given,
Redis is asked once more, so that nothing older follows something newer, whoever gives it. An inferred answer is kept
before it is given. Where Redis does not answer in time, a frame is inferred.

An answer that could not be kept is a *debt*: until Redis knows that it was given, another transformer could give an
older one. Debts are paid as soon as Redis answers again, and lapse with the greatest age of an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from saccade_transformers.cache.frames import Frame, Kept, Known
from saccade_transformers.cache.owner import Camera, Objection
from saccade_transformers.cache.shared.codec import (
    MOST_ANSWER_BYTES,
    MOST_RECORD_BYTES,
    SCHEMA,
    Codec,
    Rejected,
    came_at,
    stamp_of,
)
from saccade_transformers.cache.shared.connections import Connections, RedisAway, RedisRefused
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.cache.shared.scripts import ARRIVE, GIVE, KEEP, MOST_BACK_US, TELL

#: All keys begin so, which is what an ACL has to allow.
PREFIX: Final = b"saccade:%d:" % SCHEMA

_MOST_DEBTS: Final = 10_000
_DEBTS_S: Final = 0.05
_TELL_TRIES: Final = 4
_KEY_BYTES: Final = 16
_NEVER: Final = float("-inf")

T = TypeVar("T")


class _Debt(NamedTuple):
    """What Redis has to be told: the stamp of an answer that was given, and since when."""

    keys: Keys
    stamp: int
    since: float


class Keys(NamedTuple):
    """Keys of an answer, a camera and its record. They say nothing of anybody's name."""

    answer: bytes
    camera: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things stay in Redis, seconds.

    Attributes:
        answer_s: an answer to some bytes.
        camera_s: a camera after its last frame.
        record_s: what is large of it.
        given_s: nothing that is older than this is given to a camera in any case.
    """

    answer_s: float
    camera_s: float
    record_s: float
    given_s: float


class RedisOwner:
    """See the module.

    Args:
        connections: to Redis.
        codec: of values.
        namespace: what answers depend on beside their scope: transformers that share it have the same predictors.
        lifetimes: of what is kept.
        metrics: counts.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        connections: Connections,
        codec: Codec,
        namespace: str,
        lifetimes: Lifetimes,
        metrics: RedisMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._codec = codec
        self._lifetimes = lifetimes
        # What was given has to be known for as long as there may be something older.
        camera_s = max(lifetimes.camera_s, lifetimes.given_s)
        self._expire_ms = math.ceil(camera_s * 1e3), math.ceil(lifetimes.record_s * 1e3)
        self._metrics = metrics
        self._monotonic = clock
        self._offset = time.time() - clock()  # from this process's clock to Redis's; a guess until it has been heard
        self._debts: OrderedDict[bytes, _Debt] = OrderedDict()
        self._paying: asyncio.Task[None] | None = None
        self._scoped = lru_cache(256)(lambda scope: _digest(namespace.encode(), repr(scope).encode()))

    def clock(self) -> float:
        """Redis's time in seconds, as far as it is known here."""
        return self._monotonic() + self._offset

    def start(self) -> None:
        """See ``CameraOwner``."""
        self._connections.start()

    async def arrive(self, frame: Frame, camera: Camera | None, wants_answer: bool) -> Kept | None:
        """See ``CameraOwner``."""
        keys = self._keys(frame)
        have = camera.known if camera is not None else None
        generation = b"%d" % stamp_of(have.kept.came) if have is not None else b""
        most = MOST_ANSWER_BYTES, MOST_RECORD_BYTES
        arguments = (int(wants_answer), int(camera is not None), generation, *most, *self._expire_ms)
        try:
            stamp, before, record, answer, bad, anew = await self._connections.call(ARRIVE, keys, arguments)
        except RedisAway:
            frame.is_owned = False
            return None
        if bad:
            self._metrics.rejected.add(("size",), bad)
        if anew:
            self._metrics.rejected.add(("content",))
        frame.came = came_at(int(stamp))
        self._offset = frame.came - self._monotonic()
        if camera is not None:
            self._refresh(frame, camera, keys, before)
            if before[2] == b"":
                camera.known = None
            elif before[2] != generation:
                self._take_over(frame, camera, keys.record, before[2], record)
        if not answer:
            return None
        return self._read(lambda: self._codec.unpack_answer(keys.answer, answer, frame.task))

    async def give(self, frame: Frame, camera: Camera, kept: Kept, is_near: bool) -> Objection | None:
        """See ``CameraOwner``."""
        if kept.came < camera.given:
            return "older"
        stamp, keys = stamp_of(kept.came), self._keys(frame)
        try:
            if not await self._connections.call(GIVE, keys[1:], (stamp, stamp if is_near else "")):
                return "older"
        except RedisAway:
            frame.is_owned = False  # and is not asked again for this frame
            return "unknown"
        self._gave(camera, kept.came)
        camera.hits += is_near
        camera.own_hits += is_near
        return None

    async def keep(self, frame: Frame, camera: Camera | None, known: Known | None, kept: Kept, is_given: bool) -> bool:
        """See ``CameraOwner``."""
        keys = self._keys(frame)
        answer = self._codec.pack_answer(keys.answer, kept) if frame.digest else b""
        record, stamp = b"", b""
        if camera is not None:
            if not frame.is_owned:
                if is_given:
                    self._owe(keys, camera, kept)
                return False
            stamp = b"%d" % stamp_of(kept.came)
            if known is not None:
                record = self._codec.pack_known(keys.record, known, camera.noise)
        elif not frame.is_owned:
            return True
        holds_ms = math.ceil(self._lifetimes.answer_s * 1e3)
        arguments = (answer, holds_ms, record, stamp, *self._expire_ms, int(is_given))
        try:
            is_newest = await self._connections.call(KEEP, keys, arguments)
        except RedisAway:
            if camera is not None and is_given:
                self._owe(keys, camera, kept)
            return False
        if camera is not None and is_given:
            self._gave(camera, kept.came)
        if camera is not None and is_newest:
            camera.own_hits = 0
        return bool(is_newest)

    async def audited(self, frame: Frame, camera: Camera, agreement: float) -> bool:
        """See ``CameraOwner``."""
        keys, is_off = self._keys(frame), False
        try:
            for _ in range(_TELL_TRIES):  # another one may audit the camera at the same time
                before = camera.told_trust
                is_off = camera.trust.audited(agreement, self.clock())
                now = self._codec.pack_trust(keys.camera, camera.trust)
                other = await self._connections.call(TELL, keys[1:], (before, now))
                if not other:
                    camera.told_trust = now
                    break
                self._trust(camera, keys, other.strip(b" "))
        except RedisAway:
            pass  # then it holds here
        return is_off

    async def close(self) -> None:
        """See ``CameraOwner``."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)
        await self._connections.close()

    def _keys(self, frame: Frame) -> Keys:
        scope = self._scoped(frame.scope)
        camera = _digest(scope, b"camera", frame.camera_id.encode())
        return Keys(
            PREFIX + b"a:" + _digest(scope, b"answer", frame.digest), PREFIX + b"c:" + camera, PREFIX + b"r:" + camera
        )

    def _refresh(self, frame: Frame, camera: Camera, keys: Keys, before: Sequence[bytes]) -> None:
        """Take over what Redis says of a camera, all but its record. The script has seen to what is no number."""
        last, given, _, hits, trust = before
        camera.seen = came_at(int(last)) if last else _NEVER
        # Everybody counts, and each at least what he has seen himself.
        camera.hits = max(int(hits or 0), camera.own_hits)
        camera.given = came_at(int(given)) if given else _NEVER
        # Redis may have lost its memory, or a part of it. This process at least knows what it has given itself. What
        # is of a time to come says nothing: a clock was set back.
        own, when = camera.own
        if own <= frame.came + MOST_BACK_US / 1e6 and self._monotonic() - when <= self._lifetimes.given_s:
            camera.given = max(camera.given, own)
        else:
            camera.own = _NEVER, _NEVER
        if trust != camera.told_trust:
            until = camera.trust.until
            self._trust(camera, keys, trust)
            if until <= frame.came + self._lifetimes.camera_s:  # nobody ends a pause that this process knows of
                camera.trust.until = max(camera.trust.until, until)

    def _trust(self, camera: Camera, keys: Keys, told: bytes) -> None:
        """Take over what others have found in audits; what is unreadable says nothing."""
        camera.told_trust = told
        camera.trust.forget()
        if told:
            self._read(lambda: self._codec.unpack_trust(keys.camera, told, camera.trust))

    def _take_over(self, frame: Frame, camera: Camera, key: bytes, generation: bytes, record: bytes) -> None:
        """Take over a camera's newest frame, which another process has inferred."""
        camera.known, camera.own_hits = None, 0
        found = self._read(lambda: self._codec.unpack_known(key, record, frame.task)) if record else None
        if found is None:
            return
        known, noise = found
        if generation != b"%d" % stamp_of(known.kept.came):
            self._metrics.rejected.add(("content",))
            return
        camera.known = known
        camera.noise = camera.noise or noise  # its own, once it has compared

    def _read(self, unpack: Callable[[], T]) -> T | None:
        try:
            return unpack()
        except Rejected as rejected:
            self._metrics.rejected.add((rejected.why,))
            return None

    def _gave(self, camera: Camera, came: float) -> None:
        camera.given = max(camera.given, came)
        if came >= camera.own[0]:
            camera.own = came, self._monotonic()

    def _owe(self, keys: Keys, camera: Camera, kept: Kept) -> None:
        self._gave(camera, kept.came)
        self._debts[keys.camera] = _Debt(keys, stamp_of(kept.came), self._monotonic())
        self._debts.move_to_end(keys.camera)
        if len(self._debts) > _MOST_DEBTS:
            self._debts.popitem(last=False)
        if self._paying is None or self._paying.done():
            self._paying = asyncio.get_running_loop().create_task(self._pay())

    async def _pay(self) -> None:
        """Tell Redis what was given, the last first."""
        while self._debts:
            if not self._connections.is_up:
                await asyncio.sleep(_DEBTS_S)
            camera, debt = next(reversed(self._debts.items()))
            if self._monotonic() - debt.since <= self._lifetimes.given_s:
                if not self._connections.is_up:
                    continue
                try:
                    await self._connections.call(KEEP, debt.keys, (b"", 1, b"", debt.stamp, *self._expire_ms, 1))
                except RedisRefused:
                    pass  # of this camera Redis wants to know nothing
                except RedisAway:
                    await asyncio.sleep(_DEBTS_S)
                    continue
            if self._debts.get(camera) == debt:
                del self._debts[camera]


def _digest(*parts: bytes) -> bytes:
    found = hashlib.blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(4, "big") + part)
    return found.hexdigest().encode()
