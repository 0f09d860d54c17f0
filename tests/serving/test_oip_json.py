"""V2 REST with JSON alone: values, their types and ranges, and what is refused."""

from __future__ import annotations

import gc
import re
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given

from oip_strategies import MODEST, joined, plain, requests, responses
from saccade_serving.errors import InvalidRequest, PayloadTooLarge, UnknownTensor, WrongShape
from saccade_serving.oip import binary_codec
from saccade_serving.oip.binary_codec import decode_request, decode_response, encode_request, encode_response
from saccade_serving.oip.json_codec import decode_metadata, encode_metadata
from saccade_serving.oip.json_limits import weigh
from saccade_serving.oip.json_values import SLICE
from saccade_serving.oip.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)


def decode(body: Any) -> InferRequest:
    return decode_request("m", "", orjson.dumps(body), None)


def entry(**fields: Any) -> dict[str, Any]:
    """Return an input entry INT32 [2] of 1, 2, with the given fields replaced; None removes one."""
    whole = {"name": "x", "datatype": "INT32", "shape": [2], "data": [1, 2]} | fields
    return {key: value for key, value in whole.items() if value is not None}


def decode_one(**fields: Any) -> Tensor:
    return decode({"inputs": [entry(**fields)]}).inputs[0]


def response_json(response: InferResponse, request: InferRequest | None = None) -> Any:
    body = encode_response(request or InferRequest("m", []), response)
    assert body.json_length is None
    return orjson.loads(joined(body))


@MODEST
@given(requests(for_json=True))
def test_a_request_written_as_json_is_read_back_the_same(request: InferRequest) -> None:
    body = encode_request(request, binary=False)
    assert body.json_length is None
    assert body.headers == {"content-type": "application/json"}
    decoded = decode_request(request.model_name, request.model_version, joined(body), None)
    assert plain(decoded) == plain(request)


@MODEST
@given(responses(for_json=True))
def test_a_response_written_as_json_is_read_back_the_same(response: InferResponse) -> None:
    body = encode_response(InferRequest("m", []), response)
    assert plain(decode_response(joined(body), None)) == plain(response)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_data_may_be_flat_or_nested_as_the_shape(data: Any) -> None:
    tensor = decode_one(shape=[2, 3], data=data)
    np.testing.assert_array_equal(tensor.array, np.array([[1, 2, 3], [4, 5, 6]], np.int32))


LONG = 3 * SLICE + 5


@pytest.mark.parametrize("shape", [[LONG], [LONG, 1], [1, LONG], [5, LONG, 3], [2, 3, SLICE]], ids=str)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_many_values_are_read_in_order(shape: list[int], nested: bool) -> None:
    expected = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    np.testing.assert_array_equal(
        decode_one(shape=shape, data=(expected if nested else expected.reshape(-1)).tolist()).array, expected
    )


@pytest.mark.parametrize(
    ("datatype", "odd", "sentence"),
    [
        ("INT32", "x", "holds a string"),
        ("INT32", [1], "holds an array"),
        ("UINT8", 256, "does not fit UINT8"),
        ("FP32", 1e39, "does not fit FP32"),
        ("FP32", None, "holds null"),
    ],
)
def test_a_wrong_value_is_found_behind_many_right_ones(datatype: str, odd: Any, sentence: str) -> None:
    with pytest.raises(WrongShape, match=sentence):
        decode_one(datatype=datatype, shape=[LONG], data=[1] * (LONG - 1) + [odd])


def test_what_all_tensors_declare_is_checked_before_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr(binary_codec, "decode_data", never)
    with pytest.raises(WrongShape, match="input 'y' has datatype 'INT31'"):
        decode({"inputs": [entry(), entry(name="y", datatype="INT31")]})


def test_a_nested_picture_as_large_as_the_demos_model_takes_is_within_the_limits() -> None:
    picture = np.zeros((1, 416, 416, 3), np.uint8)
    body = orjson.dumps({"inputs": [entry(datatype="UINT8", shape=picture.shape, data=picture.tolist())]})
    assert decode_request("m", "", body, None, 16 * 2**20).inputs[0].array.shape == picture.shape


