"""Dynamic batching: groups waiting requests into one engine call.

``form_batch`` is the policy, pure: first come first served among requests of the same shapes, up to the largest
batch. ``Batcher`` drives it on one event loop, without locks, tasks or futures of its own: submissions in, outcomes
out. An idle instance waits for company only while the oldest request is younger than ``max_delay_s`` (default 0: it
takes what has arrived, and waits for nothing that has not). Does not retry, split or reorder, and knows no deadlines:
who waits too long is withdrawn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from saccade_predictor.engines.engine import Engine, Inputs, Instance, LeasedOutputs, Outputs, Ticket
from saccade_predictor.metrics import PredictorMetrics
from saccade_serving.errors import EngineFailed, Overloaded, SaccadeError
from saccade_serving.memory.arena import Arena, Lease
from saccade_serving.scheduling.submission import Submission, arrays

log = logging.getLogger("saccade.batcher")

#: Where a withdrawn request stood, to complete "the request's 50 ms were over ...".
IN_QUEUE: Final = "while it waited in the queue"
IN_ENGINE: Final = "while the engine computed"
#: For how long an idle instance lets the loop read what has arrived, as long as every turn brings something.
GATHER_S: Final = 0.0005


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


class Outcome(NamedTuple):
    """What became of a submission: its rows of the outputs, or an error.

    Attributes:
        release: to be called once the outputs have been sent or copied; None where they are in fresh memory.
        queue_s: time it waited.
        compute_s: time its batch took.
    """

    outputs: Outputs | None
    error: SaccadeError | None
    queue_s: float = 0.0
    compute_s: float = 0.0
    release: Callable[[], None] | None = None


#: Told the outcome of a submission by its id, once, unless it was withdrawn.
Deliver = Callable[[int, Outcome], None]


@dataclass(slots=True, eq=False)
class Waiting:
    """A submission in the queue.

    Attributes:
        lease: of its memory; the batcher's own.
        signature: shapes without rows and names; only equal ones share a batch.
    """

    id: int
    rows: int
    enqueued: float
    lease: Lease
    inputs: Inputs
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


@dataclass(slots=True, eq=False)
class _Lane:
    """An instance and the batches it holds."""

    instance: Instance
    open: int = 0


class Batcher:
    """The queue of one loaded model version and the instances that serve it.

    Args:
        engine: computes.
        rules: how requests are grouped.
        model: name, for metrics and messages.
        version: likewise.
        metrics: the predictor's.
        arena: where submissions' memory is found by name.
        deliver: told every outcome.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        rules: BatchingRules,
        model: str,
        version: str,
        metrics: PredictorMetrics,
        arena: Arena,
        deliver: Deliver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._labels = (model, version)
        self._metrics = metrics
        self._statistics = metrics.statistics.of(model, version)
        self._arena = arena
        self._deliver = deliver
        self._clock = clock
        self._queue: deque[Waiting] = deque()
        self._running: dict[int, Waiting] = {}
        self._tickets: set[Ticket] = set()
        self._lanes = [_Lane(instance) for instance in engine.instances()]
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
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

    def submit(self, submission: Submission) -> None:
        """Queue a request. From here on its memory is the batcher's.

        Raises:
            Overloaded: the queue is full, or the model is being closed. Its memory is still the caller's.
        """
        if self._closed:
            raise Overloaded("the model is being unloaded")
        if len(self._queue) >= self._rules.max_queue_size and self._pumping:
            self._pump()  # some of them need not wait: an instance is idle
        if len(self._queue) >= self._rules.max_queue_size:
            raise Overloaded(f"{len(self._queue)} requests are waiting for this model, which is the limit")
        lease = self._arena.find(submission.slot)
        inputs = arrays(submission, lease.view)
        if self._rules.max_rows:
            signature = tuple([(tensor.name, tensor.shape[1:]) for tensor in submission.tensors])
        else:
            signature = tuple([(tensor.name, tensor.shape) for tensor in submission.tensors])
        lease.queued()
        self._queue.append(Waiting(submission.id, submission.rows, self._clock(), lease, inputs, signature))
        self._soon()

    def withdraw(self, submission_id: int) -> str:
        """Forget a request nobody waits for; no outcome is delivered.

        Returns:
            Where it stood. What an engine works on is finished, and its memory kept until then.
        """
        if self._running.pop(submission_id, None) is not None:
            return IN_ENGINE
        for waiting in self._queue:
            if waiting.id == submission_id:
                self._queue.remove(waiting)
                waiting.lease.release()
                break
        return IN_QUEUE

    async def close(self) -> None:
        """Refuse what waits, await what runs."""
        self._closed = True
        for waiting in list(self._queue):
            waiting.lease.release()
            self._tell(waiting.id, Outcome(None, Overloaded("the model is being unloaded")))
        self._queue.clear()
        if self._tickets:
            await asyncio.wait([ticket.done for ticket in self._tickets])

    def _soon(self) -> None:
        """Launch what waits, but not at once: what the loop receives in the same turn shall share the batch."""
        if self._queue and not self._pumping and self._idle_lane() is not None:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._gather, self._clock(), len(self._queue))

    def _gather(self, begun: float, known: int) -> None:
        """Launch, unless the loop's last turn brought company: then more may lie in the sockets already."""
        waiting = len(self._queue)
        if known < waiting < self._rules.max_rows and self._clock() - begun < GATHER_S:
            asyncio.get_running_loop().call_soon(self._gather, begun, waiting)
        else:
            self._pump()

    def _pump(self) -> None:
        """Start as many batches as instances and rules allow; otherwise set the timer for the next look."""
        self._pumping = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        queue = self._queue
        while queue and (lane := self._idle_lane()) is not None:
            batch, complete = form_batch(queue, self._rules.max_rows)
            if not complete and self._rules.max_delay_s:
                wait_s = self._rules.max_delay_s - (self._clock() - batch[0].enqueued)
                if wait_s > 0:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._pump)
                    return
            for waiting in batch:
                if queue[0] is waiting:
                    queue.popleft()
                else:
                    queue.remove(waiting)
            self._launch(batch, lane)

    def _idle_lane(self) -> _Lane | None:
        """The instance with the fewest batches, if it may hold one more: a second batch is for copying ahead."""
        lane = min(self._lanes, key=_open)
        return lane if lane.open < lane.instance.depth else None

    def _launch(self, batch: list[Waiting], lane: _Lane) -> None:
        rows = sum([waiting.rows for waiting in batch])
        lane.open += 1
        started = self._clock()
        for waiting in batch:
            waiting.lease.staged()
            self._running[waiting.id] = waiting
        try:
            ticket: Ticket = lane.instance.submit([waiting.inputs for waiting in batch], rows)
        except Exception as error:
            lane.open -= 1
            for waiting in batch:
                waiting.lease.release()
            self._fail(batch, error)
            return
        self._tickets.add(ticket)
        ticket.inputs_free.add_done_callback(partial(_release, batch))
        ticket.done.add_done_callback(partial(self._finish, batch, rows, lane, started, ticket))

    def _finish(
        self,
        batch: list[Waiting],
        rows: int,
        lane: _Lane,
        started: float,
        ticket: Ticket,
        done: asyncio.Future[Outputs],
    ) -> None:
        self._tickets.discard(ticket)
        lane.open -= 1
        elapsed = self._clock() - started
        self._metrics.batch_size.observe(rows, self._labels)
        self._metrics.busy_seconds.add(self._labels, elapsed)
        # The instance is free, and gets its next batch when these answers are written: until then its thread could not
        # have the interpreter, and would only fight for it. Who cannot spare that moment has a depth of 2.
        self._soon()
        error: BaseException | None = done.exception() if not done.cancelled() else asyncio.CancelledError()
        if error is None:
            self._statistics.executed(rows, 0, int(elapsed * 1e9), 0)
            error = self._hand_out(batch, rows, done.result(), started, elapsed)
        if error is not None:
            self._fail(batch, error)

    def _hand_out(
        self, batch: Sequence[Waiting], rows: int, outputs: Outputs, started: float, elapsed: float
    ) -> Exception | None:
        """Hand every caller its rows; returns an error if the engine broke its contract."""
        leased = outputs if isinstance(outputs, LeasedOutputs) else None
        batched = self._rules.max_rows != 0
        try:
            try:
                _check_outputs(outputs, rows if batched else None)
            except Exception as error:
                return error
            at = 0
            alone = len(batch) == 1
            for waiting in batch:
                end = at + waiting.rows
                if self._running.pop(waiting.id, None) is not None:
                    own = outputs if alone else {name: array[at:end] for name, array in outputs.items()}
                    release = None
                    if leased is not None:
                        leased.hold()
                        release = _Once(leased.release)
                    queued_s = started - waiting.enqueued
                    self._tell(waiting.id, Outcome(own, None, queued_s, elapsed, release))
                at = end
            return None
        finally:
            if leased is not None:
                leased.release()

    def _tell(self, submission_id: int, outcome: Outcome) -> None:
        """Deliver one outcome; what goes wrong there is not the others' matter."""
        try:
            self._deliver(submission_id, outcome)
        except Exception:
            if outcome.release is not None:
                outcome.release()
            log.exception("delivery_failed", extra={"model": self._labels[0], "version": self._labels[1]})

    def _fail(self, batch: Sequence[Waiting], error: BaseException) -> None:
        model, version = self._labels
        log.error(
            "batch_failed",
            extra={"model": model, "version": version, "requests": len(batch), "why": repr(error)[:500]},
        )
        failure = f"the engine of model {model!r} failed on this batch; the log has the cause"
        for waiting in batch:
            if self._running.pop(waiting.id, None) is not None:
                self._tell(waiting.id, Outcome(None, EngineFailed(failure)))


class _Once:
    """Calls a function the first time it is called itself."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


def _open(lane: _Lane) -> int:
    return lane.open


def _release(batch: Sequence[Waiting], _inputs_free: asyncio.Future[None]) -> None:
    """The engine has read its inputs: their memory may be used again."""
    for waiting in batch:
        waiting.lease.release()


def _check_outputs(outputs: Outputs, rows: int | None) -> None:
    """Raise unless every output has ``rows`` rows (None: any shape will do); an engine may hand out anything."""
    for name, array in outputs.items():
        got = array.shape[0] if array.ndim else 0
        if rows is not None and got != rows:
            raise ValueError(f"output {name!r} has {got} rows for a batch of {rows}")
