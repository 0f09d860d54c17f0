"""Multipart forms: as real clients write them, as the RFCs allow them, and as nobody should send them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.errors import InvalidImage, InvalidRequest
from saccade_transformers.form import read_form

BOUNDARY = "--------------------------d74496d66958873e"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
#: Looks like a delimiter wherever that could go wrong.
IMAGE = b"\xff\xd8image\r\n--not the boundary\r\n\r\n--" + BOUNDARY[:-1].encode() + b"\r\n\r\n--"


def read(body: bytes, content_type: str = TYPE) -> tuple[bytes, dict[str, str]]:
    image, fields = read_form(content_type, memoryview(body))
    return bytes(image), fields


def part(name: str, content: bytes, filename: str | None = None, kind: str = "image/jpeg") -> bytes:
    file = f'; filename="{filename}"\r\nContent-Type: {kind}' if filename is not None else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def bare(head: bytes, content: bytes) -> bytes:
    """A part with a head of its own."""
    return f"--{BOUNDARY}\r\n".encode() + head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


FILE = part("file", IMAGE, "photo.jpg")


# Real clients.

FIELDS = {"score_threshold": "0.5", "camera_id": "T\xfcr 1", "submit": "Go"}
NAMES = ["photo.jpg", "gr\xfc\xdfe \u4e16.jpg", "../../etc/passwd", 'a"b.jpg', "a;b=c.jpg", "back\\slash.jpg"]


async def by_requests(image: bytes, filename: str, folder: Path) -> tuple[str, bytes]:
    files = {"file": (filename, image, "image/jpeg")}
    sent = requests.Request("POST", "http://x/", files=files, data=FIELDS).prepare()
    assert isinstance(sent.body, bytes)
    return str(sent.headers["Content-Type"]), sent.body


async def by_httpx(image: bytes, filename: str, folder: Path) -> tuple[str, bytes]:
    sent = httpx.Request("POST", "http://x/", files={"file": (filename, image)}, data=FIELDS)
    return sent.headers["content-type"], sent.read()


class _Sent:
    """What a client sends to a server that only listens."""

    def __init__(self) -> None:
        self.head = b""
        self.body = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = await reader.readuntil(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in self.head.decode("latin-1").split("\r\n")[1:] if ": " in line)
        headers = {name.lower(): value for name, value in lines.items()}
        if "100-continue" in headers.get("expect", ""):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "content-length" in headers:
            self.body = await reader.readexactly(int(headers["content-length"]))
        else:
            while size := int(await reader.readline(), 16):
                self.body += await reader.readexactly(size)
                await reader.readline()
        self.type = headers["content-type"]
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()


async def by_aiohttp(image: bytes, filename: str, folder: Path) -> tuple[str, bytes]:
    sent = _Sent()
    async with await asyncio.start_server(sent.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        data = aiohttp.FormData(FIELDS)
        data.add_field("file", io.BytesIO(image), filename=filename, content_type="image/jpeg")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/", data=data) as answer,
        ):
            assert answer.status == 204
    return sent.type, sent.body


async def by_curl(image: bytes, filename: str, folder: Path) -> tuple[str, bytes]:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    path = folder / "image"
    path.write_bytes(image)
    quoted = filename.replace("\\", "\\\\").replace('"', '\\"')
    sent = _Sent()
    async with await asyncio.start_server(sent.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        given_ = [argument for name, value in FIELDS.items() for argument in ("-F", f"{name}={value}")]
        process = await asyncio.create_subprocess_exec(
            curl, "-sS", *given_, "-F", f'file=@{path};filename="{quoted}"', f"http://127.0.0.1:{port}/"
        )
        assert await asyncio.wait_for(process.wait(), 30) == 0
    return sent.type, sent.body


@pytest.mark.parametrize("filename", NAMES)
@pytest.mark.parametrize("client", [by_requests, by_httpx, by_aiohttp, by_curl])
async def test_what_real_clients_send_is_read(client: Callable[..., object], filename: str, tmp_path: Path) -> None:
    content_type, body = await client(IMAGE, filename, tmp_path)  # type: ignore[misc]
    assert read(body, content_type) == (IMAGE, {"score_threshold": "0.5", "camera_id": "T\xfcr 1"})


@pytest.mark.parametrize("client", [by_requests, by_httpx, by_aiohttp, by_curl])
async def test_a_file_of_several_megabytes_comes_whole(client: Callable[..., object], tmp_path: Path) -> None:
    image = random.Random(1).randbytes(3_000_000)
    content_type, body = await client(image, "big.jpg", tmp_path)  # type: ignore[misc]
    assert read(body, content_type)[0] == image


# The form.


def test_the_file_and_the_parameters_of_a_form_are_read() -> None:
    body = form(part("score_threshold", b"0.5"), FILE, part("cache", b"bypass"), part("submit", b"Go"))
    assert read(body) == (IMAGE, {"score_threshold": "0.5", "cache": "bypass"})


def test_the_image_is_a_view_of_the_body_and_no_copy() -> None:
    body = bytearray(form(FILE))
    image, _ = read_form(TYPE, memoryview(body))
    body[body.index(IMAGE) + 2] = 0x49
    assert bytes(image[:7]) == b"\xff\xd8Image"


@given(st.binary(max_size=300).filter(lambda image: image and BOUNDARY.encode() not in image))
def test_any_bytes_may_be_a_file(image: bytes) -> None:
    assert read(form(part("cache", b"use"), part("file", image, "x"), part("priority", b"1"))) == (
        image,
        {"cache": "use", "priority": "1"},
    )


@pytest.mark.parametrize("filename", ["", "gr\xfc\xdfe.jpg", "../../etc/passwd", "a%22b.jpg", 'a\\"b.jpg'])
def test_the_files_name_does_not_matter(filename: str) -> None:
    assert read(form(part("file", b"abc", filename)))[0] == b"abc"


@pytest.mark.parametrize(
    "head",
    [
        b'content-disposition:form-data;name="file";filename="x"',
        b'CONTENT-DISPOSITION: FORM-DATA; NAME="file"; FILENAME="x"',
        b"Content-Disposition: form-data; name=file; filename=x",
        b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''x",
        b'Content-Type: image/jpeg\r\nContent-Disposition: form-data; name="file"; filename="x"\r\nX-Y: z',
        b'Content-Disposition: form-data; filename="x"; name="file"',
        b'Content-Disposition: form-data;\tname="file"; filename="x"',
    ],
)
def test_a_parts_head_may_be_written_in_many_ways(head: bytes) -> None:
    assert read(form(bare(head, b"abc")))[0] == b"abc"


@pytest.mark.parametrize(
    "kind",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"multipart/form-data;boundary={BOUNDARY}",
        f"Multipart/Form-Data; BOUNDARY={BOUNDARY}; charset=utf-8",
        f"multipart/form-data; charset=klingon; boundary={BOUNDARY}",
        f"multipart/form-data; boundary={BOUNDARY} ; charset=utf-8",
    ],
)
def test_a_boundary_may_be_named_in_many_ways(kind: str) -> None:
    assert read(form(FILE, part("cache", b"use")), kind) == (IMAGE, {"cache": "use"})


@pytest.mark.parametrize("boundary", ["b", "(.*)+[a-z]$", "'()+_,-./:=?", "x" * 70, "a b"])
def test_a_boundary_may_be_any_that_the_rfc_allows(boundary: str) -> None:
    body = form(FILE).replace(BOUNDARY.encode(), boundary.encode())
    assert read(body, f'multipart/form-data; boundary="{boundary}"')[0].startswith(b"\xff\xd8image")


def test_what_stands_before_the_first_boundary_and_behind_the_last_is_nothing() -> None:
    assert read(b"a preamble\r\n" + form(FILE) + b"an epilogue\r\n--" + BOUNDARY.encode() + b"\r\n")[0] == IMAGE
    assert read(form(FILE)[:-2])[0] == IMAGE


def test_a_file_in_another_field_is_no_parameter() -> None:
    body = form(part("cache", b"abc", "c.jpg"), FILE, part("other", b"abc", "b.jpg"))
    assert read(body) == (IMAGE, {})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "cannot be read"),
        (b"no form at all", "cannot be read"),
        (form(), r"has no file in a field 'file' \(found: nothing\)"),
        (form(part("image", b"abc", "photo.jpg")), r"has no file in a field 'file' \(found: 'image'\)"),
        (form(part("file", b"abc")), r"has no file in a field 'file' \(found: 'file'\)"),
        (form(FILE, FILE), "two files in 'file'; expected one"),
        (form(part("cache", b"use"), part("cache", b"bypass"), FILE), "form has 'cache' twice, as 'use' and 'bypass'"),
        (form(FILE, *[part(f"f{n}", b"") for n in range(33)]), "over 33 parts"),
        (form(FILE, part("cache", bytes(4097))), "field 'cache' of the form is over 4096 bytes"),
        (form(FILE, part("cache", b"\xff")), "field 'cache' of the form is not UTF-8"),
        (FILE[:-20], "part 0 has no end"),
        (FILE, "part 0 has no end"),
        (form(FILE).replace(BOUNDARY.encode(), b"--other"), "cannot be read"),
        (form(f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\nabc\r\n".encode()), "has no file"),
        (form(FILE).replace(b"form-data; name", b"form-data; nome"), "has no file"),
        (form(FILE)[: -len("--\r\n")], "followed by neither a line end nor '--'"),
        (form(FILE).replace(b"\r\n", b"\n"), "cannot be read"),
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data".encode(), "the head of part 0 has no end"),
    ],
    ids=[
        "empty",
        "no form",
        "no parts",
        "another field",
        "a field, no file",
        "the file twice",
        "a field twice",
        "too many fields",
        "a field too long",
        "a field in another encoding",
        "cut off",
        "no end",
        "another boundary",
        "no disposition",
        "no name",
        "the last boundary cut off",
        "bare line feeds",
        "a head cut off",
    ],
)
def test_a_damaged_form_is_the_clients_error(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        read(body)
    assert not isinstance(caught.value, InvalidImage)
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary",
        'multipart/form-data; boundary="' + "x" * 5000 + '"',
        "multipart/form-data; charset=\xff; boundary=b",
    ],
)
def test_a_form_without_a_usable_boundary_is_the_clients_error(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read(form(FILE), kind)


def test_an_empty_file_is_an_image_error() -> None:
    with pytest.raises(InvalidImage, match="the file in field 'file' is empty"):
        read(form(part("file", b"", "photo.jpg")))


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_garbage_is_the_clients_error(noise: bytes, at: int, byte: int) -> None:
    damaged = bytearray(form(part("cache", b"use"), FILE))
    damaged[at % len(damaged)] = byte
    for body in (noise, bytes(damaged), form(FILE) + noise, f"--{BOUNDARY}".encode() + noise):
        with contextlib.suppress(InvalidRequest):
            read(body)


# What nobody should send takes no longer than reading it once.


def seconds(body: bytes) -> float:
    begun = time.perf_counter()
    with pytest.raises(InvalidRequest):
        read(body)
    return time.perf_counter() - begun


BEGIN = FILE[:-2]
DELIMITER = f"\r\n--{BOUNDARY}".encode()
MEGABYTES = 16 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        form(*[part("x", b"")] * 10_000),
        f"--{BOUNDARY}\r\n".encode() * 10_000,
        DELIMITER * 10_000,
        f"--{BOUNDARY}\r\n".encode() + b"X: " + b"y" * MEGABYTES,
        f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * (MEGABYTES // 6),
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'.encode() + b"\\" * 4000 + b"\r\n\r\n",
        f"--{BOUNDARY}\r\nContent-Disposition: form-data".encode() + b"; name" * 600 + b"\r\n\r\n",
        BEGIN + b"\r\n" * (MEGABYTES // 2),
        BEGIN + b"\r\n--" * (MEGABYTES // 4),
        BEGIN + DELIMITER[:-1] * (MEGABYTES // len(DELIMITER)),
        BEGIN + b"-" * MEGABYTES,
        b"\r\n--" * (MEGABYTES // 4),
    ],
    ids=[
        "10,000 parts",
        "10,000 boundaries",
        "10,000 boundaries in a row",
        "a head without end",
        "a head of many lines",
        "a name of backslashes",
        "many names",
        "a file of line ends",
        "a file of beginnings of a boundary",
        "a file of nearly the boundary",
        "a file of dashes",
        "a preamble of beginnings",
    ],
)
def test_a_form_made_to_take_long_takes_a_moment(body: bytes) -> None:
    assert seconds(body) < 1


def test_twice_the_form_takes_twice_the_time() -> None:
    piece = BEGIN + DELIMITER[:-1] * (2 * MEGABYTES // len(DELIMITER))
    seconds(piece)
    once = min(seconds(piece) for _ in range(3))
    twice = min(seconds(piece + piece[len(BEGIN) :]) for _ in range(3))
    assert twice < 6 * once + 0.1


def test_what_stands_in_a_quoted_file_name_is_no_parameter() -> None:
    for disposition in (
        'form-data; name="other"; filename="a; name=file.jpg"',
        'form-data; filename="a; name=file"; name="other"',
        'form-data; name="other"; filename="a\\"; name=file; x=\\""',
    ):
        body = f"--b\r\nContent-Disposition: {disposition}\r\n\r\nimage\r\n--b--\r\n".encode()
        with pytest.raises(InvalidRequest, match=r"no file in a field 'file' \(found: 'other'\)"):
            read_form("multipart/form-data; boundary=b", memoryview(body))
