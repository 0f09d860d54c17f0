"""Which frames are kept: those whose two answers agree least, bounded in number and bytes. Pure; knows no file."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """A frame that is kept. Ordered by agreement; of equal ones by id, which is random, so that none is favoured.

    Were the newest favoured, a candidate that never agrees would have every frame written; were the oldest, the
    frames kept would all be of one minute.

    Attributes:
        agreement: 0..1.
        id: random, hexadecimal.
        line: what stands in the file about it, without the line's end.
        image: name of the image's file, empty for none.
        image_bytes: its size.
    """

    agreement: float
    id: str
    line: bytes
    image: str = ""
    image_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self.line) + 1 + self.image_bytes


class Worst:
    """The frames that agree least.

    Args:
        keep: how many; at least 1.
        max_bytes: of lines and images together.

    Attributes:
        frames: the least agreement first.
        size: bytes of all.
    """

    def __init__(self, keep: int, max_bytes: int) -> None:
        self._keep = keep
        self._max_bytes = max_bytes
        self.frames: list[Kept] = []
        self.size = 0

    def would_keep(self, agreement: float, size: int = 0) -> bool:
        """Whether a frame has a chance; full agreement has none. May be asked from any thread.

        Args:
            agreement: the frame's.
            size: bytes that it has at least.
        """
        frames = self.frames
        return agreement < 1 and (self._has_room(size) or (bool(frames) and agreement <= frames[-1].agreement))

    def takes(self, frame: Kept) -> bool:
        """Whether there is room for a frame, or it comes before one that is kept."""
        fits = frame.agreement < 1 and frame.size <= self._max_bytes
        return fits and (self._has_room(frame.size) or (bool(self.frames) and frame < self.frames[-1]))

    def add(self, frame: Kept) -> list[Kept]:
        """Take a frame in; returns those that have to go for it, perhaps itself."""
        if not self.takes(frame):
            return [frame]
        insort(self.frames, frame)
        self.size += frame.size
        gone = []
        while len(self.frames) > self._keep or self.size > self._max_bytes:
            last = self.frames.pop()
            self.size -= last.size
            gone.append(last)
        return gone

    def _has_room(self, size: int) -> bool:
        return len(self.frames) < self._keep and self.size + size <= self._max_bytes
