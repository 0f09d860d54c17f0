"""CUDA without a GPU: a layer that computes on the CPU, late and in any legal order, and is watched for races.

What a stream is given is done when somebody waits for it, or at some random moment before; between streams the order
is random. So a missing wait gives wrong numbers with some seed, and a hazard with every seed (``hazards.py``).
Device memory has addresses of its own, so that nobody reads it from the host by mistake. What is to be done holds the
memory it is done in: an engine that frees too early, as the planted bugs do, is reported and corrupts nothing.
"""

from __future__ import annotations

import ctypes
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hazards import Checker, me
from saccade_predictor.engines.cuda import DeviceBroken, DeviceError, DeviceOutOfMemory, NoGpu

_FIRST_ADDRESS = 0x7000_0000_0000
TOTAL = 1 << 30


class Mark:
    """What one ``record`` marks: done or not, and what the stream knew."""

    def __init__(self, known: dict[Any, int]) -> None:
        self.known = known
        self.is_done = False


class FakeCuda:
    """One or more devices.

    Args:
        seed: of the order in which things are done.
        devices: how many.
    """

    def __init__(self, seed: int = 0, devices: int = 1) -> None:
        self.checker = Checker()
        self.registered: dict[int, int] = {}  # host address -> size, for all devices
        self.devices = [FakeDevice(self, index, seed) for index in range(devices)]

    def count(self) -> int:
        return len(self.devices)

    def device(self, index: int) -> FakeDevice:
        if index >= len(self.devices):
            raise NoGpu(f"there is no GPU {index}")
        return self.devices[index]

    def locked(self, address: int, size: int) -> bool:
        """Whether host memory is page-locked, so that a copy reads it later."""
        return any(begin <= address and address + size <= begin + of for begin, of in self.registered.items())


