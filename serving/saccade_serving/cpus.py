"""How many CPUs this container may use: the smallest of its affinity mask and its cgroup quota."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def container_cpus(cgroup: Path = CGROUP_ROOT) -> int:
    """Count usable CPUs, at least 1; a fractional quota is rounded down.

    Reads cgroup v2 (``cpu.max``) and v1 (``cpu.cfs_quota_us``). ``os.cpu_count()`` alone sees the whole node and
    would start 64 threads in a pod that is limited to 2 CPUs.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    if quota is not None:
        usable = min(usable, int(quota))
    return max(1, usable)


def _quota(cgroup: Path) -> float | None:
    """CPUs granted by the cgroup, or None where there is no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            limit, period = (cgroup / "cpu.max").read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        quota_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None
