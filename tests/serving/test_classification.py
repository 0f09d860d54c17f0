"""The classification extension, held against answers recorded from tritonserver 2.51."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.errors import InvalidRequest
from saccade_serving.oip import binary_codec, grpc_codec
from saccade_serving.oip.classification import MAX_CLASSES, classify, classify_outputs, requested_classes
from saccade_serving.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor, TensorMetadata

LABELS = ["apple", "pear", "", "plum"]
OUTPUTS = [TensorMetadata("y", "FP32", (-1, 4)), TensorMetadata("name", "BYTES", (-1, 1))]


def texts(tensor: Tensor) -> Any:
    assert tensor.datatype == "BYTES"
    return np.array([bytes(element).decode() for element in tensor.elements]).reshape(tensor.shape).tolist()


def best(array: Any, count: int, batched: bool = True, labels: Any = ()) -> Any:
    return texts(classify(Tensor.of("y", np.asarray(array)), count, batched, labels))


def asking(**parameters: Any) -> InferRequest:
    x = Tensor.of("x", np.zeros((1, 4), np.float32))
    return InferRequest("m", [x], outputs=[RequestedOutput("y", None, parameters)])


def test_rows_of_floats_are_answered_as_triton_does() -> None:
    scores = np.array([[1.1, 3.3, 0.5, 2.4], [1, 1, 2, -np.inf]], np.float32)
    assert best(scores, 2, labels=LABELS) == [
        ["3.300000:1:pear", "2.400000:3:plum"],
        ["2.000000:2", "1.000000:0:apple"],
    ]
    assert best(scores, 9, labels=LABELS) == [
        ["3.300000:1:pear", "2.400000:3:plum", "1.100000:0:apple", "0.500000:2"],
        ["2.000000:2", "1.000000:0:apple", "1.000000:1:pear", "-inf:3:plum"],
    ]


def test_a_model_without_batches_is_answered_as_triton_does() -> None:
    assert best(np.array([[1, -3, 7], [2, 5, 5]], np.int32), 4, batched=False) == ["7:2", "5:4", "5:5", "2:3"]


def test_more_dimensions_are_one_row_of_classes() -> None:
    assert best(np.arange(12.0).reshape(2, 2, 3), 1) == [["5.000000:5"], ["11.000000:5"]]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_integers_are_written_as_they_are_up_to_their_limits(dtype: str) -> None:
    info = np.iinfo(dtype)
    row = np.array([[info.min, 3, info.max]], dtype)
    assert best(row, 3) == [[f"{info.max}:2", "3:1", f"{info.min}:0"]]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_have_six_decimals(dtype: str) -> None:
    assert best(np.array([[0.5, 1e-7, -2]], dtype), 3) == [["0.500000:0", "0.000000:1", "-2.000000:2"]]


def test_nan_is_never_the_best_class() -> None:
    assert best(np.array([[np.nan, -5.0, 1.0]]), 3) == [["1.000000:2", "-5.000000:1", "nan:0"]]


def test_classes_beyond_the_labels_have_none() -> None:
    assert best(np.array([[1.0, 2.0]]), 2, labels=["only"]) == [["2.000000:1", "1.000000:0:only"]]


def test_labels_may_hold_any_text() -> None:
    assert best(np.array([[1.0]]), 1, labels=["a:b ü"]) == [["1.000000:0:a:b ü"]]


def test_no_rows_and_no_classes_make_no_answers() -> None:
    assert classify(Tensor.of("y", np.zeros((0, 4))), 2, True).shape == (0, 2)
    assert classify(Tensor.of("y", np.zeros((3, 0))), 2, True).shape == (3, 0)
    assert classify(Tensor.of("y", np.zeros(())), 2, False).shape == (1,)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(1, 7),
)
def test_the_best_come_first_and_the_lower_index_among_equals(rows: list[list[int]], count: int) -> None:
    expected = [[f"{row[i]}:{i}" for i in sorted(range(5), key=lambda i: (-row[i], i))[:count]] for row in rows]
    assert best(np.array(rows, np.int8), count) == expected


@pytest.mark.parametrize("count", [0, -1, 2.5, "2", True])
def test_a_bad_number_of_classes_is_refused_and_named(count: Any) -> None:
    with pytest.raises(InvalidRequest, match="classification") as caught:
        requested_classes(asking(classification=count), OUTPUTS)
    assert repr(count) in str(caught.value)
    assert "1 or more" in str(caught.value)


def test_an_output_without_numbers_has_no_classes() -> None:
    request = InferRequest("m", [], outputs=[RequestedOutput("name", None, {"classification": 1})])
    with pytest.raises(InvalidRequest, match=r"output 'name' is BYTES"):
        requested_classes(request, OUTPUTS)


def test_too_many_classes_or_answers_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_CLASSES)):
        best(np.zeros((1, MAX_CLASSES + 1), np.int8), 1)
    with pytest.raises(InvalidRequest, match="65536"):
        best(np.zeros((2, 40000), np.int8), 40000)
    assert len(best(np.zeros((2, 40000), np.int8), 3)[0]) == 3


def test_a_request_that_does_not_ask_gets_the_tensor_itself() -> None:
    request = asking(other=1)
    response = InferResponse("m", [Tensor.of("y", np.ones((1, 4), np.float32))])
    assert requested_classes(request, OUTPUTS) == {}
    assert classify_outputs(response, {}, True, lambda name: LABELS) is response


def test_only_the_asked_output_is_replaced_and_all_else_of_the_response_stays() -> None:
    other = Tensor.of("z", np.ones((1, 4), np.float32))
    response = InferResponse("m", [Tensor.of("y", np.array([[1.0, 4.0]])), other], "7", "id")
    answer = classify_outputs(response, {"y": 1}, True, lambda name: LABELS if name == "y" else [])
    assert texts(answer.output("y")) == [["4.000000:1:pear"]]
    assert answer.output("z") is other
    assert (answer.model_version, answer.id) == ("7", "id")


def test_the_parameter_arrives_by_json_and_by_grpc_and_the_answer_can_be_written() -> None:
    body = (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],'
        b'"outputs":[{"name":"y","parameters":{"classification":2}}]}'
    )
    by_json = binary_codec.decode_request("m", "", memoryview(body), None, 2**20)
    by_grpc = grpc_codec.decode_request(grpc_codec.encode_request(asking(classification=2)))
    response = InferResponse("m", [Tensor.of("y", np.array([[1.0, 4.0, 2.0]]))])
    for request in (by_json, by_grpc):
        wanted = requested_classes(request, OUTPUTS)
        assert wanted == {"y": 2}
        answer = classify_outputs(response, wanted, True, lambda name: LABELS)
        message = grpc_codec.encode_response(answer, request)
        assert texts(grpc_codec.decode_response(message).outputs[0]) == [["4.000000:1:pear", "2.000000:2"]]
    encoded = binary_codec.encode_response(by_json, answer)
    assert b'"data":["4.000000:1:pear","2.000000:2"]' in b"".join(map(bytes, encoded.parts))
