"""The ``saccade`` command: what a person sees who asks for help, mistypes a path, or finds nobody answering."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from saccade_cli import __main__ as command_module
from saccade_cli.__main__ import app
from saccade_cli.demo import Row
from saccade_cli.still_camera import Frame
from saccade_serving import __version__

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide terminal without colours, so that texts can be found."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def saccade(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(*arguments: str | Path) -> str:
    """The one sentence of a command that fails as it should."""
    result = saccade(*arguments)
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def test_the_version_is_printed() -> None:
    result = saccade("--version")
    assert (result.exit_code, result.output.strip()) == (0, __version__)


def test_without_a_command_the_help_is_shown() -> None:
    assert "Usage" in saccade().output


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ((), ["up", "detect", "demo", "ab-report", "shadow-report", "cache-report"]),
        (("up",), ["--model-repository", "--model", "--host", "--port", "--grpc-port"]),
        (("detect",), ["--url", "--save", "--json", "--threshold", "--timeout"]),
        (("demo",), ["--model-repository", "--images", "--out"]),
        (("ab-report",), ["--log", "--outcomes", "--candidate", "--json"]),
        (("shadow-report",), ["SHADOW_DIR", "--limit", "--save", "--json"]),
        (
            ("cache-report",),
            ["--url", "--model-repository", "--frames", "--every", "--fps", "--f1", "--quality", "--plot", "--json"],
        ),
    ],
)
def test_every_command_explains_itself(command: Sequence[str], options: list[str]) -> None:
    result = saccade(*command, "--help")
    assert result.exit_code == 0
    for option in options:
        assert option in result.output


def test_an_unknown_command_is_a_usage_error() -> None:
    result = saccade("detekt")
    assert result.exit_code == 2
    assert "detekt" in result.output


# up and demo, as far as they come without a model.


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_repository_that_is_not_there_is_named(command: str, tmp_path: Path) -> None:
    error = failed(command, "-r", tmp_path / "nowhere")
    assert f"model repository {tmp_path / 'nowhere'} is not a directory; choose one with --model-repository" in error


@pytest.mark.parametrize("command", ["up", "demo"])
def test_with_several_models_one_has_to_be_chosen(command: str, tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    assert "holds 2 models (a, b); choose one with --model" in failed(command, "-r", tmp_path)


def test_a_model_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    assert "has no model 'segmenter' (found: detector)" in failed("up", "-r", tmp_path, "--model", "segmenter")


def test_an_empty_repository_says_so(tmp_path: Path) -> None:
    for options in ((), ("--model", "detector")):
        error = failed("up", "-r", tmp_path, *options)
        assert f"model repository {tmp_path} holds no model; expected <model>/<version>/model.onnx" in error


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_in_use_is_named_with_the_option_that_changes_it(option: str, tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        others = {"--port": "--grpc-port", "--grpc-port": "--port"}
        error = failed("up", "-r", tmp_path, option, str(port), others[option], str(free_port()))
    assert f"port {port} is in use; choose another with {option}" in error


def test_one_port_cannot_serve_both_protocols(tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    port = str(free_port())
    assert "--grpc-port" in failed("up", "-r", tmp_path, "--port", port, "--grpc-port", port)


def test_a_port_that_is_none_is_a_usage_error() -> None:
    assert saccade("up", "--port", "70000").exit_code == 2


def test_a_demo_without_photos_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "models" / "detector").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").touch()
    error = failed("demo", "-r", tmp_path / "models", "--images", tmp_path / "photos")
    assert f"{tmp_path / 'photos'} holds no .jpg or .png file" in error


def test_a_demo_says_that_the_protocols_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(_pair: object) -> None:
        """Nothing runs."""

    async def run(_pair: object, photos: list[Path], _out: Path, on_row: Callable[[Row], None]) -> None:
        for photo in photos:
            for protocol in ("a", "b", "c"):
                on_row(Row(photo.name, protocol, [], 1.0))

    async def watch(_pair: object, photos: list[Path]) -> list[Frame]:
        assert len(photos) == 8
        return [Frame("empty", "miss", 80.0, []), Frame("empty", "near", 5.0, [])]

    monkeypatch.setattr(command_module, "_start", start)
    monkeypatch.setattr("saccade_cli.demo.run", run)
    monkeypatch.setattr("saccade_cli.demo.watch", watch)
    (tmp_path / "detector").mkdir()
    result = saccade("demo", "-r", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "24 answers; the three protocols agree" in result.output, "eight photos by three protocols"
    assert "answered 1 of 2 frames" in result.output


# detect, against a server of our own.


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


FOUND = {
    "detections": [
        {"box": [1, 2, 3, 4], "score": 0.8312, "class_id": 0, "label": "person"},
        {"box": [1, 2, 3, 4], "score": 0.5, "class_id": 27, "label": "tie"},
    ],
    "image": {"width": 10, "height": 10},
    "cache": "miss",
    "model": {"name": "detector", "version": "1"},
}
#: Status, content type and body of the answer to a request (path, accepted type, body).
Reply = Callable[[str, str, bytes], tuple[int, str, bytes]]


class Stub:
    """A transformer that answers with a function."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.reply: Reply = self.as_saccade_does
        self.hold = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = (self.path, self.headers.get("accept", ""), body)
                stub.requests.append(request)
                status, kind, content = stub.reply(*request)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client that was stopped
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def as_saccade_does(self, _path: str, accept: str, body: bytes) -> tuple[int, str, bytes]:
        if body == b"not a picture":
            return 415, "application/json", b'{"error": "the data is no image that is served"}'
        if accept == "image/jpeg":
            return 200, "image/jpeg", b"drawn " + body
        return 200, "application/json", json.dumps(FOUND).encode()


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.hold.set()
    stub.server.shutdown()
    stub.server.server_close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"a picture")
    return path


