"""The CUDA layer: contexts, streams and events are pycuda's, memory and copies are asked of the driver by ctypes.

By ctypes, since pycuda allocates and frees with the interpreter held, and a free waits until the device has done what
it was given; since it wants a buffer object for a copy, which takes longer than the call; since its own
``register_host_memory`` fails with arrays over foreign memory (https://github.com/inducer/pycuda/issues/459) and would
keep the arena's mapping alive; and since it records no graphs.

pycuda's rules kept here: a context is pushed once per use and popped, since a thread that ends with one pushed aborts
the process; streams, events and memory belong to the ``Context`` object that was current when they were made, so that
there is one such object per device, never released.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_predictor.engines.cuda import DeviceBroken, DeviceError, DeviceOutOfMemory, NoGpu

DRIVER: Final = "libcuda.so.1"
# cuda.h
_STREAM_NON_BLOCKING: Final = 1
_HOST_ALLOC_PORTABLE: Final = 1
_HOST_REGISTER_PORTABLE: Final = 1
_CAPTURE_THREAD_LOCAL: Final = 1

#: Errors after which a context answers nothing any more, in the words of ``cuGetErrorString``. Others are found by
#: asking again.
STICKY: Final = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "context is destroyed",
    "device-side assert triggered",
    "hardware stack error",
    "invalid program counter",
    "misaligned address",
    "operation not supported on global/shared address space",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "unspecified launch failure",
)


class PyCuda:
    """See ``Cuda``.

    Raises:
        NoGpu: pycuda, the driver or a device is missing.
    """

    def __init__(self) -> None:
        try:
            import pycuda.driver as drv
        except ImportError as error:  # also for want of libcuda.so.1
            raise NoGpu(f"pycuda cannot be imported: {error}") from None
        try:
            drv.init()
            self._count = int(drv.Device.count())
        except drv.Error as error:
            raise NoGpu(f"the NVIDIA driver gives no device: {error}") from None
        if not self._count:
            raise NoGpu("the NVIDIA driver sees no device")
        self._drv = drv
        self._driver = DriverLibrary()
        self._devices: dict[int, PyCudaDevice] = {}
        self._lock = threading.Lock()

    def count(self) -> int:
        """Devices that CUDA_VISIBLE_DEVICES leaves visible; by index or UUID, of GPUs or MIG instances."""
        return self._count

    def device(self, index: int) -> PyCudaDevice:
        """See ``Cuda``."""
        if not 0 <= index < self._count:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            because = f", as CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""
            raise NoGpu(f"there is no GPU {index}: the driver shows {self._count}{because}, counted from 0")
        with self._lock:
            if index not in self._devices:
                try:
                    self._devices[index] = PyCudaDevice(self._drv, self._driver, index)
                except self._drv.Error as error:  # its memory is taken, or it belongs to one process alone
                    raise NoGpu(f"GPU {index} cannot be used: {error}") from None
            return self._devices[index]


class DriverLibrary:
    """The driver's library.

    Attributes:
        free: its functions; other threads have the interpreter while they run.
        copy_in: ``cuMemcpyHtoDAsync``, with the interpreter held: from page-locked memory it only notes what is to be
            done, and having the interpreter back may take 5 ms.
        copy_in_staged: the same for other memory, which it copies before it returns; others have the interpreter.
        copy_out: ``cuMemcpyDtoHAsync`` to page-locked memory, with the interpreter held.
    """

    def __init__(self) -> None:
        address, device = ctypes.c_void_p, ctypes.c_uint64
        self.free = ctypes.CDLL(DRIVER)
        held = ctypes.PyDLL(DRIVER)
        self.copy_in, self.copy_in_staged = held.cuMemcpyHtoDAsync_v2, self.free.cuMemcpyHtoDAsync_v2
        self.copy_out = held.cuMemcpyDtoHAsync_v2
        self.copy_in.argtypes = self.copy_in_staged.argtypes = [device, address, ctypes.c_size_t, address]
        self.copy_out.argtypes = [address, device, ctypes.c_size_t, address]


class PyCudaDevice:
    """See ``Device``."""

    def __init__(self, drv: Any, driver: DriverLibrary, index: int) -> None:
        self.drv = drv
        self.driver = driver
        self.index = index
        self.broken = ""
        device = drv.Device(index)
        self.name = str(device.name())
        major, minor = device.compute_capability()
        self.compute_capability = int(major), int(minor)
        self.can_capture = all(hasattr(driver.free, name) for name in ("cuStreamBeginCapture_v2", "cuGraphLaunch"))
        self._context = device.retain_primary_context()
        self._flags = int(drv.event_flags.BLOCKING_SYNC) | int(drv.event_flags.DISABLE_TIMING)
        with self.current():
            self._probe = drv.Stream(_STREAM_NON_BLOCKING), drv.Event(self._flags)
        for kept in (self._context, *self._probe):  # at the end of the process no context is current to free them in
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    @contextmanager
    def current(self) -> Iterator[None]:
        """See ``Device``."""
        if self.broken:
            raise DeviceBroken(self.broken)  # before a context is pushed that perhaps cannot be popped
        try:
            self._context.push()
        except self.drv.Error as error:
            self.broken = self.broken or str(error)
            raise DeviceBroken(self.broken) from None
        try:
            yield
        finally:
            with suppress(self.drv.Error):  # of work done before, which is told by whoever waits for that
                self._context.pop()

    def check(self) -> None:
        """See ``Device``."""
        if not self.broken:
            try:
                self.drv.mem_get_info()
                stream, event = self._probe
                event.record(stream)
            except self.drv.Error as error:
                self.broken = str(error)
        if self.broken:
            raise DeviceBroken(self.broken)

    def failure(self, error: BaseException | str, wanted: int = 0) -> DeviceError | DeviceBroken:
        """The layer's error for one of pycuda's, or for the driver's words."""
        text = str(error)
        if any(words in text for words in STICKY):
            self.broken = self.broken or text
        try:
            self.check()
        except DeviceBroken as broken:
            return broken
        if "out of memory" in text:
            return DeviceOutOfMemory(wanted, *self.memory())
        return DeviceError(text)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver's library.

        Raises:
            DeviceError, DeviceBroken: it returned an error.
        """
        code = getattr(self.driver.free, name)(*arguments)
        if code:
            raise self.refusal(name, code) from None

    def refusal(self, name: str, code: int, wanted: int = 0) -> DeviceError | DeviceBroken:
        """The layer's error for what a function of the driver's library returned."""
        words = ctypes.c_char_p()
        self.driver.free.cuGetErrorString(ctypes.c_int(code), ctypes.byref(words))
        return self.failure(f"{name} failed: {(words.value or b'unknown').decode(errors='replace')}", wanted)

    def stream(self) -> PyCudaStream:
        """See ``Device``."""
        try:
            return PyCudaStream(self, self.drv.Stream(_STREAM_NON_BLOCKING))
        except self.drv.Error as error:
            raise self.failure(error) from None

    def event(self) -> PyCudaEvent:
        """See ``Device``; who waits for it sleeps."""
        try:
            return PyCudaEvent(self, self.drv.Event(self._flags))
        except self.drv.Error as error:
            raise self.failure(error) from None

    def allocate(self, size: int) -> DeviceMemory:
        """See ``Device``."""
        found = ctypes.c_uint64()
        if code := self.driver.free.cuMemAlloc_v2(ctypes.byref(found), ctypes.c_size_t(size)):
            raise self.refusal("cuMemAlloc", code, size)
        return DeviceMemory(self, found.value, size)

    def pinned(self, size: int) -> PinnedMemory:
        """See ``Device``; for all devices of the process."""
        found, flags = ctypes.c_void_p(), ctypes.c_uint(_HOST_ALLOC_PORTABLE)
        if code := self.driver.free.cuMemHostAlloc(ctypes.byref(found), ctypes.c_size_t(size), flags):
            raise self.refusal("cuMemHostAlloc", code, size)
        assert found.value is not None
        return PinnedMemory(self, found.value, size)

    def register(self, address: int, size: int) -> None:
        """See ``Device``."""
        with self.current():
            pointer, flags = ctypes.c_void_p(address), ctypes.c_uint(_HOST_REGISTER_PORTABLE)
            self.call("cuMemHostRegister_v2", pointer, ctypes.c_size_t(size), flags)

    def unregister(self, address: int) -> None:
        """See ``Device``."""
        with self.current():
            self.call("cuMemHostUnregister", ctypes.c_void_p(address))

    def memory(self) -> tuple[int, int]:
        """See ``Device``."""
        with self.current():
            free, total = self.drv.mem_get_info()
        return int(free), int(total)


class DeviceMemory:
    """See ``Buffer``."""

    __slots__ = ("_device", "_is_free", "address", "size")

    def __init__(self, device: PyCudaDevice, address: int, size: int) -> None:
        self._device = device
        self._is_free = False
        self.address = address
        self.size = size

    def free(self) -> None:
        """See ``Buffer``. The driver may wait until the device has done what it was given."""
        if not self._is_free:
            self._is_free = True
            with suppress(DeviceError, DeviceBroken):  # then the device is at an end, and whoever uses it next is told
                self._device.call("cuMemFree_v2", ctypes.c_uint64(self.address))


class PinnedMemory:
    """See ``HostBuffer``."""

    __slots__ = ("_device", "address", "array", "size")

    def __init__(self, device: PyCudaDevice, address: int, size: int) -> None:
        self._device = device
        self.address = address
        self.size = size
        self.array: NDArray[Any] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free(self) -> None:
        """See ``HostBuffer``."""
        if self.size:
            self.array, self.size = np.empty(0, np.uint8), 0
            with suppress(DeviceError, DeviceBroken):
                self._device.call("cuMemFreeHost", ctypes.c_void_p(self.address))


class PyCudaEvent:
    """See ``Event``."""

    __slots__ = ("_device", "event")

    def __init__(self, device: PyCudaDevice, event: Any) -> None:
        self._device = device
        self.event = event

    def record(self, stream: PyCudaStream) -> None:
        """See ``Event``."""
        try:
            self.event.record(stream.stream)
        except self._device.drv.Error as error:
            raise self._device.failure(error) from None

    def wait(self) -> None:
        """See ``Event``. Other threads have the interpreter meanwhile."""
        try:
            self.event.synchronize()
        except self._device.drv.Error as error:
            raise self._device.failure(error) from None

    def close(self) -> None:
        """See ``Event``; the driver's goes with the last reference."""
        self.event = None


