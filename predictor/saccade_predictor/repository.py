"""A Triton model repository on disk: which models, which versions, which files. Loads nothing.

Layout: ``<repository>/<model>/config.pbtxt`` (optional), ``<repository>/<model>/<version>/<model file>``, where a
version is a directory named by a positive number. Other files are ignored, as Triton does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIG_FILE = "config.pbtxt"
#: Where files that a warm-up reads lie, as at Triton.
WARMUP_FOLDER: Final = "warmup"
#: Files of one model that are looked at for changes; a folder that links to itself must not be walked for ever.
MAX_FILES: Final = 10_000
MAX_LABEL_BYTES: Final = 2**22
#: What engines write beside their models themselves, and what it is called while it is written.
UNWATCHED: Final = (".rtxcache", ".part")


class RepositoryError(ValueError):
    """The repository, or a model in it, is not laid out as expected. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """One model of a repository.

    Attributes:
        config: text that stands for ``config.pbtxt``; None: the file's.
    """

    name: str
    path: Path
    config: str | None = None

    def has_config(self) -> bool:
        """Whether there is a ``config.pbtxt``; says nothing of what it holds."""
        return self.config is not None or (self.path / CONFIG_FILE).is_file()

    def config_text(self) -> str | None:
        """The text of ``config.pbtxt``, or None where there is none.

        Raises:
            RepositoryError: it is not UTF-8 text.
        """
        if self.config is not None:
            return self.config
        if not self.has_config():
            return None
        try:
            return (self.path / CONFIG_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RepositoryError(f"{self.name}/config.pbtxt is not UTF-8 text") from error

    def versions(self) -> list[int]:
        """Versions on disk, ascending; leading zeros are not versions (Triton ignores them too)."""
        return sorted(int(child.name) for child in self.path.iterdir() if _is_version(child.name) and child.is_dir())

    def labels(self, filename: str) -> list[str]:
        """Read a ``label_filename``: one class name a line.

        Raises:
            RepositoryError: it is missing or not UTF-8 text.
        """
        path = self.path / filename
        try:
            # A pipe would be waited for; a model file that is taken for one must not be read as a whole.
            if path.is_file() and path.stat().st_size <= MAX_LABEL_BYTES:
                return path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(f"{self.name}/{filename}, named by label_filename, cannot be read") from error
        raise RepositoryError(
            f"{self.name}/{filename}, named by label_filename, cannot be read; expected a text file of at most "
            f"{MAX_LABEL_BYTES} bytes"
        )

    def warmup_file(self, filename: str, size_limit: int) -> bytes:
        """Read an ``input_data_file`` of a warm-up.

        Args:
            filename: within ``<model>/warmup``.
            size_limit: bytes read at most; a file that is larger has one byte more.

        Raises:
            RepositoryError: it cannot be read.
        """
        try:
            path = self.path / WARMUP_FOLDER / filename
            if path.is_file():
                with path.open("rb") as file:
                    return file.read(size_limit + 1)
        except OSError:
            pass
        raise RepositoryError(f"{self.name}/{WARMUP_FOLDER}/{filename}, named by model_warmup, cannot be read")

    def version_files(self, version: int) -> list[str]:
        """Names of the files of a version."""
        return sorted(child.name for child in (self.path / str(version)).iterdir() if child.is_file())

    def fingerprints(self) -> dict[int, str]:
        """What changes when a version does, or what all versions share: configuration, labels, data of the warm-up.

        Names, sizes and times of modification are looked at, of the configuration its text.

        Raises:
            RepositoryError: there are more than ``MAX_FILES`` files, or it cannot be read.
        """
        shared: list[str] = [self.config_text() or ""]
        own: dict[int, list[str]] = {version: [] for version in self.versions()}
        try:
            for count, file in enumerate(self._files()):
                if file.name.endswith(UNWATCHED):
                    continue
                if count >= MAX_FILES:
                    raise RepositoryError(f"model {self.name!r} has more than {MAX_FILES} files")
                told = file.stat()
                relative = file.relative_to(self.path)
                line = f"{relative} {told.st_size} {told.st_mtime_ns}"
                top = relative.parts[0]
                if not _is_version(top):
                    if str(relative) != CONFIG_FILE:
                        shared.append(line)
                elif int(top) in own:
                    own[int(top)].append(line)
        except OSError as error:
            raise RepositoryError(f"model {self.name!r} cannot be read: {error.strerror}") from error
        return {version: _digest(shared + lines) for version, lines in own.items()}

    def fingerprint(self) -> str:
        """What changes when anything of the model does.

        Raises:
            As ``fingerprints``.
        """
        return _digest([f"{version} {mark}" for version, mark in self.fingerprints().items()])

    def _files(self) -> Iterator[Path]:
        """All files, in a fixed order. Links are followed: mounted Secrets and ConfigMaps are made of them."""
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(files))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def list_models(repository: Path, only: str | None = None) -> list[ModelDirectory]:
    """List the models of a repository; of them the one of that name, if one is given.

    Raises:
        RepositoryError: no such directory, or it cannot be read.
    """
    if not repository.is_dir():
        raise RepositoryError(
            f"model repository {repository} is not a directory; set SACCADE_PREDICTOR_MODEL_REPOSITORY"
        )
    try:
        models = [
            ModelDirectory(child.name, child)
            for child in sorted(repository.iterdir())
            if _can_be_named(child.name) and only in (None, child.name) and child.is_dir()
        ]
    except OSError as error:
        raise RepositoryError(f"model repository {repository} cannot be read: {error.strerror}") from error
    return [model for model in models if _is_model(model)]


def _can_be_named(name: str) -> bool:
    """Hidden folders are no models, nor what no client could write."""
    return not name.startswith(".") and name.isprintable()


def _is_model(directory: ModelDirectory) -> bool:
    """Whether it looks like one; what cannot be read does, so that somebody is told."""
    try:
        return directory.has_config() or bool(directory.versions())
    except OSError:
        return True


def find_models(repository: Path, only: str | None = None) -> list[ModelDirectory]:
    """List the models of a repository, or the one of that name.

    Raises:
        RepositoryError: no such directory, no model in it, or not the one asked for.
    """
    models = list_models(repository, only)
    if not models:
        names = ", ".join(model.name for model in list_models(repository)) or "none"
        wanted = f"no model {only!r} (found: {names})" if only is not None else "no model"
        raise RepositoryError(f"model repository {repository} holds {wanted}; expected <model>/<version>/model.onnx")
    return models
