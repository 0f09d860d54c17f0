"""Reduced decoding: never smaller than the input needs, the same place in it, and answers in the original's pixels."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from saccade_serving.errors import InvalidImage, PayloadTooLarge
from saccade_transformers.image.decode import ImageLimits, decode, decode_for_input
from saccade_transformers.image.letterbox import Letterbox, letterbox
from saccade_transformers.image.picture import Picture, Reduction, reduced
from saccade_transformers.image.reduction import MARGIN, reduction_for, size_of

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=50_000_000)
SIDES = st.integers(1, 9000)


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth picture without symmetry, all of whose pixels tell where they are."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 128 + 100 * np.sin(9 * x / width + 5 * y / height)
    return np.stack([255 * x / width, 255 * y / height, waves], axis=-1).astype(np.uint8)


def jpeg(picture: NDArray[np.uint8], mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    exif = (
        b"Exif\x00\x00"
        + struct.pack("<2sHI", b"II", 42, 8)
        + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    )
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((a.astype(float) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def both_ways(data: bytes, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Picture, Letterbox]:
    """The input's tensor by the whole picture and by the reduced one; the reduced one; its mapping."""
    whole, ours = np.empty((side, side, 3), np.uint8), np.empty((side, side, 3), np.uint8)
    expected = letterbox(Picture.whole(decode(data, LIMITS)), whole)
    picture = decode_for_input(data, LIMITS, (side, side))
    found = letterbox(picture, ours)
    assert found == expected, "boxes are mapped as if the picture had been decoded whole"
    return whole, ours, picture, found


# how much


@pytest.mark.parametrize(
    ("stored", "side", "expected"),
    [
        ((1920, 1080), 640, 2),
        ((1920, 1080), 416, 2),
        ((3840, 2160), 640, 4),
        ((3840, 2160), 416, 4),
        ((4000, 3000), 640, 4),
        ((4000, 3000), 416, 4),
        ((1280, 720), 640, 1),
        ((1280, 720), 416, 2),
        ((640, 480), 416, 1),
        ((9000, 5000), 416, 8),
        ((1, 1), 416, 1),
        ((17, 33), 416, 1),
        ((1, 9000), 416, 1),
        ((1000, 999), 100, 1),
        ((1000, 998), 100, 2),
        ((1000, 1000), 100, 4),
        ((1001, 1002), 10, 1),
    ],
)
def test_the_reduction_for_usual_and_for_odd_sizes(stored: tuple[int, int], side: int, expected: int) -> None:
    assert reduction_for(stored, (side, side)) == expected


@given(width=SIDES, height=SIDES, across=st.integers(1, 1280), down=st.integers(1, 1280))
@settings(max_examples=500)
def test_a_reduced_picture_is_larger_than_its_place_by_the_margin_whichever_way_it_is_turned(
    width: int, height: int, across: int, down: int
) -> None:
    reduction = reduction_for((width, height), (across, down))
    if reduction == 1:
        return
    for size in ((width, height), (height, width)):
        place = Letterbox.fit(size, (across, down)).scaled_size
        assert size[0] / reduction >= MARGIN * place[0]
        assert size[1] / reduction >= MARGIN * place[1]


@given(width=SIDES, height=SIDES, side=st.integers(1, 700))
@example(width=1000, height=999, side=64)
@example(width=1003, height=999, side=64)
@settings(max_examples=500)
def test_a_reduced_picture_tells_the_size_of_the_whole_one_and_how_it_is_turned(
    width: int, height: int, side: int
) -> None:
    reduction = reduction_for((width, height), (side, side))
    for size in ((width, height), (height, width)):
        pixels = np.broadcast_to(np.uint8(0), (reduced(size[1], reduction), reduced(size[0], reduction), 3))
        assert size_of((width, height), pixels, reduction) == size


def test_a_picture_that_is_not_of_its_header_is_told() -> None:
    assert size_of((1920, 1080), np.zeros((540, 961, 3), np.uint8), 2) is None


# decoding


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_is_reduced_in_the_right_colours(mode: str, options: dict[str, Any]) -> None:
    if mode == "L":
        options = {name: value for name, value in options.items() if name != "subsampling"}
    whole, ours, picture, _ = both_ways(jpeg(smooth(800, 600), mode, quality=90, **options), 160)
    assert picture.reduction == 2
    assert picture.pixels.shape == (300, 400, 3)
    assert psnr(whole, ours) > 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(800, 600), (601, 803), (1001, 999), (777, 777)])
