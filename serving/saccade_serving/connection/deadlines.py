"""Ends exchanges whose time is over: one timer for all of them, not one each.

Deadlines are sorted into slots of ``RESOLUTION_S``, and a slot is looked at when it has passed: an exchange ends at
most that much late, and setting or lifting a deadline costs one set operation.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from saccade_serving.connection.exchange import Exchange

log = logging.getLogger("saccade.requests")

RESOLUTION_S: Final = 0.01


class Deadlines:
    """The deadlines of one event loop."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Exchange]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot = 0

    def watch(self, exchange: Exchange) -> set[Exchange]:
        """End ``exchange`` when its deadline has passed.

        Returns:
            Where it stands; taking it out there lifts the deadline.
        """
        index = int(exchange.deadline / RESOLUTION_S) + 1
        slot = self._slots.get(index)
        if slot is None:
            slot = self._slots[index] = set()
            heapq.heappush(self._order, index)
            if self._timer is None or index < self._timer_slot:
                self._arm()
        slot.add(exchange)
        return slot

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_slot = self._order[0]
        delay_s = self._timer_slot * RESOLUTION_S - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._look)

    def _look(self) -> None:
        self._timer = None
        now = int(time.monotonic() / RESOLUTION_S)
        while self._order and self._order[0] <= now:
            for exchange in list(self._slots.pop(heapq.heappop(self._order))):
                try:
                    exchange.expire()
                except Exception:  # one that cannot be ended must not keep the others from it
                    log.exception("deadline_failed")
        if self._order and self._timer is None:
            self._arm()