@pytest.mark.parametrize("value", ["1", '"a"', '{"a":1}', "[]", "[1,1,1]"])
def test_a_json_of_too_many_values_is_refused_from_clients_and_read_from_who_is_trusted(value: str) -> None:
    count = 2**21 // weigh(f"{value},".encode()) + 1
    body = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":[{",".join([value] * count)}]}}]}}'
    with pytest.raises(PayloadTooLarge, match="values; the limit is 2097152 values"):
        decode_request("m", "", body.encode(), None, 16 * 2**20)
    with pytest.raises(WrongShape):
        decode_request("m", "", body.encode(), None)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_much_json(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        for end in (b"", b"}"):
            with pytest.raises(InvalidRequest):
                decode_request("m", "", b'{"inputs": ' + b" " * 2**17 + end, None)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("data", [5, [5]])
def test_a_scalar_is_a_bare_value_or_a_list_of_one(data: Any) -> None:
    tensor = decode_one(shape=[], data=data)
    assert tensor.shape == ()
    assert tensor.array.item() == 5


@pytest.mark.parametrize(("shape", "data"), [([0], []), ([2, 0], []), ([2, 0], [[], []]), ([0, 2**31 - 1], [])])
def test_an_empty_tensor_has_a_shape_and_no_values(shape: list[int], data: Any) -> None:
    assert decode_one(shape=shape, data=data).array.shape == tuple(shape)


@pytest.mark.parametrize(
    "data",
    [[1], [1, 2, 3], [[1, 2]], [[1], [2]], [1, [2]], [[1], 2], [[[1, 2]]], 5, "12", {"0": 1}, [], [[]], [[], []]],
    ids=str,
)
def test_data_that_does_not_match_its_shape_is_refused(data: Any) -> None:
    with pytest.raises(WrongShape, match="input 'x'"):
        decode_one(shape=[2], data=data)


@pytest.mark.parametrize("data", [[[1, 2], [3]], [[1, 2, 3]], [[1], [2], [3], [4]], [1, 2, [3, 4]], [[1, 2], 3]])
def test_nested_data_of_another_nesting_is_refused(data: Any) -> None:
    with pytest.raises(WrongShape, match=r"input 'x'.*\[2, 2\]"):
        decode_one(shape=[2, 2], data=data)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 300),
        ("UINT8", -1),
        ("INT8", -129),
        ("UINT16", 65536),
        ("INT32", 2**31),
        ("UINT32", -1),
        ("INT64", 2**63),
        ("INT64", -(2**63) - 1),
        ("UINT64", 2**64),
        ("FP16", 70000),
        ("FP16", -65520.0),
        ("FP32", 1e39),
    ],
)
def test_a_number_out_of_the_datatypes_range_is_refused(datatype: str, value: float) -> None:
    body = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[1],"data":[{value}]}}]}}'
    with pytest.raises(WrongShape, match=f"input 'x' holds .*{datatype}"):
        decode_request("m", "", body.encode(), None)


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        ("UINT8", 255, 255),
        ("INT8", -128, -128),
        ("INT64", -(2**63), -(2**63)),
        ("UINT64", 2**64 - 1, 2**64 - 1),
        ("FP16", 65504, 65504.0),
        ("FP16", 0.1, float(np.float16(0.1))),
        ("FP32", 1, 1.0),
        ("FP64", 0.1, 0.1),
        ("BOOL", True, True),
    ],
)
def test_the_ends_of_each_range_are_accepted(datatype: str, value: Any, expected: Any) -> None:
    assert decode_one(datatype=datatype, shape=[1], data=[value]).array.tolist() == [expected]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT32", 1.5),
        ("INT32", 1.0),
        ("INT32", True),
        ("INT32", "1"),
        ("UINT8", None),
        ("BOOL", 1),
        ("BOOL", "true"),
        ("FP32", "1"),
        ("FP32", True),
        ("FP32", None),
        ("BYTES", 1),
        ("BYTES", None),
        ("BYTES", {"b64": "AA=="}),
    ],
)
def test_a_value_of_another_json_type_is_refused(datatype: str, value: Any) -> None:
    with pytest.raises(WrongShape, match=f"input 'x' holds .*; datatype {datatype} takes "):
        decode_one(datatype=datatype, shape=[2], data=[value, value])


def test_strings_of_a_bytes_tensor_are_utf8_and_marked_as_text() -> None:
    tensor = decode_one(datatype="BYTES", data=["zebra", "Löwe"])
    assert tensor.elements == [b"zebra", "Löwe".encode()]
    assert tensor.is_text


