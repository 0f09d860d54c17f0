"""A request held against a model: names, datatypes, shapes, rows, before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from saccade_serving.errors import InvalidRequest, UnknownTensor, WrongShape
from saccade_serving.oip.contract import check_request, count_rows, describe
from saccade_serving.oip.messages import InferRequest, RequestedOutput, Tensor, TensorMetadata

INPUTS = [TensorMetadata("image", "UINT8", (-1, 4, 4, 3)), TensorMetadata("scale", "FP32", (-1,))]
OUTPUTS = [TensorMetadata("boxes", "FP32", (-1, 4))]


def image(rows: int = 1, side: int = 4, name: str = "image") -> Tensor:
    return Tensor.of(name, np.zeros((rows, side, 4, 3), np.uint8))


def scale(rows: int = 1) -> Tensor:
    return Tensor.of("scale", np.zeros(rows, np.float32))


def check(*tensors: Tensor, outputs: Sequence[str] = ()) -> None:
    check_request(InferRequest("m", tensors, outputs=[RequestedOutput(name) for name in outputs]), INPUTS, OUTPUTS)


def test_a_request_as_the_model_says_passes_in_any_order_and_with_any_rows() -> None:
    check(scale(7), image(7), outputs=["boxes"])
    check(image(), scale())


def test_a_missing_input_is_named_with_what_is_expected() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(image())
    assert str(caught.value) == "input 'scale' is missing; expected FP32 of shape [-1]"


def test_no_input_at_all_names_the_first() -> None:
    with pytest.raises(InvalidRequest, match="input 'image' is missing"):
        check()


def test_an_input_too_many_is_unknown() -> None:
    with pytest.raises(UnknownTensor, match="input 'mask' is not a tensor of this model; expected 'image', 'scale'"):
        check(image(), scale(), image(name="mask"))


def test_a_requested_output_that_does_not_exist_is_unknown() -> None:
    with pytest.raises(UnknownTensor, match="output 'masks' is not a tensor of this model; expected 'boxes'"):
        check(image(), scale(), outputs=["boxes", "masks"])


def test_a_wrong_datatype_says_what_was_sent_and_what_is_expected() -> None:
    with pytest.raises(WrongShape) as caught:
        check(Tensor.of("image", np.zeros((1, 4, 4, 3), np.float32)), scale())
    assert str(caught.value) == "input 'image' is FP32; expected UINT8 of shape [-1, 4, 4, 3]"


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 4, 4), (1, 4, 4, 3, 1), (), (1, 4, 4, 1)])
def test_a_wrong_shape_says_what_was_sent_and_what_is_expected(shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongShape) as caught:
        check(Tensor.of("image", np.zeros(shape, np.uint8)), scale())
    assert str(caught.value) == f"input 'image' has shape {list(shape)}; expected UINT8 of shape [-1, 4, 4, 3]"


def test_an_open_dimension_takes_any_size_even_none() -> None:
    check(image(0), scale(0))
    check(image(1000), scale(3))  # rows are count_rows' matter


def test_rows_are_the_first_dimension_of_every_input() -> None:
    assert count_rows(InferRequest("m", [image(3), scale(3)]), 8) == 3
    assert count_rows(InferRequest("m", [scale(8)]), 8) == 8


def test_inputs_that_disagree_about_the_rows_are_refused() -> None:
    with pytest.raises(WrongShape) as caught:
        count_rows(InferRequest("m", [image(3), scale(2)]), 8)
    assert str(caught.value) == "input 'scale' has 2 rows and input 'image' 3; expected the same"


@pytest.mark.parametrize("rows", [0, 9])
def test_no_row_and_too_many_rows_are_refused(rows: int) -> None:
    with pytest.raises(WrongShape) as caught:
        count_rows(InferRequest("m", [scale(rows)]), 8)
    assert str(caught.value) == f"input 'scale' has a batch of {rows}; expected 1 to 8"


def test_a_tensor_is_described_by_datatype_and_shape() -> None:
    assert describe(INPUTS[0]) == "UINT8 of shape [-1, 4, 4, 3]"
