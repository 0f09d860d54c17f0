"""What this machine can run plans with: its GPUs and its TensorRT. Makes no CUDA context and no TensorRT object.

TensorRT must not be asked: without a driver the builder of 10.6 aborts the process and that of 11.2 ends it with a
segmentation fault. So CUDA's driver library is asked first, and TensorRT is imported only where that has found a GPU.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Any, Final

DRIVER: Final = "libcuda.so.1"
#: Kind of a plan -> names its module goes by: the package, and the bindings alone, which are the same module.
MODULES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "trt": ("tensorrt", "tensorrt_bindings"),
        "trt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    }
)
#: cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: the driver's, for example ``NVIDIA L4``.
        compute_capability: for example ``8.9``.
    """

    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found.

    Attributes:
        gpus: in the order that CUDA counts them, from 0; none where none can be used.
        why_no_gpu: what was found instead, as the end of a sentence; empty with a GPU.
        versions: kind of plan -> version of the TensorRT that runs it, as it says itself; kinds that are not
            installed are not in it.
    """

    gpus: tuple[Gpu, ...]
    why_no_gpu: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def look(*kinds: str) -> Machine:
    """Look at this machine.

    Args:
        kinds: keys of ``MODULES`` whose version is wanted. They are imported where there is a GPU, and only there:
            without one no plan runs whatever is installed.
    """
    gpus, why = find_gpus()
    if not gpus:
        return Machine((), why)
    found = {kind: load_tensorrt(kind) for kind in kinds}
    return Machine(gpus, "", {kind: str(module.__version__) for kind, module in found.items() if module is not None})


def find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that CUDA counts, or none and why there is none."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return (), f"no NVIDIA driver is installed ({DRIVER} is not there)"
    count = ctypes.c_int()
    if (code := driver.cuInit(0)) != 0:
        return (), f"the NVIDIA driver does not start (CUDA error {code})"
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return (), "the NVIDIA driver sees no device"
    found = []
    for index in range(count.value):
        device = ctypes.c_int()
        if (code := driver.cuDeviceGet(ctypes.byref(device), index)) != 0:
            return (), f"the NVIDIA driver does not give its device {index} (CUDA error {code})"
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGetName(name, len(name), device)
        major, minor = (_attribute(driver, device, number) for number in (_MAJOR, _MINOR))
        found.append(Gpu(name.value.decode(errors="replace"), f"{major}.{minor}"))
    return tuple(found), ""


def load_tensorrt(kind: str) -> ModuleType | None:
    """Import the module of a kind of plan, or None where it is not installed or does not load.

    An import is safe without a driver; making a ``Builder`` or a ``Runtime`` is not.
    """
    try:
        return import_tensorrt(kind)
    except ImportError:
        return None


def import_tensorrt(kind: str) -> ModuleType:
    """Import the module of a kind of plan, by whichever of its names is installed.

    Raises:
        ImportError: it is not installed or does not load; the sentence says why, for each name.
    """
    reasons = []
    for name in MODULES[kind]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(str(error))
    raise ImportError("; ".join(reasons))


def _attribute(driver: Any, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
