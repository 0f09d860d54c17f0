"""Where the arena's memory comes from: one call maps a region, one call gives it back.

It does not divide regions, count them or keep them warm (``segments.py`` does), and it page-locks nothing: a CUDA
engine does that, by address. Pages cost nothing until they are touched, wherever they come from.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Protocol

#: What regions and slots are aligned to and measured in, bytes.
PAGE_BYTES = mmap.PAGESIZE


class Mapping(Protocol):
    """One mapped region."""

    @property
    def view(self) -> memoryview:
        """The whole region, writable, format ``B``."""
        ...

    @property
    def address(self) -> int:
        """Address of its first byte, a multiple of the page size."""
        ...

    def exported(self) -> bool:
        """Whether slices of ``view`` or arrays point into the region. May replace ``view`` by a new one."""
        ...

    def close(self) -> None:
        """Unmap the region.

        Raises:
            BufferError: something points into it. It is unmapped when the last of that is gone.
        """
        ...


class Allocator(Protocol):
    """Maps regions."""

    def map(self, size: int) -> Mapping:
        """Map a fresh region of zeros.

        Args:
            size: bytes, at least 1; rounded up to whole pages.

        Raises:
            MemoryError: the system gives no more memory, address space or file descriptors.
        """
        ...


class MappedRegion:
    """A region held by Python's own ``mmap`` object, which refuses to go while anything points into it."""

    __slots__ = ("_mmap", "address", "fd", "view")

    def __init__(self, region: mmap.mmap, fd: int = -1) -> None:
        self._mmap = region
        #: The memfd behind a shared region, for a process that is to map it too; -1 for a private region.
        self.fd = fd
        self.view = memoryview(region)
        # The temporary that pins the buffer is gone with this line.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(region))

    def exported(self) -> bool:
        """Whether anything else points into the region; see :class:`Mapping`."""
        try:
            self.view.release()
        except BufferError:
            return True
        # The slices of a view hold one more reference, together. Two are ours: the attribute and this call's argument.
        exported = sys.getrefcount(self._mmap) > 2
        self.view = memoryview(self._mmap)
        return exported

    def close(self) -> None:
        """Unmap the region; see :class:`Mapping`. Closing twice does nothing."""
        self._close_fd()
        self.view.release()
        self._mmap.close()

    def __del__(self) -> None:
        # The memory goes by itself with the last thing that points into it; a descriptor is only a number.
        self._close_fd()

    def _close_fd(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class SharedMemoryAllocator:
    """Anonymous shared memory (Linux ``memfd_create``), which another process can map from its descriptor.

    Each region takes two descriptors: its own and the copy that Python's ``mmap`` keeps.
    """

    def map(self, size: int) -> MappedRegion:
        """Map a fresh shared region; see :class:`Allocator`."""
        size = in_pages(size)
        try:
            fd = os.memfd_create("saccade-arena")
        except OSError as error:
            raise MemoryError(f"no memory file of {size} bytes: {error.strerror}") from error
        try:
            os.ftruncate(fd, size)
            return MappedRegion(mmap.mmap(fd, size, flags=mmap.MAP_SHARED), fd)
        except OSError as error:
            os.close(fd)
            raise MemoryError(f"{size} bytes of shared memory cannot be mapped: {error.strerror}") from error


class PrivateAllocator:
    """Anonymous memory of this process alone, for systems without ``memfd_create``."""

    def map(self, size: int) -> MappedRegion:
        """Map a fresh private region; see :class:`Allocator`."""
        size = in_pages(size)
        try:
            return MappedRegion(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except OSError as error:
            raise MemoryError(f"{size} bytes of memory cannot be mapped: {error.strerror}") from error


def default_allocator() -> Allocator:
    """Shared memory where the system grants it (tried with one page), private memory elsewhere."""
    if not hasattr(os, "memfd_create"):
        return PrivateAllocator()
    shared = SharedMemoryAllocator()
    try:
        shared.map(1).close()
    except MemoryError:  # a sandbox may forbid the call
        return PrivateAllocator()
    return shared


def in_pages(size: int) -> int:
    """Bytes of the whole pages that hold ``size`` bytes, at least one page."""
    return max(1, -(-size // PAGE_BYTES)) * PAGE_BYTES
