"""The arena: leases of memory that request bodies are received into and engines read from. One per process.

It gives out slots, says who may hold how much, and counts bytes by state. It does not queue, wait or call back: what
does not fit is refused at once. Every call but :meth:`Arena.find`, :meth:`Arena.view` and :meth:`Arena.segment`
belongs to the thread of the event loop, so there are no locks; engine threads read and write the memory of leases they
were given.

What is counted against the limit is what was asked for, 4 KiB at least. Slots are up to a quarter larger, and one slot
in use keeps its segment mapped, so what is mapped has a bound of its own: 1.5 times the limit (``segments.py``).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from saccade_serving.errors import ArenaFull
from saccade_serving.memory.allocator import Allocator, default_allocator
from saccade_serving.memory.segments import (
    CLASS_OF_UNITS,
    SLOT_BYTES,
    TABLED_BYTES,
    Segment,
    SegmentListener,
    Segments,
    Slot,
    class_of,
)

__all__ = ["Arena", "ArenaFull", "Lease", "Segment", "SegmentListener", "SlotName", "State"]

#: What ``align_at`` aligns to, bytes: a cache line, and the widest vector register.
ALIGNMENT = 64
POISON = 0xDD


class SlotName(NamedTuple):
    """Where a lease lies, without holding it. No two leases ever have the same name, whatever their slots.

    Attributes:
        segment: number of the segment.
        offset: bytes from the segment's beginning.
        length: bytes.
        generation: number of the lease.
    """

    segment: int
    offset: int
    length: int
    generation: int


class State(IntEnum):
    """What a lease is for at the moment."""

    RECEIVING = 0  #: the connection writes the body
    QUEUED = 1  #: complete, waiting for a batch
    STAGED = 2  #: an engine reads it
    FREE = 3  #: over


# Looking a member up in its class costs as much as a transition.
_RECEIVING, _QUEUED, _STAGED, _FREE = State


class Lease:
    """The right to use a slot, with one owner or more. Made by :meth:`Arena.lease`.

    Attributes:
        arena: where it comes from.
        view: the memory: writable, format ``B``, exactly ``size`` bytes; empty once the lease is over.
        size: bytes asked for.
        state: a :class:`State`.
    """

    __slots__ = ("_counted", "_generation", "_offset", "_owners", "_peer", "_slot", "arena", "size", "state", "view")

    def __init__(
        self, arena: Arena, slot: Slot, offset: int, size: int, counted: int, peer: str, generation: int
    ) -> None:
        self.arena = arena
        self.view = slot.segment.view[offset : offset + size]
        self.size = size
        self.state = _RECEIVING
        self._slot = slot
        self._offset = offset
        self._counted = counted
        self._peer = peer
        self._generation = generation
        self._owners = 1

    def __repr__(self) -> str:
        return f"<Lease {self.name} {self.state.name}>"

    @property
    def name(self) -> SlotName:
        """Where the lease lies; the length is ``size``."""
        return SlotName(self._slot.segment.id, self._offset, self.size, self._generation)

    @property
    def address(self) -> int:
        """Of the view's first byte."""
        return self._slot.segment.address + self._offset

    @property
    def capacity(self) -> int:
        """Bytes of the slot, ``size`` and more."""
        return self._slot.capacity

    def queued(self) -> None:
        """The body is complete. Raises RuntimeError unless the state is RECEIVING."""
        if self.state is not _RECEIVING:
            raise RuntimeError(f"a lease in state {self.state.name} cannot become QUEUED")
        self.state = _QUEUED
        arena = self.arena
        counted = self._counted
        arena._queued += counted
        if self._peer:
            arena._settle(self._peer, counted)

    def staged(self) -> None:
        """An engine reads it from now on. Raises RuntimeError unless the state is QUEUED."""
        if self.state is not _QUEUED:
            raise RuntimeError(f"a lease in state {self.state.name} cannot become STAGED")
        self.state = _STAGED
        arena = self.arena
        counted = self._counted
        arena._queued -= counted
        arena._staged += counted

    def hold(self) -> None:
        """Add an owner, who will release too. Raises RuntimeError when the lease is over."""
        if self.state is _FREE:
            raise RuntimeError("a lease that is over cannot be held")
        self._owners += 1

    def release(self) -> None:
        """Give up one owner's part; with the last one, the lease is over and the slot is free.

        Raises:
            RuntimeError: the lease is over already.
        """
        owners = self._owners - 1
        if owners < 0:
            raise RuntimeError("a lease was released more often than it was held")
        self._owners = owners
        if owners:
            return
        arena = self.arena
        counted = self._counted
        state = self.state
        if state is _STAGED:
            arena._staged -= counted
        elif state is _QUEUED:
            arena._queued -= counted
        elif self._peer:
            arena._settle(self._peer, counted)
        arena._held -= counted
        self.state = _FREE
        self.view = _NOTHING
        slot = self._slot
        slot.lease = None
        if arena._poison:
            ctypes.memset(slot.segment.address + slot.offset, POISON, slot.capacity)
        slot.pool.append(slot)
        segment = slot.segment
        segment.live -= 1
        if not segment.live:
            arena._idle(segment)

    def narrow(self, size: int) -> None:
        """Shrink ``size`` and ``view`` in place. The slot is the same, so the bytes counted stay.

        Args:
            size: bytes, 0 to the present size; ValueError otherwise.
        """
        if not 0 <= size <= self.size or self.state is _FREE:
            raise ValueError(f"a lease of {self.size} bytes in state {self.state.name} cannot shrink to {size}")
        self.size = size
        self.view = self.view[:size]


