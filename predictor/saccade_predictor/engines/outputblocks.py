"""Page-locked memory that outputs come back into, lent to whoever sends them and used again afterwards."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import Final

from saccade_predictor.engines.cuda import Device, DeviceBroken, HostBuffer

#: Blocks of an instance that may be lent at a time. Readers slower than that get copies in memory of Python's.
MOST_LENT: Final = 8


class OutputBlocks:
    """The blocks of one instance. Taken by its threads, given back by the event loop's.

    Args:
        device: page-locks them.
        size: bytes of a new block; more where a batch needs more.
        most_lent: see ``MOST_LENT``.
    """

    def __init__(self, device: Device, size: int, most_lent: int = MOST_LENT) -> None:
        self._device = device
        self._size = max(1, size)
        self._most_lent = most_lent
        self._lock = Lock()
        self._free: list[HostBuffer] = []
        self._lent = 0
        self._closed = False
        self.bytes = 0  #: page-locked at the moment

    def take(self, size: int) -> HostBuffer:
        """A block of at least so many bytes; the caller's until ``give``.

        Raises:
            DeviceError: none could be made.
        """
        with self._lock:
            block = self._free.pop() if self._free else None
        if block is not None and block.size < size:
            self._drop(block)
            block = None
        if block is None:
            block = self._device.pinned(max(size, self._size))
            with self._lock:
                self.bytes += block.size
        return block

    def lend(self) -> bool:
        """Ask to let a reader have a block that was taken; where that is granted, ``give`` it back with ``lent``."""
        with self._lock:
            if self._lent >= self._most_lent:
                return False
            self._lent += 1
            return True

    def give(self, block: HostBuffer, lent: bool = False) -> None:
        """Have a block back, which nobody reads or writes any more."""
        with self._lock:
            self._lent -= lent
            if not self._closed:
                self._free.append(block)
                return
        with suppress(DeviceBroken), self._device.current():
            self._drop(block)

    def close(self) -> None:
        """Give back what is free; what is lent follows when it comes back."""
        with self._lock:
            self._closed = True
            blocks, self._free = self._free, []
        for block in blocks:
            self._drop(block)

    def _drop(self, block: HostBuffer) -> None:
        with self._lock:
            self.bytes -= block.size
        block.free()
