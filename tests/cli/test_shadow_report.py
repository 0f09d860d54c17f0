"""``saccade shadow-report``: what a person sees of the frames that a shadow kept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
from typer.testing import CliRunner, Result

from saccade_cli.__main__ import app
from saccade_transformers.shadow.store import WorstStore
from saccade_transformers.shadow.worst import Kept


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide terminal without colours."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["shadow-report", *map(str, arguments)])


def found(label: str, class_id: int, box: tuple[float, ...] = (5, 5, 40, 30)) -> dict[str, Any]:
    return {"box": list(box), "score": 0.9, "class_id": class_id, "label": label}


def keep(directory: Path, with_images: bool = True) -> None:
    """Let a store keep two frames, as the transformer's does."""
    store = WorstStore(directory, 10, 10**6)
    image = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes() if with_images else b""
    for number, candidate in enumerate([[found("cat", 1)], [found("person", 0), found("cat", 1, (0, 0, 20, 20))]]):
        name = f"{number:016x}"
        file = f"{name}.jpg" if with_images else ""
        line = {
            "id": name,
            "time": f"2026-11-27T10:0{number}:00.000+00:00",
            "request_id": f"r-{number}",
            "camera": "0123456789abcdef",
            "width": 64,
            "height": 48,
            "agreement": number * 2 / 3,
            "differences": {"matched": number, "class_changes": 1 - number, "only_in_a": 0, "only_in_b": number},
            "served": {"version": "1", "answer": [found("person", 0)]},
            "candidate": {"version": "2", "answer": candidate},
            "image": f"images/{file}" if file else None,
        }
        store.offer(Kept(number * 2 / 3, name, orjson.dumps(line), file, len(image)), image)
    store.close()


def test_the_worst_frames_stand_first_with_both_answers_and_what_they_come_to(tmp_path: Path) -> None:
    keep(tmp_path)
    result = report(tmp_path)
    assert result.exit_code == 0, result.output
    rows = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in result.output.splitlines()]
    worst, better = (i for i, row in enumerate(rows) if row and row[0].startswith("agreement"))
    assert rows[worst] == ["agreement 0.00", "other class: person 0.90 -> cat 0.90"]
    assert [row[0] for row in rows[worst + 1 : worst + 4]] == ["r-0", "camera 01234567", f"{0:016x}.jpg"]
    assert rows[better] == ["agreement 0.67", "found alone: cat 0.90"]
    assert rows[better + 1] == ["r-1", ""]
    assert "2 frames, 2026-11-27T10:00:00.000+00:00 to 2026-11-27T10:01:00.000+00:00" in result.output
    assert "version 1 served, candidate 2" in result.output
    assert "1 objects in both, 1 with another class, 0 missed by the candidate, 1 found by it alone" in result.output
    assert ["cat", "0", "0", "2"] in rows
    assert ["person", "2", "1", "0"] in rows


@pytest.mark.parametrize("columns", [40, 80])
def test_in_a_narrow_terminal_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    keep(tmp_path)
    identity = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    many = [found("traffic light", 9, (x, 0, x + 9, 9)) for x in range(0, 80, 10)]
    rewrite(tmp_path, lambda line: line.update(request_id=identity, candidate={"version": "2", "answer": many}))
    output = report(tmp_path).output
    table = [line for line in output.splitlines() if line and line[0] in "│┃┏┡├└╇"]
    assert max(map(len, table)) <= columns
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in table]
    frames = [row for row in cells if len(row) == 2]
    assert identity in "".join(row[0] for row in frames)
    assert " ".join(row[1] for row in frames).count("traffic light 0.90") == 8
    if columns == 80:
        assert identity in [row[0] for row in frames], "in one piece"
        assert any(row[1].startswith("found alone: traffic light 0.90") for row in frames)


