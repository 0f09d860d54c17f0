"""Page-locks the arena's segments while CUDA engines read from them, so that copies need no staging.

One for all engines of the process, since a range can be registered only once: the first engine that is used registers
what is mapped, the last one that is closed gives it back. Registering a segment takes milliseconds, so that a thread
does it: until then, and if it cannot be registered, a segment serves all the same; the driver copies it through memory
of its own.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable

from saccade_predictor.engines.cuda import Device
from saccade_serving.memory.arena import Arena, Segment

log = logging.getLogger("saccade.pagelocks")


def start_thread(work: Callable[[], None]) -> None:
    """Run a function in a thread of its own; a daemon, since a driver that hangs must not keep the process."""
    threading.Thread(target=work, name="page-locks", daemon=True).start()


class PageLocks:
    """See the module. Its methods but ``together`` belong to the event loop's thread, as the arena's do.

    Args:
        arena: whose segments.
        device: does it, for all devices.
        start: runs what registers, off the event loop.
    """

    def __init__(
        self, arena: Arena, device: Device, start: Callable[[Callable[[], None]], None] = start_thread
    ) -> None:
        self._arena = arena
        self._device = device
        self._start = start
        self._holders = 0
        self._changed = threading.Condition()  # guards what follows; never held while the driver is asked
        self._waiting: dict[int, int] = {}  # sizes of segments to be registered, by where they begin
        self._works = False  # something registers them
        self._present = 0  # where the segment begins that is being registered; 0: none is
        self._ends: dict[int, int] = {}  # of registered segments, by where they begin
        self._table: tuple[list[int], list[int]] = ([], [])  # the same, ascending; replaced, never changed

    @property
    def locked_bytes(self) -> int:
        """All that is page-locked."""
        begins, ends = self._table
        return sum(ends) - sum(begins)

    def hold(self) -> None:
        """An engine begins to read from the arena."""
        self._holders += 1
        if self._holders == 1:
            self._arena.watch(self)

    def release(self) -> None:
        """An engine will read no more, and nothing of its is in flight."""
        self._holders -= 1
        if not self._holders:
            self._arena.unwatch(self)

    def mapped(self, segment: Segment) -> None:
        """See ``SegmentListener``. The segment is registered soon."""
        with self._changed:
            self._waiting[segment.address] = segment.size
            starts, self._works = not self._works, True
        if starts:
            self._start(self._register)

    def unmapped(self, segment: Segment) -> None:
        """See ``SegmentListener``. Nothing in flight reads it: it has no lease, or no engine is left."""
        with self._changed:
            self._waiting.pop(segment.address, None)
            self._changed.wait_for(lambda: self._present != segment.address)
            if self._ends.pop(segment.address, None) is None:
                return
            self._tabulate()
        self._device.unregister(segment.address)

    def together(self, first: int, second: int) -> bool:
        """Whether two addresses lie in the same registered segment, so that one copy may span them. Any thread's."""
        begins, ends = self._table
        at = bisect_right(begins, first) - 1
        return at >= 0 and begins[at] <= second < ends[at] and first < ends[at]

    def _register(self) -> None:
        """Register what waits, one segment after the other, until nothing does."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._works = False
                    return
                address = next(iter(self._waiting))
                size = self._waiting.pop(address)
                self._present = address
            locked = False
            try:
                self._device.register(address, size)
                locked = True
            except Exception:
                log.exception("segment_not_page_locked", extra={"bytes": size})
            finally:
                with self._changed:
                    self._present = 0
                    if locked:
                        self._ends[address] = address + size
                        self._tabulate()
                    self._changed.notify_all()

    def _tabulate(self) -> None:
        begins = sorted(self._ends)
        self._table = begins, [self._ends[begin] for begin in begins]
