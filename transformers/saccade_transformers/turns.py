"""Whose turn it is when many requests of one image or more wait for the same threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Hashable


class Turns:
    """Who waits, in the order of their turns.

    Requests take turns, not images: whoever sends thirty-two waits longer than who sends one. The first image of a
    request that has nothing under way goes before all that wait for a further one, so that it waits for what runs, not
    for what is queued. But two such do not follow each other while others wait, lest a stream of them keep requests of
    many images from ever ending.
    """

    def __init__(self) -> None:
        self._first: deque[asyncio.Future[None]] = deque()
        self._more: dict[Hashable, deque[asyncio.Future[None]]] = {}  # the next request's turn is the first one's
        self._newcomer_had_it = False

    def join(self, turn: asyncio.Future[None], request: Hashable, newcomer: bool) -> None:
        """Wait until ``turn`` is returned by ``next``."""
        if newcomer:
            self._first.append(turn)
        else:
            self._more.setdefault(request, deque()).append(turn)

    def leave(self, turn: asyncio.Future[None], request: Hashable) -> None:
        """Wait no more; nothing happens if it was passed over already."""
        queue = self._more.get(request, self._first)
        if turn not in queue:
            queue = self._first
        with contextlib.suppress(ValueError):
            queue.remove(turn)
        if request in self._more and not self._more[request]:
            del self._more[request]

    def next(self) -> asyncio.Future[None] | None:
        """Take out who is next; None if nobody waits. Who was cancelled is passed over."""
        while (turn := self._pop()) is not None and turn.cancelled():
            pass
        return turn

    def _pop(self) -> asyncio.Future[None] | None:
        if self._first and not (self._more and self._newcomer_had_it):
            self._newcomer_had_it = True
            return self._first.popleft()
        if not self._more:
            return None
        self._newcomer_had_it = False
        request = next(iter(self._more))
        queue = self._more.pop(request)
        turn = queue.popleft()
        if queue:
            self._more[request] = queue
        return turn
