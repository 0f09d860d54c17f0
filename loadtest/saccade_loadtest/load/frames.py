"""Pictures for the cameras: JPEGs made from photos before a run, and a stamp that makes each frame's bytes its own.

A picture is a crop of a photo at the cameras' size, with sensor noise of its own per shot, dark and noisier by night.
Making one costs milliseconds, so a bounded number is made in advance; the stamp is a JPEG comment of fixed length in
front (camera, scene, shot), so that frames differ for an exact cache at no cost, and equal shots are equal bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from saccade_loadtest.load.trace import Light, Shot

_SOI: Final = b"\xff\xd8"
#: Start of image, marker and length of the comment, and 12 bytes in it: 18, a multiple of 3 so that base64 can be cut.
_STAMP: Final = struct.Struct(">2sHHIII")
STAMP_BYTES: Final = _STAMP.size
_COMMENT: Final = 0xFFFE
_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_WORD: Final = 0xFFFFFFFF
#: Grey levels of a sensor's noise, standard deviation, and how dark a night is.
_NOISE: Final[dict[Light, float]] = {"day": 1.5, "night": 4.0}
_NIGHT_SHARE: Final = 0.25


class NoPictures(Exception):
    """There is nothing to make pictures from; the sentence says what was looked for."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One JPEG without its first two bytes, which the stamp brings.

    Attributes:
        rest: what follows the stamp.
        width: pixels; ``height`` likewise.
    """

    rest: bytes
    width: int
    height: int

    def jpeg(self, stamp: bytes) -> bytes:
        """The whole file."""
        return stamp + self.rest


def stamp_of(shot: Shot) -> bytes:
    """The first ``STAMP_BYTES`` bytes of a frame's JPEG: equal for equal shots of a camera, and for no others."""
    return _STAMP.pack(_SOI, _COMMENT, 14, shot.camera & _WORD, shot.scene & _WORD, shot.shot & _WORD)


class Album:
    """The pictures of a run.

    Args:
        photos: RGB photos, uint8 [height, width, 3], of any size.
        width: of the pictures; ``height`` likewise.
        scenes: how many different pictures there are by day, and as many by night.
        noises: how many shots of one scene differ in their noise.
        lights: which are needed.
        quality: of the JPEGs, 1 to 100.
        seed: the same seed gives the same pictures.
    """

    def __init__(
        self,
        photos: Sequence[NDArray[np.uint8]],
        width: int = 640,
        height: int = 480,
        scenes: int = 12,
        noises: int = 3,
        lights: Sequence[Light] = ("day",),
        quality: int = 85,
        seed: int = 1,
    ) -> None:
        if not photos:
            raise NoPictures("no photo was given to make pictures from")
        self.width, self.height = width, height
        self._scenes, self._noises = scenes, noises
        chance = np.random.default_rng(seed)
        self._pictures: dict[tuple[int, int, Light], Picture] = {}
        for scene in range(scenes):
            view = _view(photos[scene % len(photos)], width, height, scene // len(photos), chance)
            for light in lights:
                for noise in range(noises):
                    pixels = _taken(view, light, chance)
                    self._pictures[scene, noise, light] = _encoded(pixels, quality)

    def key(self, shot: Shot) -> tuple[int, int, Light]:
        """Which picture a shot shows."""
        return shot.scene % self._scenes, shot.shot % self._noises, shot.light

    @property
    def pictures(self) -> dict[tuple[int, int, Light], Picture]:
        """All of them, by what ``key`` gives."""
        return self._pictures

    @property
    def mean_bytes(self) -> float:
        """Of the JPEGs, stamp included."""
        return STAMP_BYTES + sum(len(one.rest) for one in self._pictures.values()) / len(self._pictures)


def read_photos(folder: Path) -> list[NDArray[np.uint8]]:
    """The photos of a folder in the order of their names; of several files of one name, the first.

    Raises:
        NoPictures: there are none, or one cannot be read.
    """
    if not folder.is_dir():
        raise NoPictures(f"{folder} is no folder; name one with photos (--pictures)")
    chosen: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES:
            chosen.setdefault(path.stem, path)
    if not chosen:
        raise NoPictures(
            f"{folder} has no photo ({', '.join(sorted(_SUFFIXES))}); name a folder with some (--pictures)"
        )
    photos = []
    for path in chosen.values():
        try:
            with Image.open(path) as image:
                photos.append(np.asarray(image.convert("RGB")))
        except (OSError, UnidentifiedImageError) as error:
            raise NoPictures(f"{path} cannot be read as a picture: {error}") from error
    return photos


def _view(
    photo: NDArray[np.uint8], width: int, height: int, turn: int, chance: np.random.Generator
) -> NDArray[np.uint8]:
    """The whole photo in the first turn; later ones are crops of at least 70 % of it, some of them mirrored."""
    image = Image.fromarray(photo)
    if turn:
        share = chance.uniform(0.7, 0.95)
        wide, high = int(image.width * share), int(image.height * share)
        left = int(chance.integers(0, image.width - wide + 1))
        top = int(chance.integers(0, image.height - high + 1))
        image = image.crop((left, top, left + wide, top + high))
        if chance.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _taken(view: NDArray[np.uint8], light: Light, chance: np.random.Generator) -> NDArray[np.uint8]:
    levels = view.astype(np.float32) * (1.0 if light == "day" else _NIGHT_SHARE)
    levels += chance.normal(0.0, _NOISE[light], view.shape).astype(np.float32)
    taken: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return taken


def _encoded(pixels: NDArray[np.uint8], quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    content = file.getvalue()
    assert content[:2] == _SOI
    return Picture(content[2:], pixels.shape[1], pixels.shape[0])
