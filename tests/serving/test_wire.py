"""Cutting raw tensors out of a protobuf message: nothing is lost, nothing is copied, garbage is the client's error."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.errors import InvalidRequest, PayloadTooLarge
from saccade_serving.oip import proto
from saccade_serving.oip.rules import MAX_TYPED_ELEMENTS
from saccade_serving.oip.wire import MAX_ENTRIES, RAW_INPUTS, RAW_OUTPUTS, check_request, split

TEXT = st.text(max_size=10)
RAW = st.lists(st.binary(max_size=300), max_size=6)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Any ``ModelInferRequest``, sensible or not."""
    message = proto.ModelInferRequest(
        model_name=draw(TEXT), model_version=draw(TEXT), id=draw(TEXT), raw_input_contents=draw(RAW)
    )
    for name, value in draw(st.dictionaries(TEXT, st.integers(-(2**63), 2**63 - 1), max_size=3)).items():
        message.parameters[name].int64_param = value
    for name in draw(st.lists(TEXT, max_size=3)):
        tensor = message.inputs.add(name=name, datatype=draw(TEXT), shape=draw(st.lists(st.integers(0, 2**40))))
        tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32, allow_nan=False), max_size=3)))
        message.outputs.add(name=name)
    return message


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, kind: int, content: bytes = b"") -> bytes:
    """One field; of kind 2 with its length."""
    return varint(number << 3 | kind) + (varint(len(content)) if kind == 2 else b"") + content


@given(requests())
def test_what_is_cut_apart_and_joined_again_is_the_message(message: Any) -> None:
    rest, raw = split(message.SerializeToString(), RAW_INPUTS)
    parsed = proto.ModelInferRequest.FromString(rest)
    assert not parsed.raw_input_contents
    assert [bytes(part) for part in raw] == list(message.raw_input_contents)
    parsed.raw_input_contents.extend(bytes(part) for part in raw)
    assert parsed == message


@given(RAW, TEXT)
def test_a_responses_raw_tensors_are_cut_out_by_their_own_number(raw: list[bytes], name: str) -> None:
    message = proto.ModelInferResponse(model_name=name, raw_output_contents=raw)
    rest, found = split(message.SerializeToString(), RAW_OUTPUTS)
    assert [bytes(part) for part in found] == raw
    assert proto.ModelInferResponse.FromString(rest) == proto.ModelInferResponse(model_name=name)


@given(st.lists(st.tuples(st.sampled_from([1, 3, 7, 9, 300]), st.binary(max_size=20)), max_size=20))
def test_raw_tensors_keep_their_order_wherever_they_stand(fields: list[tuple[int, bytes]]) -> None:
    data = b"".join(field(number, 2, content) for number, content in fields)
    rest, raw = split(data, RAW_INPUTS)
    assert [bytes(part) for part in raw] == [content for number, content in fields if number == 7]
    assert rest == b"".join(field(number, 2, content) for number, content in fields if number != 7)


def test_fields_nobody_knows_are_left_to_protobuf() -> None:
    known = proto.ModelInferRequest(model_name="m", raw_input_contents=[b"abc"]).SerializeToString()
    strange = field(900, 0, varint(2**63)) + field(901, 1, bytes(8)) + field(902, 5, bytes(4)) + field(903, 2, b"x")
    rest, raw = split(strange + known, RAW_INPUTS)
    assert rest.startswith(strange)
    assert proto.ModelInferRequest.FromString(rest).model_name == "m"
    assert [bytes(part) for part in raw] == [b"abc"]


def test_raw_tensors_are_views_of_the_message_and_nothing_is_copied() -> None:
    tensor = bytes(range(256)) * 40_000
    data = proto.ModelInferRequest(model_name="m", raw_input_contents=[tensor, b"", tensor]).SerializeToString()
    rest, raw = split(data, RAW_INPUTS)
    assert len(rest) < 10
    whole = np.frombuffer(data, np.uint8)
    begin = whole.__array_interface__["data"][0]
    for part in (raw[0], raw[2]):
        assert part == tensor
        at = np.frombuffer(part, np.uint8).__array_interface__["data"][0] - begin
        assert 0 <= at <= len(data) - len(tensor)
    assert raw[1].nbytes == 0


def test_an_empty_message_is_one() -> None:
    assert split(b"", RAW_INPUTS) == (b"", [])


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_the_clients_error_or_left_to_protobuf(data: bytes) -> None:
    try:
        rest, raw = split(data, RAW_INPUTS)
    except InvalidRequest:
        return
    assert len(rest) + sum(part.nbytes for part in raw) <= len(data)


@given(requests(), st.data())
def test_a_message_that_is_cut_off_or_damaged_is_never_anything_but_the_clients_error(message: Any, data: Any) -> None:
    serialised = bytearray(message.SerializeToString())
    if not serialised:
        return
    if data.draw(st.booleans()):
        del serialised[data.draw(st.integers(0, len(serialised) - 1)) :]
    else:
        serialised[data.draw(st.integers(0, len(serialised) - 1))] = data.draw(st.integers(0, 255))
    try:
        rest, raw = split(bytes(serialised), RAW_INPUTS)
        parsed = proto.ModelInferRequest.FromString(rest)
    except (InvalidRequest, DecodeError):
        return
    # Whatever protobuf itself makes of the whole is what both halves say.
    whole = proto.ModelInferRequest.FromString(bytes(serialised))
    assert [bytes(part) for part in raw] == list(whole.raw_input_contents)
    whole.ClearField("raw_input_contents")
    assert parsed.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "data",
    [
        field(7, 2, b"abc")[:-1],
        field(3, 2, b"abc")[:-1],
        varint(7 << 3 | 2),
        varint(7 << 3 | 2) + varint(2**62),
        varint(3 << 3 | 2) + varint(2**64 - 1),
        b"\x80" * 9,
        b"\xff" * 11,
        field(5, 1, bytes(7)),
        field(5, 5, bytes(3)),
        field(5, 3),  # groups are of another age
        field(5, 4),
        field(5, 6),
        field(5, 7),
        b"no message at all",
    ],
)
def test_what_is_no_message_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="expected its protobuf"):
        split(data, RAW_INPUTS)


def test_very_many_fields_are_refused_and_cost_little() -> None:
    split(field(7, 2) * MAX_ENTRIES, RAW_INPUTS)
    begun = time.perf_counter()
    with pytest.raises(InvalidRequest, match=f"over {MAX_ENTRIES} fields"):
        split(field(7, 2) * 5_000_000, RAW_INPUTS)
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    ("contents", "value"),
    [
        ("bool_contents", True),
        ("int_contents", -1),
        ("int64_contents", 300),
        ("uint_contents", 0),
        ("uint64_contents", 2**64 - 1),
        ("fp32_contents", 1.5),
        ("fp64_contents", -1.5),
    ],
)
def test_typed_values_of_all_inputs_are_counted_before_they_are_parsed(contents: str, value: Any) -> None:
    message = proto.ModelInferRequest()
    for _ in range(2):
        getattr(message.inputs.add().contents, contents).extend([value] * (MAX_TYPED_ELEMENTS // 2))
    check_request(message.SerializeToString())
    getattr(message.inputs.add().contents, contents).append(value)
    with pytest.raises(
        PayloadTooLarge, match=r"has 1048577 typed values; the limit is 1048576 typed values; send raw"
    ):
        check_request(message.SerializeToString())
