"""Bounded threads for CPU work on images: not on the event loop, no more threads than CPUs, no long queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import Overloaded
from saccade_serving.memory.arena import Lease
from saccade_transformers.turns import Turns

T = TypeVar("T")


class ImageWorkers:
    """A thread pool that refuses rather than queue without bound.

    Calls wait on the event loop, not in the pool, and in turns (``turns``): a caller who leaves takes its image along.
    A thread counts as busy until its call has returned, whether or not somebody still waits for it.

    Args:
        threads: worker threads; OpenCV and NumPy release the GIL in the heavy parts.
        max_waiting: calls that may wait for a thread; of the first calls of requests as many again.
    """

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="image")
        self._free = threads
        self._turns = Turns()
        self._limit = threads + max_waiting
        self._under_way: Counter[object] = Counter()  # calls that wait or run, by request
        self.pending = 0

    async def admit(self, work: Callable[[], T], exchange: Exchange | None = None) -> T:
        """Run ``work`` for a request that has cost nothing yet; see ``run``.

        Raises:
            Overloaded: too many calls wait already.
        """
        # A request's first call is refused only for too many requests: one of many images does not keep others out.
        newcomer = exchange not in self._under_way
        if (len(self._under_way) if newcomer else self.pending) >= self._limit:
            raise Overloaded(f"{self.pending} images are waiting to be decoded, which is the limit")
        return await self.run(work, exchange)

    async def run(self, work: Callable[[], T], exchange: Exchange | None = None) -> T:
        """Run ``work`` for a request that was admitted before: its inference is paid for.

        Args:
            work: called in a thread.
            exchange: whose body it reads; the body's memory is kept until the thread has returned, whoever has left.
        """
        lease = exchange.lease if exchange is not None else None
        request = exchange if exchange is not None else object()
        loop = asyncio.get_running_loop()
        newcomer = request not in self._under_way
        self.pending += 1
        self._under_way[request] += 1
        if self._free:
            self._free -= 1
        else:
            await self._turn(request, newcomer)
        returned: asyncio.Future[T] = loop.create_future()

        def call() -> None:  # one word to the loop of all that follows: asyncio.wrap_future would be a second
            try:
                settle: Callable[[], None] = partial(returned.set_result, work())
            except BaseException as error:
                settle = partial(returned.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody counts any more
                loop.call_soon_threadsafe(self._returned, returned, settle, request, lease)
            del settle  # an exception and the frame it came through would keep each other, and the picture

        try:
            self._executor.submit(call)
        except RuntimeError:  # the pool is closed
            self._done(request)
            raise Overloaded("the server is shutting down") from None
        if lease is not None:
            lease.hold()
        return await returned

    def close(self) -> None:
        """End the threads after the calls they were given; calls that still wait are refused."""
        self._executor.shutdown(wait=True)

    async def _turn(self, request: object, newcomer: bool) -> None:
        """Wait for a thread."""
        turn = asyncio.get_running_loop().create_future()
        self._turns.join(turn, request, newcomer)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                self._turns.leave(turn, request)
                self._end(request)
            else:  # it came when nobody waited any more
                self._done(request)
            raise

    def _end(self, request: object) -> None:
        self.pending -= 1
        self._under_way[request] -= 1
        if not self._under_way[request]:
            del self._under_way[request]

    def _returned(
        self, returned: asyncio.Future[T], settle: Callable[[], None], request: object, lease: Lease | None
    ) -> None:
        if lease is not None:
            lease.release()
        self._done(request)
        if not returned.done():  # else who asked has left
            settle()

    def _done(self, request: object) -> None:
        self._end(request)
        turn = self._turns.next()
        if turn is None:
            self._free += 1
        else:
            turn.set_result(None)
