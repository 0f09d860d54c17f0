"""Prometheus' own programs, which check its rules and answer its queries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools import missing


def need(program: str) -> str:
    """Where ``promtool`` or ``prometheus`` is; skips where it is not installed, with ``CI=true`` fails."""
    found = shutil.which(program)
    if found is None:
        missing(f"needs {program}: make tools as root (Debian: apt-get install prometheus)")
    return found


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a folder."""
    return subprocess.run(
        [need("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
