"""A TensorRT for tests of what the worker asks of it: the names it uses, and a plan that says how it was built.

``flags`` holds the builder flags it has: those of 10.x with FP16 and INT8, those of 11.x without. Put beside a test's
modules as ``tensorrt`` by writing ``from fake_tensorrt import *``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "11.2.1.2")
_OLD = __version__.startswith("10.")

BuilderFlag = IntEnum("BuilderFlag", ["TF32", "REFIT", *(["FP16", "INT8"] if _OLD else [])])  # type: ignore[misc]
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", ["EXPLICIT_BATCH", "STRONGLY_TYPED"], start=0)
HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"], start=0)
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"], start=0)
DataType = IntEnum("DataType", ["FLOAT", "HALF", "BF16"], start=0)


Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)


class ILogger:
    VERBOSE = Severity.VERBOSE


class IProgressMonitor:
    pass


class _Tensor:
    def __init__(self, name: str) -> None:
        self.name, self.dtype, self.shape = name, DataType[os.environ.get("FAKE_DATATYPE", "FLOAT")], (-1, 2)


class _Network:
    num_inputs = num_outputs = 1

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def get_input(self, _: int) -> _Tensor:
        return _Tensor("x")

    def get_output(self, _: int) -> _Tensor:
        return _Tensor("y")


class OnnxParser:
    num_errors = 0

    def __init__(self, network: _Network, logger: Any) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        return Path(path).is_file()


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class _Config:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.workspace = 0
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: Any = None
        self.profiles: list[Any] = []
        self.cache = _Cache(b"")

    def set_flag(self, flag: IntEnum) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: IntEnum) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, _: int, size: int) -> None:
        self.workspace = size

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile.shapes)
        return 0

    def create_timing_cache(self, content: bytes) -> _Cache:
        assert type(content) is bytes
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return cache.content != b"of another GPU"

    def get_timing_cache(self) -> _Cache:
        return self.cache


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: tuple[int, ...], mid: tuple[int, ...], high: tuple[int, ...]) -> None:
        # 10.6's bindings predate NumPy 2: nothing but plain numbers may reach them.
        assert all(type(number) is int for shape in (low, mid, high) for number in shape)
        assert all(type(shape) is tuple for shape in (low, mid, high))
        self.shapes[name] = low, mid, high


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger
        if os.environ.get("FAKE_CRASH") == "abort":
            os.abort()

    def create_network(self, flags: int) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        assert isinstance(network, _Network)
        match os.environ.get("FAKE_CRASH", ""):
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), 9)
            case "hang":
                Path(os.environ["FAKE_PID"]).write_text(str(os.getpid()))
                time.sleep(600)
            case "raise":
                raise RuntimeError("out of luck")
            case "error":
                self.logger.log(Severity.ERROR, "Error Code 9:\n no kernel")
                return None
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        assert monitor.step_complete("Building", 0)
        monitor.phase_finish("Building")
        self.logger.log(Severity.INFO, "built")
        self.logger.log(ILogger.VERBOSE, "a verbose line")
        told = {
            "strongly_typed": bool(network.flags >> NetworkDefinitionCreationFlag.STRONGLY_TYPED & 1),
            "flags": sorted(config.flags),
            "workspace": config.workspace,
            "hardware": config.hardware_compatibility_level.name,
            "profiles": config.profiles,
        }
        print("what the library itself prints", file=sys.stderr)
        return json.dumps(told).encode()