def test_a_turned_picture_stands_upright_and_in_its_own_size(size: tuple[int, int], orientation: int) -> None:
    data = jpeg(smooth(*size), orientation=orientation, quality=95)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    picture = decode_for_input(data, LIMITS, (128, 128))
    assert picture.reduction > 1
    assert picture.size == (upright.shape[1], upright.shape[0])
    ours, expected = np.empty((128, 128, 3), np.uint8), np.empty((128, 128, 3), np.uint8)
    assert letterbox(picture, ours) == letterbox(Picture.whole(upright), expected)
    assert psnr(expected, ours) > 35


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (33, 17), (1, 500), (500, 1), (63, 64), (200, 100)])
def test_a_small_picture_is_decoded_whole(size: tuple[int, int]) -> None:
    whole, ours, picture, box = both_ways(jpeg(smooth(*size)), 416)
    assert picture.reduction == 1
    assert picture.size == box.image_size == size
    np.testing.assert_array_equal(ours, whole)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_whole(image_format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth(800, 600)).save(buffer, image_format)
    whole, ours, picture, _ = both_ways(buffer.getvalue(), 128)
    assert picture.reduction == 1
    np.testing.assert_array_equal(ours, whole)


def test_the_limits_hold_for_the_whole_picture() -> None:
    data = jpeg(smooth(800, 600))
    with pytest.raises(PayloadTooLarge, match="800x600 JPEG has 480000 pixels; the limit is 479999"):
        decode_for_input(data, ImageLimits(10**6, 479_999), (64, 64))
    assert decode_for_input(data, ImageLimits(10**6, 480_000), (64, 64)).reduction == 8


def test_a_damaged_jpeg_is_refused_as_it_is_when_decoded_whole() -> None:
    data = jpeg(smooth(800, 600))
    with pytest.raises(InvalidImage, match="its end is missing"):
        decode_for_input(data[:-100], LIMITS, (64, 64))


# the place in the input


@given(
    width=st.integers(200, 700),
    height=st.integers(200, 700),
    side=st.integers(32, 200),
    step=st.sampled_from([2, 4, 8]),
)
@example(width=613, height=401, side=100, step=4)
@settings(max_examples=60, deadline=None)
def test_what_lies_where_does_not_depend_on_the_reduction(width: int, height: int, side: int, step: Reduction) -> None:
    box = Letterbox.fit((width, height), (side, side))
    if width / step <= box.scaled_size[0] or height / step <= box.scaled_size[1]:
        return
    # Means of blocks, the last ones of what there is of them: a reduction of which every pixel is known.
    padded = np.pad(smooth(width, height), ((0, -height % step), (0, -width % step), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step, 3)
    small = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    ours, whole = np.empty((side, side, 3), np.uint8), np.empty((side, side, 3), np.uint8)
    letterbox(Picture(small, (width, height), step), ours)
    letterbox(Picture.whole(smooth(width, height)), whole)
    # The first two channels are the position in 1/255 of the picture; the frame is the same.
    difference = np.abs(ours[..., :2].astype(int) - whole[..., :2])
    assert difference.max() <= 3 + 255 * step / min(width, height) / 2


def test_a_fraction_of_a_pixel_at_the_far_side_moves_nothing() -> None:
    width, height, step = 2449, 1633, 4
    whole, ours, picture, box = both_ways(jpeg(smooth(width, height), quality=95), 400)
    assert picture.reduction == step
    assert picture.pixels.shape == (409, 613, 3)
    right = slice(box.pad_x + box.scaled_size[0] - 20, box.pad_x + box.scaled_size[0] - 1)
    moved = (
        ours[box.pad_y + 5 : box.pad_y + box.scaled_size[1] - 5, right, 0].mean()
        - whole[box.pad_y + 5 : box.pad_y + box.scaled_size[1] - 5, right, 0].mean()
    )
    # 255 levels over 400 pixels: a shift by half a pixel would show as 0.3.
    assert abs(moved) < 0.1


def test_a_reduced_picture_that_is_not_what_it_says_is_a_value_error() -> None:
    out = np.empty((100, 100, 3), np.uint8)
    with pytest.raises(ValueError, match="is smaller than 100x100"):
        letterbox(Picture(np.zeros((50, 50, 3), np.uint8), (100, 100), 2), out)
    with pytest.raises(ValueError, match="expected"):
        letterbox(Picture(np.zeros((90, 90, 3), np.uint8), (400, 400), 2), out)


def test_the_colour_order_is_that_of_the_whole_picture() -> None:
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[...] = (250, 10, 60)
    found = decode_for_input(jpeg(picture, quality=95), LIMITS, (64, 64))
    assert found.reduction == 8
    assert np.abs(found.pixels[5, 5].astype(int) - (250, 10, 60)).max() <= 4
    assert found.pixels.flags.c_contiguous
    assert found.pixels.dtype == np.uint8
