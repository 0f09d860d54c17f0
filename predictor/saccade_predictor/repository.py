"""A Triton model repository on disk: which models, which versions, which files. Loads nothing.

Layout: ``<repository>/<model>/config.pbtxt`` (optional), ``<repository>/<model>/<version>/<model file>``, where a
version is a directory named by a positive number. Other files are ignored, as Triton does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "config.pbtxt"


class RepositoryError(ValueError):
    """The repository, or a model in it, is not laid out as expected. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """One model of a repository."""

    name: str
    path: Path

    def has_config(self) -> bool:
        """Whether there is a ``config.pbtxt``; says nothing of what it holds."""
        return (self.path / CONFIG_FILE).is_file()

    def config_text(self) -> str | None:
        """The text of ``config.pbtxt``, or None where there is none.

        Raises:
            RepositoryError: it is not UTF-8 text.
        """
        if not self.has_config():
            return None
        try:
            return (self.path / CONFIG_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RepositoryError(f"{self.name}/config.pbtxt is not UTF-8 text") from error

    def versions(self) -> list[int]:
        """Versions on disk, ascending; leading zeros are not versions (Triton ignores them too)."""
        return sorted(
            int(child.name)
            for child in self.path.iterdir()
            if child.is_dir() and child.name.isascii() and child.name.isdigit() and not child.name.startswith("0")
        )

    def labels(self, filename: str) -> list[str]:
        """Read a ``label_filename``: one class name a line.

        Raises:
            RepositoryError: it is missing or not UTF-8 text.
        """
        try:
            return (self.path / filename).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(f"{self.name}/{filename}, named by label_filename, cannot be read") from error

    def version_files(self, version: int) -> list[str]:
        """Names of the files of a version."""
        return sorted(child.name for child in (self.path / str(version)).iterdir() if child.is_file())


def find_models(repository: Path, only: str | None = None) -> list[ModelDirectory]:
    """List the models of a repository, or the one of that name.

    Raises:
        RepositoryError: no such directory, no model in it, or not the one asked for.
    """
    if not repository.is_dir():
        raise RepositoryError(
            f"model repository {repository} is not a directory; set SACCADE_PREDICTOR_MODEL_REPOSITORY"
        )
    models = [
        ModelDirectory(child.name, child)
        for child in sorted(repository.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    ]
    models = [model for model in models if model.has_config() or model.versions()]
    names = ", ".join(model.name for model in models) or "none"
    if only is not None:
        models = [model for model in models if model.name == only]
    if not models:
        wanted = f"no model {only!r} (found: {names})" if only is not None else "no model"
        raise RepositoryError(f"model repository {repository} holds {wanted}; expected <model>/<version>/model.onnx")
    return models
