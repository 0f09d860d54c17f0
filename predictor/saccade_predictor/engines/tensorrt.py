"""Plans on TensorRT, 10.6 to 11: one engine per GPU, one execution context per instance.

TensorRT is handed bytes, ints and tuples only: the bindings of 10.6 are older than NumPy 2. Without a driver its
``Runtime`` ends the process, so that a device of the CUDA layer must be there before anything here is made.
What a batch does stands in ``planexecutor.py``, when in ``planinstance.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from saccade_predictor.engines.cuda import Device, DeviceError
from saccade_predictor.engines.engine import EngineDescription
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.plan import PlanTensor
from saccade_predictor.engines.planexecutor import Executor
from saccade_predictor.engines.planinstance import PlanInstance
from saccade_predictor.engines.planshapes import DATATYPES, Profile, Shape

log = logging.getLogger("saccade.tensorrt")

PLATFORM: Final = "tensorrt_plan"


class TensorRTEngine:
    """A plan, loaded on one device or more.

    Args:
        content: the plan.
        name: of the file, for messages; clients read them.
        trt: the module ``tensorrt``, or one with the same names.
        devices: one for each instance; several instances of a device share its engine.
        pages: page-locks the arena.
        recorded: rows of batches that are recorded as CUDA graphs; none unless the device can.
        properties: the model file's own metadata, which a plan does not carry.

    Raises:
        ValueError: the plan cannot be loaded, or has tensors that are not served.
        DeviceOutOfMemory: it, or its buffers, do not fit.
    """

    platform = PLATFORM

    def __init__(
        self,
        content: bytes,
        name: str,
        trt: Any,
        devices: Sequence[Device],
        pages: PageLocks,
        recorded: frozenset[int] = frozenset(),
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self._trt = trt
        self._name = name
        self._pages = pages
        self._loop: asyncio.AbstractEventLoop | None = None  # once its first batch has come
        self._parts: dict[int, _Part] = {}  # by device
        self._instances: list[PlanInstance] = []
        self._closed = False
        logger = logger_of(trt)
        try:
            for number, device in enumerate(devices):
                with device.current():
                    try:
                        part = self._parts.get(device.index)
                        if part is None:
                            part = self._parts[device.index] = self._load(content, device, logger)
                        executor = part.executor(pages, partial(_output_allocator, trt), recorded)
                        self._instances.append(PlanInstance(device, executor, f"{name}-{number}", self._used))
                    except BaseException as error:
                        if not isinstance(error, ValueError | DeviceError):
                            log.exception("plan_not_loaded", extra={"plan": name})
                        error.__traceback__ = None  # its frames hold TensorRT's objects, which must go now
                        raise
        except BaseException:
            self.close()
            raise
        first = next(iter(self._parts.values()))
        self._description = EngineDescription(
            platform=self.platform,
            inputs=[tensor.metadata() for tensor in first.inputs],
            outputs=[tensor.metadata() for tensor in first.outputs],
            properties=dict(properties or {}),
        )
        #: Rows of the largest batch that a profile allows, where the plan has a batch dimension.
        self.largest_rows = max(
            min((shape[0] for shape in profile.most.values() if shape), default=1) for profile in first.profiles
        )

    def describe(self) -> EngineDescription:
        """What the plan says of itself."""
        return self._description

    def instances(self) -> Sequence[PlanInstance]:
        """One per execution context."""
        return self._instances

    def renew(self, index: int) -> None:
        """Nothing: what a call that hangs has given to the device cannot be taken back. The process must go."""
        log.error("instance_hangs", extra={"plan": self._name, "instance": index})

    @property
    def is_freed(self) -> bool:
        """Whether it is closed, and nothing of it left: no thread, nothing of TensorRT's."""
        return self._closed and not self._parts

    def memory(self) -> list[tuple[int, str, int]]:
        """Bytes it has taken, by index of the device and kind: weights, contexts, buffers; outputs are the host's."""
        return [(index, kind, size) for index, part in list(self._parts.items()) for kind, size in part.memory()]

    def close(self) -> None:
        """Free everything, unless an instance hangs: what it may still use stays, also the page-locks."""
        if self._closed:
            return
        self._closed = True
        ended = [instance.close() for instance in self._instances]
        if not all(ended):
            log.error("not_freed", extra={"plan": self._name, "instances": ended.count(False)})
            return
        self._instances = []
        parts, self._parts = self._parts, {}
        while parts:
            _, part = parts.popitem()
            with part.device.current():
                part.unload()
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._pages.release)
            except RuntimeError:  # the loop is closed, and with it whoever else could use the arena
                self._pages.release()

    def _used(self) -> None:
        """A first batch comes: from now on the arena is read from."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._pages.hold()

    def _load(self, content: bytes, device: Device, logger: Any) -> _Part:
        trt = self._trt
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(content) if runtime is not None else None
        if engine is None:
            device.check()
            said = "; ".join(logger.errors) or "it does not say why"
            raise ValueError(f"{self._name} cannot be loaded by TensorRT {trt.__version__}: {said}")
        inputs, outputs = tensors_of(trt, engine, self._name)
        profiles = profiles_of(engine, inputs)
        return _Part(device, runtime, engine, self._contexts(engine), inputs, outputs, profiles, len(content))

    def _contexts(self, engine: Any) -> Callable[[], Any]:
        """What makes the execution contexts of an engine."""
        make: Callable[[], Any] = engine.create_execution_context
        return make


class _Part:
    """What instances on one device share.

    Attributes:
        plan_bytes: of the file, which is about what the weights take.
    """

    def __init__(
        self,
        device: Device,
        runtime: Any,
        engine: Any,
        make_context: Callable[[], Any],
        inputs: Sequence[PlanTensor],
        outputs: Sequence[PlanTensor],
        profiles: Sequence[Profile],
        plan_bytes: int,
    ) -> None:
        self.device = device
        self.inputs = inputs
        self.outputs = outputs
        self.profiles = profiles
        self.plan_bytes = plan_bytes
        self._context_bytes = int(engine.device_memory_size_v2)
        self._executors: list[Executor] = []
        self._made: tuple[Any, Any, Callable[[], Any]] | None = (runtime, engine, make_context)

    def executor(self, pages: PageLocks, allocator: Any, recorded: frozenset[int]) -> Executor:
        """One more instance's; the device is current."""
        assert self._made is not None
        make_context = self._made[-1]
        executor = Executor(
            self.device, make_context, self.inputs, self.outputs, self.profiles, pages, allocator, recorded
        )
        self._executors.append(executor)
        return executor

    def memory(self) -> list[tuple[str, int]]:
        """Bytes by kind."""
        return [
            ("weights", self.plan_bytes),
            ("contexts", sum(executor.contexts for executor in self._executors) * self._context_bytes),
            ("buffers", sum(executor.buffer_bytes for executor in self._executors)),
            ("outputs", sum(executor.blocks.bytes for executor in self._executors)),
        ]

    def unload(self) -> None:
        """Free the engine, then the runtime: TensorRT's objects go with their last reference."""
        self._executors = []
        made, self._made = self._made, None
        if made is not None:
            runtime, engine, make_context = made
            del made, make_context
            del engine
            del runtime


