"""The CUDA layer on pycuda, over a stand-in for pycuda and the driver: what they are asked, and what errors become."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saccade_predictor.engines import cuda_pycuda
from saccade_predictor.engines.cuda import DeviceBroken, DeviceError, DeviceOutOfMemory, NoGpu


class Error(Exception):
    """pycuda's base."""


class OutOfMemoryError(Error):
    """pycuda's ``MemoryError``."""


class LogicError(Error):
    """pycuda's for most others."""


class Driver:
    """libcuda, as far as it is asked by ctypes."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.code = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"operation not supported"
                return 0
            self._calls.append(name)
            return self.code

        return call


class Pycuda(ModuleType):
    """``pycuda.driver``. ``raises`` has errors by function."""

    Error, MemoryError, LogicError = Error, OutOfMemoryError, LogicError
    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)
    host_alloc_flags = SimpleNamespace(PORTABLE=1)

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.calls: list[str] = []
        self.raises: dict[str, Exception] = {}
        self.devices = 2
        self.pushed = 0
        pycuda = self

        def count() -> int:
            return pycuda.devices

        class Device:
            def __init__(self, index: int) -> None:
                pass

            def name(self) -> str:
                return "NVIDIA Nothing"

            def compute_capability(self) -> tuple[int, int]:
                return 9, 0

            def retain_primary_context(self) -> Any:
                return SimpleNamespace(push=lambda: pycuda.push(1), pop=lambda: pycuda.push(-1))

        Device.count = staticmethod(count)  # type: ignore[attr-defined]
        self.Device = Device

    def push(self, by: int) -> None:
        self.pushed += by

    def tell(self, name: str) -> None:
        assert name == "init" or self.pushed > 0, f"{name} without a context"
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]

    def init(self) -> None:
        self.tell("init")

    def mem_get_info(self) -> tuple[int, int]:
        self.tell("mem_get_info")
        return 100, 1000

    def mem_alloc(self, size: int) -> Any:
        self.tell("mem_alloc")

        class Memory:
            def __int__(self) -> int:
                return 0x700

            def free(memory) -> None:  # noqa: N805
                self.tell("free")

        return Memory()

    def pagelocked_empty(self, size: int, dtype: Any, mem_flags: int) -> Any:
        self.tell("pagelocked_empty")
        assert mem_flags == 1

        class Pinned(np.ndarray[Any, Any]):
            base = SimpleNamespace(free=lambda: self.tell("free"))  # type: ignore[assignment]

        return np.zeros(size, dtype).view(Pinned)

    def Stream(self, flags: int) -> Any:  # noqa: N802
        self.tell("Stream")
        assert flags == 1, "a stream that waits for the default one"
        return SimpleNamespace(handle=77, wait_for_event=lambda event: self.tell("wait_for_event"))

    def Event(self, flags: int) -> Any:  # noqa: N802
        self.tell("Event")
        assert flags & 1, "an event that spins"
        return SimpleNamespace(record=lambda stream: self.tell("record"), synchronize=lambda: self.tell("synchronize"))

    def memcpy_htod_async(self, target: int, source: Any, stream: Any) -> None:
        self.tell("htod")
        self.copied = target, bytes(source)

    def memcpy_dtoh_async(self, target: Any, source: int, stream: Any) -> None:
        self.tell("dtoh")
        memoryview(target).cast("B")[:] = b"\x07" * len(bytes(target))


@pytest.fixture
def drv(monkeypatch: pytest.MonkeyPatch) -> Pycuda:
    """pycuda and the driver in the process's eyes."""
    module = Pycuda()
    package = ModuleType("pycuda")
    package.driver = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    module.library = Driver(module.calls)  # type: ignore[attr-defined]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: module.library)
    return module


def test_without_pycuda_or_a_device_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, drv: Pycuda) -> None:
    drv.devices = 0
    with pytest.raises(NoGpu, match="sees no device"):
        cuda_pycuda.PyCuda()
    drv.raises["init"] = LogicError("cuInit failed: no CUDA-capable device is detected")
    with pytest.raises(NoGpu, match="no CUDA-capable device"):
        cuda_pycuda.PyCuda()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(NoGpu, match="pycuda cannot be imported"):
        cuda_pycuda.PyCuda()


