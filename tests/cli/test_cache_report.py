"""``saccade cache-report``: what it makes of a video, what it recommends, and what it says where it cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from cache_support import scene
from saccade_cli.__main__ import app
from saccade_cli.cache_command import as_json, plot, tell
from saccade_cli.cache_report import Point, Report
from saccade_transformers.cache.policy import Rules

HOST = "127.0.0.1"
BOX = {"box": [100, 100, 120, 130], "score": 0.9, "class_id": 0, "label": "person"}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["cache-report", *map(str, arguments)])


def failed(*arguments: str | Path) -> str:
    result = report(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    return " ".join(result.stderr.split())


class Transformer:
    """Answers as a transformer would, with boxes that a test chooses."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.busy = 0
        self.told: Any = {"properties": {"saccade.input_size": "416x416"}}
        self.status, self.body = 200, b""
        self.boxes: Callable[[int], list[dict[str, Any]]] = lambda _nth: [BOX]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(200, json.dumps(outer.told).encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.path == "/v2/repository/index":
                    self._send(200, b'[{"name": "my model", "state": "READY"}]')
                    return
                outer.asked.append(self.path)
                if outer.busy:
                    outer.busy -= 1
                    self._send(503, b'{"error": "busy"}')
                    return
                answer = {"detections": outer.boxes(len(outer.asked)), "cache": "bypass"}
                self._send(outer.status, outer.body or json.dumps(answer).encode())

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"{HOST}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def transformer() -> Iterator[Transformer]:
    running = Transformer()
    yield running
    running.server.shutdown()
    running.server.server_close()


def write(path: Path, pictures: Sequence[NDArray[np.uint8]], fps: float = 10.0) -> Path:
    height, width, _ = pictures[0].shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def noisy(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    more = picture + np.random.default_rng(seed).normal(0, 2, picture.shape)
    return more.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty frames of a still scene."""
    picture = scene(0, 320, 240)
    return write(tmp_path_factory.mktemp("video") / "still.avi", [noisy(picture, seed) for seed in range(30)])


def test_a_still_scene_is_answered_at_every_threshold(transformer: Transformer, video: Path, tmp_path: Path) -> None:
    transformer.busy = 2
    file, picture = tmp_path / "report.json", tmp_path / "curves.png"
    result = report(video, "--url", transformer.url, "--json", file, "--plot", picture)
    assert result.exit_code == 0, result.output
    assert "Most hits at F1 0.95 or better: 97%" in result.output
    assert "So it is set already: there is nothing to change." in result.output, "of equal ones the present one"
    assert f"Curves: {picture}" in result.output
    assert f"Report: {file}" in result.output
    assert len(transformer.asked) == 62, "each frame twice, and twice it was busy"
    assert set(transformer.asked) == {"/detect?cache=bypass"}
    told = json.loads(file.read_text())
    assert (told["frames"], told["fps"], told["floor"]) == (30, 10.0, 1.0)
    default = next(point for point in told["points"] if point["policy"] == "cache" and point["setting"] == 12)
    assert default == {"policy": "cache", "setting": 12.0, "hits": 29 / 30, "f1": 1.0, "worst": 1.0, "judged": 29}
    assert told["recommended"]["setting"] == 12
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_the_environment_sets_holds_here_too(
    transformer: Transformer, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_TRANSFORMER_CACHE_CHANGE_LEVELS", "13")
    monkeypatch.setenv("SACCADE_TRANSFORMER_CACHE_HEARTBEAT", "1")
    result = report(video, "--url", transformer.url, "--quality", "70")
    assert "cache, 13 levels" in result.output
    assert "set now" in result.output
    assert "50.0%" in result.output, "every other one is inferred"
    monkeypatch.setenv("SACCADE_TRANSFORMER_CACHE_HEARTBEAT", "never")
    assert "SACCADE_TRANSFORMER_CACHE_HEARTBEAT='never'" in failed(video, "--url", transformer.url)


def test_a_scene_without_anything_says_nothing(
    transformer: Transformer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformer.boxes = lambda _nth: []
    same = write(tmp_path / "same.avi", [scene(0, 320, 240)] * 30, fps=2.0)
    result = report(same, "--url", transformer.url)
    assert "something was found in 0 of them" in result.output
    assert "Nothing was found in any frame" in result.output
    assert "LEVELS=" not in result.output
    assert capfd.readouterr().err == "", "no word of a frozen camera"


def test_answers_that_never_agree_are_told_of(transformer: Transformer, video: Path) -> None:
    transformer.boxes = lambda nth: [{**BOX, "box": [10 * nth % 300, 10, 10 * nth % 300 + 8, 20]}]
    result = report(video, "--url", transformer.url)
    assert "The model's own answers do not agree to 0.95: ask for less with --f1." in result.output


def test_every_other_frame_is_as_if_the_camera_were_slower(transformer: Transformer, video: Path) -> None:
    result = report(video, "--url", transformer.url, "--every", "5", "--frames", "4")
    assert "4 frames at 2 per second" in result.output
    assert "has fewer than 20 hits here" in result.output
    result = report(video, "--url", transformer.url, "--every", "30", "--fps", "60", "--frames", "4")
    assert result.exit_code == 1
    assert "has one frame that could be read; expected at least 2" in result.output
    result = report(video, "--url", transformer.url, "--every", "25", "--fps", "10")
    assert "2 frames at 0.4 per second" in result.output
    assert "The frames are 2.5 s apart" in result.output, "nothing is known any more"


def test_it_starts_the_pair_where_none_is_named(tmp_path: Path) -> None:
    photo = cv2.imread(str(Path(__file__).parents[2] / "examples" / "images" / "astronaut.jpg"))
    assert photo is not None
    film = write(tmp_path / "photo.avi", [noisy(np.asarray(photo, np.uint8), seed) for seed in range(4)])
    result = report(film)
    assert result.exit_code == 0, result.output
    assert "4 frames at 10 per second" in result.output
    assert "12 levels" in result.output
    assert "75.0%" in result.output, "three of four"


def test_what_is_no_video_is_refused(
    tmp_path: Path, transformer: Transformer, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.avi"
    text.write_bytes(b"no video" * 100)
    empty = tmp_path / "empty.avi"
    empty.touch()
    url = ("--url", transformer.url)
    assert "text.avi is no video that OpenCV can read" in failed(text, *url)
    assert "empty.avi is no video that OpenCV can read" in failed(empty, *url)
    assert "is a directory; expected a video file" in failed(tmp_path, *url)
    assert "nowhere.avi does not exist" in failed(tmp_path / "nowhere.avi", *url)
    assert "expected a file that ends in .png, .svg, .pdf" in failed(video, *url, "--plot", tmp_path / "a.txt")
    assert "there is no directory" in failed(video, *url, "--json", tmp_path / "no" / "a.json")
    assert "it is a directory" in failed(video, *url, "--json", tmp_path)
    assert "is the video; it is not written over" in failed(video, *url, "--json", video)
    monkeypatch.setenv("SACCADE_TRANSFORMER_MAX_IMAGE_PIXELS", "2000")
    assert "has frames of 320x240; expected at most 2000 pixels" in failed(video, *url)
    assert not transformer.asked, "all of that is found before the work"


def test_a_server_that_is_no_transformer_is_named(transformer: Transformer, video: Path) -> None:
    url = ("--url", transformer.url)
    transformer.status, transformer.body = 413, b'{"error": "the image is too large"}'
    assert "the transformer answered with HTTP 413: the image is too large" in failed(video, *url)
    transformer.status, transformer.body = 200, b'{"hello": "world"}'
    assert "the answer is no list of detections" in failed(video, *url)
    transformer.body = json.dumps({"detections": [{**BOX, "box": [1, 2, 3]}]}).encode()
    assert "the answer is no list of detections" in failed(video, *url)
    wrong: list[Any] = [{}, [], *({"properties": {"saccade.input_size": size}} for size in ("large", "0x0"))]
    for told in wrong:
        transformer.told = told
        assert "input" in failed(video, *url)
    assert "the transformer does not answer" in failed(video, "--url", "127.0.0.1:9")


# The recommendation


def point(setting: float, hits: float, f1: float | None, judged: int = 100) -> Point:
    return Point("cache", setting, hits, f1, f1, judged)


@pytest.mark.parametrize(
    ("points", "floor", "setting", "words"),
    [
        ([point(8, 0.2, 0.98), point(12, 0.3, 0.96), point(16, 0.5, 0.90)], 0.98, 12, "30%, at 12 grey levels"),
        ([point(8, 0.3, 0.98), point(14, 0.3, 0.98)], 0.98, 8, "30%, at 8 grey levels"),
        ([point(8, 0.3, 0.98), point(12, 0.3, 0.98)], 0.98, 12, "there is nothing to change"),
        ([point(8, 0.0, None, 0), point(12, 0.05, 0.99, 5)], 0.98, None, "fewer than 20 hits here"),
        ([point(8, 0.05, 0.99, 5), point(12, 0.4, 0.90)], 0.98, None, "fewer than 20 hits here"),
        ([point(8, 0.3, 0.94), point(12, 0.4, 0.90)], 0.98, None, "No threshold reaches F1 0.95"),
        ([point(8, 0.3, 0.90), point(12, 0.4, 0.85)], 0.92, None, "do not agree to 0.95"),
    ],
)
def test_the_most_hits_that_are_good_enough_are_recommended(
    points: list[Point], floor: float, setting: float | None, words: str, tmp_path: Path
) -> None:
    found = Report(
        "a.avi", 300, 200, 10.0, floor, 0.95, Rules(), [*points, Point("plain hash", 4, 0.8, 0.65, 0.4, 240)]
    )
    assert (found.recommended.setting if found.recommended else None) == setting
    assert words in tell(found)
    assert json.loads(as_json(found))["aim"] == 0.95
    plot(found, tmp_path / "curves.svg")
    assert b"<svg" in (tmp_path / "curves.svg").read_bytes()
