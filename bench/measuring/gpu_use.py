"""How busy a GPU is while something else runs, by nvidia-smi: its utilisation is the share of time with a kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Final

PROGRAM: Final = "nvidia-smi"
_EVERY_MS: Final = 100
_STOP_S: Final = 5.0


@contextmanager
def watched(scratch: Path, program: str = PROGRAM) -> Iterator[Callable[[], float | None]]:
    """Watch the first GPU of this process during the block.

    Args:
        scratch: a folder for its output.
        program: nvidia-smi, or one that answers as it does.

    Yields:
        After the block: the mean utilisation, 0 to 1; None where nothing tells it (no nvidia-smi, MIG).
    """
    found = shutil.which(program)
    if found is None:
        yield lambda: None
        return
    query = [found, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--id={first_visible()}"]
    with tempfile.TemporaryFile(dir=scratch) as told:
        process = subprocess.Popen(
            [*query, f"--loop-ms={_EVERY_MS}"], stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.DEVNULL
        )
        taken: list[float | None] = [None]
        try:
            yield lambda: taken[0]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            told.seek(0)
            taken[0] = mean_of(told.read().decode(errors="replace"))


def first_visible() -> str:
    """The first GPU that CUDA shows this process, as CUDA_VISIBLE_DEVICES names it: an index or a UUID."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def mean_of(text: str) -> float | None:
    """The mean of nvidia-smi's lines of percents; what is none, such as ``[N/A]``, does not count.

    The first line may be of before the block, and the last one may be cut off.
    """
    whole = text.rpartition("\n")[0].splitlines()
    numbers = [float(line) for line in whole[1:] if line.strip().isdigit()]
    return fmean(numbers) / 100 if numbers else None
