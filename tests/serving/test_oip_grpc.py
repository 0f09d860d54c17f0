"""gRPC messages to requests and responses and back: raw and typed contents, parameters, what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from oip_strategies import MODEST, image_tensor, plain, requests, responses
from saccade_serving.errors import InvalidRequest, UnknownTensor, WrongShape
from saccade_serving.oip import proto
from saccade_serving.oip.datatypes import BYTES
from saccade_serving.oip.grpc_codec import (
    decode_metadata,
    decode_request,
    decode_response,
    encode_metadata,
    encode_request,
    encode_response,
)
from saccade_serving.oip.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ParameterValue,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)


def typed(datatype: str, shape: list[int], **contents: Any) -> Any:
    """Return a ModelInferRequest with one input 'x' of typed contents."""
    message = proto.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype=datatype, shape=shape, contents=contents)
    return message


def raw(datatype: str, shape: list[int], *contents: bytes) -> Any:
    """Return a ModelInferRequest with one input 'x' and the given raw contents."""
    message = proto.ModelInferRequest(model_name="m", raw_input_contents=contents)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return message


@MODEST
@given(requests(rest=False))
def test_a_request_is_read_back_the_same(request: InferRequest) -> None:
    wire = encode_request(request).SerializeToString()
    assert plain(decode_request(proto.ModelInferRequest.FromString(wire))) == plain(request)


@MODEST
@given(responses())
def test_a_response_is_read_back_the_same(response: InferResponse) -> None:
    wire = encode_response(response).SerializeToString()
    assert plain(decode_response(proto.ModelInferResponse.FromString(wire))) == plain(response)


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("BOOL", {"bool_contents": [True, False]}, [True, False]),
        ("INT8", {"int_contents": [-128, 127]}, [-128, 127]),
        ("INT16", {"int_contents": [-32768, 32767]}, [-32768, 32767]),
        ("INT32", {"int_contents": [-(2**31), 2**31 - 1]}, [-(2**31), 2**31 - 1]),
        ("INT64", {"int64_contents": [-(2**63), 2**63 - 1]}, [-(2**63), 2**63 - 1]),
        ("UINT8", {"uint_contents": [0, 255]}, [0, 255]),
        ("UINT16", {"uint_contents": [0, 65535]}, [0, 65535]),
        ("UINT32", {"uint_contents": [0, 2**32 - 1]}, [0, 2**32 - 1]),
        ("UINT64", {"uint64_contents": [0, 2**64 - 1]}, [0, 2**64 - 1]),
        ("FP32", {"fp32_contents": [0.5, float("inf")]}, [0.5, float("inf")]),
        ("FP64", {"fp64_contents": [0.1, -1.0]}, [0.1, -1.0]),
    ],
)
def test_typed_contents_are_read(datatype: str, contents: dict[str, Any], expected: list[Any]) -> None:
    tensor = decode_request(typed(datatype, [2, 1], **contents)).inputs[0]
    assert tensor.datatype == datatype
    assert tensor.array.shape == (2, 1)
    assert tensor.array.ravel().tolist() == expected


def test_typed_strings_are_raw_bytes() -> None:
    tensor = decode_request(typed(BYTES, [2], bytes_contents=[b"\xff\xd8", b""])).inputs[0]
    assert tensor.elements == [b"\xff\xd8", b""]
    assert not tensor.is_text


@pytest.mark.parametrize("datatype", ["FP32", "INT8", BYTES, "BOOL"])
def test_an_empty_tensor_needs_no_contents(datatype: str) -> None:
    assert len(decode_request(typed(datatype, [0, 3])).inputs[0].data) == 0


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (typed("INT8", [1], int_contents=[128]), "input 'x' holds 128, which does not fit INT8"),
        (typed("INT16", [1], int_contents=[-32769]), "input 'x' holds -32769, which does not fit INT16"),
        (typed("UINT8", [1], uint_contents=[256]), "input 'x' holds 256, which does not fit UINT8"),
        (typed("FP16", [1], fp32_contents=[1.0]), "FP16, which has no typed contents; send raw contents"),
        (typed("FP32", [1], fp64_contents=[1.0]), "has fp64_contents; expected fp32_contents"),
        (typed("INT32", [1], int_contents=[1], bool_contents=[True]), "expected int_contents"),
        (typed("FP32", [2], fp32_contents=[1.0]), "input 'x' has 1 values; shape [2] needs 2"),
        (typed("FP32", [2]), "input 'x' has 0 values; shape [2] needs 2"),
        (typed(BYTES, [10**9], bytes_contents=[b""]), "input 'x' has 1 values"),
        (typed("FP33", [1], fp32_contents=[1.0]), "input 'x' has datatype 'FP33'; expected one of"),
        (typed("FP32", [-1]), "input 'x' has -1 as dimension 0"),
        (raw("UINT8", [3], b"ab"), "input 'x' has 2 bytes; datatype UINT8 and shape [3] need 3"),
        (raw("UINT8", [1], b"a", b"b"), "raw_input_contents has 2 entries for 1 inputs"),
        (raw("BOOL", [1], b"\2"), "input 'x' of datatype BOOL has a byte over 1"),
        (raw(BYTES, [10**12], b"\0" * 8), "input 'x' has 1000000000000 as dimension 0"),
        (raw(BYTES, [10**9], b"\0" * 8), "needs at least 4000000000 bytes"),
        (proto.ModelInferRequest(model_name="m"), "'inputs' of the request is empty"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(message: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(sentence)):
        decode_request(message)


def test_raw_and_typed_contents_do_not_mix() -> None:
    message = typed("UINT8", [1], uint_contents=[1])
    message.raw_input_contents.append(b"\1")
    with pytest.raises(InvalidRequest, match="input 'x' has both raw contents and uint_contents"):
        decode_request(message)


def test_repeated_and_missing_names_are_refused() -> None:
    message = encode_request(InferRequest("m", [image_tensor("x"), image_tensor("x")]))
    with pytest.raises(InvalidRequest, match="input 'x' is given twice"):
        decode_request(message)
    message = encode_request(InferRequest("m", [image_tensor("x"), image_tensor("")]))
    with pytest.raises(InvalidRequest, match="input 1 has no name"):
        decode_request(message)
    message = encode_request(InferRequest("m", [image_tensor()], outputs=[RequestedOutput("y")] * 2))
    with pytest.raises(InvalidRequest, match="requested output 'y' is given twice"):
        decode_request(message)


def test_parameters_keep_their_types() -> None:
    parameters: dict[str, ParameterValue] = {"a": True, "b": -3, "c": 2**64 - 1, "d": 0.5, "e": "s", "f": 2**63 - 1}
    message = encode_request(InferRequest("m", [image_tensor()], parameters=parameters))
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in message.parameters.items()}
    assert kinds == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "uint64_param",
        "d": "double_param",
        "e": "string_param",
        "f": "int64_param",
    }
    decoded = decode_request(message).parameters
    assert decoded == parameters
    assert {name: type(value) for name, value in decoded.items()} == {
        name: type(value) for name, value in parameters.items()
    }


def test_a_parameter_without_a_value_is_refused() -> None:
    message = encode_request(InferRequest("m", [image_tensor()]))
    message.inputs[0].parameters["empty"].SetInParent()
    with pytest.raises(InvalidRequest, match="parameter 'empty' of input 'image' is null"):
        decode_request(message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, -(2**63) - 1])
def test_a_parameter_that_some_encoding_cannot_carry_is_refused(value: float) -> None:
    with pytest.raises(InvalidRequest, match="parameter 'p' of the request"):
        encode_request(InferRequest("m", [image_tensor()], parameters={"p": value}))


def test_outputs_are_selected_as_over_rest() -> None:
    response = InferResponse("m", [Tensor.of(name, np.zeros(1, np.int8)) for name in "abc"])
    request = InferRequest("m", [], outputs=[RequestedOutput("c"), RequestedOutput("a")])
    assert [output.name for output in encode_response(response, request).outputs] == ["c", "a"]
    assert [output.name for output in encode_response(response).outputs] == ["a", "b", "c"]
    with pytest.raises(UnknownTensor, match="output 'z'"):
        encode_response(response, InferRequest("m", [], outputs=[RequestedOutput("z")]))


def test_responses_always_have_raw_contents() -> None:
    message = encode_response(InferResponse("m", [image_tensor("y"), Tensor.of_bytes("s", (1,), [b"ab"])]))
    assert list(message.raw_output_contents) == [bytes(range(6)), b"\2\0\0\0ab"]
    assert not any(output.HasField("contents") for output in message.outputs)


def test_an_output_that_contradicts_its_own_shape_is_refused() -> None:
    wrong = Tensor("y", "FP32", (3,), np.zeros(2, np.float32))
    with pytest.raises(WrongShape, match="output 'y'"):
        encode_response(InferResponse("m", [wrong]))


def test_raw_tensors_are_views_of_the_received_bytes() -> None:
    tensor = decode_request(raw("FP32", [2], np.array([1, 2], "<f4").tobytes())).inputs[0]
    assert tensor.array.tolist() == [1.0, 2.0]
    assert not tensor.array.flags.owndata
    assert not tensor.array.flags.writeable


def test_metadata_is_read_back_the_same() -> None:
    metadata = ModelMetadata(
        name="detector",
        versions=["1", "2"],
        platform="tensorrt_plan",
        inputs=[TensorMetadata("image", "UINT8", (-1, 416, 416, 3))],
        outputs=[TensorMetadata("candidates", "FP32", (-1, 1000, 6))],
        properties={"saccade.input": "rgb_nhwc"},
    )
    wire = encode_metadata(metadata).SerializeToString()
    assert decode_metadata(proto.ModelMetadataResponse.FromString(wire)) == metadata
