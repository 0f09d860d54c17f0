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

    def would_keep(self, agreement: float) -> bool:
        """Whether a frame has a chance; full agreement has none. May be asked from any thread."""
        frames = self.frames
        return agreement < 1 and (len(frames) < self._keep or agreement <= frames[-1].agreement)

    def add(self, frame: Kept) -> list[Kept]:
        """Take a frame in; returns those that have to go for it, perhaps itself."""
        if not self.would_keep(frame.agreement) or frame.size > self._max_bytes:
            return [frame]
        insort(self.frames, frame)
        self.size += frame.size
        gone = []
        while len(self.frames) > self._keep or self.size > self._max_bytes:
            last = self.frames.pop()
            self.size -= last.size
            gone.append(last)
        return gone
