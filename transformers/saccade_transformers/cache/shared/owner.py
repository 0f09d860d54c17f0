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
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from saccade_transformers.cache.frames import Frame, Kept, Known
from saccade_transformers.cache.owner import Camera, Objection
from saccade_transformers.cache.shared.codec import MOST_BYTES, SCHEMA, Codec, Rejected, came_at, stamp_of
from saccade_transformers.cache.shared.connections import Connections, RedisAway
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.cache.shared.scripts import ARRIVE, AUDITS, GIVE, KEEP, TELL
from saccade_transformers.cache.trust import Trust

#: All keys begin so, which is what an ACL has to allow.
PREFIX: Final = b"saccade:%d:" % SCHEMA

_MOST_DEBTS: Final = 10_000
_DEBTS_S: Final = 0.05
_KEY_BYTES: Final = 16
_NEVER: Final = float("-inf")

T = TypeVar("T")


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
        self._expire_ms = math.ceil(lifetimes.camera_s * 1e3), math.ceil(lifetimes.record_s * 1e3)
        self._metrics = metrics
        self._monotonic = clock
        self._offset = time.time() - clock()  # from this process's clock to Redis's; a guess until it has been heard
        self._debts: OrderedDict[Keys, tuple[int, float]] = OrderedDict()
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
        arguments = (int(wants_answer), int(camera is not None), generation, MOST_BYTES, *self._expire_ms)
        try:
            stamp, before, record, answer, large = await self._connections.call(ARRIVE, keys, arguments)
            came = came_at(int(stamp))
            if large:
                self._metrics.rejected.add(("size",), large)
            if camera is not None:
                self._refresh(camera, have, before)
        except RedisAway:
            frame.is_owned = False
            return None
        except (ValueError, OverflowError):  # fields that none of us has written
            self._metrics.rejected.add(("content",))
            frame.is_owned = False
            return None
        frame.came = came
        self._offset = came - self._monotonic()
        if camera is not None and before[2] not in (b"", generation):
            camera.known = self._record(frame, keys.record, before[2], record)
        if not answer:
            return None
        return self._read(lambda: self._codec.unpack_answer(keys.answer, answer, frame.task))

    async def give(self, frame: Frame, camera: Camera, kept: Kept, is_near: bool) -> Objection | None:
        """See ``CameraOwner``."""
        if kept.came < camera.given:
            return "older"
        stamp = stamp_of(kept.came)
        arguments = (stamp, stamp if is_near else "", f"{camera.noise:.4g}")
        try:
            if not await self._connections.call(GIVE, [self._keys(frame).camera], arguments):
                return "older"
        except RedisAway:
            return "unknown"
        self._gave(camera, kept.came)
        camera.hits += is_near
        return None

    async def keep(self, frame: Frame, camera: Camera | None, known: Known | None, kept: Kept, is_given: bool) -> bool:
        """See ``CameraOwner``."""
        keys = self._keys(frame)
        answer = self._codec.pack_answer(keys.answer, kept) if frame.digest else b""
        record, stamp, noise = b"", b"", "0"
        if camera is not None:
            if not frame.is_owned:
                if is_given:
                    self._owe(keys, camera, kept)
                return False
            stamp, noise = b"%d" % stamp_of(kept.came), f"{camera.noise:.4g}"
            if known is not None:
                record = self._codec.pack_known(keys.record, known)
        holds_ms = math.ceil(self._lifetimes.answer_s * 1e3)
        arguments = (answer, holds_ms, record, stamp, noise, *self._expire_ms, int(is_given))
        try:
            is_newest = await self._connections.call(KEEP, keys, arguments)
        except RedisAway:
            if camera is not None and is_given:
                self._owe(keys, camera, kept)
            return False
        if camera is not None and is_given:
            self._gave(camera, kept.came)
        return bool(is_newest)

    async def audited(self, frame: Frame, camera: Camera, agreement: float) -> bool:
        """See ``CameraOwner``. Of two audits at the very same moment one may be lost."""
        key = [self._keys(frame).camera]
        try:
            seen, factor, until = await self._connections.call(AUDITS, key, ())
            trust = camera.trust
            trust.seen = deque(map(_share, seen.split()), trust.seen.maxlen)
            trust.factor = min(max(1, int(factor or 1)), Trust.MOST_PAUSES)
            trust.until = came_at(int(until or 0))
            is_off = trust.audited(agreement, self.clock())
            told = (" ".join(f"{one:.4f}" for one in trust.seen), trust.factor, stamp_of(trust.until))
            await self._connections.call(TELL, key, told)
            return is_off
        except RedisAway:
            return False
        except (ValueError, OverflowError):
            self._metrics.rejected.add(("content",))
            return False

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

    def _refresh(self, camera: Camera, have: Known | None, before: Sequence[bytes]) -> None:
        """Take over what Redis says of a camera, all but its record.

        Raises:
            ValueError, OverflowError: it is not what one of us has written.
        """
        last, given, generation, hits, noise, until = before
        seen = came_at(int(last)) if last else _NEVER
        given_at = came_at(int(given)) if given else _NEVER
        of_noise = float(noise or 0)
        if not 0 <= of_noise <= 255:
            raise ValueError("noise")
        off_until = came_at(int(until or 0))
        camera.hits = max(0, int(hits or 0))
        camera.seen, camera.noise, camera.trust.until = seen, of_noise, off_until
        # Redis may have lost its memory, or a part of it. This process at least knows what it has given itself.
        own, when = camera.own
        camera.given = max(given_at, own) if self._monotonic() - when <= self._lifetimes.given_s else given_at
        camera.known = have if generation else None

    def _record(self, frame: Frame, key: bytes, generation: bytes, record: bytes) -> Known | None:
        known = self._read(lambda: self._codec.unpack_known(key, record, frame.task)) if record else None
        if known is not None and generation != b"%d" % stamp_of(known.kept.came):
            self._metrics.rejected.add(("content",))
            return None
        return known

    def _read(self, unpack: Callable[[], T]) -> T | None:
        try:
            return unpack()
        except Rejected as rejected:
            self._metrics.rejected.add((rejected.why,))
            return None

    def _gave(self, camera: Camera, came: float) -> None:
        camera.given = max(camera.given, came)
        camera.own = camera.given, self._monotonic()

    def _owe(self, keys: Keys, camera: Camera, kept: Kept) -> None:
        self._gave(camera, kept.came)
        self._debts[keys] = stamp_of(camera.given), self._monotonic()
        self._debts.move_to_end(keys)
        if len(self._debts) > _MOST_DEBTS:
            self._debts.popitem(last=False)
        if self._paying is None or self._paying.done():
            self._paying = asyncio.get_running_loop().create_task(self._pay())

    async def _pay(self) -> None:
        while self._debts:
            keys, (stamp, since) = next(iter(self._debts.items()))
            if self._monotonic() - since <= self._lifetimes.given_s:
                if not self._connections.is_up:
                    await asyncio.sleep(_DEBTS_S)
                    continue
                try:
                    await self._connections.call(KEEP, keys, (b"", 1, b"", stamp, "0", *self._expire_ms, 1))
                except RedisAway:
                    await asyncio.sleep(_DEBTS_S)
                    continue
            if self._debts.get(keys) == (stamp, since):
                del self._debts[keys]


def _share(text: bytes) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("agreement")
    return value


def _digest(*parts: bytes) -> bytes:
    found = hashlib.blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(4, "big") + part)
    return found.hexdigest().encode()
