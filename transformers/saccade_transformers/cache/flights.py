"""Identical frames that are on their way at the same time are inferred once."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Landed(NamedTuple, Generic[T]):
    """How a flight has ended; see ``Flights.land``."""

    result: T | None
    is_over: bool


class Flights(Generic[T]):
    """Who is already under way for a key."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Future[Landed[T]]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def board(self, key: Hashable) -> asyncio.Future[Landed[T]] | None:
        """Return what to wait for; None: nobody was under way, the caller now is, and has to ``land``."""
        flight = self._under_way.get(key)
        if flight is None:
            self._under_way[key] = asyncio.get_running_loop().create_future()
        return flight

    def land(self, key: Hashable, result: T | None, is_over: bool = True) -> None:
        """End the caller's flight.

        Args:
            key: of ``board``.
            result: for all who wait; None where there is none for them, so that they have to go themselves.
            is_over: else the flight was left before its end, and one of those who wait shall take it over.
        """
        self._under_way.pop(key).set_result(Landed(result, is_over))
