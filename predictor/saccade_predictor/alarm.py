"""One timer that rings at the earliest time it was set to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

_NEVER: Final = math.inf


class Alarm:
    """Rings once, then is off.

    Args:
        clock: seconds, monotonic; the times are on it.
        ring: called on the event loop, at the time or a little later.
    """

    def __init__(self, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = _NEVER

    def set(self, at: float) -> None:
        """Ring at a time, or earlier if that has been asked for; infinity changes nothing."""
        if at >= self._at:
            return
        self.off()
        self._at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self._rings)

    def off(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = _NEVER

    def _rings(self) -> None:
        self._timer = None
        self._at = _NEVER
        self._ring()
