"""Letterboxing: the picture fits, nothing of it is lost, and boxes find their way back."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saccade_serving.errors import InvalidImage
from saccade_transformers.image.letterbox import PADDING, Letterbox, letterbox
from saccade_transformers.image.picture import Picture

RNG = np.random.default_rng(0)


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def dirty(width: int, height: int) -> NDArray[np.uint8]:
    """An input buffer that still holds an earlier picture."""
    return np.full((height, width, 3), 7, np.uint8)


def to_input(box: Letterbox, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = np.array([box.scale_x, box.scale_y] * 2)
    pad = np.array([box.pad_x, box.pad_y] * 2)
    there: NDArray[np.float32] = (boxes * scale + pad).astype(np.float32)
    return there


def test_a_wide_picture_is_centred_with_grey_above_and_below() -> None:
    image, out = noise(832, 416), dirty(416, 416)
    box = letterbox(Picture.whole(image), out)
    assert box == Letterbox((832, 416), (416, 416), 0.5, 0.5, 0, 104)
    assert (out[:104] == PADDING).all()
    assert (out[312:] == PADDING).all()
    expected = cv2.resize(image, (416, 208), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(out[104:312], expected)


def test_a_tall_picture_is_enlarged_linearly_with_grey_at_its_sides() -> None:
    image, out = noise(50, 100), dirty(300, 400)
    box = letterbox(Picture.whole(image), out)
    assert box == Letterbox((50, 100), (300, 400), 4.0, 4.0, 50, 0)
    assert (out[:, :50] == PADDING).all()
    assert (out[:, 250:] == PADDING).all()
    expected = cv2.resize(image, (200, 400), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(out[:, 50:250], expected)


def test_a_picture_of_the_inputs_size_is_copied() -> None:
    image, out = noise(64, 48), dirty(64, 48)
    box = letterbox(Picture.whole(image), out)
    assert box == Letterbox((64, 48), (64, 48), 1.0, 1.0, 0, 0)
    np.testing.assert_array_equal(out, image)


def test_an_odd_rest_of_padding_goes_to_the_far_side() -> None:
    out = dirty(10, 10)
    box = letterbox(Picture.whole(noise(10, 7)), out)
    assert (box.pad_y, box.scaled_size) == (1, (10, 7))
    assert (out[8:] == PADDING).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 120), st.integers(1, 120))
def test_every_byte_of_the_input_is_written(width: int, height: int, input_width: int, input_height: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    out = dirty(input_width, input_height)
    box = letterbox(Picture.whole(image), out)
    assert set(np.unique(out)) <= {200, PADDING}
    scaled_width, scaled_height = box.scaled_size
    assert (out == 200).sum() == 3 * scaled_width * scaled_height
    assert scaled_width == input_width or scaled_height == input_height


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 30_000), (4999, 3)])
@pytest.mark.parametrize("input_size", [(416, 416), (640, 384), (1, 1)])
def test_no_side_ever_becomes_zero(size: tuple[int, int], input_size: tuple[int, int]) -> None:
    image, out = np.full((size[1], size[0], 3), 200, np.uint8), dirty(*input_size)
    box = letterbox(Picture.whole(image), out)
    assert min(box.scaled_size) >= 1
    assert (out == 200).any()
    whole = np.array([[0, 0, *size]], np.float32)
    np.testing.assert_allclose(box.to_image(to_input(box, whole)), whole, rtol=1e-5, atol=1e-2)


@st.composite
def mappings(draw: st.DrawFn) -> tuple[Letterbox, NDArray[np.float32]]:
    width, height = draw(st.integers(1, 6000)), draw(st.integers(1, 6000))
    box = Letterbox.fit((width, height), (draw(st.integers(16, 1280)), draw(st.integers(16, 1280))))
    x = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    y = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return box, np.array([[x[0] * width, y[0] * height, x[1] * width, y[1] * height]], np.float32)


@settings(max_examples=300)
@given(mappings())
def test_a_box_comes_back_where_it_was_within_a_pixel(case: tuple[Letterbox, NDArray[np.float32]]) -> None:
    box, boxes = case
    there = to_input(box, boxes)
    assert (there >= 0).all()
    assert (there <= np.array(box.input_size * 2) + 0.01).all()
    assert np.abs(box.to_image(there) - boxes).max() < 1


@settings(max_examples=200)
@given(mappings(), st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4))
def test_boxes_are_clipped_to_the_picture(case: tuple[Letterbox, NDArray[np.float32]], anywhere: list[float]) -> None:
    box, _ = case
    boxes = box.to_image(np.array([anywhere], np.float32))
    assert boxes.dtype == np.float32
    assert (boxes >= 0).all()
    assert (boxes <= np.array(box.image_size * 2)).all()


def test_a_box_in_the_frame_has_no_area() -> None:
    box = Letterbox.fit((800, 400), (400, 400))
    assert box.to_image(np.array([[10, 5, 390, 90]], np.float32)).tolist() == [[20, 0, 780, 0]]


def test_no_boxes_stay_no_boxes() -> None:
    assert Letterbox.fit((8, 8), (4, 4)).to_image(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_a_read_only_picture_and_a_part_of_a_batch_will_do() -> None:
    image = np.frombuffer(noise(40, 30).tobytes(), np.uint8).reshape(30, 40, 3)
    batch = np.full((3, 20, 20, 3), 7, np.uint8)
    letterbox(Picture.whole(image), batch[1])
    assert (batch[[0, 2]] == 7).all()
    assert (batch[1, 7] != 7).any()


def test_a_picture_without_pixels_is_an_invalid_image() -> None:
    with pytest.raises(InvalidImage, match="0x30 pixels"):
        letterbox(Picture.whole(np.zeros((30, 0, 3), np.uint8)), dirty(4, 4))


@pytest.mark.parametrize(
    ("image", "out"),
    [
        (np.zeros((4, 4), np.uint8), dirty(4, 4)),
        (np.zeros((4, 4, 4), np.uint8), dirty(4, 4)),
        (np.zeros((4, 4, 3), np.float32), dirty(4, 4)),
        (noise(4, 4), np.zeros((4, 4, 3), np.float32)),
        (noise(4, 4), np.zeros((4, 3, 4), np.uint8).transpose(0, 2, 1)),
        (noise(4, 4), np.zeros((0, 4, 3), np.uint8)),
    ],
)
def test_arrays_of_another_kind_are_a_value_error(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"expected uint8|C-contiguous|model's input"):
        letterbox(Picture.whole(image), out)
