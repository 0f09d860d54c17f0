"""Plans: what is remembered of one request's JSON never shows in another request, nor in its answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.oip import binary_codec
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor
from saccade_serving.oip.plan import MAX_PLANS, Plans, key_of


def body_of(header: dict[str, Any], data: bytes, separators: tuple[str, str] = (",", ":")) -> tuple[bytes, int]:
    text = json.dumps(header, separators=separators).encode()
    text += b" " * (-len(text) % 8)
    return text + data, len(text)


def header_of(count: int = 4, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, count], "parameters": {"binary_data_size": count}}
    return {"inputs": [tensor], "parameters": {"binary_data_output": True}, **changes}


class Reader:
    """Reads requests as the infer operation does."""

    def __init__(self) -> None:
        self.plans = Plans()
        self.remembered = 0

    def read(self, body: bytes, json_length: int, model: str = "m", version: str = "") -> InferRequest:
        view = memoryview(body)
        key, identifier = key_of(model, version, body[:json_length], len(body))
        plan = self.plans.find(key)
        if plan is not None:
            self.remembered += 1
            return plan.bind(view, identifier)
        request = binary_codec.decode_request(model, version, view, json_length)
        return self.plans.learn(key, identifier, request, view)


def check_same(request: InferRequest, body: bytes, json_length: int, model: str = "m", version: str = "") -> None:
    """The request says what its own body says."""
    plain = binary_codec.decode_request(model, version, body, json_length)
    for field in ("model_name", "model_version", "id", "parameters", "outputs", "binary_output"):
        assert getattr(request, field) == getattr(plain, field)
    assert len(request.inputs) == len(plain.inputs)
    for one, other in zip(request.inputs, plain.inputs, strict=True):
        assert (one.name, one.datatype, one.shape, one.parameters) == (
            other.name,
            other.datatype,
            other.shape,
            other.parameters,
        )
        np.testing.assert_array_equal(one.array, other.array)
        assert not one.array.flags.writeable


def test_json_that_comes_a_second_time_is_remembered_from_the_third_on() -> None:
    reader = Reader()
    for number in range(5):
        body, length = body_of(header_of(), bytes([number] * 4))
        check_same(reader.read(body, length), body, length)
    assert reader.remembered == 3


def test_requests_with_ids_of_their_own_are_remembered_too_each_with_its_id() -> None:
    reader = Reader()
    for number in range(9):
        body, length = body_of(header_of(id=f"frame {number}"), bytes([number] * 4))
        request = reader.read(body, length)
        check_same(request, body, length)
        assert request.id == f"frame {number}"
    assert reader.remembered == 7


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"binary_data_output": True, "id": "a"}},
        {"id": "a", "parameters": {"id": "a"}},
        {"id": 'quo"ted'},
        {"id": "back\\slash"},
        {"id": "é"},
        {"id": ""},
        {"parameters": {"name": "id"}},
        {"parameters": {'"id":"x"': 1}},
        {"outputs": [{"name": "id"}]},
    ],
)
def test_an_id_that_is_not_the_requests_or_not_plain_misleads_nobody(change: dict[str, Any]) -> None:
    reader = Reader()
    for value in ("a", "b", "a", "c", "b"):
        text = json.dumps({**header_of(), **change}).replace('"a"', f'"{value}"').encode()
        text += b" " * (-len(text) % 8)
        body = text + bytes(4)
        check_same(reader.read(body, len(text)), body, len(text))


def test_two_ids_in_one_json_are_never_remembered() -> None:
    reader = Reader()
    inner = json.dumps(header_of())[1:]
    for first, second in (("a", "b"), ("a", "c"), ("a", "d"), ("a", "e")):
        text = f'{{"id": "{first}", "id": "{second}", {inner}'.encode()
        body = text + bytes(4)
        check_same(reader.read(body, len(text)), body, len(text))
    assert reader.remembered == 0


def test_a_plan_holds_for_its_model_version_and_size_alone() -> None:
    reader = Reader()
    body, length = body_of(header_of(), bytes(4))
    for _ in range(3):
        reader.read(body, length)
    assert reader.remembered == 1
    for model, version in (("n", ""), ("m", "2")):
        check_same(reader.read(body, length, model, version), body, length, model, version)
    assert reader.remembered == 1
    with pytest.raises(Exception, match="bytes"):
        reader.read(body + b"x", length)
    assert reader.remembered == 1


@pytest.mark.parametrize(("more_id", "fewer_bytes"), [(4, 4), (8, 4), (8, 0), (1, 0)])
def test_a_longer_id_never_makes_up_for_missing_bytes_of_a_tensor(more_id: int, fewer_bytes: int) -> None:
    reader = Reader()
    text, length = body_of(header_of(8, id="a"), b"")
    for _ in range(3):
        reader.read(text + bytes(range(8)), length)
    assert reader.remembered == 1
    longer = text.replace(b'"a"', b'"' + b"a" * (1 + more_id) + b'"')
    body = longer + bytes(range(8 - fewer_bytes))
    if fewer_bytes:
        with pytest.raises(Exception, match="bytes"):
            reader.read(body, len(longer))
    else:
        check_same(reader.read(body, len(longer)), body, len(longer))
    assert reader.remembered == 1


def test_ids_of_changing_length_do_not_drive_each_other_out() -> None:
    reader = Reader()
    for number in range(40):
        body, length = body_of(header_of(id="9" * (1 + number % 4)), bytes([number] * 4))
        check_same(reader.read(body, length), body, length)
    assert reader.remembered == 40 - 2 * 4


@pytest.mark.parametrize("of", ["answer", "tensor"])
def test_an_answer_with_parameters_is_never_written_from_memory(of: str) -> None:
    reader = Reader()
    body, length = body_of(header_of(), bytes(4))
    for number in range(6):
        request = reader.read(body, length)
        parameters = {"n": number} if number >= 3 else {}
        output = Tensor.of("y", np.zeros(2, np.float32))
        if of == "tensor":
            output.parameters = parameters
        response = InferResponse("m", [output], "1", "", parameters if of == "answer" else {})
        if request.plan is None:
            continue
        if (written := request.plan.encode(response)) is None:
            request.plan.remember(response, binary_codec.encode_response(request, response))
        assert written is None or not parameters


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_what_needs_a_look_at_its_bytes_each_time_is_not_remembered(datatype: str) -> None:
    reader = Reader()
    data = b"\x01\x00\x00\x00a" if datatype == "BYTES" else b"\x01"
    tensor = {"name": "x", "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": len(data)}}
    body, length = body_of({"inputs": [tensor]}, data)
    for _ in range(4):
        reader.read(body, length)
    assert reader.remembered == 0


def test_numbers_in_the_json_are_not_remembered() -> None:
    reader = Reader()
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}
    text = json.dumps({"inputs": [tensor]}).encode()
    for _ in range(4):
        assert reader.read(text, len(text)).input("x").array.tolist() == [1.0, 2.0]
    assert reader.remembered == 0


def test_no_more_plans_are_kept_than_the_limit() -> None:
    reader = Reader()
    for size in range(1, 2 * MAX_PLANS):
        body, length = body_of(header_of(size), bytes(size))
        for _ in range(2):
            reader.read(body, length)
        assert len(reader.plans._plans) <= MAX_PLANS


@given(
    ids=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12), min_size=4, max_size=8),
    rows=st.integers(1, 3),
    version=st.sampled_from(["", "1", "12"]),
)
def test_a_remembered_answer_is_the_answer_that_would_be_written_anew(ids: list[str], rows: int, version: str) -> None:
    reader = Reader()
    for number, identifier in enumerate(ids):
        body, length = body_of(header_of(id=identifier), bytes(4))
        request = reader.read(body, length)
        outputs = [
            Tensor.of("y", np.full((rows, 2), number, np.float32)),
            Tensor.of("z", np.full((rows,), number, np.int64)),
        ]
        response = InferResponse("m", outputs, version, request.id)
        expected = binary_codec.encode_response(request, response)
        written = request.plan.encode(response) if request.plan is not None else None
        if written is None:
            if request.plan is not None:
                request.plan.remember(response, expected)
            continue
        assert b"".join(written.parts) == b"".join(expected.parts)
        assert (written.size, written.json_length, written.headers) == (
            expected.size,
            expected.json_length,
            expected.headers,
        )
