"""V2 REST with the binary extension: sizes, views of the body, and Triton's own HTTP client as the other side."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from oip_strategies import MODEST, image_tensor, joined, plain, requests, responses
from saccade_serving.errors import InvalidRequest, WrongShape
from saccade_serving.oip.binary_codec import decode_request, decode_response, encode_request, encode_response
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256))


def body_of(*entries: dict[str, Any], data: bytes = b"", pad: int = 0) -> tuple[bytes, int]:
    """Return a body and the length of its JSON, which ``pad`` spaces make longer."""
    text = orjson.dumps({"inputs": list(entries)}) + b" " * pad
    return text + data, len(text)


def entry(size: Any, datatype: str = "UINT8", shape: Any = (3,), name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}


def decode(*entries: dict[str, Any], data: bytes = b"") -> InferRequest:
    body, json_length = body_of(*entries, data=data)
    return decode_request("m", "", body, json_length)


def as_bytes(body: bytes | bytearray) -> NDArray[np.uint8]:
    return np.frombuffer(body, np.uint8)


@MODEST
@given(requests())
def test_a_binary_request_is_read_back_the_same(request: InferRequest) -> None:
    body = encode_request(request)
    assert body.headers == {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(body.json_length),
    }
    decoded = decode_request(request.model_name, request.model_version, joined(body), body.json_length)
    assert plain(decoded) == plain(request)


@MODEST
@given(responses())
def test_a_binary_response_is_read_back_the_same(response: InferResponse) -> None:
    body = encode_response(InferRequest("m", [], binary_output=True), response)
    assert (body.json_length is None) == (not response.outputs)
    assert plain(decode_response(joined(body), body.json_length)) == plain(response)


@pytest.mark.parametrize("as_text", [False, True], ids=["int", "str"])
def test_json_and_binary_tensors_mix(as_text: bool) -> None:
    entries = (
        entry(6, "UINT8", (2, 3), "a"),
        {"name": "b", "datatype": "FP16", "shape": [2], "data": [0.5, 2]},
        entry(8, "INT32", (2,), "c"),
        entry(7, "BYTES", (1,), "d"),
    )
    numbers = np.array([-1, 7], "<i4").tobytes()
    body, length = body_of(*entries, data=bytes(range(6)) + numbers + b"\x03\0\0\0abc")
    a, b, c, d = decode_request("m", "", body, str(length) if as_text else length).inputs
    assert a.array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert b.array.tolist() == [0.5, 2.0]
    assert c.array.tolist() == [-1, 7]
    assert [bytes(element) for element in d.elements] == [b"abc"]
    assert not d.is_text


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_binary_tensor_is_a_read_only_view_of_the_body(kind: Any) -> None:
    body = encode_request(InferRequest("m", [Tensor.of("x", np.arange(8, dtype=np.float32).reshape(2, 4))]))
    received = kind(joined(body))
    array = decode_request("m", "", received, body.json_length).inputs[0].array
    assert np.shares_memory(array, as_bytes(received))
    assert not array.flags.writeable


def test_bytes_elements_are_slices_of_the_body() -> None:
    body = encode_request(InferRequest("m", [Tensor.of_bytes("image", (2,), [JPEG, b""])]))
    received = bytearray(joined(body))
    elements = decode_request("m", "", received, body.json_length).inputs[0].elements
    assert isinstance(elements[0], memoryview)
    assert np.shares_memory(np.frombuffer(elements[0], np.uint8), as_bytes(received))
    assert [bytes(element) for element in elements] == [JPEG, b""]


def test_a_tensor_off_its_alignment_is_copied_and_equal() -> None:
    numbers = np.arange(4, dtype="<f8")
    seen_copy = False
    for pad in range(8):
        body, length = body_of(entry(32, "FP64", (4,)), data=numbers.tobytes(), pad=pad)
        array = decode_request("m", "", body, length).inputs[0].array
        assert array.flags.aligned
        assert not array.flags.writeable
        assert array.tolist() == numbers.tolist()
        seen_copy |= not np.shares_memory(array, as_bytes(body))
    assert seen_copy


@pytest.mark.parametrize("datatype", list(NUMPY_DTYPES))
def test_output_parts_are_views_of_the_tensors_memory(datatype: str) -> None:
    array = np.ones((2, 3), NUMPY_DTYPES[datatype])
    body = encode_response(InferRequest("m", [], binary_output=True), InferResponse("m", [Tensor.of("y", array)]))
    part = np.frombuffer(body.parts[1], np.uint8)
    assert np.shares_memory(part, array)
    assert part.nbytes == array.nbytes


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=np.int32).reshape(2, 3).T, np.arange(6, dtype=">i4").reshape(3, 2)],
    ids=["not contiguous", "big-endian"],
)
def test_other_memory_layouts_are_rewritten_row_major_and_little_endian(array: NDArray[Any]) -> None:
    body = encode_request(InferRequest("m", [Tensor.of("x", array)]))
    assert decode_request("m", "", joined(body), body.json_length).inputs[0].array.tolist() == array.tolist()


def test_the_first_binary_tensor_starts_aligned() -> None:
    for length in range(1, 20):
        body = encode_request(InferRequest("m", [image_tensor("x" * length)]))
        assert body.json_length is not None
        assert body.json_length % 8 == 0


def test_each_requested_output_travels_as_it_was_asked_for() -> None:
    outputs = [Tensor.of(name, np.ones(2, np.uint8)) for name in "abc"]
    request = InferRequest(
        "m",
        [],
        outputs=[RequestedOutput("c"), RequestedOutput("a", binary=False), RequestedOutput("b", binary=True)],
        binary_output=True,
    )
    body = encode_response(request, InferResponse("m", outputs))
    assert orjson.loads(body.parts[0])["outputs"] == [
        {"name": "c", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}},
        {"name": "a", "datatype": "UINT8", "shape": [2], "data": [1, 1]},
        {"name": "b", "datatype": "UINT8", "shape": [2], "parameters": {"binary_data_size": 2}},
    ]
    assert len(body.parts) == 3


def test_parameters_of_the_encoding_are_neither_kept_nor_passed_on() -> None:
    stray = {"binary_data_size": 99, "binary_data": True, "binary_data_output": True, "kept": 1}
    tensor = Tensor("x", "UINT8", (1,), np.zeros(1, np.uint8), stray)
    for binary in (True, False):
        body = encode_request(InferRequest("m", [tensor], parameters=stray), binary=binary)
        decoded = decode_request("m", "", joined(body), body.json_length)
        assert decoded.parameters == {"kept": 1}
        assert decoded.inputs[0].parameters == {"kept": 1}
        assert not decoded.binary_output


@pytest.mark.parametrize("length", [-1, "-1", "abc", "", "1.5", "0x10", "٣", "9" * 5000, 10**6, "1000000", 0, "0"])
def test_a_wrong_header_length_is_refused(length: int | str) -> None:
    body, _ = body_of(entry(3), data=b"abc")
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length is ") as refused:
        decode_request("m", "", body, length)
    assert len(str(refused.value)) < 200


def test_a_header_length_that_cuts_the_json_is_refused() -> None:
    body, length = body_of(entry(3), data=b"abc")
    for wrong in (length - 1, length + 1):
        with pytest.raises(InvalidRequest):
            decode_request("m", "", body, wrong)


@pytest.mark.parametrize(
    ("entries", "data", "sentence"),
    [
        ([entry(3)], b"ab", "'binary_data_size' of input 'x' is 3, but only 2 bytes are left"),
        ([entry(2)], b"ab", "input 'x' has 2 bytes; datatype UINT8 and shape [3] need 3"),
        ([entry(3)], b"abcd", "the body has 4 bytes after its JSON; the binary inputs account for 3 of them"),
        ([entry(-1)], b"", "'binary_data_size' of input 'x' is -1; expected an integer of 0 or more"),
        ([entry("3")], b"abc", "'binary_data_size' of input 'x' is a string"),
        ([entry(True, shape=[1])], b"a", "'binary_data_size' of input 'x' is a boolean"),
        ([entry(10**18)], b"abc", "'binary_data_size' of input 'x' is 1000000000000000000, but only 3"),
        ([entry(3) | {"data": [1, 2, 3]}], b"abc", "input 'x' has both 'data' and"),
        ([entry(3, "BOOL")], b"\0\1\2", "input 'x' of datatype BOOL has a byte over 1"),
        ([entry(5, "BYTES", [2])], b"\1\0\0\0a", "needs at least 8 bytes for its length prefixes; 5 were sent"),
        ([entry(9, "BYTES", [2])], b"\4\0\0\0abcde", "input 'x' ends inside the length prefix of BYTES element 1"),
        ([entry(5, "BYTES", [1])], b"\2\0\0\0a", "BYTES element 0 of 1 has 2 bytes, but only 1 follow"),
        ([entry(6, "BYTES", [1])], b"\1\0\0\0ab", "has 1 bytes after the last of its 1 BYTES elements"),
        ([entry(4, "BYTES", [0])], b"\0\0\0\0", "has 4 bytes after the last of its 0 BYTES elements"),
    ],
)
def test_sizes_that_disagree_are_refused_by_name(entries: Any, data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(sentence)):
        decode(*entries, data=data)


def test_binary_data_without_its_header_is_refused() -> None:
    body, _ = body_of(entry(3))
    with pytest.raises(InvalidRequest, match=r"'x' .* header Inference-Header-Content-Length is missing"):
        decode_request("m", "", body, None)


@pytest.mark.parametrize("shape", [[10**12], [10**6, 10**6], [2**31 - 1]])
@pytest.mark.parametrize("datatype", ["BYTES", "FP64"])
def test_a_huge_shape_is_refused_from_sizes_without_allocating(datatype: str, shape: list[int]) -> None:
    body, length = body_of(entry(8, datatype, shape), data=bytes(8))
    tracemalloc.start()
    try:
        with pytest.raises(WrongShape, match="input 'x'"):
            decode_request("m", "", body, length)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def triton_input(name: str, array: NDArray[Any], datatype: str, binary: bool = True) -> Any:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("shape", [(2, 3), (0,), (1,)], ids=str)
@pytest.mark.parametrize("datatype", list(NUMPY_DTYPES))
def test_numbers_from_tritons_client_are_read(datatype: str, shape: tuple[int, ...], binary: bool) -> None:
    array = np.ones(shape, NUMPY_DTYPES[datatype])
    body, length = InferenceServerClient.generate_request_body([triton_input("x", array, datatype, binary)])
    request = decode_request("m", "", body, length)
    assert plain(request.inputs[0]) == plain(Tensor.of("x", array))
    assert request.binary_output  # Triton's client asks for it when no outputs are named.


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_strings_options_and_outputs_from_tritons_client_are_read(binary: bool) -> None:
    strings = np.array([b"zebra", "Löwe".encode(), b""], np.object_)
    inputs = [triton_input("s", strings, "BYTES", binary), triton_input("n", np.zeros(2, np.uint8), "UINT8")]
    outputs = [InferRequestedOutput("y"), InferRequestedOutput("z", binary_data=False, class_count=2)]
    body, length = InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id="r-9", priority=2, timeout=5000, parameters={"camera_id": "gate"}
    )
    request = decode_request("m", "", body, length)
    assert [bytes(element) for element in request.inputs[0].elements] == strings.tolist()
    assert request.inputs[0].is_text != binary
    assert (request.id, request.parameters) == ("r-9", {"priority": 2, "timeout": 5000, "camera_id": "gate"})
    assert request.outputs == [RequestedOutput("y", True), RequestedOutput("z", False, {"classification": 2})]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_our_responses_are_read_by_tritons_client(binary: bool) -> None:
    arrays = {name: np.ones((2, 3), dtype) for name, dtype in NUMPY_DTYPES.items()}
    tensors = [Tensor.of(name, array) for name, array in arrays.items()]
    tensors.append(Tensor.of_bytes("labels", (2,), [b"zebra", b""]))
    tensors.append(Tensor.of("none", np.zeros((0, 4), np.float32)))
    encoded = encode_response(InferRequest("m", [], binary_output=binary), InferResponse("m", tensors, id="r-9"))
    result = InferenceServerClient.parse_response_body(joined(encoded), header_length=encoded.json_length)
    for name, array in arrays.items():
        found = result.as_numpy(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    expected = [b"zebra", b""] if binary else ["zebra", ""]
    assert result.as_numpy("labels").tolist() == expected
    assert result.as_numpy("none").shape == (0, 4)
    assert result.get_response()["id"] == "r-9"


def test_a_bytes_tensor_of_very_many_small_elements_is_refused_before_they_become_objects() -> None:
    count = 2**16 + 1
    header = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
            ]
        }
    ).encode()
    with pytest.raises(WrongShape, match="has 65537 BYTES elements; the limit is 65536"):
        decode_request("m", "", header + bytes(4 * count), len(header))
