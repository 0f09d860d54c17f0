"""saccade-build inspect and manifest: what files hold, and that they are the ones that were built."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import onnx_graphs as graphs
from plan_support import put_version
from saccade_predictor.build import manifest
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.manifest import ManifestError

DETECTOR = Path(__file__).parents[2] / "examples" / "model-repository" / "detector" / "1" / "model.onnx"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_graph_is_described() -> None:
    result = run("inspect", DETECTOR)
    assert result.exit_code == 0, result.output
    for part in (
        "opset 18",
        "image UINT8 [?, 416, 416, 3]",
        "candidates FP32 [?, 1000, 6]",
        "34 Conv",
        "precision  fp32 (weights are stored as FLOAT16",
        "saccade.input = rgb_nhwc",
    ):
        assert part in result.output


def test_json_has_the_same_for_machines() -> None:
    told = json.loads(run("inspect", DETECTOR, "--json").stdout)
    assert (told["type"], told["opset"], told["precision"]) == ("onnx", 18, "fp32")
    assert told["nodes"] == sum(told["operators"].values())
    assert told["properties"]["saccade.candidates"] == "1000"


@pytest.mark.parametrize("which", ["", "model.plan", "plan.json"])
def test_a_plan_is_described_by_its_sidecar_however_it_is_named(which: str, tmp_path: Path) -> None:
    put_version(tmp_path)
    result = run("inspect", tmp_path / which)
    assert result.exit_code == 0, result.output
    for part in ("intact", "compute capability 8.6, 8.9", "x [1, 2] to [8, 2], tuned for [4, 2]", "not measured"):
        assert part in result.output
    told = json.loads(run("inspect", tmp_path / which, "--json").stdout)
    assert (told["type"], told["intact"], told["kind"]) == ("plan", True, "trt-rtx")


def test_a_plan_that_is_not_the_one_described_is_told_and_exits_1(tmp_path: Path) -> None:
    put_version(tmp_path, parity={"passed": True, "on": "3 images", "detections": {"agreement": 0.99}})
    (tmp_path / "model.plan").write_bytes(b"")
    result = run("inspect", tmp_path)
    assert result.exit_code == 1
    assert "model.plan is empty" in result.stderr
    assert "passed on 3 images, agreement 99.00%" in result.output


@pytest.mark.parametrize(
    ("content", "part"), [(None, "No such file"), (b"", "is empty"), (b"nonsense", "is not an ONNX file")]
)
def test_what_cannot_be_read_is_one_line(content: bytes | None, part: str, tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    if content is not None:
        path.write_bytes(content)
    result = run("inspect", path)
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert part in result.output
    (tmp_path / "model.plan").write_bytes(b"x")
    assert "plan.json is missing" in run("inspect", tmp_path).output


def test_a_graph_of_nothing_but_an_identity_has_no_products(tmp_path: Path) -> None:
    told = json.loads(run("inspect", graphs.identity(tmp_path / "a.onnx"), "--json").stdout)
    assert (told["precision"], told["parameters"], told["weight_bytes"]) == ("no products", 0, {})


def repository(folder: Path) -> Path:
    put_version(folder / "m" / "1")
    (folder / "m" / "config.pbtxt").write_text('backend: "tensorrt_rtx"')
    (folder / "m" / "a name\\with\nall.txt").write_text("x")
    (folder / ".half.1.part").mkdir()
    (folder / ".half.1.part" / "model.plan").write_text("unfinished")
    return folder


def test_a_manifest_is_what_sha256sum_writes_and_checks(tmp_path: Path) -> None:
    repository(tmp_path)
    result = run("manifest", tmp_path)
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'SHA256SUMS'}: 5 files\n")
    assert run("manifest", tmp_path, "--check").exit_code == 0
    before = (tmp_path / "SHA256SUMS").read_bytes()
    run("manifest", tmp_path)
    assert (tmp_path / "SHA256SUMS").read_bytes() == before, "it does not list itself"
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("needs sha256sum")
    ended = subprocess.run([tool, "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"")
    names = list(manifest.read(tmp_path / "SHA256SUMS"))
    ended = subprocess.run([tool, *names], cwd=tmp_path, capture_output=True)
    assert ended.stdout == before


def test_every_kind_of_difference_is_told(tmp_path: Path) -> None:
    repository(tmp_path)
    run("manifest", tmp_path)
    (tmp_path / "m" / "1" / "model.plan").write_bytes(b"another plan")
    (tmp_path / "m" / "1" / "plan.json").unlink()
    (tmp_path / "m" / "new.txt").write_text("x")
    result = run("manifest", tmp_path, "--check")
    assert result.exit_code == 1
    for part in (
        "m/1/model.plan is not as listed (12 bytes",
        "m/1/plan.json is missing",
        "m/new.txt is not listed",
        "3 files are not as SHA256SUMS says",
    ):
        assert part in result.output


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "No such file or directory; write one with saccade-build manifest"),
        ("nonsense\n", "line 1 is not"),
        (f"{'0' * 64}  ../../etc/passwd\n", "of a file in its folder"),
        (f"{'0' * 64}  /etc/passwd\n", "of a file in its folder"),
        (f"{'0' * 63}  a\n", "line 1 is not"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str | None, part: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "SHA256SUMS").write_text(text)
    with pytest.raises(ManifestError, match="SHA256SUMS"):
        list(manifest.check(tmp_path))
    result = run("manifest", tmp_path, "--check")
    assert result.exit_code == 2
    assert part in result.output


def test_a_folder_without_files_has_none_to_list(tmp_path: Path) -> None:
    assert "holds no file" in run("manifest", tmp_path).output
    assert "is not a folder" in run("manifest", tmp_path / "none").output
