"""Bounded threads for CPU work on images: not on the event loop, no more threads than CPUs, no long queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from saccade_serving.errors import Overloaded

T = TypeVar("T")


class ImageWorkers:
    """A thread pool that refuses rather than queue without bound.

    Args:
        threads: worker threads; OpenCV and NumPy release the GIL in the heavy parts.
        max_waiting: calls that may wait for a thread.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="image")
        self._limit = threads + max_waiting
        self.pending = 0

    async def admit(self, work: Callable[[], T]) -> T:
        """Run ``work`` for a request that has cost nothing yet.

        Raises:
            Overloaded: too many calls wait already.
        """
        if self.pending >= self._limit:
            raise Overloaded(f"{self.pending} images are waiting to be decoded, which is the limit")
        return await self.run(work)

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` for a request that was admitted before: its inference is paid for."""
        self.pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        future.add_done_callback(self._done)
        return await future

    def close(self) -> None:
        """End the threads after the calls they work on."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _done(self, _future: asyncio.Future[T]) -> None:
        self.pending -= 1