class FakeDevice:
    """See ``Device``.

    Attributes:
        fails: names of calls that fail from now on, with the exception each raises.
        held: while set, nothing is done on the device: whoever waits hangs.
        stalled: kinds of work that are not done, for example ``execute``.
        limit: bytes that can be allocated.
    """

    can_capture = True
    name = "Fake GPU"
    compute_capability = (9, 0)

    def __init__(self, cuda: FakeCuda, index: int, seed: int) -> None:
        self.cuda = cuda
        self.checker = cuda.checker
        self.index = index
        self.broken = ""
        self.fails: dict[str, Callable[[], Exception | None]] = {}
        self.held = threading.Event()
        self.stalled: set[str] = set()
        self.limit = TOTAL
        self.used = 0
        self.calls: list[tuple[str, int]] = []  # copies: name, bytes
        self.lock = threading.RLock()
        self.random = random.Random(seed * 31 + index)
        self.streams: list[FakeStream] = []
        self.memory_at: dict[int, NDArray[np.uint8]] = {}
        self.pinned_at: dict[int, FakePinned] = {}
        self._next = _FIRST_ADDRESS + (index << 36)
        self._depth = threading.local()

    # The layer's

    @contextmanager
    def current(self) -> Iterator[None]:
        self.check()
        self._depth.n = getattr(self._depth, "n", 0) + 1
        try:
            yield
        finally:
            self._depth.n -= 1

    def check(self) -> None:
        if self.broken:
            raise DeviceBroken(self.broken)

    def stream(self) -> FakeStream:
        self.enter("stream")
        with self.lock:
            stream = FakeStream(self, len(self.streams) + 1)
            self.streams.append(stream)
        return stream

    def event(self) -> FakeEvent:
        self.enter("event")
        return FakeEvent(self)

    def allocate(self, size: int) -> FakeMemory:
        self.enter("allocate")
        with self.lock:
            if self.used + size > self.limit:
                raise DeviceOutOfMemory(size, self.limit - self.used, self.limit)
            self.used += size
            address, self._next = self._next, self._next + -(-size // 256) * 256 + 256
            self.memory_at[address] = np.full(size, 0xAB, np.uint8)
            self.checker.made(address, size)
        return FakeMemory(self, address, size)

    def pinned(self, size: int) -> FakePinned:
        self.enter("pinned")
        with self.lock:
            block = FakePinned(self, size)
            self.pinned_at[block.address] = block
            self.checker.made(block.address, size)
        return block

    def register(self, address: int, size: int) -> None:
        with self.current():
            self.enter("register")
        with self.lock:
            known = self.cuda.registered.items()
            assert all(address + size <= begin or begin + of <= address for begin, of in known), "registered twice"
            self.cuda.registered[address] = size
            self.checker.made(address, size, written=True)

    def unregister(self, address: int) -> None:
        with self.current():
            self.enter("unregister")
        with self.lock:
            size = self.cuda.registered.pop(address)
            self.pending_on(address, size, "unregister")

    def memory(self) -> tuple[int, int]:
        return self.limit - self.used, self.limit

    # The fake's own

    @property
    def is_current(self) -> bool:
        """Whether it is the calling thread's."""
        return bool(getattr(self._depth, "n", 0))

    def enter(self, call: str) -> None:
        """At the beginning of every call: planted failures, and perhaps some progress of the device."""
        assert self.is_current, f"{call} without a current device"
        if call in self.fails:
            error = self.fails[call]()
            if error is not None:
                if isinstance(error, DeviceBroken):
                    self.broken = self.broken or "planted"
                try:
                    raise error
                finally:
                    del error  # no cycle of exception and frame, which would keep what the test looks for
        self.check()
        with self.lock:
            steps = self.random.choice((0, 0, 0, 1, 3))
            for _ in range(steps):
                if not self.progress():
                    break
        if self.random.random() < 0.05:
            time.sleep(0)  # let another thread be next

    def progress(self) -> bool:
        """Do one thing that may be done next; returns whether there was one. With the lock held."""
        if self.held.is_set():
            return False
        ready = [s for s in self.streams if s.work and s.is_ready() and s.work[0][0] not in self.stalled]
        if not ready:
            return False
        self.random.choice(ready).do_next()
        return True

    def find(self, address: int) -> tuple[NDArray[np.uint8], int]:
        """Memory of the device, and how far into it an address points."""
        for begin, memory in self.memory_at.items():
            if begin <= address < begin + len(memory):
                return memory, address - begin
        raise AssertionError(f"{address:#x} is no memory of the device")

    def pending_on(self, begin: int, size: int, what: str) -> None:
        """Somebody takes memory away that something in flight may use: a hazard."""
        self.checker.access(me(), begin, size, True, what)


class FakeMemory:
    """See ``Buffer``."""

    def __init__(self, device: FakeDevice, address: int, size: int) -> None:
        self._device = device
        self.address = address
        self.size = size
        self._is_free = False

    def free(self) -> None:
        if self._is_free:
            return
        self._is_free = True
        device = self._device
        with device.lock:
            device.pending_on(self.address, self.size, "free")
            del device.memory_at[self.address]
            device.used -= self.size


class FakePinned:
    """See ``HostBuffer``."""

    def __init__(self, device: FakeDevice, size: int) -> None:
        self._device = device
        self.size = size
        self.array = np.full(size, 0xCD, np.uint8)
        self.address = int(self.array.ctypes.data)

    def free(self) -> None:
        device = self._device
        with device.lock:
            if device.pinned_at.pop(self.address, None) is not None:
                device.pending_on(self.address, self.size, "free of page-locked memory")


class FakeEvent:
    """See ``Event``."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.mark: Mark | None = None

    def record(self, stream: FakeStream) -> None:
        self._device.enter("record")
        with self._device.lock:
            mark = self.mark = Mark(stream.given())
            stream.work.append(("record", None, lambda: setattr(mark, "is_done", True)))

    def wait(self) -> None:
        device = self._device
        device.enter("wait")
        mark = self.mark
        while mark is not None and not mark.is_done:
            with device.lock:
                moved = device.progress()
                waits = device.held.is_set() or bool(device.stalled)
                if not moved and not waits and not mark.is_done:
                    raise AssertionError("deadlock: an event is waited for that nothing will record")
            if not moved:
                time.sleep(0.001)
            device.check()
        if mark is not None:
            device.checker.learn(me(), mark.known)

    def close(self) -> None:
        if self.mark is not None and not self.mark.is_done:
            self._device.checker.report("an event is closed that is not done")


Work = tuple[str, Mark | None, Callable[[], None]]


class FakeStream:
    """See ``Stream``."""

    def __init__(self, device: FakeDevice, number: int) -> None:
        self.device = device
        self.handle = 1000 * (device.index + 1) + number
        self.actor = f"stream {self.handle}"
        self.work: deque[Work] = deque()
        self._recording: list[Callable[[], None]] | None = None

    def copy_in(self, target: int, source: int, size: int, staged: bool = False) -> None:
        device = self.device
        device.enter("copy_in")
        assert size > 0
        with device.lock:
            device.calls.append(("copy_in", size))
            self.given()
            memory, at = device.find(target)
            assert at + size <= len(memory), "a copy beyond the buffer"
            device.checker.access(self.actor, target, size, True, "copy_in")
            if device.cuda.locked(source, size):
                device.checker.access(self.actor, source, size, False, "copy_in")
                self.work.append(("copy_in", None, partial(self._read_host, memory[at : at + size], source)))
            else:  # it is read at once, which takes time
                assert staged, "a copy holds the interpreter while the driver copies memory that is not page-locked"
                read = np.frombuffer(ctypes.string_at(source, size), np.uint8)
                self.work.append(("copy_in", None, partial(np.copyto, memory[at : at + size], read)))

    def copy_out(self, target: int, source: int, size: int) -> None:
        device = self.device
        device.enter("copy_out")
        with device.lock:
            device.calls.append(("copy_out", size))
            self.given()
            memory, at = device.find(source)
            block = next(b for b in device.pinned_at.values() if b.address <= target < b.address + b.size)
            begin = target - block.address
            assert begin + size <= block.size, "a copy beyond the block"
            device.checker.access(self.actor, source, size, False, "copy_out")
            device.checker.access(self.actor, target, size, True, "copy_out")
            copy = partial(np.copyto, block.array[begin : begin + size], memory[at : at + size])
            self.work.append(("copy_out", None, copy))

    def wait(self, event: FakeEvent) -> None:
        self.device.enter("stream_wait")
        with self.device.lock:
            if event.mark is not None:
                self.device.checker.learn(self.actor, event.mark.known)
                self.work.append(("wait", event.mark, lambda: None))

    def capture(self, work: Callable[[], None]) -> FakeGraph:
        self.device.enter("capture")
        self._recording = []
        try:
            work()
            return FakeGraph(self.device, self._recording)
        finally:
            self._recording = None

    def close(self) -> None:
        if self.work:
            self.device.checker.report(f"{self.actor} is closed with work to do")

    # The fake's own

    @property
    def is_recording(self) -> bool:
        """Whether a graph is being recorded."""
        return self._recording is not None

    def launch(self, work: Callable[[], None]) -> None:
        """Give it what TensorRT has it do: accesses now, the doing later. Recorded instead while capturing."""
        if self._recording is not None:
            self._recording.append(work)
        else:
            work()

    def given(self) -> dict[Any, int]:
        """Something is given: the stream knows what the giver knows, and what it was given before."""
        checker = self.device.checker
        checker.learn(self.actor, checker.step(me()))
        return checker.step(self.actor)

    def _read_host(self, target: NDArray[np.uint8], source: int) -> None:
        """A late read of page-locked memory; what is no longer page-locked may be gone, and is not touched."""
        size = len(target)
        if self.device.cuda.locked(source, size):
            target[:] = np.frombuffer(ctypes.string_at(source, size), np.uint8)
        else:
            self.device.checker.report(f"{self.actor}: copy_in reads memory that is no longer page-locked")

    def is_ready(self) -> bool:
        mark = self.work[0][1]
        return mark is None or mark.is_done

    def do_next(self) -> None:
        self.work.popleft()[2]()


class FakeGraph:
    """See ``Graph``."""

    def __init__(self, device: FakeDevice, work: list[Callable[[], None]]) -> None:
        self._device = device
        self._work = work
        self.launches = 0

    def launch(self, stream: FakeStream) -> None:
        self._device.enter("graph_launch")
        self.launches += 1
        for work in self._work:
            work()

    def close(self) -> None:
        self._work = []


def fails_once(error: Exception) -> Callable[[], Exception | None]:
    """For ``FakeDevice.fails``: the next call fails, later ones do not."""
    left = [error]
    return lambda: left.pop() if left else None


__all__ = ["DeviceBroken", "DeviceError", "DeviceOutOfMemory", "FakeCuda", "FakeDevice", "fails_once"]
