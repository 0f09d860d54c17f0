"""The end of ``saccade demo``: a still camera, for the frame cache to answer, and a thing that appears before it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

CAMERA: Final = "demo"
#: Frames of the scene as it is, with the thing in it, and as it is again.
BEFORE, DURING, AFTER = 8, 5, 5
#: Most of the picture's height and of its width that the thing takes: as small as the example model still finds it.
_HEIGHT, _WIDTH = 0.3, 0.6
#: Standard deviation of the sensor's noise, grey levels.
_NOISE: Final = 2.0

#: Sends one frame of ``CAMERA``; returns ``/detect``'s answer.
Send = Callable[[bytes], Awaitable[dict[str, Any]]]


class NotNoticed(Exception):
    """The cache has answered a frame in which something was new; the message says which."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame and its answer.

    Attributes:
        what: is to be seen.
        cache: what the cache did.
    """

    what: str
    cache: str
    milliseconds: float
    detections: Sequence[dict[str, Any]]


def frames(scene: Path, thing: Path) -> list[tuple[str, bytes]]:
    """What the camera sees: a photo, no two frames of it equal, with another one in its corner for a while.

    Returns:
        What is to be seen, and the JPEG.
    """
    alone, other = _read(scene), _read(thing)
    scale = min(_HEIGHT * alone.shape[0] / other.shape[0], _WIDTH * alone.shape[1] / other.shape[1])
    height, width = (max(1, round(scale * side)) for side in other.shape[:2])
    both = alone.copy()
    top, right = alone.shape[0] // 64, alone.shape[1] - alone.shape[1] // 64
    both[top : top + height, right - width : right] = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    one, two = (scene.stem, alone), (f"{scene.stem} and {thing.stem}", both)
    shown = [one] * BEFORE + [two] * DURING + [one] * AFTER
    drawn = np.random.default_rng(0)
    return [(what, _shoot(picture, drawn)) for what, picture in shown]


async def watch(shown: Sequence[tuple[str, bytes]], send: Send) -> list[Frame]:
    """Send all frames, one after the other.

    Raises:
        NotNoticed: what is to be seen has changed, and the answer is the earlier one's.
    """
    seen: list[Frame] = []
    for what, image in shown:
        begun = time.perf_counter()
        answer = await send(image)
        frame = Frame(what, answer["cache"], (time.perf_counter() - begun) * 1e3, answer["detections"])
        if seen and seen[-1].what != what and frame.cache != "miss":
            raise NotNoticed(f"frame {len(seen) + 1} is {what!r} and was answered as {seen[-1].what!r}")
        seen.append(frame)
    return seen


def tell(seen: Sequence[Frame]) -> str:
    """What the cache has saved."""
    hits = [frame.milliseconds for frame in seen if frame.cache == "near"]
    misses = [frame.milliseconds for frame in seen if frame.cache == "miss"]
    if not hits or not misses:
        return f"The frame cache answered none of {len(seen)} frames."
    saved = fmean(misses) - fmean(hits)
    return (
        f"The frame cache answered {len(hits)} of {len(seen)} frames, {fmean(hits):.1f} ms each instead of "
        f"{fmean(misses):.1f}: {saved * len(hits):.0f} ms saved. What appeared and what left was "
        "noticed in the first frame."
    )


def _read(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path} is no picture")
    return np.asarray(picture, np.uint8)


def _shoot(picture: NDArray[np.uint8], drawn: np.random.Generator) -> bytes:
    noisy = np.clip(picture + drawn.normal(0, _NOISE, picture.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, int(drawn.integers(85, 93))])[1].tobytes()
