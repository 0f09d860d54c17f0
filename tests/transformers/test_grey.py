"""The grey pictures frames are compared by: of the frame alone, at the scales that hash and guard want."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from saccade_transformers.cache.blocks import differences
from saccade_transformers.cache.perceptual import distance, look
from saccade_transformers.image.decode import ImageLimits, decode_for_input, decode_grey
from saccade_transformers.image.grey import HASH_SIDE, greys, greys_of_grey
from saccade_transformers.image.letterbox import Letterbox, letterbox
from saccade_transformers.image.picture import Picture

LIMITS = ImageLimits(2**30, 2**30)


def frame(width: int, height: int, level: int = 90) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("size", "side", "thumbnail"),
    [
        ((1920, 1080), 416, (117, 208)),
        ((1080, 1920), 416, (208, 117)),
        ((640, 480), 640, (240, 320)),
        ((1, 1), 416, (208, 208)),
        ((3, 1000), 416, (208, 1)),
    ],
)
def test_the_thumbnail_is_half_the_frame_in_the_input_and_has_nothing_of_the_letterboxes_frame(
    size: tuple[int, int], side: int, thumbnail: tuple[int, int]
) -> None:
    tensor = np.empty((side, side, 3), np.uint8)
    box = letterbox(Picture.whole(frame(*size)), tensor)
    found = greys(tensor, box)
    assert found.thumbnail.shape == thumbnail
    assert found.hash_input.shape == (HASH_SIDE, HASH_SIDE)
    assert (found.thumbnail == 90).all()
    assert (found.hash_input == 90).all()


def test_a_grey_level_is_the_luminance() -> None:
    tensor = np.empty((64, 64, 3), np.uint8)
    picture = frame(64, 64)
    picture[...] = (200, 100, 50)
    found = greys(tensor, letterbox(Picture.whole(picture), tensor))
    assert (found.thumbnail == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


def test_a_small_object_that_appears_moves_a_block_of_the_thumbnail_by_most_of_its_contrast() -> None:
    before, after = frame(1920, 1080), frame(1920, 1080)
    after[500:524, 900:924] += 80
    thumbnails = []
    for picture in (before, after):
        tensor = np.empty((416, 416, 3), np.uint8)
        thumbnails.append(greys(tensor, letterbox(Picture.whole(picture), tensor)).thumbnail.astype(int))
    change = np.abs(thumbnails[1] - thumbnails[0])
    blocks = change[:116, :208].reshape(29, 4, 52, 4).mean(axis=(1, 3))
    assert blocks.max() > 10


def test_the_pictures_are_the_callers_own() -> None:
    tensor = np.empty((64, 64, 3), np.uint8)
    found = greys(tensor, letterbox(Picture.whole(frame(64, 48)), tensor))
    tensor[...] = 0
    assert (found.thumbnail == 90).all()
    assert not np.shares_memory(found.thumbnail, found.hash_input)


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (640, 480), (613, 401), (320, 240)])
@pytest.mark.parametrize("side", [416, 640])
def test_a_frame_decoded_as_grey_looks_as_the_models_input_does(size: tuple[int, int], side: int) -> None:
    photo = cv2.imread(str(Path(__file__).parents[2] / "examples" / "images" / "astronaut.jpg"))
    assert photo is not None
    jpeg = cv2.imencode(".jpg", cv2.resize(photo, size), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    tensor = np.empty((side, side, 3), np.uint8)
    box = letterbox(decode_for_input(jpeg, LIMITS, (side, side)), tensor)
    grey = decode_grey(jpeg, LIMITS, (side, side))
    assert grey is not None
    both = look(greys(tensor, box)), look(greys_of_grey(grey, Letterbox.fit(size, (side, side))))
    assert np.abs(differences(both[0].thumbnail, both[1].thumbnail)).max() < 4
    assert distance(both[0].phash, both[1].phash) <= 2