class PyCudaStream:
    """See ``Stream``."""

    __slots__ = ("_device", "handle", "stream")

    def __init__(self, device: PyCudaDevice, stream: Any) -> None:
        self._device = device
        self.stream = stream
        self.handle = int(stream.handle)

    def copy_in(self, target: int, source: int, size: int, staged: bool = False) -> None:
        """See ``Stream``."""
        driver = self._device.driver
        code = (driver.copy_in_staged if staged else driver.copy_in)(target, source, size, self.handle)
        if code:
            raise self._device.refusal("cuMemcpyHtoDAsync", code)

    def copy_out(self, target: int, source: int, size: int) -> None:
        """See ``Stream``."""
        if code := self._device.driver.copy_out(target, source, size, self.handle):
            raise self._device.refusal("cuMemcpyDtoHAsync", code)

    def wait(self, event: PyCudaEvent) -> None:
        """See ``Stream``."""
        try:
            self.stream.wait_for_event(event.event)
        except self._device.drv.Error as error:
            raise self._device.failure(error) from None

    def capture(self, work: Callable[[], None]) -> RecordedGraph:
        """See ``Stream``. Only this thread's calls count: others may allocate meanwhile."""
        device, stream = self._device, ctypes.c_void_p(self.handle)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        device.call("cuStreamBeginCapture_v2", stream, ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            with suppress(DeviceError):  # it is void; the stream must be let out of the recording all the same
                device.call("cuStreamEndCapture", stream, ctypes.byref(graph))
            raise
        device.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            device.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            device.call("cuGraphDestroy", graph)
        return RecordedGraph(device, executable)

    def close(self) -> None:
        """See ``Stream``; the driver's goes with the last reference."""
        self.stream = None


class RecordedGraph:
    """See ``Graph``."""

    __slots__ = ("_device", "_executable")

    def __init__(self, device: PyCudaDevice, executable: ctypes.c_void_p) -> None:
        self._device = device
        self._executable = executable

    def launch(self, stream: PyCudaStream) -> None:
        """See ``Graph``."""
        self._device.call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream.handle))

    def close(self) -> None:
        """See ``Graph``."""
        if self._executable:
            self._device.call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()
