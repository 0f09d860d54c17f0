"""Notices an instance that computes for too long: it hangs, and will not answer any more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

_NEVER: Final = math.inf


class Watchdog:
    """Watches the instances of one engine, which compute one batch after the other.

    Args:
        limit_s: time that one batch may compute.
        clock: seconds, monotonic.
        hangs: told the index of an instance that has taken longer, once; it is forgotten.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float], hangs: Callable[[int], None]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._hangs = hangs
        self._held: dict[int, int] = {}  # batches, by instance
        self._since: dict[int, float] = {}  # when the present one began
        self._timer: asyncio.TimerHandle | None = None

    def began(self, lane: int) -> None:
        """An instance has been given a batch."""
        held = self._held[lane] = self._held.get(lane, 0) + 1
        if held == 1:
            self._since[lane] = self._clock()
        if self._timer is None:
            self._arm(self._limit_s)

    def ended(self, lane: int) -> None:
        """An instance has finished a batch; it goes on with the next, if it has one."""
        held = self._held[lane] = self._held[lane] - 1
        if held:
            self._since[lane] = self._clock()
        else:
            self.forget(lane)

    def forget(self, lane: int) -> None:
        """Watch an instance no more."""
        self._held.pop(lane, None)
        self._since.pop(lane, None)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.001, delay_s), self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock()
        for lane in [lane for lane, since in self._since.items() if now - since >= self._limit_s]:
            self.forget(lane)
            self._hangs(lane)
        if self._since and self._timer is None:
            self._arm(min(self._since.values()) + self._limit_s - now)
