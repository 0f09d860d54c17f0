"""Whatever bytes arrive, a codec answers with a value or with InvalidRequest, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf carries no types
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz_seeds import SEED_BODIES
from oip_strategies import MODEST, joined, plain, requests, responses
from saccade_serving.errors import InvalidRequest
from saccade_serving.oip import binary_codec, grpc_codec, json_codec, proto
from saccade_serving.oip.datatypes import DATATYPES
from saccade_serving.oip.messages import InferRequest, InferResponse

# Enough for a name of each kind and a shape of 32 dimensions; a payload in the sentence would be longer.
LONGEST_SENTENCE = 800

lengths = st.none() | st.integers(-2, 120) | st.integers(-2, 120).map(str) | st.text(max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-3, 3)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
keys = st.sampled_from(["binary_data", "binary_data_size", "binary_data_output", "p", ""])
loose_parameters = st.dictionaries(keys, st.integers(0, 8) | junk, max_size=2)
loose_shapes = st.lists(st.integers(0, 3) | st.integers(-1, 2**33), max_size=3)
loose_data = (
    st.lists(st.integers(-1, 300), max_size=4) | st.lists(st.lists(st.booleans(), max_size=3), max_size=3) | junk
)


def mostly(field: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw what belongs in a field, and one time in ten anything at all."""
    return st.integers(0, 9).flatmap(lambda roll: field if roll else junk)


def loose_object(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={key: mostly(value) for key, value in (required | optional).items()}) | (
        st.fixed_dictionaries({key: mostly(value) for key, value in required.items()})
    )


