"""Appends lines to a file of bounded size without ever keeping the event loop waiting.

The loop only puts a tuple into a bounded buffer; one thread encodes and writes. If the disk is too slow, lines are
lost and counted, and if it fails, the writing ends: requests never notice. One process writes one file; nothing is
synced, so a crash costs the last second. What a line holds is the caller's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

log = logging.getLogger("saccade.lines")

#: Lines that may wait for the disk, about 200 bytes of memory each.
ROOM: Final = 2**16
#: How often what waits is written.
_INTERVAL_S: Final = 1.0
#: Lines that are encoded at once. While they are, nobody else has the interpreter.
_CHUNK: Final = 64
#: Time that the last lines have at the end.
_CLOSE_S: Final = 5.0


class LineWriter:
    """Writes one file, from when it is made until ``close``. As a context manager it closes itself.

    A file that is there already becomes ``<path>.1``, and so does one that has grown to its bound; what was ``.1`` is
    gone then.

    Args:
        name: of the file in log events: ``<name>_rotated``, ``_drops``, ``_failed``, ``_closed``.
        encode: makes a line of what was put, newline included; called in the thread.
        path: of the file.
        max_bytes: that it may have; with ``.1`` there are twice as many.
        room: lines that may wait for the disk.

    Attributes:
        written: lines.
        dropped: lines that found no room.

    Raises:
        OSError: it cannot be written there; ``strerror`` says why.
    """

    def __init__(self, name: str, encode: Callable[..., bytes], path: Path, max_bytes: int, room: int = ROOM) -> None:
        self._name = name
        self._encode = encode
        self._path = path
        self._old = path.with_name(f"{path.name}.1")
        self._max_bytes = max_bytes
        self._room = room
        self._waiting: deque[tuple[Any, ...]] = deque()
        self.written = self.dropped = 0
        self._taken = self._size = 0
        self._stopping = threading.Event()
        if path.exists() and not path.is_file():
            raise OSError(0, "it is no regular file", str(path))  # it must not be renamed, and a pipe would block
        self._file = self._begin_file()
        # A daemon: a disk that hangs shall not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"saccade-{name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def has_room(self) -> bool:
        """Whether a line can wait; if not, one is counted as lost. Asked before what it holds is put together."""
        if len(self._waiting) < self._room:
            return True
        if not self.dropped and self._room:  # else it has failed, and said so
            log.warning(f"{self._name}_drops", extra={"path": str(self._path), "waiting": len(self._waiting)})
        self.dropped += 1
        return False

    def put(self, *fields: Any) -> None:
        """Have a line written of what ``encode`` takes. Does not block; only where ``has_room`` said yes."""
        self._waiting.append(fields)

    def close(self) -> None:
        """Write what waits, for 5 s at most, and say how much there was."""
        self._stopping.set()
        self._thread.join(_CLOSE_S)
        lost = self.dropped + len(self._waiting) + self._taken - self.written
        log.info(f"{self._name}_closed", extra={"written": self.written, "dropped": lost})

    def _run(self) -> None:
        try:
            stopping = False
            while not stopping:
                stopping = self._stopping.wait(_INTERVAL_S)
                while self._waiting:
                    self._write()
        except Exception as error:
            self._room = 0
            self._taken += len(self._waiting)
            self._waiting.clear()
            log.error(f"{self._name}_failed", extra={"path": str(self._path), "why": str(error)})
        finally:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self) -> None:
        waiting = self._waiting
        count = min(len(waiting), _CHUNK)
        data = b"".join([self._encode(*waiting.popleft()) for _ in range(count)])
        self._taken += count
        if self._size and self._size + len(data) > self._max_bytes:
            self._file.close()
            self._file = self._begin_file()
            log.info(f"{self._name}_rotated", extra={"path": str(self._path), "written": self.written})
        self._file.write(data)
        self._file.flush()
        self._size += len(data)
        self.written += count

    def _begin_file(self) -> BinaryIO:
        with contextlib.suppress(FileNotFoundError):  # the first, or somebody has taken it away to read it
            os.replace(self._path, self._old)
        self._size = 0
        return self._path.open("wb")
