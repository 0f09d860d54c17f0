"""Notices cameras that send the same picture for ever, and black ones. Pure, under a clock that is handed in.

A working sensor is never still: two frames of it differ by its noise at least. A camera that hangs, or a gateway that
repeats its last picture, sends the same bytes, or at least the same pixels.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from saccade_transformers.cache.perceptual import Look

Condition: TypeAlias = Literal["frozen", "black"]

#: Time and frames that a condition lasts before it is one.
LASTS_S: Final = 10.0
LASTS_FRAMES: Final = 10
#: A picture is black whose grey levels have at most this mean and this standard deviation.
BLACK_MEAN: Final = 16.0
BLACK_DEVIATION: Final = 4.0


class _Lasting:
    """Something that is so since some time, for some frames."""

    __slots__ = ("frames", "is_on", "since")

    def __init__(self) -> None:
        self.frames = 0
        self.since = 0.0
        self.is_on = False

    def saw(self, now: float) -> None:
        if not self.frames:
            self.since = now
        self.frames += 1
        self.is_on = self.is_on or (self.frames >= LASTS_FRAMES and now - self.since >= LASTS_S)

    def ended(self) -> None:
        self.frames = 0
        self.is_on = False


class Health:
    """What one camera's frames tell of it."""

    __slots__ = ("_black", "_digest", "_frozen", "_thumbnails")

    def __init__(self) -> None:
        self._digest = b""
        self._thumbnails: dict[bool, NDArray[np.uint8]] = {}  # by whether they are of grey: those differ a little
        self._frozen = _Lasting()
        self._black = _Lasting()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is wrong with it now."""
        on: list[Condition] = []
        if self._frozen.is_on:
            on.append("frozen")
        if self._black.is_on:
            on.append("black")
        return tuple(on)

    @property
    def nbytes(self) -> int:
        """Memory of what is large."""
        return sum(thumbnail.nbytes for thumbnail in self._thumbnails.values())

    def saw(self, digest: bytes, now: float) -> bool:
        """Take in the digest of a frame's bytes; returns whether they are those of the frame before.

        Where they are not, ``looked`` or ``repeated`` has to follow.
        """
        same, self._digest = digest == self._digest, digest
        if same:
            self._frozen.saw(now)
            if self._black.frames:
                self._black.saw(now)
        return same

    def repeated(self) -> None:
        """Bytes that were new, but not to the cache: a picture from before has come again, which was not looked at."""
        self._thumbnails.clear()
        self._frozen.ended()

    def forget(self) -> None:
        """Forget what is large."""
        self._thumbnails.clear()

    def looked(self, look: Look, now: float) -> None:
        """Take in the look of a frame whose bytes were new."""
        thumbnail, before = look.thumbnail, self._thumbnails.get(look.of_grey)
        if before is not None and np.array_equal(before, thumbnail):
            self._frozen.saw(now)
        elif before is not None or not self._thumbnails:
            self._frozen.ended()
            self._thumbnails.clear()
        self._thumbnails[look.of_grey] = thumbnail
        if thumbnail.mean() <= BLACK_MEAN and thumbnail.std() <= BLACK_DEVIATION:
            self._black.saw(now)
        else:
            self._black.ended()