loose_tensors = loose_object(
    {
        "name": st.sampled_from("abc"),
        "datatype": st.sampled_from(DATATYPES),
        "shape": loose_shapes,
        "data": loose_data,
    },
    {"parameters": loose_parameters},
)
loose_outputs = loose_object({"name": st.sampled_from("abc")}, {"parameters": loose_parameters})
loose_bodies = loose_object(
    {"inputs": st.lists(loose_tensors, max_size=2), "outputs": st.lists(loose_outputs, max_size=2)},
    {"id": st.text(max_size=3), "parameters": loose_parameters, "model_name": st.text(max_size=3)},
)
structural_edits = st.lists(st.tuples(st.integers(0, 2**16), st.just(...) | junk), min_size=1, max_size=2)
edits = st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key or index) within a parsed JSON value."""
    keyed: list[tuple[Any, Any]] = []
    if isinstance(node, dict):
        keyed = list(node.items())
    elif isinstance(node, list):
        keyed = list(enumerate(node))
    return [(node, key) for key, _ in keyed] + [place for _, child in keyed for place in places(child)]


def restructured(text: bytes, changes: list[tuple[int, Any]]) -> bytes:
    """Replace some values anywhere in a JSON object; a replacement of ``...`` removes the value."""
    root = orjson.loads(text)
    for position, replacement in changes:
        found = places(root)
        if not found:
            break
        container, key = found[position % len(found)]
        if replacement is ...:
            del container[key]
        else:
            container[key] = replacement
    return orjson.dumps(root)


def mutated(valid: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    """Replace some bytes at some places by others, fewer or more."""
    body = bytearray(valid)
    for position, insertion, removed in changes:
        start = position % (len(body) + 1)
        body[start : start + removed] = insertion
    return bytes(body)


def outcome(decode: Callable[[], Any]) -> Any:
    """Return the value, or None for a refusal; any other exception fails the test."""
    try:
        return decode()
    except InvalidRequest as refused:
        sentence = str(refused)
        assert 0 < len(sentence) < LONGEST_SENTENCE
        return None


def check_request(request: InferRequest | None) -> None:
    """What was accepted can be sent on, by either transport, and says the same there."""
    if request is None:
        return
    body = binary_codec.encode_request(request)
    again = binary_codec.decode_request(request.model_name, request.model_version, joined(body), body.json_length)
    assert [plain(tensor)[:5] for tensor in again.inputs] == [plain(tensor)[:5] for tensor in request.inputs]
    over_grpc = grpc_codec.decode_request(grpc_codec.encode_request(request))
    assert [plain(tensor) for tensor in over_grpc.inputs] == [plain(tensor) for tensor in again.inputs]


def check_response(response: InferResponse | None) -> None:
    if response is None:
        return
    body = binary_codec.encode_response(InferRequest("m", [], binary_output=True), response)
    again = binary_codec.decode_response(joined(body), body.json_length)
    assert [plain(tensor)[:5] for tensor in again.outputs] == [plain(tensor)[:5] for tensor in response.outputs]


@MODEST
@given(st.binary(max_size=200), lengths)
@example(b"", None)
@example(b"", 0)
def test_arbitrary_bytes_over_rest(body: bytes, json_length: int | str | None) -> None:
    check_request(outcome(lambda: binary_codec.decode_request("m", "", body, json_length)))
    check_response(outcome(lambda: binary_codec.decode_response(body, json_length)))


@pytest.mark.parametrize("name", list(SEED_BODIES))
def test_the_seeds_over_rest(name: str) -> None:
    body, json_length = SEED_BODIES[name]
    check_request(outcome(lambda: binary_codec.decode_request("m", "", body, json_length)))


@MODEST
@given(st.sampled_from(list(SEED_BODIES.values())), edits, st.integers(-2, 2))
def test_mutated_seeds_over_rest(
    seed: tuple[bytes, int | str | None], changes: list[tuple[int, bytes, int]], shift: int
) -> None:
    body, json_length = seed
    length = json_length + shift if isinstance(json_length, int) else json_length
    check_request(outcome(lambda: binary_codec.decode_request("m", "", mutated(body, changes), length)))


@MODEST
@given(requests(for_json=True), st.booleans(), edits, st.integers(-2, 2))
def test_mutated_requests_over_rest(
    request: InferRequest, binary: bool, changes: list[tuple[int, bytes, int]], shift: int
) -> None:
    encoded = binary_codec.encode_request(request, binary)
    body = mutated(joined(encoded), changes)
    length = None if encoded.json_length is None else encoded.json_length + shift
    check_request(outcome(lambda: binary_codec.decode_request("m", "", body, length)))


@MODEST
@given(responses(for_json=True), st.booleans(), edits, st.integers(-2, 2))
def test_mutated_responses_over_rest(
    response: InferResponse, binary: bool, changes: list[tuple[int, bytes, int]], shift: int
) -> None:
    encoded = binary_codec.encode_response(InferRequest("m", [], binary_output=binary), response)
    body = mutated(joined(encoded), changes)
    length = None if encoded.json_length is None else encoded.json_length + shift
    check_response(outcome(lambda: binary_codec.decode_response(body, length)))


@MODEST
@given(requests(for_json=True), st.booleans(), structural_edits)
def test_requests_with_fields_replaced_or_removed(
    request: InferRequest, binary: bool, changes: list[tuple[int, Any]]
) -> None:
    head, *data = binary_codec.encode_request(request, binary).parts
    text = restructured(bytes(head), changes)
    length = len(text) if data else None
    check_request(outcome(lambda: binary_codec.decode_request("m", "", b"".join([text, *data]), length)))


@MODEST
@given(responses(for_json=True), st.booleans(), structural_edits)
def test_responses_with_fields_replaced_or_removed(
    response: InferResponse, binary: bool, changes: list[tuple[int, Any]]
) -> None:
    head, *data = binary_codec.encode_response(InferRequest("m", [], binary_output=binary), response).parts
    text = restructured(bytes(head), changes)
    length = len(text) if data else None
    check_response(outcome(lambda: binary_codec.decode_response(b"".join([text, *data]), length)))


@MODEST
@given(loose_bodies, st.none() | st.binary(max_size=12))
def test_json_that_resembles_a_request_or_response(body: Any, data: bytes | None) -> None:
    text = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
    length = None if data is None else len(text)
    whole = text + (data or b"")
    check_request(outcome(lambda: binary_codec.decode_request("m", "", whole, length)))
    check_response(outcome(lambda: binary_codec.decode_response(whole, length)))


@MODEST
@given(
    loose_object(
        {"name": st.text(max_size=3), "inputs": st.lists(loose_tensors, max_size=2)},
        {
            "versions": st.lists(st.text(max_size=2), max_size=2),
            "platform": st.text(max_size=3),
            "outputs": st.lists(loose_tensors, max_size=2),
            "properties": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        },
    )
)
def test_json_that_resembles_metadata(obj: Any) -> None:
    metadata = outcome(lambda: json_codec.decode_metadata(obj))
    if metadata is not None:
        assert json_codec.decode_metadata(json_codec.encode_metadata(metadata)) == metadata


@MODEST
@given(requests(rest=False), responses(), edits)
def test_mutated_messages_over_grpc(
    request: InferRequest, response: InferResponse, changes: list[tuple[int, bytes, int]]
) -> None:
    for kind, valid, decode, check in (
        (proto.ModelInferRequest, grpc_codec.encode_request(request), grpc_codec.decode_request, check_request),
        (proto.ModelInferResponse, grpc_codec.encode_response(response), grpc_codec.decode_response, check_response),
    ):
        try:
            message = kind.FromString(mutated(valid.SerializeToString(), changes))
        except DecodeError:
            continue  # Refused by protobuf itself, before the codec.
        check(outcome(lambda message=message, decode=decode: decode(message)))  # type: ignore[misc]  # defaults


@MODEST
@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from("abc"), "datatype": st.sampled_from([*DATATYPES, "x"]), "shape": loose_shapes},
            optional={
                "contents": st.fixed_dictionaries(
                    {},
                    optional={
                        "bool_contents": st.lists(st.booleans(), max_size=3),
                        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
                        "uint_contents": st.lists(st.integers(0, 300), max_size=3),
                        "fp32_contents": st.lists(st.floats(width=32), max_size=3),
                        "bytes_contents": st.lists(st.binary(max_size=3), max_size=3),
                    },
                ),
                "parameters": st.dictionaries(keys, st.just({"int64_param": 1}) | st.just({}), max_size=2),
            },
        ),
        max_size=2,
    ),
    st.lists(st.binary(max_size=8), max_size=2),
)
def test_grpc_messages_with_contradictory_contents(inputs: list[dict[str, Any]], raw: list[bytes]) -> None:
    message = proto.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=raw)
    check_request(outcome(lambda: grpc_codec.decode_request(message)))
