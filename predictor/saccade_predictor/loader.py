"""Runs what loads a model in threads of its own: it may take minutes, and must keep nobody from stopping.

asyncio's own threads are waited for when the process ends, and others need them; a file system that hangs would keep
both for ever. These are daemons, a few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: Loads at once: more would only fight for the CPU and for memory.
AT_ONCE: Final = 4


class Loader:
    """The threads of one process.

    Args:
        at_once: runs; more wait for a place.

    Attributes:
        busy: loads that run now, also those whose result nobody waits for any more.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.busy = 0
        self._places = asyncio.Semaphore(at_once)

    async def run(self, work: Callable[[], T], unwanted: Callable[[T], None] = lambda result: None) -> T:
        """Do it in a thread.

        Args:
            work: may block.
            unwanted: called in a thread with a result that nobody waits for any more.

        Raises:
            Exception: what the work raised.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def end(result: T | None, error: BaseException | None) -> None:
            self.busy -= 1
            self._places.release()
            if done.cancelled():
                if error is None:
                    threading.Thread(target=unwanted, args=(result,), daemon=True).start()
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # without an error it is the result

        def thread() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = work()
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(end, result, failure)

        await self._places.acquire()
        self.busy += 1
        threading.Thread(target=thread, name="saccade-load", daemon=True).start()
        return await done