@pytest.mark.parametrize("datatype", ["FLOAT32", "fp32", "BF16", "", "X" * 500])
def test_an_unknown_datatype_is_refused_with_the_known_ones(datatype: str) -> None:
    with pytest.raises(WrongShape, match=r"input 'x' has datatype .*FP32.*BYTES") as refused:
        decode_one(datatype=datatype)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "shape",
    [
        [-1],
        [2.0],
        ["2"],
        [True],
        [None],
        [[2]],
        [2**31],
        [10**18],
        [2**31 - 1, 2**31 - 1],
        [1] * 33,
        [0, *[2**31 - 1] * 5],
    ],
    ids=str,
)
def test_an_impossible_shape_is_refused(shape: list[Any]) -> None:
    with pytest.raises(WrongShape, match="input 'x' has "):
        decode_one(shape=shape)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": None}, "'name' of input 0 is missing; expected a string"),
        ({"name": 3}, "'name' of input 0 is an integer; expected a string"),
        ({"name": ""}, "input 0 has no name"),
        ({"datatype": None}, "'datatype' of input 'x' is missing"),
        ({"datatype": ["INT32"]}, "'datatype' of input 'x' is an array"),
        ({"shape": None}, "'shape' of input 'x' is missing"),
        ({"shape": 2}, "'shape' of input 'x' is an integer; expected an array"),
        ({"data": None}, "input 'x' has neither 'data' nor the parameter 'binary_data_size'"),
        ({"parameters": [1]}, "'parameters' of input 'x' is an array; expected an object"),
        ({"parameters": {"a": {}}}, "parameter 'a' of input 'x' is an object"),
        ({"parameters": {"a": ...}}, "parameter 'a' of input 'x' is null"),
    ],
)
def test_a_missing_or_mistyped_field_is_named(fields: dict[str, Any], sentence: str) -> None:
    text = orjson.dumps({"inputs": [entry(**fields)]}, default=lambda _: None)
    with pytest.raises(InvalidRequest, match=re.escape(sentence)):
        decode_request("m", "", text, None)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the request is not valid JSON"),
        (b"{", "the request is not valid JSON"),
        (b"\xff\xd8\xff", "the request is not valid JSON"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', "not valid JSON"),
        (b"[" * 5000, "the request is not valid JSON"),
        (b"[]", "the request is an array; expected a JSON object"),
        (b"null", "the request is null; expected a JSON object"),
        (b"{}", "'inputs' of the request is missing"),
        (b'{"inputs":null}', "'inputs' of the request is null"),
        (b'{"inputs":{}}', "'inputs' of the request is an object; expected an array"),
        (b'{"inputs":[]}', "'inputs' of the request is empty"),
        (b'{"inputs":[1]}', "input 0 is an integer; expected an object"),
    ],
)
def test_a_body_that_is_not_a_request_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(sentence)):
        decode_request("m", "", body, None)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"id": 7}, "'id' of the request is an integer; expected a string"),
        ({"parameters": "p"}, "'parameters' of the request is a string; expected an object"),
        ({"parameters": {"p": None}}, "parameter 'p' of the request is null"),
        ({"parameters": {"p": [1]}}, "parameter 'p' of the request is an array"),
        (
            {"parameters": {"binary_data_output": "yes"}},
            "'binary_data_output' of the request's parameters is a string",
        ),
        ({"outputs": {}}, "'outputs' of the request is an object; expected an array"),
        ({"outputs": ["y"]}, "requested output 0 is a string; expected an object"),
        ({"outputs": [{}]}, "'name' of requested output 0 is missing"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "requested output 'y' is given twice"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "'binary_data' of the parameters of"),
        ({"inputs": [entry(), entry()]}, "input 'x' is given twice"),
    ],
)
def test_a_mistyped_part_of_the_request_is_named(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(sentence)):
        decode({"inputs": [entry()]} | fields)


def test_optional_fields_may_be_null_as_several_clients_write_them() -> None:
    request = decode({"id": None, "parameters": None, "outputs": None, "inputs": [entry() | {"parameters": None}]})
    assert (request.id, dict(request.parameters), request.outputs) == ("", {}, [])


def test_parameters_keep_their_types_and_lose_those_of_the_encoding() -> None:
    request = decode(
        {
            "id": "r-1",
            "parameters": {"a": True, "b": 3, "c": 0.5, "d": "s", "binary_data_output": True},
            "inputs": [entry(parameters={"e": 1})],
            "outputs": [{"name": "y", "parameters": {"binary_data": False, "classification": 3}}],
        }
    )
    assert request.id == "r-1"
    assert request.parameters == {"a": True, "b": 3, "c": 0.5, "d": "s"}
    assert request.binary_output
    assert request.inputs[0].parameters == {"e": 1}
    assert request.outputs == [RequestedOutput("y", False, {"classification": 3})]


