"""The forms in which images reach ``/detect`` and v1, and how a client says that it wants a picture."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest

from http1_support import post, serving
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.operation import Operation
from saccade_serving.errors import InvalidRequest, PayloadTooLarge
from saccade_transformers.model import TransformerModel
from saccade_transformers.routes import Detect, Predict, read_instances, wants_jpeg


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


@pytest.mark.parametrize("filler", ["[]", '{"a":1}', "1", '""'])
def test_v1_json_of_very_many_values_is_not_even_parsed(filler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Any) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(orjson, "loads", never)
    with pytest.raises(PayloadTooLarge, match="values; the limit is 65536"):
        read_instances(f'{{"instances":[{",".join([filler] * 100_000)}]}}'.encode(), 16 * 2**20)


def test_v1_json_of_one_large_picture_is_read() -> None:
    [source], _ = read_instances(v1({"instances": [{"image": {"b64": "A" * 2**20}}]}), 2**21)
    assert source.data == "A" * 2**20


# On which way they come.


@pytest.mark.parametrize(
    ("path", "kind", "status", "sentence"),
    [
        ("/detect?" + "&".join(["a=1"] * 33), "image/jpeg", 400, "the query has over 32 fields, the limit"),
        (
            "/detect?camera_id=a&x=1&x=2&camera_id=b",
            "image/jpeg",
            400,
            "the query has 'camera_id' twice, as 'a' and 'b'",
        ),
        ("/detect?x=1&x=2", "image/jpeg", 400, "the model never sees it"),
        ("/detect", "image/jpeg", 400, "the request body is empty"),
        ("/v1/models/m:predict", "image/jpeg", 400, "the model never sees it"),
    ],
)
async def test_pictures_are_received_straight_into_the_arena(path: str, kind: str, status: int, sentence: str) -> None:
    class Model(TransformerModel):
        def __init__(self) -> None:
            self.name = "m"
            self.ready = True

        async def answer(self, *_: Any, **__: Any) -> Any:
            raise InvalidRequest("the model never sees it")

    def operations(gate: Gate) -> list[Operation]:
        model = Model()
        gate.models = {"m": model}
        return [Detect(model, gate), Predict(model, gate)]

    # What the connections do not take themselves is not found there.
    async with serving(operations=operations) as stage:
        client = await stage.connect()
        body = b"a picture" if "?" in path else b""
        answer = await client.ask(post(body, path=path, headers=f"Content-Type: {kind}\r\n"))
        assert answer.status == status
        assert sentence in json.loads(answer.body)["error"]
        await stage.reset()
