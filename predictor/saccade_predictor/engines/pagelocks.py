"""Page-locks the arena's segments while CUDA engines read from them, so that copies need no staging.

One for all engines of the process, since a range can be registered only once: the first engine that is used registers
what is mapped, the last one that is closed gives it back. A segment that cannot be registered serves all the same: the
driver copies it through memory of its own.
"""

from __future__ import annotations

from bisect import bisect_right

from saccade_predictor.engines.cuda import Device
from saccade_serving.memory.arena import Arena, Segment


class PageLocks:
    """See the module. Its methods but ``together`` belong to the event loop's thread, as the arena's do.

    Args:
        arena: whose segments.
        device: does it, for all devices.
    """

    def __init__(self, arena: Arena, device: Device) -> None:
        self._arena = arena
        self._device = device
        self._holders = 0
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
        """See ``SegmentListener``.

        Raises:
            DeviceError: it cannot be page-locked; the arena logs that.
        """
        self._device.register(segment.address, segment.size)
        self._ends[segment.address] = segment.address + segment.size
        self._tabulate()

    def unmapped(self, segment: Segment) -> None:
        """See ``SegmentListener``. Nothing in flight reads it: it has no lease, or no engine is left."""
        del self._ends[segment.address]
        self._tabulate()
        self._device.unregister(segment.address)

    def together(self, first: int, second: int) -> bool:
        """Whether two addresses lie in the same registered segment, so that one copy may span them. Any thread's."""
        begins, ends = self._table
        at = bisect_right(begins, first) - 1
        return at >= 0 and begins[at] <= second < ends[at] and first < ends[at]

    def _tabulate(self) -> None:
        begins = sorted(self._ends)
        self._table = begins, [self._ends[begin] for begin in begins]
