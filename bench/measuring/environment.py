"""Packages that only a bench needs, installed on demand into an environment of their own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_INSTALL_S: Final = 300


class Unavailable(Exception):
    """They cannot be had here; the message says why."""


def install(environment: Path, requirements: Path, what: str, say: Callable[[str], None]) -> Path:
    """Install packages, without what they require themselves, unless they are there already.

    Args:
        environment: folder of the virtual environment.
        requirements: the hashed requirement file.
        what: they are, for messages.
        say: shows progress.

    Returns:
        The folder of the packages.

    Raises:
        Unavailable: there is no such package for this machine, or it cannot be had.
    """
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    stamp = environment / ".installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest and packages.is_dir():
        return packages
    say(f"installing {what} (once)")
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [*pip, "--require-hashes", "--no-deps", "-r", str(requirements)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
            raise Unavailable(f"{what} cannot be installed: {lines[-1][:300]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{what} cannot be installed within {_INSTALL_S} s") from error
    stamp.write_text(digest)
    return packages
