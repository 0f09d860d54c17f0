"""Dynamic batching: drives the scheduler of one model version with the instances of its engine.

What is decided, and why, stands in ``saccade_serving.scheduling``; here it is done: on one event loop, without locks,
tasks or futures of its own, submissions in, outcomes out. Does not retry, split or reorder. A request's deadline is
not watched here: who waits too long is withdrawn. Queue timeouts are.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from saccade_predictor import delivery
from saccade_predictor.alarm import Alarm
from saccade_predictor.delivery import Computed, Deliver, InOrder, Once, Outcome
from saccade_predictor.engines.engine import Engine, EngineBroken, LeasedOutputs, Outputs, Ticket
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.watchdog import Watchdog
from saccade_serving.errors import DeadlineExceeded, EngineFailed, Overloaded, SaccadeError
from saccade_serving.memory.arena import Arena
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Entry, Queue, QueueFull
from saccade_serving.scheduling.scheduler import CannotMakeIt, Scheduler
from saccade_serving.scheduling.submission import Submission, arrays

log = logging.getLogger("saccade.batcher")

#: Where a withdrawn request stood, to complete "the request's 50 ms were over ...".
IN_QUEUE: Final = "while it waited in the queue"
IN_ENGINE: Final = "while the engine computed"
DEAD: Final = "the engine does not answer any more"
#: Time that one batch may compute before its instance counts as hanging, unless a setting says otherwise.
HANG_LIMIT_S: Final = 30.0
#: Instances that are renewed in a process's life; an engine that hangs more often is broken.
MAX_RENEWALS: Final = 3
#: For how long an idle instance lets the loop read what has arrived, as long as every turn brings something.
GATHER_S: Final = 0.0005

_NEVER: Final = math.inf


class Batcher:
    """The queue of one loaded model version and the instances that serve it.

    Args:
        engine: computes.
        queue: empty, with the model's queue policies.
        rules: how requests are grouped.
        model: name, for metrics and messages.
        version: likewise.
        metrics: the predictor's.
        arena: where submissions' memory is found by name.
        deliver: told every outcome.
        preserve_ordering: outcomes are delivered in the order of the submissions.
        profile: what batches take, if that is known already.
        hang_limit_s: time that one batch may compute before its instance is given up.
        broken: told when the engine is broken, or all instances hang and none can be renewed any more.
        computed: told every batch before its outcomes are delivered.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        queue: Queue,
        rules: BatchingRules,
        model: str,
        version: str,
        metrics: PredictorMetrics,
        arena: Arena,
        deliver: Deliver,
        *,
        preserve_ordering: bool = False,
        profile: LatencyProfile | None = None,
        hang_limit_s: float = HANG_LIMIT_S,
        broken: Callable[[], None] = lambda: None,
        computed: Computed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._instances = list(engine.instances())
        self.scheduler = Scheduler(queue, rules, [instance.depth for instance in self._instances], profile)
        self._queue = queue
        self._rules = rules
        self._labels = (model, version)
        self._metrics = metrics
        self._statistics = metrics.statistics.of(model, version)
        self._arena = arena
        self._deliver = deliver
        self._in_order = InOrder(self._tell_now) if preserve_ordering else None
        self._clock = clock
        self._running: dict[int, Entry] = {}
        self._tickets: dict[Ticket, tuple[int, Sequence[Entry]]] = {}  # by instance
        self._watchdog = Watchdog(hang_limit_s, clock, self._give_up)
        self._renewals = 0
        self._renewing: set[asyncio.Task[None]] = set()
        self._broken: Callable[[], None] = broken
        self._computed = computed
        self._alarm = Alarm(clock, self._pump)
        self._pumping = self._closed = False
        self.dead = False  # the engine is broken, or all instances hang and none could be renewed
        self._ended = asyncio.Event()  # a batch has
        self.counted = True  # its batches, in metrics and statistics; those of a warm-up are not

    @property
    def depth(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    @property
    def largest_rows(self) -> int:
        """Rows of the largest batch that may be formed, without regard to an SLO; at least 1."""
        return max(1, self._rules.max_rows)

    def learn(self, times: Mapping[int, float]) -> None:
        """Take over measured seconds by number of rows; without any, what is known stays."""
        if times:
            self.scheduler.profile.learn(times)
            self.scheduler.refresh()

    def oldest_s(self) -> float:
        """Age of the oldest waiting request in seconds; 0 without one."""
        oldest = self._queue.oldest()
        return self._clock() - oldest if oldest < _NEVER else 0.0

    def knock(self, deadline: float, rows: int = 1, priority: int = 0) -> None:
        """Ask whether a request that comes now can be answered in time (only with an SLO can it not).

        Raises:
            Overloaded: it cannot.
        """
        try:
            self.scheduler.knock(self._clock(), deadline, rows, priority)
        except CannotMakeIt as refusal:
            raise self._overloaded(str(refusal)) from None

    def submit(self, submission: Submission) -> None:
        """Queue a request. From here on its memory is the batcher's.

        Raises:
            Overloaded: the queue is full, the request could not be answered in time, or the model is being closed. Its
                memory is still the caller's.
        """
        if self._closed:
            raise Overloaded("the model is being unloaded")
        if self.dead:
            raise EngineFailed(DEAD)
        if self._rules.slo_s and submission.deadline < _NEVER:
            self.knock(submission.deadline, submission.rows, submission.priority)
        lease = self._arena.find(submission.slot)
        inputs = arrays(submission, lease.view)
        first = 1 if self._rules.max_rows else 0  # of the dims that must agree
        signature = tuple([(tensor.name, tensor.shape[first:]) for tensor in submission.tensors])
        entry = Entry(
            submission.id,
            submission.rows,
            submission.deadline,
            signature,
            submission.priority,
            submission.queue_timeout_s,
            (lease, inputs),
        )
        self._push(entry)
        lease.queued()
        if self._in_order is not None:
            self._in_order.expect(submission.id)
        self._soon()

    def _push(self, entry: Entry) -> None:
        now = self._clock()
        try:
            try:
                self.scheduler.push(entry, now)
            except QueueFull:
                if not self._pumping:
                    raise
                self._pump()  # some of them need not wait: an instance is idle
                self.scheduler.push(entry, now)
        except QueueFull as full:
            raise self._overloaded(f"{full.waiting} requests are waiting for this model, which is the limit") from None

    def withdraw(self, submission_id: int) -> str:
        """Forget a request nobody waits for; no outcome is delivered.

        Returns:
            Where it stood. What an engine works on is finished, and its memory kept until then.
        """
        where = IN_ENGINE
        if self._running.pop(submission_id, None) is None:
            where = IN_QUEUE
            entry = self._queue.withdraw(submission_id)
            if entry is not None:
                delivery.lease_of(entry).release()
        if self._in_order is not None:
            self._in_order.set(submission_id, None)
        return where

    async def close(self) -> None:
        """Refuse what waits, await what runs, let go of the engine's instances."""
        self._closed = True
        for entry in self._queue.drain():
            self._refuse(entry, Overloaded("the model is being unloaded"))
        self._alarm.off()
        while self._tickets:  # one whose instance hangs is given up, and its ticket with it
            self._ended.clear()
            await self._ended.wait()
        self._watchdog.close()
        if self._renewing:
            await asyncio.wait(self._renewing)
        self._instances.clear()

    def _soon(self) -> None:
        """Launch what waits, but not at once: what the loop receives in the same turn shall share the batch."""
        if self._pumping or not len(self._queue):
            return
        if self.scheduler.idle_lane() is not None:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._gather, self._clock(), len(self._queue))
        else:
            self._alarm.set(self._queue.next_timeout())

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
        while True:
            turn = self.scheduler.turn(self._clock())
            for entry in turn.expired:
                why = f"time in the queue was over after {(self._clock() - entry.enqueued) * 1e3:.4g} ms"
                self._refuse(entry, DeadlineExceeded(f"the request's {why}"))
            for entry in turn.late:
                self._refuse(entry, self._overloaded("the request could not have been answered in time any more"))
            if not turn.batch:
                self._alarm.set(turn.wake_at)
                return
            self._launch(turn.batch, turn.lane)

    def _launch(self, batch: Sequence[Entry], lane: int) -> None:
        rows, inputs = sum([entry.rows for entry in batch]), []
        for entry in batch:
            lease, arrays_ = entry.owned
            lease.staged()
            inputs.append(arrays_)
            self._running[entry.id] = entry
        try:
            ticket: Ticket = self._instances[lane].submit(inputs, rows)
        except Exception as error:
            self.scheduler.done(lane, rows, self._clock(), failed=True)
            delivery.give_back(batch)
            self._fail(batch, error)
            return
        self._tickets[ticket] = lane, batch
        self._watchdog.began(lane)
        ticket.inputs_free.add_done_callback(partial(delivery.give_back, batch))
        ticket.done.add_done_callback(partial(self._finish, batch, rows, lane, ticket))

    def _finish(
        self, batch: Sequence[Entry], rows: int, lane: int, ticket: Ticket, done: asyncio.Future[Outputs]
    ) -> None:
        if self._tickets.pop(ticket, None) is None:
            delivery.let_go(done)  # its instance was given up, and nobody waits for it any more
            return
        self._watchdog.ended(lane)
        error: BaseException | None = done.exception() if not done.cancelled() else asyncio.CancelledError()
        now = self._clock()
        elapsed = self.scheduler.done(lane, rows, now, failed=error is not None)
        if self.counted:
            self._metrics.batch_size.observe(rows, self._labels)
            self._metrics.busy_seconds.add(self._labels, elapsed)
            if error is None:
                self._statistics.executed(rows, 0, int(elapsed * 1e9), 0)
        # The instance is free, and gets its next batch when these answers are written: until then its thread could not
        # have the interpreter, and would only fight for it. Who cannot spare that moment has a depth of 2.
        self._soon()
        if error is None:
            if self._computed is not None:
                self._computed(batch, rows, now - elapsed, now)
            error = self._hand_out(batch, rows, done.result(), now - elapsed, elapsed)
        if error is not None:
            self._fail(batch, error)
        self._ended.set()

    def _give_up(self, lane: int) -> None:
        """An instance hangs. Its requests are answered; their memory stays theirs, since it may still be read."""
        model, version = self._labels
        held = [(ticket, batch) for ticket, (of, batch) in self._tickets.items() if of == lane]
        log.error("engine_hangs", extra={"model": model, "version": version, "instance": lane, "batches": len(held)})
        self.scheduler.retire(lane)
        for ticket, batch in held:
            del self._tickets[ticket]
            for entry in batch:
                if self._running.pop(entry.id, None) is not None:
                    self._tell(entry.id, Outcome(None, DeadlineExceeded("the engine does not answer")))
        self._ended.set()
        task = asyncio.get_running_loop().create_task(self._renew(lane))
        self._renewing.add(task)
        task.add_done_callback(self._renewing.discard)

    async def _renew(self, lane: int) -> None:
        """Put a new instance in a hanging one's place, a few times; without any, the model is broken."""
        if self._closed:
            return  # nobody asks it any more
        can = True
        if self._renewals < MAX_RENEWALS:
            self._renewals += 1
            try:
                instance = await asyncio.to_thread(self._engine.renew, lane)
            except Exception:
                log.exception("engine_not_renewed", extra={"model": self._labels[0], "instance": lane})
            else:
                can = instance is not None
                if instance is not None:
                    self._instances[lane] = instance
                    self.scheduler.restore(lane, instance.depth)
                    self._soon()
        if not can or not self.scheduler.working:
            self._die()

    def _die(self) -> None:
        """The engine will not answer any more: who waits is told, and nobody is queued again."""
        if not self.dead:
            self.dead = True
            for entry in self._queue.drain():
                self._refuse(entry, EngineFailed(DEAD))
            self._broken()

    def _hand_out(
        self, batch: Sequence[Entry], rows: int, outputs: Outputs, started: float, elapsed: float
    ) -> Exception | None:
        """Hand every caller its rows; returns an error if the engine broke its contract."""
        leased = outputs if isinstance(outputs, LeasedOutputs) else None
        batched = self._rules.max_rows != 0
        try:
            try:
                delivery.check_outputs(outputs, rows if batched else None)
            except Exception as error:
                return error
            for entry, own in zip(batch, delivery.shares(batch, outputs), strict=True):
                if self._running.pop(entry.id, None) is not None:
                    release = None
                    if leased is not None:
                        leased.hold()
                        release = Once(leased.release)
                    self._tell(entry.id, Outcome(own, None, started - entry.enqueued, elapsed, release))
            return None
        finally:
            if leased is not None:
                leased.release()

    def _tell(self, submission_id: int, outcome: Outcome) -> None:
        """Deliver one outcome, now or when its turn has come."""
        if self._in_order is not None:
            self._in_order.set(submission_id, outcome)
        else:
            self._tell_now(submission_id, outcome)

    def _tell_now(self, submission_id: int, outcome: Outcome) -> None:
        """Deliver one outcome; what goes wrong there is not the others' matter."""
        try:
            self._deliver(submission_id, outcome)
        except Exception:
            if outcome.release is not None:
                outcome.release()
            log.exception("delivery_failed", extra={"model": self._labels[0], "version": self._labels[1]})

    def _refuse(self, entry: Entry, error: SaccadeError) -> None:
        """Give back the memory of one who waited, and say why."""
        delivery.lease_of(entry).release()
        self._tell(entry.id, Outcome(None, error, queue_s=self._clock() - entry.enqueued))

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded(message, self.scheduler.retry_after_s())

    def _fail(self, batch: Sequence[Entry], error: BaseException) -> None:
        model, version = self._labels
        log.error(
            "batch_failed",
            extra={"model": model, "version": version, "requests": len(batch), "why": repr(error)[:500]},
        )
        failure = f"the engine of model {model!r} failed on this batch; the log has the cause"
        for entry in batch:
            if self._running.pop(entry.id, None) is not None:
                self._tell(entry.id, Outcome(None, EngineFailed(failure)))
        if isinstance(error, EngineBroken):
            self._die()
