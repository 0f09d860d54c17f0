"""A rendered camera that looks at a still scene, into which things are put at known frames.

Everything a real sensor does is there: noise that is new in every frame, light that drifts, JPEGs of changing quality.
The things are cut out of the repository's photos, made as large and as bright against their place as is wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from measuring.pictures import PHOTOS, picture

#: Photo and (left, top, right, bottom) of a thing in it: a table with a cup, the cup, a person, another one.
_THINGS: Final = (
    ("coffee.png", (0, 0, 600, 400)),
    ("coffee.png", (190, 40, 530, 330)),
    ("astronaut.png", (20, 5, 370, 510)),
    ("grace_hopper.png", (20, 10, 490, 600)),
)
#: Frames that a thing stays, and that the scene is empty before the next one.
STAYS: Final = 10
EMPTY: Final = 10
#: Standard deviation of the sensor's noise, and how far the light drifts either way, grey levels.
SENSOR_NOISE: Final = 2.0
DRIFT: Final = 8.0
_DRIFT_FRAMES: Final = 250
#: By so many pixels the noise of one frame may lie apart from another's.
_GRAIN: Final = 97
_QUALITIES: Final = (85, 93)


@dataclass(frozen=True, slots=True)
class Insertion:
    """A thing in the scene.

    Attributes:
        side: its height in pixels.
        box: x1, y1, x2, y2 in pixels.
    """

    side: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame.

    Attributes:
        jpeg: as the camera sends it.
        inserted: what is in the scene; None for nothing.
        is_first: it is there since this frame.
    """

    jpeg: bytes
    inserted: Insertion | None
    is_first: bool


def frames(
    width: int, height: int, sides: Sequence[int], each: int, seed: int, plain: bool = False
) -> Iterator[Shown]:
    """Show the scene.

    Args:
        width: of the frames in pixels.
        height: likewise.
        sides: heights of the things in pixels.
        each: things of each height.
        seed: of everything that is drawn.
        plain: nothing else is in the scene, so that a detector finds the smallest things; else half of it is photos,
            in which it finds the same in every frame.
    """
    drawn = np.random.default_rng(seed)
    scene = _scene(width, height, plain)
    room = width if plain else width // 2
    grain = drawn.normal(0, SENSOR_NOISE, (height + _GRAIN, width + _GRAIN, 3)).astype(np.float32)
    number = itertools.count()
    for index in range(each * len(sides)):
        thing, insertion = _thing(scene[:, :room], sides[index % len(sides)], index, drawn)
        x1, y1, x2, y2 = insertion.box
        for _ in range(EMPTY):
            yield Shown(_shoot(scene, grain, next(number), drawn), None, False)
        full = scene.copy()
        full[y1:y2, x1:x2] = thing
        for stay in range(STAYS):
            yield Shown(_shoot(full, grain, next(number), drawn), insertion, stay == 0)


def _scene(width: int, height: int, plain: bool) -> NDArray[np.float32]:
    """A wall and a table, and unless it is plain, photos right of the middle."""
    room = width if plain else width // 2
    y, x = np.mgrid[:height, :room].astype(np.float32)
    wall = 150 - 40 * y / height + 12 * np.sin(9 * x / width)
    table = 95 + 30 * x / width + 6 * np.sin(60 * y / height)
    grey = np.where(y < 0.55 * height, wall, table)
    coarse = np.random.default_rng(7).normal(0, 6, (height // 4, room // 4)).astype(np.float32)
    rough = cv2.resize(coarse, (room, height))
    scene = picture(width, height).astype(np.float32)
    scene[:, :room] = np.stack([grey * 0.95 + rough, grey + rough, grey * 1.03 + rough], axis=2)
    return scene


def _thing(
    scene: NDArray[np.float32], side: int, index: int, drawn: np.random.Generator
) -> tuple[NDArray[np.float32], Insertion]:
    """Cut a thing out, and shift its brightness so that its mean differs from its place's by 30 to 80 grey levels."""
    name, (left, top, right, bottom) = _THINGS[index % len(_THINGS)]
    photo = cv2.imread(str(PHOTOS / name), cv2.IMREAD_COLOR)
    if photo is None:
        raise FileNotFoundError(f"examples/images/{name} cannot be read")
    cut = photo[top:bottom, left:right]
    wide = max(2, round(side * cut.shape[1] / cut.shape[0]))
    thing = cv2.resize(cut, (wide, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    height, width, _ = scene.shape
    x1, y1 = int(drawn.integers(4, width - wide - 4)), int(drawn.integers(4, height - side - 4))
    place = scene[y1 : y1 + side, x1 : x1 + wide]
    contrast = float(drawn.uniform(30, 80)) * (1 if drawn.random() < 0.5 else -1)
    if not 20 < float(place.mean()) + contrast < 235:
        contrast = -contrast
    thing += float(place.mean()) + contrast - float(thing.mean())
    return thing, Insertion(side, (x1, y1, x1 + wide, y1 + side))


def _shoot(scene: NDArray[np.float32], grain: NDArray[np.float32], number: int, drawn: np.random.Generator) -> bytes:
    """Take a picture; its noise is another part of a larger field each time, which is drawn once."""
    light = DRIFT * np.sin(2 * np.pi * number / _DRIFT_FRAMES)
    y, x = drawn.integers(0, _GRAIN, 2)
    noise = grain[y : y + scene.shape[0], x : x + scene.shape[1]]
    pixels = np.clip(scene + (light + noise), 0, 255).astype(np.uint8)
    quality = int(drawn.integers(*_QUALITIES))
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
