"""Appends lines to a file of bounded size without ever keeping the event loop waiting.

The loop only puts a tuple into a bounded buffer; one thread encodes and writes. If the disk is too slow, lines are
lost and counted; if it fails, lines wait while there is room, and every few seconds it is tried again: requests never
notice. One process writes one file; nothing is synced, so a crash costs the last second. What a line holds is the
caller's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import orjson

log = logging.getLogger("saccade.lines")

#: Lines that may wait for the disk, about 200 bytes of memory each.
ROOM: Final = 2**16
#: How often what waits is written.
_INTERVAL_S: Final = 1.0
#: Lines that are encoded at once. While they are, nobody else has the interpreter.
_CHUNK: Final = 64
#: How long a disk that failed is left alone.
_RETRY_S: Final = 5.0
#: Time that the last lines have at the end.
_CLOSE_S: Final = 5.0


class NotJson(ValueError):
    """A line is not JSON.

    Attributes:
        number: the line's, from 1.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"line {number} is not JSON")
        self.number = number


def read_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Read lines of JSON; yields each line's number, from 1, and what it holds. Empty ones are left out.

    Args:
        lines: as they were written, newlines included. A last one without a newline that cannot be read is left out:
            its writer was ended there, or has not got further.

    Raises:
        NotJson: a line is none.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.endswith(b"\n"):
                return
            raise NotJson(number) from None
        yield number, content


class LineWriter:
    """Writes one file, from when it is made until ``close``. As a context manager it closes itself.

    A file that is there already becomes ``<path>.1``, and so does one that has grown to its bound; what was ``.1`` is
    gone then.

    Args:
        name: of the file in log events: ``<name>_rotated``, ``_drops``, ``_failed``, ``_resumed``,
            ``_closed``.
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
        self._chunk = b""  # what is being written, of so many lines
        self._chunk_lines = 0
        self._is_failing = False
        self._retry_at = 0.0
        self._stopping = threading.Event()
        if path.exists() and not path.is_file():
            raise OSError(0, "it is no regular file", str(path))  # it must not be renamed, and a pipe would block
        self._file: BinaryIO = self._begin_file()
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
        if not self.dropped and self._room and not self._is_failing:  # else it has failed, and said so
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
                if stopping or not self._is_failing or time.monotonic() >= self._retry_at:
                    self._write_all()
        except Exception as error:
            self._room = 0
            self._taken += len(self._waiting)
            self._waiting.clear()
            self._say_failed(error)
        finally:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write_all(self) -> None:
        try:
            if self._is_failing:
                self._reopen()
            while self._waiting or self._chunk_lines:
                self._write()
        except OSError as error:
            self._retry_at = time.monotonic() + _RETRY_S
            if not self._is_failing:
                self._is_failing = True
                self._say_failed(error)

    def _write(self) -> None:
        """Write some lines; those that a failure left over come first."""
        if not self._chunk_lines:
            waiting = self._waiting
            count = min(len(waiting), _CHUNK)
            self._chunk = b"".join([self._encode(*waiting.popleft()) for _ in range(count)])
            self._taken += count
            self._chunk_lines = count
        data = self._chunk
        if self._size and self._size + len(data) > self._max_bytes:
            self._file.close()
            self._file = self._begin_file()
            log.info(f"{self._name}_rotated", extra={"path": str(self._path), "written": self.written})
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._size += len(data)
        self.written += self._chunk_lines
        self._chunk, self._chunk_lines = b"", 0
        if self._is_failing:
            self._is_failing = False
            extra = {"path": str(self._path), "written": self.written, "dropped": self.dropped}
            log.warning(f"{self._name}_resumed", extra=extra)

    def _begin_file(self) -> BinaryIO:
        with contextlib.suppress(FileNotFoundError):  # the first, or somebody has taken it away to read it
            os.replace(self._path, self._old)
        self._size = 0
        return self._path.open("wb", buffering=0)

    def _reopen(self) -> None:
        """Go on after the last whole line, in a new file if somebody has taken ours away."""
        with contextlib.suppress(OSError):
            self._file.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = FileIO(os.open(self._path, flags, 0o666), "ab")
        found = os.fstat(self._file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(self._path))
        self._size = min(self._size, found.st_size)
        self._file.truncate(self._size)

    def _say_failed(self, error: Exception) -> None:
        log.error(f"{self._name}_failed", extra={"path": str(self._path), "why": str(error)})
