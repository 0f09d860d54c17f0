"""Triton's server from the wheel nvidia-pytriton, on the CPU: set up, or refused with a reason.

The wheel needs no GPU, and of its requirements only numpy: just the server in it is used. It lies in an environment of
its own, because that numpy is older than ours.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from measuring.environment import Unavailable, python
from servers.noop import INPUT, MODEL, OUTPUT

_CONFIG: Final = f"""
backend: "python"
max_batch_size: 0
input [{{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] }}]
output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ 1 ] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


def set_up(
    packages: Path, scratch: Path, bench: Path, http_port: int, grpc_port: int
) -> tuple[list[str], dict[str, str]]:
    """Lay out a backend folder and a model repository.

    Args:
        packages: where the wheel is installed.
        scratch: an empty folder.
        bench: the bench's own folder, where ``servers`` lies.
        http_port: where REST shall be served.
        grpc_port: where gRPC shall be served.

    Returns:
        The command, and what its environment needs beyond ours.

    Raises:
        Unavailable: the wheel has no stub for this Python, or this Python has no shared library.
    """
    server = packages / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / python() / "triton_python_backend_stub"
    if not stub.is_file():
        raise Unavailable(f"the wheel has no Python backend for Python {python()}")
    libraries, library = (sysconfig.get_config_var(name) or "" for name in ("LIBDIR", "INSTSONAME"))
    if not library.startswith("libpython") or ".so" not in library or not (Path(libraries) / library).exists():
        raise Unavailable("this Python has no shared library (libpython), which Triton's Python backend loads")
    backend, model = scratch / "backends" / "python", scratch / "models" / MODEL
    backend.mkdir(parents=True)
    for file in (server / "backends" / "python").iterdir():
        (backend / file.name).symlink_to(file)
    (backend / stub.name).symlink_to(stub)
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(_CONFIG)
    shutil.copy(bench / "servers" / "triton_model.py", model / "1" / "model.py")
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={scratch / 'models'}",
        f"--backend-directory={scratch / 'backends'}",
        *("--http-address=127.0.0.1", f"--http-port={http_port}"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"),
        *("--allow-metrics=false", "--exit-timeout-secs=3"),
    ]
    environment = {
        "LD_LIBRARY_PATH": os.pathsep.join([str(packages / "nvidia_pytriton.libs"), libraries]),
        "PYTHONHOME": sys.base_prefix,
        # The wheel's own numpy: with numpy 2 this backend answers empty tensors.
        "BENCH_PYTHON_PATH": os.pathsep.join([str(bench), str(packages)]),
    }
    return command, environment
