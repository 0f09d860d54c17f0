"""The arena: slots never overlap, names never lie, the books balance, and nothing grows without bound."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from saccade_serving.errors import Overloaded
from saccade_serving.memory.allocator import Mapping, default_allocator
from saccade_serving.memory.arena import Arena, ArenaFull, Lease, Segment, SlotName, State
from saccade_serving.memory.segments import class_bytes, class_of

KIB = 1024
MIB = 1024 * KIB
EMPTY = {"receiving": 0, "queued": 0, "staged": 0}


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class CountedMapping:
    """A mapping that tells its allocator when it is closed."""

    def __init__(self, allocator: CountingAllocator, size: int) -> None:
        self._inner: Mapping = default_allocator().map(size)
        self._allocator = allocator
        self.size = size
        self.address = self._inner.address

    @property
    def view(self) -> memoryview:
        return self._inner.view

    def exported(self) -> bool:
        return self._inner.exported()

    def close(self) -> None:
        self._allocator.mapped -= self.size
        self._inner.close()


class CountingAllocator:
    """Real memory; counts what is mapped, and can refuse."""

    def __init__(self) -> None:
        self.mapped = 0
        self.most = 0
        self.calls = 0
        self.refuses = False

    def map(self, size: int) -> CountedMapping:
        if self.refuses:
            raise MemoryError("no more")
        self.calls += 1
        self.mapped += size
        self.most = max(self.most, self.mapped)
        return CountedMapping(self, size)


class PageLock:
    """What a CUDA engine does with segments, on paper."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.seen: list[int] = []

    def mapped(self, segment: Segment) -> None:
        assert segment.address not in self.locked
        assert segment.view.nbytes == segment.size
        self.locked[segment.address] = segment.size
        self.seen.append(segment.id)

    def unmapped(self, segment: Segment) -> None:
        assert self.locked.pop(segment.address) == segment.size
        segment.view[-1] = 0  # still there


class BrokenLock(PageLock):
    """Cannot lock."""

    def mapped(self, segment: Segment) -> None:
        raise OSError("out of locked memory")


class Failing(PageLock):
    """Locks, and fails at unlocking."""

    def unmapped(self, segment: Segment) -> None:
        raise OSError("not locked")


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(8 * MIB, poison=True)
    yield arena
    arena.close()


