"""Which images are mirrored: a share of all, or all images of a share of the cameras. Pure; keeps nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

By: TypeAlias = Literal["random", "camera"]

#: Keys the hash, so that the cameras mirrored have nothing to do with any other split by camera.
_PERSON: Final = b"saccade-shadow"


def camera_digest(camera: str) -> str:
    """16 hexadecimal digits that stand for a camera where its name shall not; empty for none."""
    return blake2b(camera.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if camera else ""


class Sampler:
    """Draws images.

    Args:
        share: of the images, or of the cameras, 0..1.
        by: "camera": all images of a camera or none, the same in every replica and after every restart. An image
            without a camera is drawn as with "random": each for itself.
        draw: a number 0 <= x < 1, each time another.
    """

    def __init__(self, share: float, by: By, draw: Callable[[], float] = random.random) -> None:
        self._share = share
        self._by = by
        self._draw = draw

    def takes(self, camera: str) -> bool:
        """Whether to mirror an image of this camera; empty: of none."""
        where = _place(camera) if camera and self._by == "camera" else self._draw()
        return where < self._share


def _place(camera: str) -> float:
    """Where a camera stands between 0 and 1 (not included): uniform over cameras, always the same for one."""
    digest = blake2b(camera.encode("utf-8", "surrogatepass"), digest_size=6, person=_PERSON).digest()
    return int.from_bytes(digest, "big") / 2**48
