"""Versions that are put in the place of others: whoever looks finds the old one or the new one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from saccade_predictor.build import staging


def put(model: Path, text: str) -> None:
    with staging.staged(model) as folder:
        version = folder / "1"
        version.mkdir()
        (version / "model.onnx").write_text(text)
        staging.put(folder, version, model, {})


def contents(model: Path) -> list[tuple[str, str]]:
    return [(str(path.relative_to(model)), path.read_text()) for path in sorted(model.rglob("*")) if path.is_file()]


def test_a_version_is_never_missing_while_it_is_replaced(tmp_path: Path) -> None:
    model = tmp_path / "m"
    put(model, "0")
    if not staging._exchange(_folder(tmp_path / "a"), _folder(tmp_path / "b")):
        pytest.skip("needs a file system whose folders can be exchanged in one step")
    stop, missing = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            if not (model / "1").is_dir():
                missing.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 60):
        put(model, str(number))
    stop.set()
    thread.join()
    assert not missing
    assert contents(model) == [("1/model.onnx", "59")]
    assert not list(tmp_path.glob(".m.*"))


def test_where_folders_cannot_be_exchanged_the_old_one_comes_back_if_the_new_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    model = tmp_path / "m"
    put(model, "old")
    put(model, "new")
    assert contents(model) == [("1/model.onnx", "new")]
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.parent.name.endswith(".part") and path.name == "1":
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="No space left"):
        put(model, "newer")
    assert contents(model) == [("1/model.onnx", "new")]
    assert not list(tmp_path.glob(".m.*"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