class Arena:
    """All leases of the process.

    Args:
        limit_bytes: most bytes leased at a time, at least 1.
        peer_share: the part of the limit, above 0 and at most 1, that one peer's bodies may hold while they are being
            received. A larger body cannot be received from a named peer at all.
        allocator: where memory comes from; shared memory by default.
        poison: fill freed slots with 0xDD, so that use after free shows. For tests.
        segment_bytes: most bytes mapped in one piece, unless a slot is larger. Never more than 1/64 of the limit.
        clock: seconds, monotonic.

    Attributes:
        limit_bytes: as given.
    """

    __slots__ = (
        "_generation",
        "_held",
        "_idle",
        "_peer_limit",
        "_peers",
        "_poison",
        "_pools",
        "_queued",
        "_segments",
        "_staged",
        "limit_bytes",
    )

    def __init__(
        self,
        limit_bytes: int,
        *,
        peer_share: float = 0.5,
        allocator: Allocator | None = None,
        poison: bool = False,
        segment_bytes: int = 16 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit_bytes < 1 or not 0 < peer_share <= 1:
            raise ValueError(f"an arena of {limit_bytes} bytes with a peer's share of {peer_share} holds nothing")
        self.limit_bytes = limit_bytes
        self._peer_limit = int(limit_bytes * peer_share)
        self._peers: dict[str, int] = {}  # bytes being received, by peer; never a zero
        self._poison = poison
        self._segments = Segments(limit_bytes, segment_bytes, allocator or default_allocator(), clock, ALIGNMENT - 1)
        self._pools = self._segments.pools
        self._held = self._queued = self._staged = 0  # bytes; what is neither queued nor staged is being received
        self._generation = 0
        self._idle = self._segments.idle  # what becomes of a segment whose last lease is over

    def lease(self, size: int, peer: str = "", align_at: int = 0) -> Lease:
        """Lease memory for a body, in state RECEIVING, with one owner. Its content is what the last user left.

        Args:
            size: bytes, 0 and more.
            peer: who sends, for the peer's share; an empty string is never limited.
            align_at: index into the view that shall lie on a 64-byte boundary of memory, 0 and more.

        Raises:
            ArenaFull: the limit, the peer's share or the memory itself leaves no room. Nothing was leased.
            ValueError: a negative size.
            RuntimeError: the arena is closed.
        """
        counted = size if size > SLOT_BYTES else SLOT_BYTES
        held = self._held
        if held + counted > self.limit_bytes and (held or size > self.limit_bytes):
            raise ArenaFull(size, held, self.limit_bytes)
        if peer:
            of_peer = self._peers.get(peer, 0)
            if of_peer + counted > self._peer_limit and (of_peer or size > self._peer_limit):
                raise ArenaFull(size, of_peer, self._peer_limit, "this client's unfinished requests")
        if size < 0:
            raise ValueError(f"a lease of {size} bytes")
        shift = -align_at % ALIGNMENT if align_at else 0
        room = size + shift
        number = CLASS_OF_UNITS[-(-room // SLOT_BYTES)] if room <= TABLED_BYTES else class_of(room)
        pool = self._pools[number]
        slot = pool.pop() if pool else self._take(number, size)
        generation = self._generation = self._generation + 1
        lease = Lease(self, slot, slot.offset + shift, size, counted, peer, generation)
        slot.lease = lease
        slot.segment.live += 1
        self._held = held + counted
        if peer:
            self._peers[peer] = of_peer + counted
        return lease

    def lease_uncounted(self, size: int) -> Lease:
        """Lease memory for what the process itself does, such as a warm-up, which shall take no room from clients.

        Args:
            size: bytes, at most ``limit_bytes``.

        Raises:
            ArenaFull: all that may be mapped is mapped and leased. It may be free later.
            RuntimeError: the arena is closed.
        """
        number = class_of(size)
        pool = self._pools[number]
        slot = pool.pop() if pool else self._take(number, size)
        self._generation += 1
        lease = Lease(self, slot, slot.offset, size, 0, "", self._generation)
        slot.lease = lease
        slot.segment.live += 1
        return lease

    def find(self, name: SlotName) -> Lease:
        """The live lease that a name, or a part of its range, belongs to.

        Raises:
            KeyError: the lease is over, whoever may have the slot now.
        """
        segment = self._segments.by_id.get(name.segment)
        if segment is not None:
            slots = segment.slots  # empty from one moment to the next when the segment is unmapped
            index = name.offset // segment.capacity
            lease = slots[index].lease if 0 <= index < len(slots) else None
            if lease is not None and lease._generation == name.generation:
                return lease
        raise KeyError(name)

    def view(self, name: SlotName) -> memoryview:
        """The memory of a name: a live lease's, or a part of it.

        Raises:
            KeyError: the lease is over, or the name reaches beyond it.
        """
        lease = self.find(name)
        start = name.offset - lease._offset
        if start < 0 or name.length < 0 or start + name.length > lease.size:
            raise KeyError(name)
        return lease.view[start : start + name.length]

    def segment(self, number: int) -> Segment:
        """The mapped segment of that number; KeyError when there is none."""
        return self._segments.by_id[number]

    def watch(self, listener: SegmentListener) -> None:
        """Call ``listener.mapped`` for all segments and for each new one from now on; ValueError a second time."""
        self._segments.watch(listener)

    def unwatch(self, listener: SegmentListener) -> None:
        """Call ``listener.unmapped`` for all segments and forget it. The memory and its leases stay as they are."""
        self._segments.unwatch(listener)

    @property
    def leases(self) -> int:
        """Live leases, counted over the segments."""
        return sum(segment.live for segment in list(self._segments.by_id.values()))

    @property
    def mapped_bytes(self) -> int:
        """Everything mapped; at most ``bound_bytes``."""
        return self._segments.mapped_bytes

    @property
    def bound_bytes(self) -> int:
        """The most that is ever mapped."""
        return self._segments.bound_bytes

    def bytes_by_state(self) -> dict[str, int]:
        """Bytes leased by state, and ``free``: mapped, in slots that nobody leases. Scans neither slots nor leases."""
        return {
            "receiving": self._held - self._queued - self._staged,
            "queued": self._queued,
            "staged": self._staged,
            "free": self._segments.free_bytes(),
        }

    def trim(self, idle_s: float, most_bytes: int | None = None) -> int:
        """Unmap segments all of whose slots have been free for ``idle_s`` seconds; returns bytes unmapped.

        A segment that views or arrays still point into stays, and goes on serving leases.

        Args:
            idle_s: seconds.
            most_bytes: no further segment is unmapped beyond these, so that the call is short; None for all.
        """
        return self._segments.trim(idle_s, most_bytes)

    def close(self) -> None:
        """Lease no more and unmap everything; a segment with live leases goes when the last of them is released.

        Memory that views or arrays still point into goes when they do. A lease asked for later is a RuntimeError.
        Closing twice does nothing.
        """
        self._pools = [[] for _ in self._pools]  # nothing to lease any more, also no slot that comes back
        self._idle = self._segments.unmap
        self._segments.close()

    def _take(self, number: int, size: int) -> Slot:
        if self._pools is not self._segments.pools:
            raise RuntimeError("the arena is closed")
        slot = self._segments.take(number)
        if slot is None:
            raise ArenaFull(
                size, self._segments.mapped_bytes, self._segments.bound_bytes, "segments of request memory"
            )
        return slot

    def _settle(self, peer: str, counted: int) -> None:
        """Take received bytes off a peer's account; an empty account is removed."""
        left = self._peers[peer] - counted
        if left:
            self._peers[peer] = left
        else:
            del self._peers[peer]


_NOTHING = memoryview(b"")
