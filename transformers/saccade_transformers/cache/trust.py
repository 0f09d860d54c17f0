"""Whether a camera's near hits can be trusted: by what audits have found. Pure, under a clock that is handed in."""

from __future__ import annotations

from collections import deque
from statistics import fmean
from typing import Final

#: Audits that are looked back at, and the fewest by which a camera is judged.
_AUDITS: Final = 8
_FEWEST: Final = 3


class Trust:
    """What audits say of one camera.

    Args:
        least: mean agreement of the cached answer with a fresh one, 0..1, under which near hits are switched off.
        pause_s: time for which they are; it doubles with each time that follows another, up to ``MOST_PAUSES``.

    Attributes:
        seen: agreement in the last audits.
        factor: the next pause, in multiples of ``pause_s``.
        until: when the last pause ends, or has ended.
    """

    MOST_PAUSES: Final = 16

    def __init__(self, least: float, pause_s: float) -> None:
        self._least = least
        self._pause_s = pause_s
        self.seen: deque[float] = deque(maxlen=_AUDITS)
        self.factor = 1
        self.until = 0.0

    def forget(self) -> None:
        """As if there had been no audit."""
        self.seen.clear()
        self.factor, self.until = 1, 0.0

    def holds(self, now: float) -> bool:
        """Whether near hits may be given."""
        return now >= self.until

    def audited(self, agreement: float, now: float) -> bool:
        """Take in an audit; returns whether it has just switched near hits off."""
        self.seen.append(agreement)
        if len(self.seen) < _FEWEST or not self.holds(now):
            return False
        if fmean(self.seen) >= self._least:
            if len(self.seen) == _AUDITS:
                self.factor = 1  # it has proved itself again
            return False
        self.until = now + self._pause_s * self.factor
        self.factor = min(2 * self.factor, self.MOST_PAUSES)
        self.seen.clear()
        return True