def tensors_of(trt: Any, engine: Any, name: str) -> tuple[list[PlanTensor], list[PlanTensor]]:
    """Inputs and outputs in the plan's order.

    Raises:
        ValueError: one is of a kind that is not served.
    """
    inputs: list[PlanTensor] = []
    outputs: list[PlanTensor] = []
    for number in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(number)
        kind = str(engine.get_tensor_dtype(tensor).name)
        if kind not in DATATYPES:
            raise ValueError(f"tensor {tensor!r} of {name} is of type {kind}; expected one of {', '.join(DATATYPES)}")
        if engine.get_tensor_location(tensor) != trt.TensorLocation.DEVICE:
            raise ValueError(f"tensor {tensor!r} of {name} lies on the host (it is a shape), which is not served")
        if engine.get_tensor_format(tensor) != trt.TensorFormat.LINEAR:
            raise ValueError(f"tensor {tensor!r} of {name} is not laid out row by row, which is not served")
        found = PlanTensor(name=tensor, datatype=DATATYPES[kind], shape=tuple(engine.get_tensor_shape(tensor)))
        (inputs if engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT else outputs).append(found)
    return inputs, outputs


def profiles_of(engine: Any, inputs: Sequence[PlanTensor]) -> list[Profile]:
    """The optimization profiles of TensorRT's engine; one of fixed shapes where it has none."""
    found = []
    for index in range(max(1, engine.num_optimization_profiles)):
        shapes: dict[str, tuple[Shape, Shape]] = {}
        for tensor in inputs:
            if -1 in tensor.shape:
                least, _, most = engine.get_tensor_profile_shape(tensor.name, index)
                shapes[tensor.name] = tuple(least), tuple(most)
            else:
                shapes[tensor.name] = tensor.shape, tensor.shape
        least_of = {name: pair[0] for name, pair in shapes.items()}
        found.append(Profile(index, least_of, {name: pair[1] for name, pair in shapes.items()}))
    return found


#: TensorRT keeps the first logger it is given for the whole process, so that there is one per module of it.
_loggers: Final[dict[int, Any]] = {}


def logger_of(trt: Any) -> Any:
    """TensorRT's log, told to ours; ``errors`` has the last ones."""
    known = _loggers.get(id(trt))
    if known is not None:
        return known
    severities = trt.ILogger.Severity
    levels = {severities.INTERNAL_ERROR: logging.ERROR, severities.ERROR: logging.ERROR}
    levels[severities.WARNING] = logging.WARNING

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=4)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity)
            if level is not None:
                log.log(level, "tensorrt", extra={"said": message[:1000]})
            if level == logging.ERROR:
                self.errors.append(message[:200])

    logger = _loggers[id(trt)] = Logger()
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    return logger


def _output_allocator(trt: Any, allocate: Callable[[str, int], int], tell: Callable[[str, Shape], None]) -> Any:
    """An ``IOutputAllocator`` that asks and tells functions. TensorRT calls it before ``execute_async_v3`` returns."""

    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return allocate(name, size)

        def notify_shape(self, name: str, shape: Any) -> None:
            tell(name, tuple(shape))

    return Allocator()


def read_plan(path: Path) -> bytes:
    """The content of a plan.

    Raises:
        ValueError: it is empty, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    if not content:
        raise ValueError(f"{path.name} is empty")
    return content
