"""Regions of memory: writable, page aligned, gone when nothing points into them, no descriptor left behind."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saccade_serving.memory.allocator import (
    PAGE_BYTES,
    MappedRegion,
    PrivateAllocator,
    SharedMemoryAllocator,
    default_allocator,
)

needs_memfd = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="skipped: needs memfd_create (Linux)")
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="skipped: needs /proc")
EACH = [pytest.param(SharedMemoryAllocator, marks=needs_memfd), PrivateAllocator]
each_allocator = pytest.mark.parametrize("kind", EACH)
Kind = Callable[[], SharedMemoryAllocator | PrivateAllocator]


def is_mapped(address: int) -> bool:
    # The system shows neighbouring private regions as one.
    ranges = (line.split(" ", 1)[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@each_allocator
@pytest.mark.parametrize(("asked", "given"), [(1, 1), (PAGE_BYTES, 1), (PAGE_BYTES + 1, 2)])
def test_a_region_is_whole_pages_of_zeros(kind: Kind, asked: int, given: int) -> None:
    region = kind().map(asked)
    assert (region.view.nbytes, region.view.format, region.view.readonly) == (given * PAGE_BYTES, "B", False)
    assert region.address % PAGE_BYTES == 0
    assert not np.frombuffer(region.view, np.uint8).any()
    region.close()


@each_allocator
def test_the_address_is_that_of_the_first_byte(kind: Kind) -> None:
    region = kind().map(1)
    array = np.frombuffer(region.view, np.uint8)
    assert array.ctypes.data == region.address
    del array
    region.close()


@needs_memfd
def test_a_shared_region_can_be_mapped_again_from_its_descriptor() -> None:
    region = SharedMemoryAllocator().map(PAGE_BYTES)
    region.view[:5] = b"hello"
    with mmap.mmap(region.fd, PAGE_BYTES) as other:
        assert other[:5] == b"hello"
        other[5:6] = b"!"
    assert bytes(region.view[:6]) == b"hello!"
    assert not os.get_inheritable(region.fd)
    region.close()


@needs_proc
@each_allocator
def test_a_closed_region_leaves_no_mapping_and_no_descriptor(kind: Kind) -> None:
    before = open_descriptors()
    region = kind().map(3 * PAGE_BYTES)
    assert is_mapped(region.address)
    region.close()
    region.close()
    assert not is_mapped(region.address)
    assert open_descriptors() == before


@needs_proc
@each_allocator
def test_a_region_that_an_array_points_into_goes_with_the_array(kind: Kind) -> None:
    before = open_descriptors()
    region = kind().map(PAGE_BYTES)
    array = np.frombuffer(region.view[16:32], np.uint8)
    address = region.address
    assert region.exported()
    with pytest.raises(BufferError):
        region.close()
    del region
    assert is_mapped(address)
    array[:] = 7
    del array
    assert not is_mapped(address)
    assert open_descriptors() == before


@each_allocator
def test_a_region_tells_whether_anything_points_into_it(kind: Kind) -> None:
    region = kind().map(PAGE_BYTES)
    assert not region.exported()
    part = region.view[:8]
    assert region.exported()
    deeper = part[2:4]
    del part
    assert region.exported()
    del deeper
    assert not region.exported()
    array = np.frombuffer(region.view, np.uint8)
    assert region.exported()
    del array
    assert not region.exported()
    region.view[0] = 1  # the view serves on
    region.close()


@needs_proc
@needs_memfd
def test_a_region_that_is_forgotten_leaves_no_descriptor() -> None:
    before = open_descriptors()
    SharedMemoryAllocator().map(1)
    assert open_descriptors() == before


@needs_proc
@each_allocator
def test_memory_that_the_system_does_not_give_is_a_memory_error(kind: Kind) -> None:
    before = open_descriptors()
    with pytest.raises(MemoryError, match="cannot be mapped"):
        kind().map(1 << 62)
    assert open_descriptors() == before


@needs_memfd
def test_a_system_that_forbids_memory_files_gets_private_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(default_allocator(), SharedMemoryAllocator)

    def forbid(name: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbid)
    with pytest.raises(MemoryError, match="not permitted"):
        SharedMemoryAllocator().map(1)
    assert isinstance(default_allocator(), PrivateAllocator)


def test_a_system_without_memory_files_gets_private_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    allocator = default_allocator()
    assert isinstance(allocator, PrivateAllocator)
    region = allocator.map(1)
    assert isinstance(region, MappedRegion)
    assert region.fd == -1
    region.close()
