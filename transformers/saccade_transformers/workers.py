"""Bounded threads for CPU work on images: not on the event loop, no more threads than CPUs, no long queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import Overloaded
from saccade_serving.memory.arena import Lease

T = TypeVar("T")


class ImageWorkers:
    """A thread pool that refuses rather than queue without bound.

    Calls wait on the event loop, not in the pool: a caller who leaves takes its image along. A thread counts as busy
    until its call has returned, whether or not somebody still waits for it.

    Args:
        threads: worker threads; OpenCV and NumPy release the GIL in the heavy parts.
        max_waiting: calls that may wait for a thread.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="image")
        self._free = asyncio.Semaphore(threads)
        self._limit = threads + max_waiting
        self.pending = 0

    async def admit(self, work: Callable[[], T], exchange: Exchange | None = None) -> T:
        """Run ``work`` for a request that has cost nothing yet; see ``run``.

        Raises:
            Overloaded: too many calls wait already.
        """
        if self.pending >= self._limit:
            raise Overloaded(f"{self.pending} images are waiting to be decoded, which is the limit")
        return await self.run(work, exchange)

    async def run(self, work: Callable[[], T], exchange: Exchange | None = None) -> T:
        """Run ``work`` for a request that was admitted before: its inference is paid for.

        Args:
            work: called in a thread.
            exchange: whose body it reads; the body's memory is kept until the thread has returned, whoever has left.
        """
        lease = exchange.lease if exchange is not None else None
        loop = asyncio.get_running_loop()
        self.pending += 1
        try:
            await self._free.acquire()
        except BaseException:
            self.pending -= 1
            raise
        try:
            future = self._executor.submit(work)
        except RuntimeError:  # the pool is closed
            self._done()
            raise Overloaded("the server is shutting down") from None
        if lease is not None:
            lease.hold()
        future.add_done_callback(lambda _: self._tell(loop, lease))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads after the calls they work on; calls that still wait are refused."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _tell(self, loop: asyncio.AbstractEventLoop, lease: Lease | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody counts any more
            loop.call_soon_threadsafe(self._done, lease)

    def _done(self, lease: Lease | None = None) -> None:
        if lease is not None:
            lease.release()
        self.pending -= 1
        self._free.release()
