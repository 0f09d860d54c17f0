"""Triton's server from the wheel nvidia-pytriton, on the CPU: installed on demand, set up, or refused with a reason.

The wheel needs no GPU, and of its requirements only numpy: just the server in it is used. It lies in an environment of
its own, because that numpy is older than ours.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Final

from servers.noop import INPUT, MODEL, OUTPUT

_INSTALL_S: Final = 300
_CONFIG: Final = f"""
backend: "python"
max_batch_size: 0
input [{{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] }}]
output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ 1 ] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


class Unavailable(Exception):
    """Triton cannot be run here; the message says why."""


def install(environment: Path, requirements: Path, say: Callable[[str], None]) -> Path:
    """Install the wheel and its numpy unless they are there already.

    Args:
        environment: folder of the virtual environment.
        requirements: the hashed requirement file.
        say: shows progress.

    Returns:
        The folder of its packages.

    Raises:
        Unavailable: there is no such wheel for this machine, or it cannot be had.
    """
    packages = environment / "lib" / f"python{_python()}" / "site-packages"
    stamp = environment / ".installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest and packages.is_dir():
        return packages
    say("installing Triton's server (nvidia-pytriton and numpy, 75 MB; once)")
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [*pip, "--require-hashes", "--no-deps", "-r", str(requirements)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
            raise Unavailable(f"nvidia-pytriton cannot be installed: {lines[-1][:300]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"nvidia-pytriton cannot be installed within {_INSTALL_S} s") from error
    stamp.write_text(digest)
    return packages


def set_up(
    packages: Path, scratch: Path, bench: Path, http_port: int, grpc_port: int
) -> tuple[list[str], dict[str, str]]:
    """Lay out a backend folder and a model repository.

    Args:
        packages: from ``install``.
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
    stub = server / "python_backend_stubs" / _python() / "triton_python_backend_stub"
    if not stub.is_file():
        raise Unavailable(f"the wheel has no Python backend for Python {_python()}")
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


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
