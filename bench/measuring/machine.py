"""What a measurement must say of the machine it was made on, and of how busy that was meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from measuring.cpu import busy_s, stolen_s

#: Packages whose versions change the numbers.
PACKAGES: Final = (
    "saccade",
    "kserve",
    "grpcio",
    "protobuf",
    "uvicorn",
    "uvloop",
    "httptools",
    "numpy",
    "orjson",
    "onnxruntime",
)


def describe() -> dict[str, Any]:
    """CPU, cores, memory, kernel and versions; no host name, no path."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in _field("/proc/cpuinfo", "flags").split(),
        "memory_gib": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


class Load:
    """How busy the machine is with other things than the measurement.

    Args:
        own_cpu_s: CPU seconds that the bench's own processes have used so far.
        clock: seconds.
    """

    def __init__(self, own_cpu_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._own_cpu_s, self._clock = own_cpu_s, clock
        self._averages = [os.getloadavg()]
        self._before = self._read()

    def note(self) -> None:
        """Remember the present load average."""
        self._averages.append(os.getloadavg())

    def report(self) -> dict[str, Any]:
        """Load averages (1, 5, 15 minutes) as noted, and cores that others used on average since the start."""
        wall, busy, stolen, own = (now - then for now, then in zip(self._read(), self._before, strict=True))
        return {
            "load_averages": [[round(value, 2) for value in average] for average in self._averages],
            "cores_used_by_bench": round(own / wall, 2),
            "cores_used_by_others": round(max(0.0, busy - own) / wall, 2),
            "cores_stolen": round(stolen / wall, 2),
            "seconds": round(wall, 1),
        }

    def _read(self) -> tuple[float, float, float, float]:
        return self._clock(), busy_s(), stolen_s(), self._own_cpu_s()


def _field(file: str, name: str) -> str:
    """The first ``name: value`` of a procfs file; empty if there is none."""
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
