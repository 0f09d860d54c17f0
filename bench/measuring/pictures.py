"""The frames that are sent: the repository's photos, tiled and enlarged the same way each time, as JPEGs."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

PHOTOS: Final = Path(__file__).resolve().parents[2] / "examples" / "images"
_TILES: Final = ("astronaut.png", "coffee.png", "grace_hopper.png", "chelsea.png")
#: What cameras use.
_QUALITIES: Final = range(50, 99)


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Four photos, a quarter of the picture each.

    Args:
        width: in pixels, even.
        height: likewise.

    Returns:
        [height, width, 3] BGR.
    """
    out = np.empty((height, width, 3), np.uint8)
    across, down = width // 2, height // 2
    for index, name in enumerate(_TILES):
        photo = cv2.imread(str(PHOTOS / name), cv2.IMREAD_COLOR)
        if photo is None:
            raise FileNotFoundError(f"examples/images/{name} cannot be read")
        scale = max(across / photo.shape[1], down / photo.shape[0])
        size = (max(across, round(photo.shape[1] * scale)), max(down, round(photo.shape[0] * scale)))
        filled = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)[:down, :across]
        row, column = divmod(index, 2)
        out[row * down : (row + 1) * down, column * across : (column + 1) * across] = filled
    return out


def jpeg(width: int, height: int, size_bytes: int = 0, quality: int = 85) -> bytes:
    """The picture as a JPEG, 4:2:0.

    Args:
        width: in pixels, even.
        height: likewise.
        size_bytes: about how large it shall be, by the quality; 0 for ``quality``.
        quality: 1 to 100.
    """
    made = picture(width, height)
    if not size_bytes:
        return _encode(made, quality)
    above = bisect_left(_QUALITIES, size_bytes, key=lambda one: len(_encode(made, one)))  # a better one is larger
    around = _QUALITIES[max(0, above - 1) : above + 1]
    return min((_encode(made, one) for one in around), key=lambda data: abs(len(data) - size_bytes))


def _encode(made: NDArray[np.uint8], quality: int) -> bytes:
    return cv2.imencode(".jpg", made, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