def test_the_report_is_written_as_json_for_a_program(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    written = tmp_path / "report.json"
    result = report(tmp_path / "kept", "--limit", "1", "--json", written)
    assert result.exit_code == 0, result.output
    assert "2 frames" in result.output, "it is shown, too"
    content = orjson.loads(written.read_bytes())
    [worst] = content.pop("worst")
    assert content == {
        "frames": 2,
        "first": "2026-11-27T10:00:00.000+00:00",
        "last": "2026-11-27T10:01:00.000+00:00",
        "served_versions": ["1"],
        "candidate_versions": ["2"],
        "objects": {"matched": 1, "class_changes": 1, "only_in_a": 0, "only_in_b": 1},
        "classes": [
            {"label": "cat", "served": 0, "missed": 0, "found_alone": 2},
            {"label": "person", "served": 2, "missed": 1, "found_alone": 0},
        ],
    }
    assert (worst["request_id"], worst["agreement"], worst["image"]) == ("r-0", 0.0, f"images/{0:016x}.jpg")
    assert worst["changed"] == [[found("person", 0), found("cat", 1)]]
    assert worst["missed"] == worst["alone"] == []


def test_the_json_of_a_directory_without_frames_says_so(tmp_path: Path) -> None:
    WorstStore(tmp_path, 10, 10**6).close()
    assert report(tmp_path, "--json", tmp_path / "report.json").exit_code == 0
    content = orjson.loads((tmp_path / "report.json").read_bytes())
    assert (content["frames"], content["worst"]) == (0, [])


def test_json_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    keep(tmp_path)
    result = report(tmp_path, "--json", tmp_path / "nowhere" / "report.json")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr


def test_a_limit_shortens_the_list_and_not_the_sums(tmp_path: Path) -> None:
    keep(tmp_path)
    result = report(tmp_path, "--limit", "1")
    assert "r-0" in result.output
    assert "r-1" not in result.output
    assert "2 frames" in result.output


def test_both_answers_are_drawn_side_by_side(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    result = report(tmp_path / "kept", "--save", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 pictures" in result.output
    first, _ = sorted((tmp_path / "out").iterdir())
    picture = cv2.imread(str(first))
    assert picture is not None
    assert picture.shape[0] == 48
    assert picture.shape[1] == 64 + 8 + 64
    for side in (picture[:, :64], picture[:, 72:]):
        assert (np.abs(side.astype(int) - 90).max(axis=2) > 60).any(), "a box"


def test_without_images_the_setting_is_named(tmp_path: Path) -> None:
    keep(tmp_path / "kept", with_images=False)
    result = report(tmp_path / "kept", "--save", tmp_path / "out")
    assert result.exit_code == 0
    assert "SHADOW_IMAGES" in result.stderr


def test_an_image_that_is_gone_costs_its_picture_only(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    (tmp_path / "kept" / "images" / f"{0:016x}.jpg").unlink()
    result = report(tmp_path / "kept", "--save", tmp_path / "out")
    assert result.exit_code == 0
    assert "1 pictures" in result.output


def test_a_directory_without_frames_says_so(tmp_path: Path) -> None:
    WorstStore(tmp_path, 10, 10**6).close()
    result = report(tmp_path)
    assert result.exit_code == 0
    assert "no frame in" in result.stderr


@pytest.mark.parametrize(("content", "why"), [(None, "expected the directory of SHADOW_DIR"), (b"{}\n", "line 1")])
def test_what_is_no_such_directory_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "worst.jsonl").write_bytes(content)
    result = report(tmp_path)
    assert result.exit_code == 1
    assert why in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the second line, as somebody might who can write there."""
    path = directory / "worst.jsonl"
    first, second = path.read_bytes().splitlines()
    content = orjson.loads(second)
    change(content)
    path.write_bytes(first + b"\n" + orjson.dumps(content) + b"\n")


@pytest.mark.parametrize(
    "image", ["../secret.jpg", "images/../../secret.jpg", "/dev/zero", "images/0000000000000009.jpg", "images/x.jpg"]
)
def test_only_images_of_the_store_are_drawn(tmp_path: Path, image: str) -> None:
    keep(tmp_path / "kept")
    kept = tmp_path / "kept" / "images" / f"{1:016x}.jpg"
    (tmp_path / "secret.jpg").write_bytes(kept.read_bytes())
    (tmp_path / "kept" / "images" / f"{9:016x}.jpg").symlink_to(tmp_path / "secret.jpg")
    rewrite(tmp_path / "kept", lambda line: line.update(image=image))
    result = report(tmp_path / "kept", "--save", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"001-{0:016x}.jpg"]
    assert "expected" in result.stderr


def test_a_pipe_and_a_huge_file_are_no_images(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    pipe, huge = (tmp_path / "kept" / "images" / f"{number:016x}.jpg" for number in (0, 1))
    pipe.unlink()
    os.mkfifo(pipe)
    os.truncate(huge, 65 * 2**20)
    result = report(tmp_path / "kept", "--save", tmp_path / "out")
    assert "no regular file" in result.stderr
    assert "more than 67108864 bytes" in result.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"box": [1, 2, 3]}, "'box'"),
        ({"box": [1, 2, 3, 1e7]}, "'box'"),
        ({"box": [1, 2, 3, True]}, "'box'"),
        ({"class_id": -1}, "'class_id'"),
        ({"class_id": 2**31}, "'class_id'"),
        ({"class_id": 1.0}, "'class_id'"),
        ({"label": ["a"]}, "'label'"),
        ({"score": "high"}, "'score'"),
    ],
)
def test_an_object_that_is_none_is_refused_by_its_line(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    keep(tmp_path)
    rewrite(tmp_path, lambda line: line["candidate"]["answer"][0].update(change))
    result = report(tmp_path, "--save", tmp_path / "out")
    assert result.exit_code == 1
    assert f"line 2 is not a frame: {why}" in result.stderr


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"differences": {"matched": "all"}}, "'matched'"),
        ({"differences": {"matched": 1e300}}, "'matched'"),
        ({"differences": []}, "'differences'"),
        ({"agreement": None}, "'agreement'"),
        ({"served": []}, "'served'"),
        ({"candidate": {"version": "2", "answer": {}}}, "'answer'"),
        ({"time": 5}, "'time'"),
        ({"image": 5}, "'image'"),
    ],
)
def test_a_frame_that_is_none_is_refused_by_its_line(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    keep(tmp_path)
    rewrite(tmp_path, lambda line: line.update(change))
    result = report(tmp_path)
    assert result.exit_code == 1
    assert f"line 2 is not a frame: {why}" in result.stderr


def test_what_a_line_holds_does_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    keep(tmp_path)

    def change(line: dict[str, Any]) -> None:
        line.update(request_id="r\x1b[2J", time="2026\x1b]0;owned\x07", camera="\x9b31m")
        line["served"] = {"version": "\x1b[1m", "answer": [found("dog\x1b[8m\r\n", 3)]}

    rewrite(tmp_path, change)
    result = report(tmp_path)
    assert result.exit_code == 0, result.output
    assert "dog\N{REPLACEMENT CHARACTER}" in result.output
    assert not set(result.output) & set("\x1b\x07\x9b\r")
