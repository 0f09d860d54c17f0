"""The arena's mapped memory: segments of equal slots, free lists, a bound on the whole.

Slot sizes have quarter steps between powers of two, in units of 4 KiB: 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64,
80 ... KiB. A slot is at most a quarter larger than what is asked for, or 4 KiB where that is more. Segments are mapped
when a size class has no free slot, never moved, and unmapped only as a whole, with every slot free.

It knows nothing of leases, states, peers or the limit on bytes in flight (``arena.py`` does). It never takes memory
from a slot in use: one small slot in use keeps its whole segment mapped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from saccade_serving.memory.allocator import PAGE_BYTES, Allocator, Mapping

if TYPE_CHECKING:
    from saccade_serving.memory.arena import Lease

log = logging.getLogger("saccade.memory")

#: Smallest slot and unit of all others, bytes: 4 KiB, or a page where pages are larger.
SLOT_BYTES = max(4096, PAGE_BYTES)
_SLOT_SHIFT = SLOT_BYTES.bit_length() - 1
#: Most slots of one segment: making a slot costs about half a microsecond, and the event loop waits for it.
MOST_SLOTS = 1024
#: A segment takes at most this share of the limit (unless one slot is larger), so that one slot in use in each
#: of the forty-odd small classes leaves most of the memory to others.
SEGMENTS_PER_LIMIT = 64


def class_of(size: int) -> int:
    """Number of the smallest size class whose slots hold ``size`` bytes (0 and more)."""
    units = (size - 1 >> _SLOT_SHIFT) if size else 0
    step = units.bit_length() - 3
    return units if step <= 0 else 4 * step + (units >> step)


def class_bytes(number: int) -> int:
    """Slot size in bytes of a size class; the inverse of :func:`class_of`."""
    if number < 8:
        return (number + 1) * SLOT_BYTES
    step = number // 4 - 1
    return (number % 4 + 5 << step) * SLOT_BYTES


#: Class numbers by size in units, for sizes up to :data:`TABLED_BYTES`: computing one costs more than a transition.
TABLED_BYTES = 4 << 20
CLASS_OF_UNITS = bytes(class_of(size) for size in range(0, TABLED_BYTES + 1, SLOT_BYTES))


class Segment:
    """One mapped region, cut into slots of one size. Listeners read ``id``, ``size``, ``address`` and ``view``.

    Attributes:
        id: number, never used again in this process's arena.
        size: bytes.
        address: of the first byte, page aligned.
        view: all of it, writable, format ``B``. To be looked up when needed, not kept: a kept slice keeps the segment
            mapped, the view itself becomes invalid.
    """

    __slots__ = (
        "_mapping",
        "address",
        "capacity",
        "id",
        "idle_since",
        "informed",
        "live",
        "pool",
        "size",
        "slots",
        "view",
    )

    def __init__(self, number: int, mapping: Mapping, capacity: int, count: int, pool: list[Slot]) -> None:
        self.id = number
        self._mapping = mapping
        self.view = mapping.view
        self.address = mapping.address
        self.size = capacity * count
        self.capacity = capacity  #: of each slot, bytes
        self.live = 0  #: slots in use
        self.idle_since = 0.0  #: when ``live`` became 0, on the segments' clock
        self.informed: list[SegmentListener] = []  #: whose ``mapped`` has returned
        self.pool = pool  #: its class's free list
        self.slots = [Slot(self, index * capacity, capacity, pool) for index in range(count)]

    def exported(self) -> bool:
        """Whether slices or arrays of somebody's point into the memory."""
        inside = self._mapping.exported()
        self.view = self._mapping.view
        return inside

    def unmap(self) -> None:
        """Give the memory back, or leave it to the last array that points into it."""
        with suppress(BufferError):
            self._mapping.close()
        # Slots and segment point at each other; this process may run without a collector of cycles.
        self.slots = []


class Slot:
    """A fixed piece of a segment: page aligned, in use or on its class's free list."""

    __slots__ = ("capacity", "lease", "offset", "pool", "segment")

    def __init__(self, segment: Segment, offset: int, capacity: int, pool: list[Slot]) -> None:
        self.segment = segment
        self.offset = offset
        self.capacity = capacity
        self.pool = pool
        self.lease: Lease | None = None  #: who uses it; None while free


class SegmentListener(Protocol):
    """Told of every segment, for example to page-lock it.

    Called in the event loop's thread, in the middle of a lease or a trim: it must not call the arena. A ``mapped``
    that raises is logged; the segment serves all the same, and its ``unmapped`` is not called.
    """

    def mapped(self, segment: Segment) -> None:
        """A segment is there: at ``watch`` for each present one, later for each new one."""
        ...

    def unmapped(self, segment: Segment) -> None:
        """The segment is about to go, or the listener is: the memory is still mapped during this call."""
        ...


