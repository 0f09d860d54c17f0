"""A happens-before checker for work that hosts and devices do side by side: vector clocks, and who touched what when.

Actors are host threads and streams. What an actor does gets its clock; an edge (an event, a queue, a lock) lets one
actor know another's clock. Two accesses of the same memory, one of them a write, neither of which knows of the other,
are a hazard, whether or not the numbers came out right this time. Knows nothing of CUDA: ``cuda_fake.py`` feeds it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import pytest

Clock = dict[Hashable, int]


class HazardError(AssertionError):
    """Two accesses that nothing orders."""


@dataclass(frozen=True, slots=True)
class Access:
    """Somebody reads or writes a range of memory.

    Attributes:
        actor: who; ``at`` is its time.
        what: for messages, for example ``copy_in``.
    """

    actor: Hashable
    at: int
    begin: int
    end: int
    writes: bool
    what: str


class Checker:
    """Clocks of all actors, and the accesses that may still race. Thread-safe.

    Attributes:
        hazards: sentences, in the order found.
    """

    def __init__(self) -> None:
        self.hazards: list[str] = []
        self._clocks: dict[Hashable, Clock] = {}
        self._accesses: list[Access] = []
        self._unwritten: list[tuple[int, int]] = []  # ranges nobody has written yet
        self._lock = threading.RLock()

    # Who knows what

    def clock(self, actor: Hashable) -> Clock:
        """What an actor knows, itself included."""
        with self._lock:
            return dict(self._clocks.setdefault(actor, {actor: 1}))

    def step(self, actor: Hashable) -> Clock:
        """An actor does something; what it knows then."""
        with self._lock:
            clock = self._clocks.setdefault(actor, {actor: 0})
            clock[actor] = clock.get(actor, 0) + 1
            return dict(clock)

    def learn(self, actor: Hashable, known: Clock) -> None:
        """An edge: an actor knows from now on what another knew."""
        with self._lock:
            clock = self._clocks.setdefault(actor, {actor: 1})
            for other, at in known.items():
                if clock.get(other, 0) < at:
                    clock[other] = at

    # Who touches what

    def made(self, begin: int, size: int, written: bool = False) -> None:
        """Memory is there; until somebody writes it, reading it is a hazard."""
        with self._lock:
            self._accesses = [a for a in self._accesses if a.end <= begin or a.begin >= begin + size]
            if not written:
                self._unwritten.append((begin, begin + size))

    def access(self, actor: Hashable, begin: int, size: int, writes: bool, what: str) -> None:
        """An actor touches memory, at the present time of its clock."""
        end = begin + size
        with self._lock:
            known = self._clocks.setdefault(actor, {actor: 1})
            if writes:
                self._write(begin, end)
            elif any(low < end and begin < high for low, high in self._unwritten):
                self.hazards.append(f"{actor}: {what} reads memory that nobody has written")
            kept = []
            for other in self._accesses:
                if other.end <= begin or end <= other.begin:
                    kept.append(other)
                    continue
                ordered = other.at <= known.get(other.actor, 0)
                if (writes or other.writes) and not ordered:
                    self.hazards.append(
                        f"{actor}: {what} ({'write' if writes else 'read'}) races with {other.what} "
                        f"({'write' if other.writes else 'read'}) of {other.actor}"
                    )
                covered = begin <= other.begin and other.end <= end
                if not (writes and ordered and covered):  # whoever is ordered after this is ordered after that
                    kept.append(other)
            if not any(  # the same reader again says more than before
                other.actor == actor and other.writes == writes and other.begin == begin and other.end == end
                for other in kept
            ):
                kept.append(Access(actor, known[actor], begin, end, writes, what))
            else:
                kept = [
                    Access(actor, known[actor], begin, end, writes, what)
                    if other.actor == actor and other.writes == writes and (other.begin, other.end) == (begin, end)
                    else other
                    for other in kept
                ]
            self._accesses = kept

    def _write(self, begin: int, end: int) -> None:
        left = []
        for low, high in self._unwritten:
            if high <= begin or end <= low:
                left.append((low, high))
                continue
            left += [(a, b) for a, b in ((low, begin), (end, high)) if a < b]
        self._unwritten = left

    def report(self, sentence: str) -> None:
        """A hazard that is no race."""
        with self._lock:
            self.hazards.append(sentence)

    def check(self) -> None:
        """Raises HazardError if there was a hazard."""
        if self.hazards:
            raise HazardError("; ".join(dict.fromkeys(self.hazards)))


def me() -> Hashable:
    """The actor that the calling thread is."""
    return f"thread {threading.current_thread().name} {threading.get_ident()}"


class WatchedQueue:
    """A ``SimpleQueue`` whose items carry what their sender knew."""

    checker: Checker

    def __init__(self) -> None:
        import queue

        self._queue: queue.SimpleQueue[tuple[Clock, Any]] = queue.SimpleQueue()

    def put(self, item: Any) -> None:
        self._queue.put((self.checker.step(me()), item))

    def get(self) -> Any:
        known, item = self._queue.get()
        self.checker.learn(me(), known)
        return item


class WatchedLock:
    """A ``Lock`` whose holder knows what the one before knew."""

    checker: Checker

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Clock = {}

    def __enter__(self) -> bool:
        self._lock.acquire()
        self.checker.learn(me(), self._known)
        return True

    def __exit__(self, *_: object) -> None:
        self._known = self.checker.step(me())
        self._lock.release()


def watch_host(checker: Checker, patch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
    """Let the checker see how the engine's threads and the event loop tell each other."""
    from saccade_predictor.engines import outputblocks, planexecutor, planinstance

    queue = type("Queue", (WatchedQueue,), {"checker": checker})
    lock = type("Lock", (WatchedLock,), {"checker": checker})
    patch.setattr(planinstance, "SimpleQueue", queue)
    patch.setattr(planexecutor, "Lock", lock)
    patch.setattr(outputblocks, "Lock", lock)
    real = loop.call_soon_threadsafe

    def told(callback: Callable[..., Any], *args: Any, **more: Any) -> asyncio.Handle:
        known = checker.step(me())

        def call(*received: Any) -> None:
            checker.learn(me(), known)
            callback(*received)

        return real(call, *args, **more)

    patch.setattr(loop, "call_soon_threadsafe", told)
    real_join = threading.Thread.join

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        real_join(thread, timeout)
        if not thread.is_alive():
            checker.learn(me(), checker.clock(f"thread {thread.name} {thread.ident}"))

    patch.setattr(threading.Thread, "join", join)
