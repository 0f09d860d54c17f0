"""A model repository on disk: which models, which versions, which files; the errors are for whoever laid it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade_predictor.repository import ModelDirectory, RepositoryError, find_models


def lay_out(root: Path, *files: str) -> Path:
    """Write empty files, and the folders above them."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_models_are_the_folders_with_a_config_or_a_version_in_order(tmp_path: Path) -> None:
    lay_out(tmp_path, "b/1/model.onnx", "a/config.pbtxt", "c/2/model.onnx", "README.md", "notes/todo.txt")
    assert [model.name for model in find_models(tmp_path)] == ["a", "b", "c"]


def test_hidden_folders_are_no_models(tmp_path: Path) -> None:
    # Kubernetes mounts config maps and secrets with such folders beside the files.
    lay_out(tmp_path, "..data/1/model.onnx", ".git/1/model.onnx", "m/1/model.onnx")
    assert [model.name for model in find_models(tmp_path)] == ["m"]


def test_one_model_can_be_asked_for(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    [model] = find_models(tmp_path, "b")
    assert (model.name, model.path) == ("b", tmp_path / "b")


def test_a_model_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    with pytest.raises(RepositoryError, match=r"holds no model 'c' \(found: a, b\)"):
        find_models(tmp_path, "c")


def test_a_repository_without_a_model_is_an_error_that_says_how_it_should_look(tmp_path: Path) -> None:
    lay_out(tmp_path, "model.onnx")
    with pytest.raises(RepositoryError, match=r"holds no model; expected <model>/<version>/model\.onnx"):
        find_models(tmp_path)


def test_a_repository_that_is_not_there_names_the_variable_to_set(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not a directory; set SACCADE_PREDICTOR_MODEL_REPOSITORY"):
        find_models(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="is not a directory"):
        find_models(tmp_path / "file")


def test_versions_are_folders_named_by_a_positive_number_in_numeric_order(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        *(
            f"m/{name}/model.onnx"
            for name in ("2", "10", "1", "0", "007", "1a", "-3", "1.5", "\u0661", "latest", ".1")
        ),
        "m/4",
    )
    assert ModelDirectory("m", tmp_path / "m").versions() == [1, 2, 10]


def test_the_files_of_a_version_are_listed_without_folders(tmp_path: Path) -> None:
    lay_out(tmp_path, "m/1/model.onnx", "m/1/a.bin", "m/1/sub/b.bin")
    assert ModelDirectory("m", tmp_path / "m").version_files(1) == ["a.bin", "model.onnx"]


def test_a_config_is_read_as_text_and_a_missing_one_is_none(tmp_path: Path) -> None:
    lay_out(tmp_path, "m/1/model.onnx")
    model = ModelDirectory("m", tmp_path / "m")
    assert model.config_text() is None
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"  # gr\xf6\xdfer', encoding="utf-8")
    assert model.config_text() == 'name: "m"  # gr\xf6\xdfer'


def test_a_config_that_is_no_text_is_an_error_that_names_it(tmp_path: Path) -> None:
    lay_out(tmp_path, "m/1/model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RepositoryError, match=r"m/config\.pbtxt is not UTF-8 text"):
        ModelDirectory("m", tmp_path / "m").config_text()


def test_labels_are_the_lines_of_their_file(tmp_path: Path) -> None:
    model = ModelDirectory("m", tmp_path)
    (tmp_path / "labels.txt").write_text("person\nz\xe8bre\n\nlast", encoding="utf-8")
    assert model.labels("labels.txt") == ["person", "z\xe8bre", "", "last"]


def test_labels_that_are_not_there_or_no_text_are_an_error_that_names_them(tmp_path: Path) -> None:
    model = ModelDirectory("m", tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.txt", "binary.txt"):
        with pytest.raises(RepositoryError, match=f"m/{name}, named by label_filename, cannot be read"):
            model.labels(name)
