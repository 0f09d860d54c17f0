"""Records the arrival trace: a line for every request that ends, appended to a file of bounded size.

What a line holds, and how it is read, stands in ``saccade_serving.scheduling.trace``; how it is written without
keeping requests waiting, in ``saccade_serving.lines``.
"""

from __future__ import annotations

import time
from pathlib import Path

from saccade_serving.connection.exchange import Exchange
from saccade_serving.lines import ROOM, LineWriter
from saccade_serving.scheduling.trace import encode


class Recorder(LineWriter):
    """Writes one arrival trace. Times go on in a new file.

    Args:
        path: of the file.
        max_bytes: that it may have; with ``.1`` there are twice as many.
        room: lines that may wait for the disk.

    Raises:
        OSError: it cannot be written there; ``strerror`` says why.
    """

    def __init__(self, path: Path, max_bytes: int, room: int = ROOM) -> None:
        super().__init__("arrival_trace", encode, path, max_bytes, room)
        self._began = time.monotonic()

    def record(self, exchange: Exchange, version: str, code: str, total_s: float) -> None:
        """Note a request that has ended; see ``saccade_serving.connection.gate.Recording``."""
        if not self.has_room():
            return
        started, own = exchange.started, exchange.own_timeout_s
        # What ``encode`` takes, in its order.
        self.put(
            started - self._began,
            exchange.model,
            version,
            exchange.rows,
            exchange.deadline - started if own is None else own,
            total_s,
            code,
            exchange.priority,
            exchange.queue_timeout_s,
        )
