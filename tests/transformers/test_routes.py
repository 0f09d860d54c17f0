"""The forms in which images reach ``/detect`` and v1, and how a client says that it wants a picture."""

from __future__ import annotations

import base64
import gc
import json
from typing import Any

import pytest
from starlette.datastructures import Headers

from saccade_serving.errors import InvalidImage, InvalidRequest
from saccade_transformers.routes import read_form, read_instances, wants_jpeg

BOUNDARY = "--------------------------d74496d66958873e"


@pytest.mark.parametrize(
    ("accept", "picture"),
    [
        ("", False),
        ("*/*", False),  # what curl and most clients send
        ("application/json", False),
        ("image/jpeg", True),
        ("image/jpg", True),
        ("image/*", True),
        ("IMAGE/JPEG", True),
        ("image/png", False),  # drawn as JPEG only
        ("image/jpeg, application/json", False),  # no preference
        ("application/json, image/jpeg", False),
        ("application/json;q=0.5, image/jpeg", True),
        ("application/json, image/jpeg;q=0.5", False),
        ("image/jpeg;q=0.2, application/*;q=0.1", True),
        ("image/jpeg;q=0", False),
        ("image/jpeg; q=0.3, */*", True),
        ("image/avif,image/webp,image/*,*/*;q=0.8", True),  # an <img> element
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", False),  # a browser's page
        ("image/jpeg;q=abc", False),
        ("image/jpeg;q=nan", False),
        ("image/jpeg;level=1;q=0.5", True),
        (",;,;q=,", False),
        ("x" * 100_000, False),
        ("application/json," * 32 + "image/jpeg", False),  # nobody reads further
    ],
)
def test_a_picture_is_drawn_for_who_prefers_one_to_json(accept: str, picture: bool) -> None:
    assert wants_jpeg(accept) is picture


# v1.


def v1(content: Any) -> bytes:
    return json.dumps(content).encode()


def test_instances_are_read_in_order_and_stay_base64() -> None:
    texts = [base64.b64encode(image).decode() for image in (b"one", b"two")]
    body = v1({"instances": [{"image": {"b64": text}} for text in texts], "parameters": {"score_threshold": 0.5}})
    sources, parameters = read_instances(body)
    assert [source.data for source in sources] == texts
    assert all(source.is_base64 for source in sources)
    assert parameters == {"score_threshold": 0.5}


