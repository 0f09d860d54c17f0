"""What engines need of CUDA: a small layer of Protocols and its errors. Imports nothing of CUDA.

``cuda_pycuda.py`` implements it on pycuda; the tests have an implementation that computes on the CPU and looks for
races. No call waits for the whole device, and none spins: a host thread waits for one event, asleep.

Whatever makes, uses or frees something of a device is done between ``with device.current():``, in any thread.
Completion, order and lifetime are the caller's matter: a buffer may be freed when nothing in flight uses it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from saccade_predictor.engines.engine import EngineBroken


class NoGpu(ValueError):
    """There is no GPU to run on, or not the one asked for. The sentence says why, for the operator."""


class DeviceError(RuntimeError):
    """A call failed; the device goes on, and other batches may succeed."""


class DeviceOutOfMemory(DeviceError):
    """The device has too little memory left.

    Args:
        wanted: bytes asked for; 0 where that is not known.
        free: bytes it has left.
        total: bytes it has.
    """

    def __init__(self, wanted: int, free: int, total: int) -> None:
        asked = f"{wanted} bytes" if wanted else "what was asked for"
        super().__init__(f"the GPU has no room for {asked}: {free} of its {total} bytes are free")


class DeviceBroken(EngineBroken):
    """A sticky error: every later call on this device fails in this process, and results cannot be trusted.

    Args:
        reason: the driver's words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the GPU answers nothing any more in this process: {reason}")


class Buffer(Protocol):
    """Memory of a device."""

    @property
    def address(self) -> int:
        """Of the first byte, on the device; a multiple of 256."""

    @property
    def size(self) -> int:
        """Bytes."""

    def free(self) -> None:
        """Give it back; a second time does nothing."""


class HostBuffer(Protocol):
    """Page-locked memory of the host."""

    @property
    def address(self) -> int:
        """Of the first byte, on the host."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def array(self) -> NDArray[Any]:
        """All of it as UINT8 [size]."""

    def free(self) -> None:
        """Give it back, and no array may point into it any more; a second time does nothing."""


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Any) -> None:
        """Mark what the stream has been given so far; an earlier mark is forgotten."""

    def wait(self) -> None:
        """Sleep until what was marked is done. Without a mark it is.

        Raises:
            DeviceBroken, DeviceError: what was done before has failed.
        """

    def close(self) -> None:
        """Give it back."""


class Graph(Protocol):
    """Work that was recorded once, to be given to a stream as one piece."""

    def launch(self, stream: Any) -> None:
        """Give it to a stream. Addresses and shapes are those of the recording."""

    def close(self) -> None:
        """Give it back."""


class Stream(Protocol):
    """Work that a device does in order. Every call returns at once."""

    @property
    def handle(self) -> int:
        """The driver's, for TensorRT."""

    def copy_in(self, target: int, source: int, size: int, staged: bool = False) -> None:
        """Copy from host to device.

        Args:
            target: address on the device.
            source: address on the host. From page-locked memory it is read later, and must stay until then; from other
                memory it is read before the call returns.
            size: bytes, at least 1, all within one buffer or one registered range.
            staged: the source may not be page-locked: the call takes as long as the driver's own copy of it, and other
                threads have the interpreter meanwhile.
        """

    def copy_out(self, target: int, source: int, size: int) -> None:
        """Copy from device to page-locked host memory, which must stay as it is until that is done."""

    def wait(self, event: Any) -> None:
        """Have what is given to the stream from now on wait for what an event marks now."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what a function gives to this stream instead of doing it (where ``Device.can_capture``).

        Raises:
            DeviceError: it cannot be recorded.
        """

    def close(self) -> None:
        """Give it back, when all it was given is done."""


class Device(Protocol):
    """One GPU, or one MIG instance, through its primary context, which it shares with other libraries."""

    @property
    def index(self) -> int:
        """Among those that CUDA_VISIBLE_DEVICES leaves visible."""

    @property
    def name(self) -> str:
        """The driver's, for example ``NVIDIA L4``."""

    @property
    def compute_capability(self) -> tuple[int, int]:
        """For example (8, 9)."""

    @property
    def broken(self) -> str:
        """The sticky error that was seen, in the driver's words; empty while there was none."""

    @property
    def can_capture(self) -> bool:
        """Whether streams can record graphs."""

    def current(self) -> AbstractContextManager[None]:
        """Make it the calling thread's; within one another, too.

        Raises:
            DeviceBroken: it is, so that nothing can be made or freed.
        """

    def check(self) -> None:
        """Ask whether it still works, after somebody else's error.

        Raises:
            DeviceBroken: it does not.
        """

    def stream(self) -> Stream:
        """A new stream, which does not wait for the default one."""

    def event(self) -> Event:
        """A new event."""

    def allocate(self, size: int) -> Buffer:
        """Memory of the device.

        Args:
            size: bytes, at least 1.

        Raises:
            DeviceOutOfMemory: it has not so much.
        """

    def pinned(self, size: int) -> HostBuffer:
        """Page-locked host memory of at least 1 byte.

        Raises:
            DeviceOutOfMemory: the host does not lock so much.
        """

    def register(self, address: int, size: int) -> None:
        """Page-lock host memory that is mapped already, for all devices of the process.

        Raises:
            DeviceError: it cannot be locked, for example for a limit of the system.
        """

    def unregister(self, address: int) -> None:
        """Undo that, before the memory is unmapped; nothing in flight may use it."""

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all, whoever uses them."""


class Cuda(Protocol):
    """The devices this process may use."""

    def count(self) -> int:
        """How many there are, 1 or more."""

    def device(self, index: int) -> Device:
        """One of them, the same object at every call.

        Raises:
            NoGpu: there is none of that index, or it cannot be used.
        """


def load_cuda() -> Cuda:
    """CUDA through pycuda.

    Raises:
        NoGpu: no pycuda, no driver or no device.
    """
    from saccade_predictor.engines.cuda_pycuda import PyCuda

    return PyCuda()
