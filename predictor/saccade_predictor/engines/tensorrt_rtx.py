"""Plans on TensorRT-RTX: as on TensorRT, but kernels are compiled on the machine they run on, and kept in a cache.

Its own CUDA graphs are used where graphs are asked for, since it knows when a kernel is still to be replaced by a
better one. It has no kernels for data-centre GPUs of compute capability 9.0.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from saccade_predictor.engines.cuda import Device
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.tensorrt import TensorRTEngine
from saccade_predictor.machine import import_tensorrt

log = logging.getLogger("saccade.tensorrt")


class TensorRTRtxEngine(TensorRTEngine):
    """A plan of TensorRT-RTX.

    Args:
        cache: file that compiled kernels are kept in; read at the beginning, written when the engine is closed. It
            need not exist, and may be in a folder that cannot be written to.
        graphs: record CUDA graphs.

    The others are ``TensorRTEngine``'s.
    """

    platform = "tensorrt_rtx_plan"

    def __init__(
        self,
        content: bytes,
        name: str,
        trt: Any,
        devices: Sequence[Device],
        pages: PageLocks,
        graphs: bool = False,
        properties: Mapping[str, str] | None = None,
        cache: Path | None = None,
    ) -> None:
        self._graphs = graphs
        self._cache_file = cache
        self._caches: list[Any] = []  # of each device's engine
        super().__init__(content, name, trt, devices, pages, properties=properties)

    def close(self) -> None:
        """Keep what was compiled, then free everything."""
        self._keep()
        self._caches = []
        super().close()

    def _contexts(self, engine: Any) -> Callable[[], Any]:
        config = engine.create_runtime_config()
        if self._graphs:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        content = self._read()
        if content and not cache.deserialize(content):
            log.warning("runtime_cache_not_used", extra={"plan": self._name})  # of another GPU, or another version
        config.set_runtime_cache(cache)
        self._caches.append(cache)
        return lambda: engine.create_execution_context(config)

    def _read(self) -> bytes:
        if self._cache_file is None:
            return b""
        try:
            return self._cache_file.read_bytes()
        except OSError:
            return b""

    def _keep(self) -> None:
        """Write the cache of the first device in one step; a folder that cannot be written to costs a compilation."""
        if self._cache_file is None or not self._caches or self._closed:
            return
        part = self._cache_file.with_name(f".{self._cache_file.name}.{os.getpid()}.part")
        try:
            part.write_bytes(bytes(memoryview(self._caches[0].serialize())))
            part.replace(self._cache_file)
        except Exception as error:
            log.warning("runtime_cache_not_kept", extra={"plan": self._name, "why": str(error)})
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def load_module() -> Any:
    """TensorRT-RTX's module, the package or its bindings alone, where there is a GPU.

    Raises:
        ValueError: it is not installed, or does not load.
    """
    try:
        return import_tensorrt("trt-rtx")
    except ImportError as error:
        raise ValueError(f"TensorRT-RTX is not installed: {error}") from None
