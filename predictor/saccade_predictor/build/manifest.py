"""A list of digests for a model repository, as ``sha256sum`` writes and checks it.

What is copied to a bucket and back can be checked without Saccade: ``cd REPOSITORY && sha256sum -c SHA256SUMS``. It
tells damage, not forgery: whoever can change a file can change the list; sign it where that matters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from saccade_predictor.engines.plan import hash_file

MANIFEST_FILE: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"^(\\?)([0-9a-f]{64}) [ *](.+)$")
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


class ManifestError(ValueError):
    """A manifest cannot be read or written."""


def files_of(folder: Path) -> list[str]:
    """Relative names of all files, sorted; hidden ones and the manifest itself are left out.

    Raises:
        ManifestError: it is no folder, or there is none.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder")
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(here, name)
            if not name.startswith(".") and path != folder / MANIFEST_FILE and path.is_file():
                found.append(path.relative_to(folder).as_posix())
    if not found:
        raise ManifestError(f"{folder} holds no file")
    return sorted(found)


def write(folder: Path) -> int:
    """Write the manifest of a folder, in one step; returns how many files it lists.

    Raises:
        ManifestError: there is nothing to list.
        OSError: a file cannot be read, or the manifest not written.
    """
    names = files_of(folder)
    text = compose({name: hash_file(folder / name)[0] for name in names})
    part = folder / f".{MANIFEST_FILE}.{os.getpid()}.part"
    try:
        with part.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / MANIFEST_FILE)
    finally:
        part.unlink(missing_ok=True)
    return len(names)


def check(folder: Path) -> Iterator[str]:
    """Hold a folder against its manifest; yields a sentence for every file that is missing, changed or not listed.

    Raises:
        ManifestError: there is no manifest, or it is none.
    """
    listed = read(folder / MANIFEST_FILE)
    for name, digest in listed.items():
        try:
            found, size = hash_file(folder / name)
        except FileNotFoundError:
            yield f"{name} is missing"
        except OSError as error:
            yield f"{name} cannot be read: {error.strerror}"
        else:
            if found != digest:
                yield f"{name} is not as listed ({size} bytes, SHA-256 {found[:12]}..., listed {digest[:12]}...)"
    for name in files_of(folder):
        if name not in listed:
            yield f"{name} is not listed"


def compose(digests: Mapping[str, str]) -> str:
    """The manifest of files: relative name -> digest."""
    return "".join(_line(digests[name], name) for name in sorted(digests))


def read(path: Path) -> dict[str, str]:
    """Relative name -> digest.

    Raises:
        ManifestError: it is missing or no manifest, or names files outside its folder.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        hint = "; write one with saccade-build manifest" if isinstance(error, FileNotFoundError) else ""
        raise ManifestError(f"cannot read {path}: {error.strerror}{hint}") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, str]:
    """Relative name -> digest, of a manifest's text that is from ``where``.

    Raises:
        ManifestError: it is no manifest, or names files outside its folder.
    """
    found = {}
    for number, line in enumerate(text.split("\n")[:-1] if text.endswith("\n") else text.split("\n"), 1):
        match = _LINE.match(line)
        name = _unescape(match[3]) if match and match[1] else match[3] if match else ""
        if match is None or name.startswith("/") or ".." in name.split("/"):
            raise ManifestError(
                f"{where} line {number} is not 'SHA-256  name' of a file in its folder, as sha256sum writes"
            )
        found[name] = match[2]
    return found


def _line(digest: str, name: str) -> str:
    """As sha256sum: a name with a backslash or a line break is escaped, and the line begins with a backslash."""
    escaped = "".join(_ESCAPES.get(char, char) for char in name)
    mark = "\\" if escaped != name else ""
    return f"{mark}{digest}  {escaped}\n"


def _unescape(name: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), name)
