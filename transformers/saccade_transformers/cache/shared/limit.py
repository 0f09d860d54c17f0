"""Time limits that do not blame the other side for what the event loop did late.

In a busy process the loop may be late by more than a few milliseconds. What was in the socket in time is then read in
the very turn in which the time is over, and reaches who waits for it some turns later. So a limit takes effect that
many turns after its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

#: From the socket to the task that reads it, from that to the future of the call.
_TURNS: Final = 4


class _Late:
    """Calls something after a time and some turns, unless cancelled."""

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._act = act
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._turn, _TURNS)

    def cancel(self) -> None:
        self._handle.cancel()

    def _turn(self, left: int) -> None:
        if left:
            self._handle = self._loop.call_soon(self._turn, left - 1)
        else:
            self._act()


class Limit:
    """``asyncio.timeout`` that takes effect so.

    Args:
        seconds: the limit.

    Raises:
        TimeoutError: at its end.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._late: _Late | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._late = _Late(self._seconds, lambda: self._timeout.reschedule(0.0))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._late is not None
        self._late.cancel()
        await self._timeout.__aexit__(kind, error, trace)


async def answer_within(answer: asyncio.Future[Any], seconds: float) -> Any:
    """Await a future that others complete; nothing is cancelled but the future.

    Raises:
        TimeoutError: it has no result in time.
    """

    def over() -> None:
        if not answer.done():
            answer.set_exception(TimeoutError())

    late = _Late(seconds, over)
    try:
        return await answer
    finally:
        late.cancel()
        if answer.done() and not answer.cancelled():
            answer.exception()  # seen, even where nobody waits any more