def test_parameters_may_be_missing() -> None:
    assert read_instances(v1({"instances": [{"image": {"b64": ""}}]}))[1] == {}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the request body is not JSON"),
        (b"{", "the request body is not JSON"),
        (b"\xff\xd8\xff\xe0", "the request body is not JSON"),
        (v1([]), "the request has no list 'instances'"),
        (v1({}), "the request has no list 'instances'"),
        (v1({"instances": {"image": 1}}), "the request has no list 'instances'"),
        (v1({"instances": None}), "the request has no list 'instances'"),
        (v1({"instances": []}), "'instances' is empty"),
        (v1({"instances": ["abc"]}), r"instances\[0\] has no string image\.b64"),
        (v1({"instances": [{"image": "abc"}]}), r"instances\[0\] has no string image\.b64"),
        (v1({"instances": [{"image": {"b64": 5}}]}), r"instances\[0\] has no string image\.b64"),
        (v1({"instances": [{"image": {"b64": ""}}, {"b64": ""}]}), r"instances\[1\] has no string image\.b64"),
        (v1({"instances": [None]}), r"instances\[0\] has no string image\.b64"),
        (v1({"instances": [{"image": {"b64": ""}}], "parameters": []}), "'parameters' is not an object"),
        (v1({"instances": [{"image": {"b64": ""}}], "parameters": None}), "'parameters' is not an object"),
        (v1({"instances": [{"image": {"b64": ""}}], "parameters": {"a": [1]}}), "parameter 'a' is neither"),
        (v1({"instances": [{"image": {"b64": ""}}], "parameters": {"a": None}}), "parameter 'a' is neither"),
    ],
)
def test_a_v1_request_of_another_form_is_refused_with_the_place(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        read_instances(body)


def test_json_that_is_nested_without_end_is_refused_and_not_a_crash() -> None:
    with pytest.raises(InvalidRequest):
        read_instances(b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


# Multipart forms.


def part(name: str, content: bytes, filename: str | None = None, kind: str = "image/jpeg") -> bytes:
    file = f'; filename="{filename}"\r\nContent-Type: {kind}' if filename is not None else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


HEADERS = Headers({"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
FILE = part("file", b"\xff\xd8image\r\n--not the boundary\r\n", "photo.jpg")


async def test_the_file_and_the_parameters_of_a_form_are_read() -> None:
    body = form(part("score_threshold", b"0.5"), FILE, part("cache", b"bypass"), part("submit", b"Go"))
    image, parameters = await read_form(HEADERS, body)
    assert image == b"\xff\xd8image\r\n--not the boundary\r\n"
    assert parameters == {"score_threshold": "0.5", "cache": "bypass"}


async def test_a_file_of_several_megabytes_stays_in_memory_and_whole() -> None:
    image = bytes(range(256)) * 20_000
    assert (await read_form(HEADERS, form(part("file", image, "big.jpg"))))[0] == image


@pytest.mark.parametrize("filename", ["", "gr\xfc\xdfe.jpg", "../../etc/passwd", 'a"b.jpg'])
async def test_the_files_name_does_not_matter(filename: str) -> None:
    image, _ = await read_form(HEADERS, form(part("file", b"abc", filename.replace('"', "%22"))))
    assert image == b"abc"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "cannot be read|has no file in a field 'file'"),
        (b"no form at all", "cannot be read"),
        (form(), "has no file in a field 'file'|cannot be read"),
        (form(part("image", b"abc", "photo.jpg")), r"has no file in a field 'file' \(found: 'image'\)"),
        (form(part("file", b"abc")), r"has no file in a field 'file' \(found: 'file'\)"),
        (form(FILE, FILE), "cannot be read: Too many files"),
        (form(FILE, part("other", b"abc", "b.jpg")), "cannot be read: Too many files"),
        (form(FILE, *[part(f"f{n}", b"") for n in range(33)]), "cannot be read: Too many fields"),
        (form(FILE, part("cache", bytes(1024 * 1024 + 1))), "cannot be read: Part exceeded maximum size"),
        (FILE[:-20], "has no file in a field 'file'|cannot be read"),
        (FILE, "has no file in a field 'file'|cannot be read"),
        (form(FILE).replace(BOUNDARY.encode(), b"--other"), "cannot be read"),
        (form(f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\nabc\r\n".encode()), "cannot be read"),
        (form(FILE).replace(b"form-data; name", b"form-data; nome"), "cannot be read"),
    ],
    ids=[
        "empty",
        "no form",
        "no parts",
        "another field",
        "a field, no file",
        "the file twice",
        "two files",
        "too many fields",
        "a field too long",
        "cut off",
        "no end",
        "another boundary",
        "no disposition",
        "no name",
    ],
)
async def test_a_damaged_form_is_the_clients_error(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        await read_form(HEADERS, body)
    assert not isinstance(caught.value, InvalidImage)


async def test_a_form_that_ends_early_leaves_no_file_open() -> None:
    for body in (FILE, FILE[:-20], form(FILE, FILE)):
        with pytest.raises(InvalidRequest):
            await read_form(HEADERS, body)
    gc.collect()  # a file left open would warn here, and warnings are errors


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary",
        'multipart/form-data; boundary="' + "x" * 5000 + '"',
        "multipart/form-data; charset=\xff; boundary=b",
    ],
)
async def test_a_form_without_a_usable_boundary_is_the_clients_error(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot be read|has no file"):
        await read_form(Headers({"content-type": kind}), form(FILE))


async def test_an_empty_file_is_an_image_error() -> None:
    with pytest.raises(InvalidImage, match="the file in field 'file' is empty"):
        await read_form(HEADERS, form(part("file", b"", "photo.jpg")))


async def test_a_charset_that_nobody_knows_does_not_stop_a_form() -> None:
    headers = Headers({"content-type": f"multipart/form-data; charset=klingon; boundary={BOUNDARY}"})
    assert (await read_form(headers, form(FILE, part("cache", b"use"))))[1] == {"cache": "use"}
