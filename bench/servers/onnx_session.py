"""ONNX Runtime as every server of the batching bench opens it, and a count of its batches that the bench can read.

The options are those of Saccade's own engine. Imports nothing of Saccade's: the peers' environment does not have it.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import onnxruntime as ort

_COUNTS = struct.Struct("<qq")


def open_session(path: Path, threads: int) -> Any:
    """A session with so many intra-op threads, which do not spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Counts:
    """Batches and their rows, in a file that the one process that infers writes and the bench reads."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_COUNTS.size)
            self._memory = mmap.mmap(file.fileno(), _COUNTS.size)

    def add(self, rows: int) -> None:
        """Count one batch."""
        batches, before = self.read()
        _COUNTS.pack_into(self._memory, 0, batches + 1, before + rows)

    def read(self) -> tuple[int, int]:
        """Batches and rows so far."""
        batches, rows = _COUNTS.unpack_from(self._memory)
        return batches, rows
