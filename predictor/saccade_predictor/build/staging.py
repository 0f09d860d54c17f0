"""Puts a model's version into its repository in one step: whoever looks sees nothing of it, or all.

Everything is written into a hidden folder beside the models, which the predictor does not take for one, on the same
file system; then it is renamed. A full disk, Ctrl-C or a crash leaves the repository as it was.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from saccade_predictor.repository import CONFIG_FILE

# fcntl.h and stdio.h
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_PART: Final = re.compile(r"^\..+\.(\d+)\.part$")


class StagingError(ValueError):
    """A version cannot be put where it shall go."""


@contextmanager
def staged(model: Path) -> Iterator[Path]:
    """A folder for what is not finished, beside the model's; removed at the end, with what is left in it.

    Raises:
        OSError: it cannot be made.
    """
    repository = model.parent
    repository.mkdir(parents=True, exist_ok=True)
    _sweep(repository)
    folder = repository / f".{model.name}.{os.getpid()}.part"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def choose_version(model: Path, asked: int | None, replace: bool) -> int:
    """The number of the version to be written: the one asked for, or the one after the highest.

    Raises:
        StagingError: it is there already and shall not be replaced.
    """
    there = [int(child.name) for child in model.iterdir() if _is_version(child)] if model.is_dir() else []
    if asked is None:
        return max(there, default=0) + 1
    if asked in there and not replace:
        raise StagingError(
            f"{model / str(asked)} is there already; leave --version out for {max(there) + 1}, or add --replace"
        )
    return asked


def put(staging: Path, version: Path, model: Path, files: dict[str, str]) -> None:
    """Move a finished version to its place.

    Args:
        staging: the folder of ``staged``.
        version: the finished folder, in it; named by its number.
        model: the model's folder; made if it is not there.
        files: name -> text of what lies beside the versions, for example config.pbtxt.

    Raises:
        OSError: it cannot be moved; what was there before is there still.
    """
    _sync(version)
    if not model.exists():
        whole = staging / "model"
        whole.mkdir()
        _write_files(whole, files)
        version.rename(whole / version.name)
        _sync(whole)
        whole.rename(model)
    else:
        # The version first: without a configuration its ONNX file is served, while a configuration without the version
        # would want plans of the versions before.
        _write_files(staging, files)
        _place(version, model / version.name, staging / "before")
        for name in sorted(files, key=lambda one: one == CONFIG_FILE):
            (staging / name).replace(model / name)
        _sync(model)
    _sync(model.parent)


def _place(version: Path, target: Path, before: Path) -> None:
    """Put a finished version where another one may be, which goes into the staging folder."""
    if not target.exists():
        version.rename(target)
        return
    if _exchange(version, target):
        return
    target.rename(before)  # a file system that cannot exchange two folders: for a moment there is no version
    try:
        version.rename(target)
    except BaseException:
        before.rename(target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, so that nobody ever finds one of them missing.

    Returns:
        Whether they did; not every system and file system can.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, with glibc 2.28 or musl 1.2.5
    if rename is None:
        return False
    rename.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    code: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return code == 0


def _write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        with (folder / name).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Write a file and see it on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(repository: Path) -> None:
    """Remove folders of builds that were killed."""
    for child in repository.iterdir():
        found = _PART.match(child.name)
        if found and child.is_dir() and not _is_running(int(found[1])):
            shutil.rmtree(child, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdigit() and not path.name.startswith("0") and path.is_dir()