def test_a_table_shows_what_is_in_each_picture(stub: Stub, photo: Path) -> None:
    result = saccade("detect", photo, photo, "--url", stub.url + "/")
    assert result.exit_code == 0, result.output
    assert result.output.count("person 0.83, tie 0.50") == 2
    assert [request[0] for request in stub.requests] == ["/detect", "/detect"]
    assert stub.requests[0][2] == b"a picture"


def test_a_narrow_terminal_loses_no_text(stub: Stub, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = photo.rename(photo.with_name("a" * 60 + ".jpg"))
    output = saccade("detect", long, "--url", stub.url, "--save", long.parent / "out").output
    rows, _, said = output.partition("Pictures with boxes: ")
    assert said.strip() == f"{long.parent / 'out'}/"
    assert str(long.parent) not in rows, "the table has base names"
    first_column = "".join(line.strip("│┃|").split("│")[0].strip() for line in rows.splitlines() if "│" in line)
    assert long.name in first_column
    assert "…" not in output


def test_http_is_assumed(stub: Stub, photo: Path) -> None:
    result = saccade("detect", photo, "--url", stub.url.removeprefix("http://"))
    assert result.exit_code == 0, result.output


def test_nothing_found_is_a_dash(stub: Stub, photo: Path) -> None:
    stub.reply = lambda *_: (200, "application/json", json.dumps({**FOUND, "detections": []}).encode())
    assert re.search(r"photo\.jpg\s+\S?\s*-\s", saccade("detect", photo, "--url", stub.url).output)


def test_json_is_one_object_a_line_and_nothing_else(stub: Stub, photo: Path) -> None:
    result = saccade("detect", photo, photo, "--url", stub.url, "--json")
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert objects == [{"file": str(photo), **FOUND}] * 2


def test_drawn_pictures_are_saved_under_their_names(stub: Stub, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "photo.png"
    other.write_bytes(b"another")
    out = tmp_path / "deep" / "out"
    result = saccade("detect", photo, other, "--url", stub.url, "--save", out)
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "photo-jpg.jpg": b"drawn a picture",
        "photo-png.jpg": b"drawn another",
    }


def test_the_threshold_is_asked_for(stub: Stub, photo: Path) -> None:
    saccade("detect", photo, "--url", stub.url, "--threshold", "0.25")
    assert stub.requests[0][0] == "/detect?score_threshold=0.25"
    assert saccade("detect", photo, "--url", stub.url, "--threshold", "1.5").exit_code == 2


def test_nobody_answering_says_how_to_start_a_server(photo: Path) -> None:
    url = f"http://{HOST}:{free_port()}"
    assert f"no server answers at {url}; start one with: make serve, or saccade up" in failed(
        "detect", photo, "--url", url
    )


def test_an_address_that_is_none_is_an_error_too(photo: Path) -> None:
    assert "no server answers at http://nonsense" in failed("detect", photo, "--url", "nonsense")


def test_a_server_that_does_not_answer_in_time_is_given_up(stub: Stub, photo: Path) -> None:
    def wait(*_: Any) -> tuple[int, str, bytes]:
        stub.hold.wait(30)
        return 200, "application/json", b"{}"

    stub.reply = wait
    assert "did not answer within 0.1 s" in failed("detect", photo, "--url", stub.url, "--timeout", "0.1")


def test_a_file_that_cannot_be_read_is_named(stub: Stub, tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere.jpg'}: No such file or directory" in failed(
        "detect", tmp_path / "nowhere.jpg", "--url", stub.url
    )


#: What the four formats begin with.
HEADS = {
    "b.jpg": b"\xff\xd8\xff\xe0",
    "a.png": b"\x89PNG\r\n\x1a\n",
    "c.webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "d.bmp": b"BM",
}


def test_a_directory_is_its_images_in_the_order_of_their_names_and_what_is_none_is_named(
    stub: Stub, photo: Path, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    (album / "older").mkdir(parents=True)
    for name, head in HEADS.items():
        (album / name).write_bytes(head + name.encode())
    (album / "notes.jpg").write_bytes(b"a text, whatever its name says")
    (album / "empty.png").touch()
    os.mkfifo(album / "pipe.jpg")
    result = saccade("detect", photo, album, photo, "--url", stub.url, "--json")
    assert result.exit_code == 0, result.output
    asked = [Path(json.loads(line)["file"]) for line in result.stdout.splitlines()]
    assert asked == [photo, *(album / name for name in ("a.png", "b.jpg", "c.webp", "d.bmp")), photo]
    assert [body for _, _, body in stub.requests][1] == HEADS["a.png"] + b"a.png"
    assert result.stderr.splitlines() == [f"{album}: skipped what is no image: empty.png, notes.jpg, older, pipe.jpg"]


def test_the_list_of_skipped_files_is_bounded(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(HEADS["b.jpg"])
    for number in range(25):
        (tmp_path / f"notes-{number:02}\x1b[2J.txt").write_text("text")
    error = saccade("detect", tmp_path, "--url", stub.url).stderr
    assert "and 15 more" in error
    assert "notes-09" in error
    assert "notes-10" not in error
    assert "\x1b" not in error


def test_a_directory_without_images_is_an_error(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    error = failed("detect", tmp_path, "--url", stub.url)
    assert f"{tmp_path} holds no image among 1 files; accepted are JPEG, PNG, still WebP and BMP" in error
    assert not stub.requests


def test_a_picture_that_is_refused_does_not_stop_the_others(stub: Stub, photo: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    result = saccade("detect", bad, photo, "--url", stub.url)
    assert result.exit_code == 1
    assert f"{bad}: the data is no image that is served (HTTP 415)" in result.stderr
    assert "1 of 2 pictures failed; the others were answered" in result.stderr
    assert "person 0.83" in result.stdout
    alone = saccade("detect", bad, "--url", stub.url)
    assert "answered" not in alone.stderr


@pytest.mark.parametrize(
    "reply",
    [
        (404, "text/html", b"<html>not here</html>"),
        (500, "application/json", b'{"detail": "Internal Server Error"}'),
        (500, "application/json", b'["error"]'),
        (204, "text/plain", b""),
        (200, "text/html", b"<html>welcome</html>"),
        (200, "application/json", b"[]"),
        (200, "application/json", b'{"hello": "world"}'),
        (200, "application/json", b'{"detections": 5, "cache": "miss"}'),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_server_that_is_no_transformer_is_recognised(
    stub: Stub, photo: Path, reply: tuple[int, str, bytes], flags: tuple[str, ...]
) -> None:
    stub.reply = lambda *_: reply
    error = failed("detect", photo, "--url", stub.url, *flags)
    assert f"HTTP {reply[0]}" in error
    assert "is it a Saccade transformer?" in error
