"""Dynamic batching: groups waiting requests into one engine call.

``form_batch`` is the policy, pure: first come first served among requests of the same shapes, up to the largest
batch. ``Batcher`` drives it on one event loop, without locks. An idle instance waits for company only while the
oldest request is younger than ``max_delay_s`` (default 0: it never waits). Does not retry, split or reorder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from saccade_predictor.engines.engine import Engine, Inputs, Instance, Outputs, Ticket
from saccade_predictor.metrics import PredictorMetrics
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import EngineFailed, Overloaded, SaccadeError

log = logging.getLogger("saccade.batcher")


@dataclass(frozen=True, slots=True)
class BatchingRules:
    """How requests are grouped.

    Attributes:
        max_rows: rows of the largest batch; 0 runs every request alone, its arrays as they are.
        max_delay_s: how long the oldest request may wait for company.
        max_queue_size: requests that may wait; more are refused.
    """

    max_rows: int
    max_delay_s: float
    max_queue_size: int


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue.

    Attributes:
        signature: shapes without rows and names; only equal ones share a batch.
    """

    inputs: Inputs
    rows: int
    exchange: Exchange
    enqueued: float
    answer: asyncio.Future[Outputs]
    signature: tuple[tuple[str, tuple[int, ...]], ...]


def form_batch(queue: Iterable[Waiting], max_rows: int) -> tuple[list[Waiting], bool]:
    """Choose the next batch: the oldest request and those behind it with its signature, in order.

    Stops at the first that does not fit, so that a large request is never overtaken for ever. With ``max_rows`` 0
    the oldest runs alone.

    Returns:
        The batch, and whether it is complete: full, or followed by one that does not fit.
    """
    batch: list[Waiting] = []
    rows = 0
    for waiting in queue:
        if batch and waiting.signature != batch[0].signature:
            continue
        if batch and rows + waiting.rows > max_rows:
            return batch, True
        batch.append(waiting)
        rows += waiting.rows
        if rows >= max_rows:
            return batch, True
    return batch, False


class Batcher:
    """The queue of one loaded model version and the instances that serve it."""

    def __init__(
        self,
        engine: Engine,
        rules: BatchingRules,
        model: str,
        version: str,
        metrics: PredictorMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._labels = (model, version)
        self._metrics = metrics
        self._clock = clock
        self._queue: deque[Waiting] = deque()
        self._free: list[Instance] = [instance for instance in engine.instances() for _ in range(instance.depth)]
        self._running: set[asyncio.Future[Outputs]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def depth(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    def oldest_s(self) -> float:
        """Age of the oldest waiting request in seconds; 0 without one."""
        try:
            return self._clock() - self._queue[0].enqueued
        except IndexError:  # a scrape asks in another thread, so looking first would not help
            return 0.0

    async def submit(self, inputs: Inputs, rows: int, exchange: Exchange) -> Outputs:
        """Queue a request and await its rows of the outputs.

        Raises:
            Overloaded: the queue is full, or the model is being closed.
            DeadlineExceeded: the deadline passed in the queue or in the engine.
            EngineFailed: the engine raised, or returned the wrong number of rows.
        """
        exchange.check_deadline("before it was queued")
        if self._closed:
            raise Overloaded("the model is being unloaded")
        if len(self._queue) >= self._rules.max_queue_size:
            raise Overloaded(f"{len(self._queue)} requests are waiting for this model, which is the limit")
        waiting = Waiting(
            inputs,
            rows,
            exchange,
            self._clock(),
            asyncio.get_running_loop().create_future(),
            tuple((name, array.shape[1:] if self._rules.max_rows else array.shape) for name, array in inputs.items()),
        )
        self._queue.append(waiting)
        self._pump()
        try:
            async with asyncio.timeout(exchange.remaining_s()):
                return await waiting.answer
        except TimeoutError:
            where = "while it waited in the queue" if waiting in self._queue else "while the engine computed"
            raise exchange.too_late(where) from None
        finally:
            if not waiting.answer.done():
                waiting.answer.cancel()
            if waiting.answer.cancelled():
                self._forget(waiting)

    async def close(self) -> None:
        """Refuse what waits, await what runs."""
        self._closed = True
        for waiting in self._queue:
            _settle(waiting, Overloaded("the model is being unloaded"))
        self._queue.clear()
        if self._running:
            await asyncio.wait(self._running)

    def _forget(self, waiting: Waiting) -> None:
        """Take a caller who has left out of the queue, before an engine works for nobody."""
        with contextlib.suppress(ValueError):  # already running: its rows are computed and dropped
            self._queue.remove(waiting)

    def _pump(self) -> None:
        """Start as many batches as instances and rules allow; otherwise set the timer for the next look."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and self._queue:
            batch, complete = form_batch(self._queue, self._rules.max_rows)
            wait_s = self._rules.max_delay_s - (self._clock() - batch[0].enqueued)
            if wait_s > 0 and not complete:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._pump)
                return
            for waiting in batch:
                self._queue.remove(waiting)
            self._launch(batch)

    def _launch(self, batch: list[Waiting]) -> None:
        rows = sum(waiting.rows for waiting in batch)
        instance = self._free.pop()
        started = self._clock()
        try:
            ticket: Ticket = instance.submit([waiting.inputs for waiting in batch], rows)
        except Exception as error:
            self._free.append(instance)
            self._fail(batch, error)
            return
        self._running.add(ticket.done)
        ticket.done.add_done_callback(partial(self._finish, batch, rows, instance, started))

    def _finish(
        self, batch: list[Waiting], rows: int, instance: Instance, started: float, done: asyncio.Future[Outputs]
    ) -> None:
        self._running.discard(done)
        self._free.append(instance)
        elapsed = self._clock() - started
        self._metrics.batch_size.observe(rows, self._labels)
        self._metrics.busy_seconds.add(self._labels, elapsed)
        for waiting in batch:
            waiting.exchange.spent("queue", started - waiting.enqueued)
            waiting.exchange.spent("compute", elapsed)
        error: BaseException | None
        try:
            error = self._deliver(batch, rows, done.result())
        except BaseException as raised:  # the engine's own error, or an answer that is none
            error = raised
        if error is not None:
            self._fail(batch, error)
        self._pump()

    def _deliver(self, batch: Sequence[Waiting], rows: int, outputs: Outputs) -> Exception | None:
        """Hand every caller its rows; returns an error if the engine broke its contract."""
        if self._rules.max_rows == 0:
            _settle(batch[0], outputs)
            return None
        for name, array in outputs.items():
            got = array.shape[0] if array.ndim else 0
            if got != rows:
                return ValueError(f"output {name!r} has {got} rows for a batch of {rows}")
        at = 0
        for waiting in batch:
            end = at + waiting.rows
            _settle(waiting, {name: array[at:end] for name, array in outputs.items()})
            at = end
        return None

    def _fail(self, batch: Sequence[Waiting], error: BaseException) -> None:
        model, version = self._labels
        log.error(
            "batch_failed", extra={"model": model, "version": version, "requests": len(batch), "why": repr(error)}
        )
        for waiting in batch:
            _settle(
                waiting, EngineFailed(f"the engine of model {model!r} failed on this batch; the log has the cause")
            )


def _settle(waiting: Waiting, answer: Outputs | SaccadeError) -> None:
    """Complete a caller's future unless the caller has left."""
    if waiting.answer.done():
        return
    if isinstance(answer, SaccadeError):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