def test_a_device_that_is_not_visible_is_named(monkeypatch: pytest.MonkeyPatch, drv: Pycuda) -> None:
    cuda = cuda_pycuda.PyCuda()
    assert cuda.device(1) is cuda.device(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    with pytest.raises(NoGpu, match=r"there is no GPU 2: the driver shows 2, as CUDA_VISIBLE_DEVICES is 'MIG-1234'"):
        cuda.device(2)


def test_copies_streams_events_and_memory(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    assert (device.name, device.compute_capability) == ("NVIDIA Nothing", (9, 0))
    source = np.arange(8, dtype=np.uint8)
    with device.current():
        stream, event = device.stream(), device.event()
        assert stream.handle == 77
        buffer, block = device.allocate(8), device.pinned(8)
        stream.copy_in(buffer.address, int(source.ctypes.data) + 2, 4)
        assert drv.copied == (0x700, bytes([2, 3, 4, 5]))
        stream.copy_out(block.address, buffer.address, 3)
        assert block.array.tolist() == [7, 7, 7, 0, 0, 0, 0, 0]
        event.record(stream)
        stream.wait(event)
        event.wait()
        buffer.free()
        buffer.free()
        block.free()
        block.free()
        event.close()
        stream.close()
    assert drv.pushed == 0
    assert drv.calls.count("free") == 2
    assert device.memory() == (100, 1000)
    assert drv.pushed == 0


def test_page_locking_is_by_address_and_its_errors_are_the_drivers(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    device.register(4096, 8192)
    device.unregister(4096)
    assert [name for name in drv.calls if name.startswith("cu")] == ["cuMemHostRegister_v2", "cuMemHostUnregister"]
    drv.library.code = 801
    with pytest.raises(DeviceError, match="cuMemHostRegister_v2 failed: operation not supported"):
        device.register(4096, 8192)
    assert drv.pushed == 0
    assert not device.broken


def test_out_of_memory_says_how_much_there_is(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    drv.raises["mem_alloc"] = OutOfMemoryError("cuMemAlloc failed: out of memory")
    with device.current(), pytest.raises(DeviceOutOfMemory, match="5000 bytes: 100 of its 1000 bytes are free"):
        device.allocate(5000)
    assert not device.broken


def test_an_error_after_which_the_device_works_is_no_end(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    drv.raises["htod"] = LogicError("cuMemcpyHtoDAsync failed: invalid argument")
    with device.current():
        stream = device.stream()
        with pytest.raises(DeviceError, match="invalid argument"):
            stream.copy_in(1, ctypes.addressof(ctypes.c_int()), 4)
    assert not device.broken


@pytest.mark.parametrize(
    ("words", "probe"),
    [("an illegal memory access was encountered", ""), ("something new", "mem_get_info"), ("something", "record")],
)
def test_an_error_that_comes_again_is_sticky(words: str, probe: str, drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    with device.current():
        event = device.event()
        drv.raises["synchronize"] = LogicError(f"cuEventSynchronize failed: {words}")
        if probe:
            drv.raises[probe] = LogicError(f"{probe} failed: {words}")
        with pytest.raises(DeviceBroken, match=words):
            event.wait()
    assert device.broken
    with pytest.raises(DeviceBroken):
        device.check()
    with pytest.raises(DeviceBroken), device.current():
        pass
    assert drv.pushed == 0


def test_a_graph_is_recorded_and_what_fails_leaves_the_stream_recording_no_more(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    assert device.can_capture
    with device.current():
        stream = device.stream()
        drv.calls.clear()
        stream.capture(lambda: drv.calls.append("work"))
        assert drv.calls == [
            "cuStreamBeginCapture_v2",
            "work",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags",
            "cuGraphDestroy",
        ]
        drv.calls.clear()

        def fail() -> None:
            raise DeviceError("cannot be recorded")

        with pytest.raises(DeviceError, match="cannot be recorded"):
            stream.capture(fail)
        assert drv.calls == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]
