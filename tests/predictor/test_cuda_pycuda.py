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


class LogicError(Error):
    """pycuda's for most others."""


class Driver:
    """libcuda, as far as it is asked by ctypes: what its functions are called with, and what they return.

    Attributes:
        code: what every function returns.
        memory: page-locked host memory by address.
    """

    def __init__(self, drv: Pycuda) -> None:
        self._drv = drv
        self.code = 0
        self.words = b"operation not supported"
        self.memory: dict[int, Any] = {}
        self.copied: tuple[Any, ...] = ()

    def answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "cuGetErrorString":
            arguments[1]._obj.value = self.words
            return 0
        assert self._drv.pushed > 0, f"{name} without a context"
        self._drv.calls.append(name)
        if self.code:
            return self.code
        if name == "cuMemAlloc_v2":
            arguments[0]._obj.value = 0x7_0000_0100
        elif name == "cuMemHostAlloc":
            assert arguments[2].value == 1, "not for all devices"
            block = (ctypes.c_uint8 * arguments[1].value)()
            arguments[0]._obj.value = ctypes.addressof(block)
            self.memory[ctypes.addressof(block)] = block
        elif name == "cuMemFreeHost":
            del self.memory[arguments[0].value]
        elif name == "cuMemcpyHtoDAsync_v2":
            target, source, size, stream = arguments
            self.copied = target, ctypes.string_at(source, size), stream
        elif name == "cuMemcpyDtoHAsync_v2":
            ctypes.memset(arguments[0], 7, arguments[2])
        return 0


class Function:
    """A function of the driver's library. Without ``argtypes`` ctypes hands over 32 bits of a bare int."""

    argtypes: Any = None

    def __init__(self, driver: Driver, name: str, held: bool) -> None:
        self._driver = driver
        self._name = name
        self.held = held
        self.calls = 0

    def __call__(self, *arguments: Any) -> int:
        self.calls += 1
        if self.argtypes is None:
            assert not any(isinstance(one, int) for one in arguments), f"{self._name} is called with a bare int"
        else:
            for kind, one in zip(self.argtypes, arguments, strict=True):
                assert kind(one).value == one, f"{self._name}: {one:#x} does not fit into {kind}"
        return self._driver.answer(self._name, arguments)


class Library:
    """What ``ctypes.CDLL`` and ``ctypes.PyDLL`` return."""

    def __init__(self, driver: Driver, held: bool) -> None:
        self._driver = driver
        self._held = held

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = Function(self._driver, name, self._held)
        setattr(self, name, function)
        return function


class Pycuda(ModuleType):
    """``pycuda.driver``. ``raises`` has errors by function."""

    Error, LogicError = Error, LogicError
    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.calls: list[str] = []
        self.raises: dict[str, Exception] = {}
        self.devices = 2
        self.pushed = 0
        self.library: Driver
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
                if "retain" in pycuda.raises:
                    raise pycuda.raises["retain"]
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

    def Stream(self, flags: int) -> Any:  # noqa: N802
        self.tell("Stream")
        assert flags == 1, "a stream that waits for the default one"
        return SimpleNamespace(handle=77, wait_for_event=lambda event: self.tell("wait_for_event"))

    def Event(self, flags: int) -> Any:  # noqa: N802
        self.tell("Event")
        assert flags & 1, "an event that spins"
        return SimpleNamespace(record=lambda stream: self.tell("record"), synchronize=lambda: self.tell("synchronize"))


@pytest.fixture
def drv(monkeypatch: pytest.MonkeyPatch) -> Pycuda:
    """pycuda and the driver in the process's eyes."""
    module = Pycuda()
    package = ModuleType("pycuda")
    package.driver = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    module.library = Driver(module)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(module.library, held=False))
    monkeypatch.setattr(ctypes, "PyDLL", lambda name: Library(module.library, held=True))
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


def test_a_device_that_gives_no_context_says_why(drv: Pycuda) -> None:
    cuda = cuda_pycuda.PyCuda()
    drv.raises["retain"] = LogicError("cuDevicePrimaryCtxRetain failed: out of memory")
    with pytest.raises(NoGpu, match="GPU 1 cannot be used: cuDevicePrimaryCtxRetain failed: out of memory"):
        cuda.device(1)
    del drv.raises["retain"]
    assert cuda.device(1).name == "NVIDIA Nothing"


def test_copies_streams_events_and_memory(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    assert (device.name, device.compute_capability) == ("NVIDIA Nothing", (9, 0))
    source = np.arange(8, dtype=np.uint8)
    with device.current():
        stream, event = device.stream(), device.event()
        assert stream.handle == 77
        buffer, block = device.allocate(8), device.pinned(8)
        stream.copy_in(buffer.address, int(source.ctypes.data) + 2, 4)
        assert drv.library.copied == (0x7_0000_0100, bytes([2, 3, 4, 5]), 77)
        block.array[:] = 0
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
    assert (drv.calls.count("cuMemFree_v2"), drv.calls.count("cuMemFreeHost")) == (1, 1)
    assert not drv.library.memory
    assert device.memory() == (100, 1000)
    assert drv.pushed == 0


def test_what_takes_time_leaves_the_interpreter_to_others_and_what_does_not_keeps_it(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    source = np.arange(8, dtype=np.uint8)
    with device.current():
        stream = device.stream()
        buffer, block = device.allocate(8), device.pinned(8)
        stream.copy_in(buffer.address, int(source.ctypes.data), 8)
        stream.copy_in(buffer.address, int(source.ctypes.data), 8, staged=True)
        stream.copy_out(block.address, buffer.address, 8)
        buffer.free()
        block.free()
    driver = device.driver
    calls: list[tuple[Any, bool]] = [(driver.copy_in, True), (driver.copy_in_staged, False), (driver.copy_out, True)]
    names = ("cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc", "cuMemFreeHost")
    calls += [(getattr(driver.free, name), False) for name in names]
    assert [(function.calls, function.held) for function, _ in calls] == [(1, held) for _, held in calls]


def test_what_cannot_be_freed_does_not_keep_the_rest_from_being_freed(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    with device.current():
        buffer, block = device.allocate(8), device.pinned(8)
        drv.library.code, drv.library.words = 700, b"an illegal memory access was encountered"
        buffer.free()
        block.free()
    assert device.broken


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
    drv.library.code, drv.library.words = 2, b"out of memory"
    with device.current():
        for make in (device.allocate, device.pinned):
            with pytest.raises(DeviceOutOfMemory, match="5000 bytes: 100 of its 1000 bytes are free"):
                make(5000)
    assert not device.broken


def test_an_error_after_which_the_device_works_is_no_end(drv: Pycuda) -> None:
    device = cuda_pycuda.PyCuda().device(0)
    drv.library.code, drv.library.words = 1, b"invalid argument"
    with device.current():
        stream = device.stream()
        with pytest.raises(DeviceError, match="cuMemcpyHtoDAsync failed: invalid argument"):
            stream.copy_in(1, ctypes.addressof(ctypes.c_int()), 4)
        with pytest.raises(DeviceError, match="cuMemcpyDtoHAsync failed: invalid argument"):
            stream.copy_out(1, 2, 4)
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
