"""TensorRT without a GPU: a module with the names the engine uses, whose networks are NumPy functions.

Runs on ``cuda_fake.py``'s streams and memory. As with TensorRT, a context must know shapes, profile and addresses when
it is executed, reads its inputs and writes its outputs when the stream gets there, and must not run twice at a time.
What TensorRT frees with no device current, or another one, is reported: its CUDA runtime would take the first GPU
then, and half a gigabyte of it. A context that is recorded before it has run with its shapes is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_fake import FakeCuda, FakeDevice, FakeStream

DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8}
Shape = tuple[int, ...]
Compute = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    Severity = Severity


class IOutputAllocator:
    pass


DataType = Enum("DataType", "FLOAT HALF INT8 INT32 INT64 UINT8 BOOL BF16")
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = Enum("TensorLocation", "DEVICE HOST")
TensorFormat = Enum("TensorFormat", "LINEAR CHW32")


@dataclass
class Network:
    """A plan's content: what a fake engine is made of.

    Attributes:
        inputs: name -> TensorRT's type and shape.
        outputs: likewise.
        profiles: for each, input name -> least and largest shape.
        compute: inputs -> outputs.
        shapes: input shapes -> output shapes, -1 where they depend on the data; default: of the computed outputs.
        scratch: of a context, bytes.
    """

    inputs: Mapping[str, tuple[str, Shape]]
    outputs: Mapping[str, tuple[str, Shape]]
    profiles: Sequence[Mapping[str, tuple[Shape, Shape]]]
    compute: Compute
    shapes: Callable[[Mapping[str, Shape]], Mapping[str, Shape]]
    scratch: int = 4096
    hosted: frozenset[str] = frozenset()
    formats: Mapping[str, Any] = field(default_factory=dict)


class Trt:
    """The module.

    Args:
        cuda: whose devices and streams it uses.
        network: of every plan.

    Attributes:
        contexts: those that are alive.
        refuses: how many of the next executions are refused, as for an error of TensorRT's own.
    """

    __version__ = "10.6.0"
    ILogger = ILogger
    IOutputAllocator = IOutputAllocator
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    TensorFormat = TensorFormat

    def __init__(self, cuda: FakeCuda, network: Network) -> None:
        self.cuda = cuda
        self.network = network
        self._contexts: list[weakref.ref[Context]] = []
        self.engines = 0
        self.refuses = 0
        self.plugins = 0
        self.context_limit = 1000
        self.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
        self.compiled: list[bytes] = []

    @property
    def contexts(self) -> list[Context]:
        return [context for ref in self._contexts if (context := ref()) is not None]

    def current(self) -> FakeDevice | None:
        """The device that is current in the calling thread."""
        return next((device for device in self.cuda.devices if device.is_current), None)

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> None:
        self.plugins += 1

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802  # TensorRT's name
        return Runtime(self, logger)


class Runtime:
    def __init__(self, trt: Trt, logger: Any) -> None:
        self._trt = trt
        self._logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        assert isinstance(content, bytes)
        if content.startswith(b"broken"):
            self._logger.log(Severity.ERROR, "Serialization assertion failed: magic tag does not match")
            return None
        return Engine(self._trt)


class OnDevice:
    """An object of TensorRT's that belongs to the device that was current when it was made."""

    def __init__(self, trt: Trt) -> None:
        self._trt = trt
        self._device = trt.current()
        assert self._device is not None, f"{type(self).__name__} is made without a current device"

    def __del__(self) -> None:
        device = getattr(self, "_device", None)
        if device is not None and self._trt.current() is not device and not device.broken:
            device.checker.report(f"{type(self).__name__} is freed while its device is not current")


class Engine(OnDevice):
    def __init__(self, trt: Trt) -> None:
        super().__init__(trt)
        network = trt.network
        self.network = network
        self._tensors = {**network.inputs, **network.outputs}
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = len(network.profiles)
        self.device_memory_size_v2 = network.scratch
        trt.engines += 1

    def __del__(self) -> None:
        super().__del__()
        self._trt.engines -= 1

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name: str) -> Shape:
        return self._tensors[name][1]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self.network.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.HOST if name in self.network.hosted else TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self.network.formats.get(name, TensorFormat.LINEAR)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[Shape]:
        least, most = self.network.profiles[index][name]
        return [least, most, most]

    def create_runtime_config(self) -> Any:
        trt = self._trt

        class Cache:
            content = b""

            def deserialize(self, content: bytes) -> bool:
                assert trt.current() is not None, "a cache is read without a current device"
                self.content = content
                return not content.startswith(b"other")

            def serialize(self) -> bytes:
                assert trt.current() is not None, "a cache is written without a current device"
                return self.content or b"kernels"

        config = SimpleNamespace(cuda_graph_strategy=None, create_runtime_cache=Cache)
        config.set_runtime_cache = lambda cache: trt.compiled.append(cache.content)
        return config

    def create_execution_context(self, config: Any = None) -> Context | None:
        if len(self._trt.contexts) >= self._trt.context_limit:
            return None
        context = Context(self._trt, self)
        context.config = config
        self._trt._contexts.append(weakref.ref(context))
        return context


