"""A bounded store in memory: what was used longest ago goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shelf(Generic[K, V]):
    """Values by key, up to so many bytes together.

    Args:
        limit_bytes: of all values; one that is larger than that is not kept.
        gone: told of each value that had to go to make room, or was too large.

    Attributes:
        size: bytes of all values.
    """

    def __init__(self, limit_bytes: int, gone: Callable[[V], None] = lambda value: None) -> None:
        self._limit = limit_bytes
        self._gone = gone
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return a value, which is from now on the one used last."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of so many bytes in place of the one of that key."""
        self.drop(key)
        if size > self._limit:
            self._gone(value)
            return
        self._values[key] = value, size
        self.size += size
        while self.size > self._limit:
            _, (old, freed) = self._values.popitem(last=False)
            self.size -= freed
            self._gone(old)

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        found = self._values.pop(key, None)
        if found is not None:
            self.size -= found[1]

    def values(self) -> list[V]:
        """All of them, the one used longest ago first."""
        return [value for value, _ in list(self._values.values())]  # at once: another thread may ask
