"""A time limit that does not blame the other side for what the event loop did late."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Limit:
    """``asyncio.timeout``, but with two more turns of the loop at its end.

    In a busy process the loop may be late by more than a few milliseconds. An answer that was in the socket in time is
    then read in the very turn in which the time is over, and counts.

    Args:
        seconds: the limit.

    Raises:
        TimeoutError: at its end.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.Handle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._handle = asyncio.get_running_loop().call_later(self._seconds, self._late, 2)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _late(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            self._handle = loop.call_soon(self._late, turns - 1)
        else:
            self._timeout.reschedule(loop.time())
