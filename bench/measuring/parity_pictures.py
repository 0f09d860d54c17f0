"""Pictures for judging how exact a plan is: frames of a video, and crops of the repository's photos in many sizes.

The same each time. Judged pictures and those that INT8 is calibrated on share no frame: the video is cut in the
middle, and crops are of different places and sizes.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2

from measuring.pictures import PHOTOS

#: The share of the pictures that are frames, where there is a video.
_FRAMES_SHARE: Final = 0.6
_LEAST_CROP: Final = 0.5
_SIDES: Final = (320, 1280)
_QUALITY: Final = 95


class UnreadableVideo(ValueError):
    """A file that holds no video, or too short a one."""


def write(folder: Path, count: int, video: Path | None, *, half: int) -> None:
    """Write pictures as JPEGs.

    Args:
        folder: made once all are written.
        count: how many.
        video: whose frames are taken, evenly over its half; None: crops alone.
        half: 0 or 1, of the video; also chooses other crops.

    Raises:
        UnreadableVideo: it has fewer frames than are wanted, or cannot be read.
    """
    frames = round(_FRAMES_SHARE * count) if video is not None else 0
    made = frames_of(video, frames, half) if video is not None else iter(())
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number, picture in enumerate(itertools.chain(made, crops(count - frames, seed=half))):
        path = unfinished / f"{number:04}.jpg"
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]):
            raise OSError(f"{path} cannot be written")
    unfinished.rename(folder)


def frames_of(video: Path, count: int, half: int) -> Iterator[Any]:
    """So many frames of a half of a video, evenly apart.

    Raises:
        UnreadableVideo: there are not so many.
    """
    capture = cv2.VideoCapture(str(video))
    try:
        there = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // 2 if capture.isOpened() else 0
        if there < count:
            raise UnreadableVideo(f"{video} has {2 * there} frames that can be read; {2 * count} are needed")
        wanted = {half * there + number * there // count for number in range(count)}
        for number in range(max(wanted, default=-1) + 1):
            is_read, frame = capture.read()
            if not is_read:
                raise UnreadableVideo(f"{video} cannot be read from frame {number} on")
            if number in wanted:
                yield frame
    finally:
        capture.release()


def crops(count: int, seed: int) -> Iterator[Any]:
    """Crops of the photos by chance: half of a side or more, every second one mirrored, 320 to 1,280 pixels wide."""
    chance = random.Random(seed)
    photos = [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in sorted(PHOTOS.glob("*.png"))]
    for number in range(count):
        photo: Any = photos[number % len(photos)]
        height, width = (round(side * chance.uniform(_LEAST_CROP, 1)) for side in photo.shape[:2])
        top, left = chance.randint(0, photo.shape[0] - height), chance.randint(0, photo.shape[1] - width)
        crop = photo[top : top + height, left : left + width]
        wide = chance.randint(*_SIDES)
        scaled = cv2.resize(crop, (wide, max(1, round(height * wide / width))), interpolation=cv2.INTER_AREA)
        yield cv2.flip(scaled, 1) if number // len(photos) % 2 else scaled