class Context(OnDevice):
    """See the module. ``runs`` counts executions, ``profiles`` the changes of profile."""

    def __init__(self, trt: Trt, engine: Engine) -> None:
        super().__init__(trt)
        self._engine = engine
        self._network = engine.network
        self.config: Any = None
        self.profile = 0
        self.profiles = 0
        self.runs = 0
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._scratch: dict[int, Any] = {}
        self._ran: dict[str, Shape] = {}  # shapes of the last run

    @property
    def active_optimization_profile(self) -> int:
        return self.profile

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert isinstance(stream, int)
        self.profile = index
        self.profiles += 1
        self._shapes = {}
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert type(shape) is tuple
        assert all(type(size) is int for size in shape)
        least, most = self._network.profiles[self.profile].get(name, (shape, shape))
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self._shapes:
            return self._shapes[name]
        return self._network.shapes(self._shapes)[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert type(address) is int
        self._addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self._allocators[name] = allocator
        return True

    def execute_async_v3(self, handle: int) -> bool:
        device, stream = self._find(handle)
        if self._trt.refuses:
            self._trt.refuses -= 1
            return False
        if device.broken:
            return False
        try:
            device.enter("execute")
        except Exception:
            return False
        assert self._shapes.keys() == self._network.inputs.keys(), "executed before all shapes are set"
        if stream.is_recording:
            assert self._ran == self._shapes, "recorded before a run with these shapes"
        self._ran = dict(self._shapes)
        with device.lock:
            self.runs += 1
            return self._enqueue(device, stream)

    def _enqueue(self, device: FakeDevice, stream: FakeStream) -> bool:
        network, shapes = self._network, dict(self._shapes)
        addresses = dict(self._addresses)
        told = network.shapes(shapes)
        open_ones = [name for name, shape in told.items() if min(shape, default=0) < 0]
        early: Mapping[str, NDArray[Any]] | None = None
        if open_ones:
            # TensorRT waits in the midst of it, where shapes depend on the data.
            stream.given()
            self._reads(device, stream, shapes, addresses)
            while stream.work:
                assert device.progress(), "deadlock"
            early = network.compute(self._inputs(device, shapes, addresses))
            for name in open_ones:
                address = self._allocators[name].reallocate_output(name, 0, early[name].nbytes, 256)
                if not address:
                    return False
                addresses[name] = address
                self._allocators[name].notify_shape(name, early[name].shape)
        scratch = id(self) * 16  # no memory, but a name of it: one run at a time

        def run() -> None:
            stream.given()
            self._reads(device, stream, shapes, addresses)
            device.checker.access(stream.actor, scratch, 16, True, "execute in its context")
            for name in network.outputs:
                size = early[name].nbytes if early is not None else self._size(name, told[name])
                if size:
                    device.checker.access(stream.actor, addresses[name], size, True, "execute")

            def compute() -> None:
                outputs = network.compute(self._inputs(device, shapes, addresses))
                for name, array in outputs.items():
                    if array.nbytes:
                        memory, at = device.find(addresses[name])
                        memory[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

            stream.work.append(("execute", None, compute))

        stream.launch(run)
        return True

    def _reads(
        self, device: FakeDevice, stream: FakeStream, shapes: Mapping[str, Shape], addresses: Mapping[str, int]
    ) -> None:
        for name in self._network.inputs:
            size = self._size(name, shapes[name])
            if size:
                device.checker.access(stream.actor, addresses[name], size, False, "execute")

    def _size(self, name: str, shape: Shape) -> int:
        kind = {**self._network.inputs, **self._network.outputs}[name][0]
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[kind]).itemsize

    def _inputs(
        self, device: FakeDevice, shapes: Mapping[str, Shape], addresses: Mapping[str, int]
    ) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for name, (kind, _) in self._network.inputs.items():
            memory, at = device.find(addresses[name])
            size = self._size(name, shapes[name])
            found[name] = memory[at : at + size].copy().view(DTYPES[kind]).reshape(shapes[name])
        return found

    def _find(self, handle: int) -> tuple[FakeDevice, FakeStream]:
        for device in self._trt.cuda.devices:
            for stream in device.streams:
                if stream.handle == handle:
                    return device, stream
        raise AssertionError(f"{handle} is no stream")
