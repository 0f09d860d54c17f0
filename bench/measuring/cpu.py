"""CPU time of other processes, user and system together.

Source: Linux gives every process a CPU clock (clock_getcpuclockid(3)) that counts what utime and stime of
``/proc/<pid>/stat`` count, threads that have ended included, in nanoseconds rather than in ticks of 10 ms.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")

#: The lowest three bits of a process's clock id: CPUCLOCK_SCHED, the exact run time (linux/posix-timers.h).
_SCHED = 2


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used; 0 once it has ended and been waited for."""
    try:
        return time.clock_gettime((~pid << 3) | _SCHED)
    except OSError:
        return 0.0


def total_cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of several processes together."""
    return sum(cpu_s(pid) for pid in pids)


def with_descendants(root: int, proc: Path = PROC) -> list[int]:
    """A process and everything that it started, at this moment.

    Args:
        root: its id.
        proc: where procfs is mounted.
    """
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is read
        found += children.get(pid, [])
    return found


def own_cpu_s() -> float:
    """CPU seconds of this process and everything it started, what has ended included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return total_cpu_s(with_descendants(os.getpid())) + ended.ru_utime + ended.ru_stime


def busy_s(proc: Path = PROC) -> float:
    """CPU seconds that all processes of the machine have used, interrupts included."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = _machine_ticks(proc)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def stolen_s(proc: Path = PROC) -> float:
    """CPU seconds that the hypervisor gave to other machines while this one wanted to run."""
    return _machine_ticks(proc)[7] / os.sysconf("SC_CLK_TCK")


def _machine_ticks(proc: Path) -> list[int]:
    return [int(field) for field in (proc / "stat").read_text().split("\n", 1)[0].split()[1:]]


def _parent(entry: Path) -> int | None:
    """Parent of a process; None if it ended meanwhile. The name before the state may hold anything, ``)`` too."""
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
