"""Keeps the frames that disagree most in a directory: ``worst.jsonl``, and the images beside it in ``images/``.

A thread of its own writes; whoever offers a frame never waits. What finds no room in memory, or fails on the disk, is
lost and said now and then: requests never notice. One process owns a directory, by a lock that ends with the process
however that ends; another one is refused. What the owner finds there at the start it takes up, and what is taken from
it meanwhile it makes again. Nothing is synced: a crash costs the last seconds, never the file's form.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

import orjson

from saccade_serving.telemetry import Seldom
from saccade_transformers.shadow.worst import Kept, Worst

log = logging.getLogger("saccade.shadow")

FILE: Final = "worst.jsonl"
IMAGES: Final = "images"
LOCK: Final = ".lock"
#: Least time between two times the file is written; images are written as they come.
_INTERVAL_S: Final = 2.0
#: Frames that may wait for the thread, each with its image.
_ROOM: Final = 16
#: Time that the last frames have at the end.
_CLOSE_S: Final = 5.0
_LOG_EVERY_S: Final = 60.0
#: Names of our own image files: nothing else is ever removed.
_OURS: Final = re.compile(r"[0-9a-f]{16}\.(jpg|png|webp|bmp)(\.tmp)?")
#: Names of images that a line may have.
IMAGE_NAME: Final = re.compile(r"[0-9a-f]{16}\.(jpg|png|webp|bmp)")
#: The largest ``worst.jsonl`` that is read: 10,000 frames of large answers have less.
MAX_FILE_BYTES: Final = 2**30


class WorstStore:
    """A directory of the frames that disagree most, from when it is made until ``close``.

    Args:
        directory: made if it is not there.
        keep: frames, at least 1.
        max_bytes: of lines and images together; the file is there twice while it is written.
        interval_s: least time between two times the file is written.

    Raises:
        OSError: it cannot be written there, or another process writes there, or ``worst.jsonl`` is no regular file, or
            too large to be ours.
    """

    def __init__(self, directory: Path, keep: int, max_bytes: int, interval_s: float = _INTERVAL_S) -> None:
        self._file = directory / FILE
        self._images = directory / IMAGES
        self._interval_s = interval_s
        self._worst = Worst(keep, max_bytes)
        self._offered: deque[tuple[Kept, bytes]] = deque()
        self._seldom = Seldom(_LOG_EVERY_S)
        self._lock = _Lock(directory / LOCK)
        try:
            self._own()
            self._write()
        except OSError:
            self._lock.release()
            raise
        self._stopping = False
        self._wake = threading.Event()
        # A daemon: a disk that hangs shall not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="saccade-shadow-store", daemon=True)
        self._thread.start()

    def wants(self, agreement: float, size: int = 0) -> bool:
        """Whether a frame of this agreement and at least this many bytes has a chance to be kept. From any thread."""
        return self._worst.would_keep(agreement, size) and len(self._offered) < _ROOM

    def offer(self, frame: Kept, image: bytes) -> None:
        """Hand over a frame and its encoded image, empty for none. From any thread; does not block."""
        if len(self._offered) < _ROOM:
            self._offered.append((frame, image))
            self._wake.set()

    def close(self) -> None:
        """Write what was offered, for 5 s at most."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        stopping = unwritten = False
        write_at = 0.0
        while not stopping:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            stopping = self._stopping
            try:
                if self._offered or unwritten:
                    self._own()
                while self._offered:
                    unwritten |= self._keep(*self._offered[0])
                    self._offered.popleft()
                if unwritten and (stopping or time.monotonic() >= write_at):
                    write_at = time.monotonic() + self._interval_s
                    self._write()
                    unwritten = False
            except OSError as error:
                self._offered.clear()
                self._complain(error)
        self._lock.release()

    def _keep(self, frame: Kept, image: bytes) -> bool:
        """Take a frame in; returns whether that changed anything."""
        if not self._worst.takes(frame):
            return False
        if frame.image:
            _replace(self._images / frame.image, image)
        gone = self._worst.add(frame)
        for old in gone:
            self._remove(old.image)
        return frame not in gone

    def _write(self) -> None:
        _replace(self._file, b"".join(frame.line + b"\n" for frame in self._worst.frames))

    def _own(self) -> None:
        """See to it that the directory is ours; one that comes to us is taken up with what is there."""
        if self._lock.hold():
            self._take_up()

    def _take_up(self) -> None:
        """Read what is there; lines that are not ours and images without a line go."""
        self._images.mkdir(parents=True, exist_ok=True)
        ids = {frame.id for frame in self._worst.frames}
        with contextlib.suppress(FileNotFoundError):
            for line in read_regular(self._file, MAX_FILE_BYTES).split(b"\n"):
                frame = self._read(line)
                if frame is not None and frame.id not in ids:
                    self._worst.add(frame)
        known = {frame.image for frame in self._worst.frames}
        for path in self._images.iterdir():
            if path.name not in known and _OURS.fullmatch(path.name):
                self._remove(path.name)

    def _read(self, line: bytes) -> Kept | None:
        try:
            content = orjson.loads(line)
            agreement, name, image = float(content["agreement"]), str(content["id"]), str(content["image"] or "")
        except (ValueError, TypeError, KeyError):
            return None
        image = image.removeprefix(f"{IMAGES}/")
        size = 0
        if image:
            if not IMAGE_NAME.fullmatch(image):
                return None
            with contextlib.suppress(FileNotFoundError):  # somebody took it away: the line still tells something
                found = (self._images / image).lstat()
                if not stat.S_ISREG(found.st_mode):
                    return None
                size = found.st_size
        return Kept(agreement, name, line, image, size)

    def _remove(self, image: str) -> None:
        if image:
            with contextlib.suppress(OSError):
                (self._images / image).unlink()

    def _complain(self, error: OSError) -> None:
        if self._seldom.due("store"):
            log.warning("shadow_store_failed", extra={"path": str(self._file), "why": str(error)})


class _Lock:
    """A file that says whose the directory is, for as long as the process that has locked it lives.

    Args:
        path: of the file, which stays there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: int | None = None

    def hold(self) -> bool:
        """See to it that the directory is ours: where somebody removed it, another process may have begun there.

        Returns:
            Whether it was not ours before.

        Raises:
            OSError: it is another's, or there can be no such file.
        """
        if self._held is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._held), os.lstat(self._path)):
                    return False
            self.release()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                why = "another process keeps its frames there; expected a directory of its own for each transformer"
                raise OSError(errno.EBUSY, why, str(self._path.parent)) from error
            raise
        self._held = descriptor
        return True

    def release(self) -> None:
        """Let another process have the directory."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def read_regular(path: Path, max_bytes: int, folder: int | None = None) -> bytes:
    """Read a file that somebody else may have put there: neither a link is followed, nor a pipe waited for.

    Args:
        path: of the file.
        max_bytes: that it may have.
        folder: descriptor of the directory that ``path`` is relative to; None for the working directory.

    Raises:
        OSError: it cannot be read, is no regular file, or larger.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link; expected a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with open(descriptor, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", str(path))
    return content


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, and nothing is left of a failure.

    Nothing that stands at either name is written to, nor what it links to. A directory that is gone is made again.
    """
    new = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
