"""Identical frames that are on their way at the same time are inferred once."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flights(Generic[T]):
    """Who is already under way for a key."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Future[T | None]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def board(self, key: Hashable) -> asyncio.Future[T | None] | None:
        """Return what to wait for; None: nobody was under way, the caller now is, and has to ``land``."""
        flight = self._under_way.get(key)
        if flight is None:
            self._under_way[key] = asyncio.get_running_loop().create_future()
        return flight

    def land(self, key: Hashable, result: T | None) -> None:
        """End the caller's flight.

        Args:
            key: of ``board``.
            result: for all who wait; None where there is none for them, so that they have to go themselves.
        """
        self._under_way.pop(key).set_result(result)