class Segments:
    """Maps segments on demand and keeps their free slots, by size class.

    Args:
        limit_bytes: the arena's limit on bytes in flight. Everything mapped stays within one and a half times that, or
            one slot of the largest class where that is more.
        segment_bytes: most bytes of a segment, unless one slot is larger.
        allocator: where memory comes from.
        clock: seconds, monotonic.
        spare: bytes that a slot must have room for beside a body.

    Attributes:
        pools: free slots by class; the last one is the most recently freed.
        mapped_bytes: all that is mapped, in use or not.
        bound_bytes: the most that is ever mapped.
        by_id: the segments that serve. Other threads may look up, not change.
    """

    __slots__ = (
        "_allocator",
        "_clock",
        "_listeners",
        "_next_id",
        "_segment_bytes",
        "bound_bytes",
        "by_id",
        "mapped_bytes",
        "pools",
    )

    def __init__(
        self, limit_bytes: int, segment_bytes: int, allocator: Allocator, clock: Callable[[], float], spare: int
    ) -> None:
        largest = class_of(limit_bytes + spare)
        self.pools: list[list[Slot]] = [[] for _ in range(largest + 1)]
        self.by_id: dict[int, Segment] = {}
        self.mapped_bytes = 0
        self.bound_bytes = max(limit_bytes * 3 // 2, class_bytes(largest))
        self._segment_bytes = min(segment_bytes, limit_bytes // SEGMENTS_PER_LIMIT)
        self._allocator = allocator
        self._clock = clock
        self._listeners: list[SegmentListener] = []
        self._next_id = 0

    def take(self, number: int) -> Slot | None:
        """A free slot of a class, mapping a segment when there is none; None when the bound leaves no room.

        Unused segments are unmapped to make room, the longest unused first. As a last resort the slot is one of a
        larger class.
        """
        pools = self.pools
        if not pools[number]:
            self._map(number)
        for pool in pools[number:]:
            if pool:
                return pool.pop()
        return None

    def free_bytes(self) -> int:
        """Bytes of all free slots. One step per size class, of which there are about sixty."""
        return sum(len(pool) * class_bytes(number) for number, pool in enumerate(self.pools))

    def idle(self, segment: Segment) -> None:
        """Note that the last slot in use of a segment has come back."""
        segment.idle_since = self._clock()

    def trim(self, idle_s: float, most_bytes: int | None = None) -> int:
        """Unmap segments that have been unused for ``idle_s`` seconds, one or more up to ``most_bytes``.

        Returns:
            Bytes unmapped.
        """
        before = self.mapped_bytes
        latest = self._clock() - idle_s
        for segment in self._unused():
            if segment.idle_since > latest:
                break
            if most_bytes is not None and before - self.mapped_bytes + segment.size > max(most_bytes, segment.size):
                break
            self.unmap(segment)
        return before - self.mapped_bytes

    def close(self) -> None:
        """Unmap all segments without a slot in use."""
        for segment in [segment for segment in self.by_id.values() if not segment.live]:
            self.unmap(segment)

    def watch(self, listener: SegmentListener) -> None:
        """Show a listener all segments, and each new one from now on. A second time is refused (ValueError)."""
        if listener in self._listeners:
            raise ValueError("this listener watches the segments already")
        self._listeners.append(listener)
        for segment in self.by_id.values():
            _inform(listener, segment)

    def unwatch(self, listener: SegmentListener) -> None:
        """Call ``unmapped`` for every segment and forget the listener; nothing if it is not watching."""
        if listener in self._listeners:
            self._listeners.remove(listener)
            for segment in self.by_id.values():
                _take_leave(listener, segment)

    def unmap(self, segment: Segment) -> None:
        """Give back a segment without a slot in use. Memory that an array points into goes with the array."""
        del self.by_id[segment.id]
        pool = segment.pool
        pool[:] = [slot for slot in pool if slot.segment is not segment]
        for listener in list(segment.informed):
            _take_leave(listener, segment)
        segment.unmap()
        self.mapped_bytes -= segment.size

    def _map(self, number: int) -> None:
        """Add a segment of a class to the free lists, if memory and the bound allow one slot or more."""
        capacity = class_bytes(number)
        self._make_room(capacity)
        room = self.bound_bytes - self.mapped_bytes
        count = min(max(1, self._segment_bytes // capacity), MOST_SLOTS, room // capacity)
        if count < 1:
            return
        try:
            mapping = self._allocator.map(capacity * count)
        except MemoryError as error:
            log.warning("segment_not_mapped", extra={"bytes": capacity * count, "error": str(error)})
            return
        segment = Segment(self._next_id, mapping, capacity, count, self.pools[number])
        self._next_id += 1
        self.by_id[segment.id] = segment
        self.mapped_bytes += segment.size
        self.idle(segment)
        self.pools[number].extend(reversed(segment.slots))
        for listener in self._listeners:
            _inform(listener, segment)

    def _make_room(self, size: int) -> None:
        """Unmap unused segments until ``size`` bytes more can be mapped, or none is left."""
        if self.mapped_bytes + size > self.bound_bytes:
            for segment in self._unused():
                self.unmap(segment)
                if self.mapped_bytes + size <= self.bound_bytes:
                    return

    def _unused(self) -> Iterator[Segment]:
        """Segments that can be unmapped without a trace, the longest unused first.

        One that a forgotten array points into goes on serving: it could be unregistered, but not given back.
        """
        free = sorted((s for s in self.by_id.values() if not s.live), key=lambda s: s.idle_since)
        return (segment for segment in free if not segment.exported())


def _inform(listener: SegmentListener, segment: Segment) -> None:
    try:
        listener.mapped(segment)
    except Exception:
        log.exception("segment_listener_failed", extra={"segment": segment.id, "bytes": segment.size})
    else:
        segment.informed.append(listener)


def _take_leave(listener: SegmentListener, segment: Segment) -> None:
    if listener not in segment.informed:
        return
    segment.informed.remove(listener)
    try:
        listener.unmapped(segment)
    except Exception:
        log.exception("segment_listener_failed", extra={"segment": segment.id, "bytes": segment.size})