def address_of(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def held(arena: Arena) -> dict[str, int]:
    return {state: size for state, size in arena.bytes_by_state().items() if state != "free"}


def fill(arena: Arena, size: int) -> list[Lease]:
    """Lease one size until the arena refuses."""
    leases: list[Lease] = []
    try:
        while True:
            leases.append(arena.lease(size))
    except ArenaFull:
        return leases


def test_a_lease_is_writable_memory_of_exactly_the_size_asked_for(arena: Arena) -> None:
    for size in (0, 1, 4095, 4096, 4097, 1_228_800, 8 * MIB):
        lease = arena.lease(size)
        assert (lease.view.nbytes, lease.view.format, lease.view.readonly) == (size, "B", False)
        assert lease.size == size == lease.name.length
        assert lease.capacity >= size
        lease.view[:] = bytes(size)
        lease.release()


def test_a_slot_is_at_most_a_quarter_or_4_kib_larger_than_the_size_asked_for() -> None:
    sizes = {0, 1} | {near + off for power in range(12, 35) for near in (1 << power, 5 << power) for off in (-1, 0, 1)}
    for size in sorted(sizes):
        capacity = class_bytes(class_of(size))
        assert size <= capacity <= max(size * 5 // 4, size + 4095, 4096)
        assert capacity % 4096 == 0


def test_size_classes_have_quarter_steps() -> None:
    in_kib = [class_bytes(number) // KIB for number in range(14)]
    assert " ".join(map(str, in_kib)) == "4 8 12 16 20 24 28 32 40 48 56 64 80 96"
    assert [class_of(class_bytes(number)) for number in range(100)] == list(range(100))
    assert [class_of(class_bytes(number) + 1) for number in range(100)] == list(range(1, 101))


def test_a_slot_starts_on_a_page(arena: Arena) -> None:
    leases = [arena.lease(size) for size in (1, 5000, 5001, 70_000, 1_000_000)]
    assert [address_of(lease.view) % 4096 for lease in leases] == [0] * 5
    assert [address_of(lease.view) for lease in leases] == [lease.address for lease in leases]


@pytest.mark.parametrize("align_at", [0, 1, 63, 64, 65, 353, 4095, 4096, 100_001])
@pytest.mark.parametrize("size", [100_002, 4096 * 25, 8 * MIB])
def test_the_tensor_behind_the_json_lies_on_a_64_byte_boundary(arena: Arena, size: int, align_at: int) -> None:
    lease = arena.lease(size, align_at=align_at)
    assert address_of(lease.view[align_at:]) % 64 == 0
    assert lease.view.nbytes == size
    lease.view[-1] = 1
    first_of_slot = lease.name.offset // lease.capacity * lease.capacity
    assert lease.name.offset + size <= first_of_slot + lease.capacity
    lease.release()


def test_the_most_recently_freed_slot_is_reused_first(arena: Arena) -> None:
    leases = [arena.lease(10_000) for _ in range(20)]
    places = [address_of(lease.view) for lease in leases]
    for index in (3, 17, 8):
        leases[index].release()
    again = [arena.lease(9_000) for _ in range(3)]
    assert [address_of(lease.view) for lease in again] == [places[index] for index in (8, 17, 3)]


def test_a_lease_goes_from_receiving_to_queued_to_staged_to_free_and_every_step_is_counted(arena: Arena) -> None:
    lease = arena.lease(10_000)
    assert lease.state.name == "RECEIVING"
    assert held(arena) == {**EMPTY, "receiving": 10_000}
    lease.queued()
    assert lease.state.name == "QUEUED"
    assert held(arena) == {**EMPTY, "queued": 10_000}
    lease.staged()
    assert lease.state.name == "STAGED"
    assert held(arena) == {**EMPTY, "staged": 10_000}
    assert arena.leases == 1
    lease.release()
    assert lease.state.name == "FREE"
    assert held(arena) == EMPTY
    assert arena.leases == 0
    assert arena.bytes_by_state()["free"] == arena.mapped_bytes


def test_a_transition_out_of_order_is_refused_and_changes_nothing(arena: Arena) -> None:
    lease = arena.lease(10_000, "peer")
    with pytest.raises(RuntimeError, match="RECEIVING cannot become STAGED"):
        lease.staged()
    lease.queued()
    with pytest.raises(RuntimeError, match="QUEUED cannot become QUEUED"):
        lease.queued()
    lease.staged()
    for step in (lease.queued, lease.staged):
        with pytest.raises(RuntimeError, match="STAGED cannot become"):
            step()
    assert held(arena) == {**EMPTY, "staged": 10_000}
    lease.release()
    for step in (lease.queued, lease.staged, lease.hold, lease.release):
        with pytest.raises(RuntimeError):
            step()
    assert held(arena) == EMPTY


def test_a_slot_is_free_when_its_last_owner_has_released_it(arena: Arena) -> None:
    lease = arena.lease(10_000)
    lease.hold()
    lease.hold()
    lease.release()
    lease.release()
    assert arena.find(lease.name) is lease
    assert lease.view.nbytes == 10_000
    lease.release()
    assert lease.view.nbytes == 0
    assert arena.leases == 0


def test_a_second_release_never_frees_the_next_users_lease(arena: Arena) -> None:
    first = arena.lease(10_000)
    place = address_of(first.view)
    first.release()
    second = arena.lease(10_000)
    assert address_of(second.view) == place
    with pytest.raises(RuntimeError, match="more often"):
        first.release()
    assert arena.find(second.name) is second


def test_a_narrowed_lease_keeps_its_slot_and_its_bytes_on_the_books(arena: Arena) -> None:
    lease = arena.lease(10_000)
    lease.view[:3] = b"abc"
    before = lease.name
    lease.narrow(3)
    assert bytes(lease.view) == b"abc"
    assert (lease.size, lease.name.length, lease.name.offset) == (3, 3, before.offset)
    assert held(arena)["receiving"] == 10_000
    assert arena.find(before) is lease
    for size in (4, -1):
        with pytest.raises(ValueError, match=f"3 bytes in state RECEIVING cannot shrink to {size}"):
            lease.narrow(size)
    lease.release()
    assert held(arena) == EMPTY
    with pytest.raises(ValueError, match="FREE"):
        lease.narrow(0)


def test_a_name_finds_its_lease_and_its_memory(arena: Arena) -> None:
    lease = arena.lease(10_000, align_at=353)
    lease.view[:5] = b"hello"
    assert arena.find(lease.name) is lease
    assert bytes(arena.view(lease.name)[:5]) == b"hello"
    assert arena.view(lease.name).nbytes == 10_000


def test_a_part_of_a_lease_has_a_name_too(arena: Arena) -> None:
    lease = arena.lease(10_000)
    lease.view[353:358] = b"hello"
    name = lease.name
    part = name._replace(offset=name.offset + 353, length=5)
    assert bytes(arena.view(part)) == b"hello"
    for beyond in (
        name._replace(length=10_001),
        name._replace(offset=name.offset + 1),
        name._replace(offset=name.offset - 1),
        name._replace(length=-1),
    ):
        with pytest.raises(KeyError):
            arena.view(beyond)


def test_a_stale_name_is_refused_also_when_its_slot_is_leased_again(arena: Arena) -> None:
    first = arena.lease(10_000)
    name = first.name
    first.release()
    for _ in range(2):
        with pytest.raises(KeyError):
            arena.find(name)
        with pytest.raises(KeyError):
            arena.view(name)
        second = arena.lease(10_000)
    assert second.name != name


def test_a_made_up_name_is_refused(arena: Arena) -> None:
    name = arena.lease(10_000).name
    size = arena.segment(name.segment).size
    for made_up in (
        SlotName(999, 0, 1, name.generation),
        name._replace(offset=size),
        name._replace(offset=-1),
        name._replace(offset=name.offset + 12 * KIB),
        name._replace(generation=name.generation + 1),
    ):
        with pytest.raises(KeyError):
            arena.find(made_up)


def test_more_bytes_than_the_limit_are_refused_with_the_bytes_held_and_the_limit() -> None:
    arena = Arena(MIB)
    first = arena.lease(MIB - 10_000)
    with pytest.raises(ArenaFull, match=r"hold 1038576 of 1048576 bytes; 10001 more") as refused:
        arena.lease(10_001)
    assert isinstance(refused.value, Overloaded)
    assert (refused.value.status, refused.value.reason) == (503, "arena_full")
    arena.lease(10_000).release()
    first.queued()
    with pytest.raises(ArenaFull):
        arena.lease(10_001)
    first.release()
    arena.lease(MIB).release()
    with pytest.raises(ArenaFull):
        arena.lease(MIB + 1)
    assert held(arena) == EMPTY


def test_a_small_lease_counts_as_4_kib() -> None:
    arena = Arena(12 * KIB)
    leases = [arena.lease(size) for size in (0, 1, 4096)]
    assert held(arena)["receiving"] == 12 * KIB
    with pytest.raises(ArenaFull):
        arena.lease(0)
    assert len(leases) == 3


def test_an_arena_smaller_than_a_page_holds_one_lease_of_its_limit() -> None:
    arena = Arena(100)
    with pytest.raises(ArenaFull):
        arena.lease(101)
    lease = arena.lease(100)
    with pytest.raises(ArenaFull):
        arena.lease(1)
    lease.release()


def test_senseless_arguments_are_refused(arena: Arena) -> None:
    for limit, share in ((0, 0.5), (1, 0.0), (1, 1.1)):
        with pytest.raises(ValueError, match="holds nothing"):
            Arena(limit, peer_share=share)
    with pytest.raises(ValueError, match="-1 bytes"):
        arena.lease(-1)
    assert arena.leases == 0


def test_a_peer_holds_at_most_its_share_while_it_sends() -> None:
    arena = Arena(MIB, peer_share=0.25)
    leases = [arena.lease(128 * KIB, "slow") for _ in range(2)]
    with pytest.raises(ArenaFull, match="this client's unfinished requests hold 262144 of 262144 bytes; 1 more"):
        arena.lease(1, "slow")
    others = [arena.lease(128 * KIB, "other"), arena.lease(512 * KIB)]
    leases[0].queued()
    leases.append(arena.lease(128 * KIB, "slow"))
    leases[0].staged()
    with pytest.raises(ArenaFull):
        arena.lease(1, "slow")
    leases.pop(1).release()
    arena.lease(1, "slow").release()
    with pytest.raises(ArenaFull):
        arena.lease(256 * KIB + 1, "third")
    assert arena.leases == len(leases) + len(others)


def test_peers_without_bytes_are_forgotten(arena: Arena) -> None:
    for number in range(300):
        lease = arena.lease(10_000, f"10.0.0.{number}")
        if number % 3:
            lease.queued()
        if number % 3 == 2:
            lease.staged()
        lease.release()
    assert arena._peers == {}


def test_what_is_mapped_stays_bounded_whatever_sizes_are_sent() -> None:
    allocator, limit = CountingAllocator(), 16 * MIB
    arena = Arena(limit, allocator=allocator)
    chance = random.Random(5)
    assert arena.bound_bytes == 24 * MIB

    # Every size class in turn, each filled to the limit.
    for number in range(class_of(limit) + 1):
        leases = fill(arena, min(class_bytes(number), limit))
        assert sum(lease.size for lease in leases) > limit - class_bytes(number)
        for lease in leases:
            lease.release()

    # All sizes at once, released in random order.
    leases = []
    for _ in range(3000):
        try:
            leases.append(arena.lease(int(2 ** chance.uniform(0, 24))))
        except ArenaFull:
            chance.shuffle(leases)
            while len(leases) > 20:
                leases.pop().release()
    while leases:
        leases.pop().release()

    assert allocator.most <= arena.bound_bytes
    assert allocator.mapped == arena.mapped_bytes == arena.bytes_by_state()["free"]
    arena.lease(limit).release()  # the largest of all still fits
    arena.close()
    assert allocator.mapped == 0


def test_a_sender_who_keeps_one_slot_of_every_segment_cannot_push_the_memory_over_its_bound() -> None:
    allocator, limit = CountingAllocator(), 16 * MIB
    arena = Arena(limit, allocator=allocator)
    kept: list[Lease] = []
    for number in range(20):
        segments: dict[int, Lease] = {}
        for lease in fill(arena, class_bytes(number)):
            if segments.setdefault(lease.name.segment, lease) is not lease:
                lease.release()
        kept.extend(segments.values())
    assert allocator.most <= arena.bound_bytes
    # Nothing can be mapped any more, but slots larger than needed still serve.
    arena.lease(1).release()
    with pytest.raises(ArenaFull, match="segments of request memory hold"):
        arena.lease(8 * MIB)
    for lease in kept:
        lease.release()
    arena.lease(limit).release()
    assert held(arena) == EMPTY


def test_one_small_lease_in_every_class_leaves_room_for_a_large_one() -> None:
    arena = Arena(256 * MIB)
    kept = [arena.lease(class_bytes(number)) for number in range(class_of(4 * MIB))]
    arena.lease(128 * MIB).release()
    for lease in kept:
        lease.release()


def test_room_is_made_from_the_segments_unused_for_longest() -> None:
    clock = Clock()
    arena = Arena(MIB, clock=clock)
    old, young = arena.lease(512 * KIB), arena.lease(448 * KIB)
    kept = {lease.capacity: lease.name.segment for lease in (old, young)}
    old.release()
    clock.now += 1
    young.release()
    arena.lease(640 * KIB).release()
    with pytest.raises(KeyError):
        arena.segment(kept[512 * KIB])
    assert arena.segment(kept[448 * KIB]).size == 448 * KIB


def test_memory_that_the_system_does_not_give_is_a_full_arena(caplog: pytest.LogCaptureFixture) -> None:
    allocator = CountingAllocator()
    arena = Arena(8 * MIB, allocator=allocator)
    large = arena.lease(100_000)
    large.release()
    allocator.refuses = True
    with caplog.at_level(logging.WARNING), pytest.raises(ArenaFull):
        arena.lease(1_000_000)
    assert [record.message for record in caplog.records] == ["segment_not_mapped"]
    assert arena.lease(10_000).capacity == large.capacity  # a larger slot serves
    assert arena.leases == 1


def test_trim_unmaps_segments_that_have_been_unused_long_enough() -> None:
    clock, allocator = Clock(), CountingAllocator()
    arena = Arena(8 * MIB, allocator=allocator, clock=clock)
    used, idle, recent = arena.lease(100_000), arena.lease(200_000), arena.lease(300_000)
    idle.release()
    clock.now += 30
    recent.release()
    clock.now += 29.5
    assert arena.trim(60.0) == 0
    clock.now += 0.5
    assert arena.trim(60.0) == idle.capacity
    assert arena.trim(30.0) == recent.capacity
    assert allocator.mapped == arena.mapped_bytes == arena.segment(used.name.segment).size
    used.view[:] = bytes(100_000)
    arena.lease(200_000).release()


def test_trim_unmaps_no_more_at_once_than_it_is_told_but_one_segment() -> None:
    clock = Clock()
    arena = Arena(64 * MIB, segment_bytes=MIB, clock=clock)
    leases = fill(arena, MIB)
    for lease in leases:
        lease.release()
    clock.now += 60
    assert arena.trim(60.0, 3 * MIB) == 3 * MIB
    assert arena.trim(60.0, 1) == MIB
    while arena.trim(60.0, 3 * MIB):
        pass
    assert arena.mapped_bytes == 0


def test_an_array_that_outlives_its_lease_keeps_its_segment_and_only_that() -> None:
    allocator = CountingAllocator()
    arena = Arena(8 * MIB, allocator=allocator)
    locker = PageLock()
    arena.watch(locker)
    lease, other = arena.lease(200_000), arena.lease(300_000)
    array = np.frombuffer(lease.view, np.uint8)
    lease.release()
    other.release()
    assert arena.trim(0.0) == other.capacity
    assert list(locker.locked.values()) == [arena.mapped_bytes] == [lease.capacity]
    assert int(array.sum()) == 0
    again = arena.lease(200_000)  # the segment goes on serving
    assert address_of(again.view) == array.ctypes.data
    again.release()
    del array
    assert arena.trim(0.0) == lease.capacity
    assert allocator.mapped == 0


def test_a_closed_arena_leases_nothing_and_unmaps_everything() -> None:
    allocator = CountingAllocator()
    arena = Arena(8 * MIB, allocator=allocator)
    locker = PageLock()
    arena.watch(locker)
    for size in (1, 10_000, 1_000_000):
        arena.lease(size).release()
    arena.close()
    arena.close()
    assert allocator.mapped == arena.mapped_bytes == 0
    assert locker.locked == {}
    assert arena.bytes_by_state() == {**EMPTY, "free": 0}
    with pytest.raises(RuntimeError, match="closed"):
        arena.lease(1)
    assert held(arena) == EMPTY


def test_leases_survive_close_and_take_their_segments_with_them() -> None:
    allocator = CountingAllocator()
    arena = Arena(8 * MIB, allocator=allocator)
    first, second = arena.lease(10_000), arena.lease(10_000)
    assert first.name.segment == second.name.segment
    first.view[:4] = b"kept"
    arena.close()
    second.release()
    with pytest.raises(RuntimeError, match="closed"):
        arena.lease(10_000)
    assert bytes(arena.view(first.name)[:4]) == b"kept"
    first.queued()
    first.release()
    assert allocator.mapped == arena.mapped_bytes == arena.leases == 0


def test_an_array_survives_the_arena() -> None:
    arena = Arena(8 * MIB)
    lease = arena.lease(1_000_000)
    array = np.frombuffer(lease.view, np.uint8)
    array[:] = 9
    lease.release()
    arena.close()
    del arena, lease
    assert int(array.sum()) == 9_000_000


def test_a_page_lock_sees_every_segment_once_until_it_goes_or_leaves(arena: Arena) -> None:
    early = arena.lease(10_000)
    locker = PageLock()
    arena.watch(locker)
    assert locker.seen == [early.name.segment]
    late = arena.lease(1_000_000)
    arena.lease(10_000).release()
    assert sorted(locker.seen) == sorted({early.name.segment, late.name.segment})
    assert sum(locker.locked.values()) == arena.mapped_bytes
    with pytest.raises(ValueError, match="already"):
        arena.watch(locker)
    late.release()
    arena.trim(0.0)
    assert list(locker.locked) == [arena.segment(early.name.segment).address]
    arena.unwatch(locker)
    assert locker.locked == {}
    arena.unwatch(locker)
    arena.lease(2_000_000).release()
    assert locker.locked == {}


def test_the_memory_outlives_a_page_lock_that_leaves_during_leases(arena: Arena) -> None:
    locker, next_one = PageLock(), PageLock()
    arena.watch(locker)
    lease = arena.lease(10_000)
    lease.view[:] = b"\x07" * 10_000
    arena.unwatch(locker)
    assert int(np.frombuffer(lease.view, np.uint8).sum()) == 70_000
    arena.watch(next_one)
    assert next_one.seen == locker.seen
    lease.queued()
    lease.staged()
    lease.release()


def test_a_listener_that_fails_is_logged_and_the_segment_serves_all_the_same(
    arena: Arena, caplog: pytest.LogCaptureFixture
) -> None:
    broken, failing, sound = BrokenLock(), Failing(), PageLock()
    for listener in (broken, failing, sound):
        arena.watch(listener)
    with caplog.at_level(logging.ERROR):
        lease = arena.lease(10_000)
        lease.view[:] = bytes(10_000)
        assert len(sound.locked) == 1
        lease.release()
        arena.unwatch(broken)  # was never shown the segment
        arena.trim(0.0)
    assert [record.message for record in caplog.records] == ["segment_listener_failed"] * 2
    assert sound.locked == {}
    assert arena.mapped_bytes == 0


def test_use_after_free_shows_as_poison(arena: Arena) -> None:
    lease = arena.lease(10_000)
    lease.view[:] = bytes(10_000)
    stale = lease.view
    lease.release()
    assert set(stale) == {0xDD}
    with pytest.raises(IndexError):
        lease.view[0]


def test_a_lease_says_where_it_lies_and_how_it_stands(arena: Arena) -> None:
    assert repr(arena.lease(9)) == "<Lease SlotName(segment=0, offset=0, length=9, generation=1) RECEIVING>"


class Traffic(RuleBasedStateMachine):
    """Leases in any order and size; a pattern in each; a model of the books beside."""

    LIMIT: ClassVar[int] = MIB
    leases: Bundle[Lease] = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.allocator = CountingAllocator()
        self.clock = Clock()
        self.locker = PageLock()
        self.arena = Arena(self.LIMIT, peer_share=0.5, allocator=self.allocator, poison=True, clock=self.clock)
        self.arena.watch(self.locker)
        self.owners: dict[Lease, int] = {}
        self.counted: dict[Lease, tuple[int, str]] = {}
        self.patterns: dict[Lease, bytes] = {}
        self.written = 0

    def held(self, peer: str | None = None) -> int:
        receiving = State.RECEIVING
        return sum(
            size
            for lease, (size, whose) in self.counted.items()
            if peer is None or (whose == peer and lease.state is receiving)
        )

    @rule(
        target=leases,
        size=st.one_of(st.integers(0, 20 * KIB), st.integers(0, 300 * KIB), st.sampled_from([4096, 65536, MIB])),
        peer=st.sampled_from(["", "a", "b"]),
        align_at=st.integers(0, 500),
    )
    def lease(self, size: int, peer: str, align_at: int) -> Lease | MultipleResults[Lease]:
        counted = max(size, 4096)
        fits = self.held() + counted <= self.LIMIT and (not peer or self.held(peer) + counted <= self.LIMIT // 2)
        try:
            lease = self.arena.lease(size, peer, align_at)
        except ArenaFull as full:
            scattered = "segments of request memory" in str(full)
            event("scattered" if scattered else "over a limit")
            if fits and not scattered:
                raise
            return multiple()
        assert fits
        self.written += 1
        pattern = self.written.to_bytes(4, "little")
        lease.view[:] = (pattern * (size // 4 + 1))[:size]
        if size > align_at:
            assert address_of(lease.view[align_at:]) % 64 == 0
        self.patterns[lease] = pattern
        self.owners[lease] = 1
        self.counted[lease] = counted, peer
        return lease

    @rule(lease=leases)
    def move_on(self, lease: Lease) -> None:
        step = {State.RECEIVING: lease.queued, State.QUEUED: lease.staged}.get(lease.state)
        if step is not None:
            step()
        else:
            with pytest.raises(RuntimeError):
                lease.staged()

    @rule(lease=leases)
    def hold(self, lease: Lease) -> None:
        if lease in self.owners:
            lease.hold()
            self.owners[lease] += 1

    @rule(lease=leases, share=st.floats(0, 1))
    def narrow(self, lease: Lease, share: float) -> None:
        if lease in self.owners:
            lease.narrow(int(lease.size * share))

    @rule(lease=consumes(leases))
    def release_all(self, lease: Lease) -> None:
        while lease in self.owners:
            self.release(lease)

    @rule(lease=leases)
    def release_one(self, lease: Lease) -> None:
        self.release(lease)

    def release(self, lease: Lease) -> None:
        if lease not in self.owners:
            with pytest.raises(RuntimeError):
                lease.release()
            return
        self.check_pattern(lease)
        name = lease.name
        lease.release()
        self.owners[lease] -= 1
        if not self.owners[lease]:
            del self.owners[lease], self.counted[lease], self.patterns[lease]
            with pytest.raises(KeyError):
                self.arena.find(name)

    @rule(seconds=st.integers(0, 20))
    def wait_and_trim(self, seconds: int) -> None:
        self.clock.now += seconds
        before = self.allocator.mapped
        assert self.arena.trim(10.0) == before - self.allocator.mapped

    @rule()
    def change_engine(self) -> None:
        self.arena.unwatch(self.locker)
        assert self.locker.locked == {}
        self.locker = PageLock()
        self.arena.watch(self.locker)

    def check_pattern(self, lease: Lease) -> None:
        repeated = self.patterns[lease] * (lease.size // 4 + 1)
        assert lease.view == repeated[: lease.size]

    @invariant()
    def the_books_balance(self) -> None:
        by_state = dict.fromkeys(State, 0)
        for lease, (size, _) in self.counted.items():
            by_state[lease.state] += size
        counted = self.arena.bytes_by_state()
        free = counted.pop("free")
        assert counted == {state.name.lower(): by_state[state] for state in list(State)[:3]}
        assert self.arena.leases == len(self.owners)
        assert free == self.allocator.mapped - sum(lease.capacity for lease in self.owners)
        assert self.allocator.mapped == self.arena.mapped_bytes == sum(self.locker.locked.values())
        assert self.allocator.mapped <= self.arena.bound_bytes
        assert self.arena._peers == {peer: self.held(peer) for peer in ("a", "b") if self.held(peer)}

    @invariant()
    def no_two_leases_overlap(self) -> None:
        names = sorted(lease.name for lease in self.owners)
        for name, following in itertools.pairwise(names):
            assert name.segment != following.segment or name.offset + name.length <= following.offset
        for lease in self.owners:
            assert self.arena.find(lease.name) is lease

    def teardown(self) -> None:
        for lease in list(self.owners):
            self.check_pattern(lease)
            while lease in self.owners:
                self.release(lease)
        assert held(self.arena) == EMPTY
        assert self.arena.leases == 0
        self.arena.lease(self.LIMIT).release()
        self.arena.close()
        assert self.allocator.mapped == 0
        assert self.locker.locked == {}


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
