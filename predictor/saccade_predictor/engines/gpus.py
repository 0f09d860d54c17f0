"""The GPUs of this process: what opens plans on them, and what all engines there share.

Nothing of CUDA is imported, and no driver asked, before a model wants a GPU. Whether a plan suits the machine is not
looked at here: whoever opens one has read its sidecar and let it in (``plancheck.py``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

from saccade_predictor.engines.cuda import Cuda, DeviceBroken, DeviceError, DeviceOutOfMemory, NoGpu, load_cuda
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.plan import NAMES, Plan
from saccade_predictor.engines.tensorrt import TensorRTEngine, read_plan
from saccade_predictor.engines.tensorrt_rtx import TensorRTRtxEngine
from saccade_predictor.machine import MODULES, import_tensorrt
from saccade_serving.memory.arena import Arena

log = logging.getLogger("saccade.gpus")

#: Where TensorRT-RTX keeps what it has compiled, beside the plan.
CACHE_SUFFIX: Final = ".rtxcache"
#: For how long a thread may keep the interpreter while another waits for it, once there are plans. Python's own 5 ms
#: are as long as a batch, and an engine's thread waits for the interpreter three times in each.
SWITCH_S: Final = 0.0005


class Gpus:
    """The GPUs. Its methods may block; called off the event loop, but ``memory`` and ``locked_bytes``.

    Args:
        arena: what engines read requests from.
        load: loads the CUDA layer, once.
        graphs: record CUDA graphs of preferred batch sizes.
        modules: kind of plan -> what loads TensorRT's module for it.
    """

    def __init__(
        self,
        arena: Arena,
        load: Callable[[], Cuda] = load_cuda,
        graphs: bool = False,
        modules: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self._arena = arena
        self._load = load
        self._graphs = graphs
        self._modules = modules or {kind: partial(load_module, kind) for kind in MODULES}
        self._lock = Lock()
        self._cuda: Cuda | None = None
        self._looked = False
        self._pages: PageLocks | None = None
        self._engines: tuple[TensorRTEngine, ...] = ()  # what hangs stays, so that nothing of it is freed in use
        self.why_none = ""  #: why there is no GPU, once that was asked

    def count(self) -> int:
        """How many there are that can be used; 0 without a driver or without pycuda (``why_none``)."""
        with self._lock:
            if not self._looked:
                self._looked = True
                try:
                    self._cuda = self._load()
                except NoGpu as error:
                    self.why_none = str(error)
                    log.info("no_gpu", extra={"why": self.why_none})
            return self._cuda.count() if self._cuda is not None else 0

    def open_plan(
        self, path: Path, plan: Plan, places: Sequence[int] = (0,), recorded: frozenset[int] = frozenset()
    ) -> TensorRTEngine:
        """Load a plan.

        Args:
            path: the plan's file.
            plan: its sidecar.
            places: the GPU of each instance, by index.
            recorded: rows of the batches worth a CUDA graph.

        Raises:
            NoGpu: there is none, or not of that index.
            ValueError: it cannot be loaded.
        """
        if not self.count() or self._cuda is None:
            raise NoGpu(f"{path.name} needs a GPU: {self.why_none}")
        devices = [self._cuda.device(index) for index in places]
        with self._lock:
            if self._pages is None:
                self._pages = PageLocks(self._arena, devices[0])
        content = read_plan(path)
        try:
            trt = self._modules[plan.kind]()
            engine: TensorRTEngine
            if plan.kind == "trt-rtx":
                cache = path.with_name(path.name + CACHE_SUFFIX)
                engine = TensorRTRtxEngine(
                    content, path.name, trt, devices, self._pages, self._graphs, plan.properties, cache
                )
            else:
                sizes = recorded if self._graphs else frozenset()
                engine = TensorRTEngine(content, path.name, trt, devices, self._pages, sizes, plan.properties)
        except DeviceOutOfMemory as error:
            raise ValueError(f"{path.name} cannot be loaded: {error}") from None
        with self._lock:
            self._engines = (*(known for known in self._engines if not known.is_freed), engine)
        sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))
        return engine

    @property
    def in_use(self) -> bool:
        """Whether an engine is not freed: it serves, it hangs, or its device is broken.

        The interpreter must then not be ended in the ordinary way: threads that come back from the driver while it is
        being ended abort the process, and the driver's own end may wait for what hangs.
        """
        return not all(engine.is_freed for engine in self._engines)

    def locked_bytes(self) -> int:
        """Of the arena, page-locked."""
        return self._pages.locked_bytes if self._pages is not None else 0

    def memory(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Bytes by index of the GPU and kind: weights, contexts, buffers, outputs of our engines; free, total."""
        sums: dict[tuple[int, str], int] = {}
        for engine in self._engines:
            for index, kind, size in engine.memory():
                sums[index, kind] = sums.get((index, kind), 0) + size
        for index in sorted({index for index, _ in sums}):
            assert self._cuda is not None
            device = self._cuda.device(index)
            if not device.broken:
                try:
                    sums[index, "free"], sums[index, "total"] = device.memory()
                except (DeviceError, DeviceBroken) as error:
                    log.warning("gpu_memory_unknown", extra={"gpu": index, "why": str(error)})
        for (index, kind), size in sorted(sums.items()):
            yield (str(index), kind), size


def load_module(kind: str) -> Any:
    """TensorRT's module for a kind of plan, to be asked only where there is a GPU.

    Raises:
        ValueError: it is not installed, or does not load; with the reason.
    """
    try:
        return import_tensorrt(kind)
    except ImportError as error:
        raise ValueError(f"{NAMES[kind]} is not installed: {error}") from None