def test_an_error_sentence_never_holds_the_payload() -> None:
    secret = "s3cret" * 1000
    for body in ({"inputs": [entry(name=secret, data=[secret] * 2)]}, {"inputs": secret}, {secret: 1}, secret):
        with pytest.raises(InvalidRequest) as refused:
            decode(body)
        assert len(str(refused.value)) < 400


def test_numbers_are_written_as_one_flat_list() -> None:
    response = InferResponse(
        "m", [Tensor.of("y", np.array([[1, 2], [3, 4]], np.uint8)[:, ::-1])], "3", "r-1", {"p": 1}
    )
    assert response_json(response) == {
        "model_name": "m",
        "model_version": "3",
        "id": "r-1",
        "parameters": {"p": 1},
        "outputs": [{"name": "y", "datatype": "UINT8", "shape": [2, 2], "data": [2, 1, 4, 3]}],
    }


def test_empty_fields_are_left_out_of_a_response() -> None:
    assert response_json(InferResponse("m", [])) == {"model_name": "m", "outputs": []}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_are_written_as_null_and_null_is_read_as_nan(dtype: type) -> None:
    response = InferResponse("m", [Tensor.of("y", np.array([0.5, np.nan, np.inf, -np.inf], dtype))])
    assert response_json(response)["outputs"][0]["data"] == [0.5, None, None, None]
    decoded = decode_response(joined(encode_response(InferRequest("m", []), response)), None).output("y")
    assert np.isnan(decoded.array).tolist() == [False, True, True, True]
    assert decoded.array.dtype == dtype


def test_bytes_that_are_not_utf8_must_be_asked_for_as_binary_data() -> None:
    response = InferResponse("m", [Tensor.of_bytes("y", (2,), [b"ok", b"\xff\xd8"])])
    with pytest.raises(InvalidRequest, match=r"output 'y' .*UTF-8.*binary_data"):
        encode_response(InferRequest("m", []), response)


def test_only_the_requested_outputs_are_sent_in_the_order_of_the_request() -> None:
    response = InferResponse("m", [Tensor.of(name, np.zeros(1, np.int8)) for name in "abc"])
    request = InferRequest("m", [], outputs=[RequestedOutput("c"), RequestedOutput("a")])
    assert [output["name"] for output in response_json(response, request)["outputs"]] == ["c", "a"]
    with pytest.raises(UnknownTensor, match="output 'z' is not a tensor of this model; expected 'a', 'b', 'c'"):
        encode_response(InferRequest("m", [], outputs=[RequestedOutput("z")]), response)


def test_an_output_that_contradicts_its_own_shape_or_datatype_is_refused() -> None:
    for wrong in (
        Tensor("y", "FP32", (3,), np.zeros(2, np.float32)),
        Tensor("y", "FP32", (2,), np.zeros(2, np.float64)),
        Tensor.of_bytes("y", (2,), [b"one"]),
    ):
        with pytest.raises(WrongShape, match="output 'y'"):
            encode_response(InferRequest("m", []), InferResponse("m", [wrong]))


def test_metadata_written_as_json_is_read_back_the_same() -> None:
    metadata = ModelMetadata(
        name="detector",
        versions=["1", "2"],
        platform="tensorrt_plan",
        inputs=[TensorMetadata("image", "UINT8", (-1, 416, 416, 3))],
        outputs=[TensorMetadata("candidates", "FP32", (-1, 1000, 6)), TensorMetadata("s", "FP32", ())],
        properties={"saccade.input": "rgb_nhwc"},
    )
    assert decode_metadata(orjson.loads(orjson.dumps(encode_metadata(metadata)))) == metadata
    assert "properties" not in encode_metadata(ModelMetadata("m", [], "", [], []))


def test_metadata_needs_no_more_than_a_name() -> None:
    assert decode_metadata({"name": "m", "versions": None}) == ModelMetadata("m", [], "", [], [])


@pytest.mark.parametrize(
    "obj",
    [
        None,
        [],
        {},
        {"name": 1},
        {"name": "m", "versions": [1]},
        {"name": "m", "inputs": [3]},
        {"name": "m", "inputs": [{"name": "x", "datatype": "FP32"}]},
        {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]},
        {"name": "m", "outputs": [{"name": "x", "datatype": "FP32", "shape": [True]}]},
        {"name": "m", "properties": {"a": 1}},
    ],
    ids=str,
)
def test_damaged_metadata_is_refused(obj: Any) -> None:
    with pytest.raises(InvalidRequest, match="metadata"):
        decode_metadata(obj)
