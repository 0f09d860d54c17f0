"""An instance of a plan: two threads, each with a buffer set, that issue batches and sleep until they are done.

Two, since a thread that sleeps until one batch is done cannot issue the next, and the device would wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

from saccade_predictor.engines.bufferset import BufferSet, Issued
from saccade_predictor.engines.cuda import Device, DeviceBroken
from saccade_predictor.engines.engine import EngineBroken, Inputs, LeasedOutputs, Outputs, Ticket
from saccade_predictor.engines.planexecutor import DEPTH, Executor, copies

log = logging.getLogger("saccade.tensorrt")

#: Time that a batch in flight is given to end when the engine is closed.
CLOSE_S = 5.0


@dataclass(slots=True, eq=False)
class _Job:
    loop: asyncio.AbstractEventLoop
    requests: Sequence[Inputs]
    rows: int
    ticket: Ticket


_Work: TypeAlias = "SimpleQueue[_Job | None]"


class PlanInstance:
    """See the module.

    Args:
        device: where it runs.
        executor: does the work; the instance's own.
        name: of its threads.
        used: called on the event loop before the first batch.
    """

    depth = DEPTH

    def __init__(self, device: Device, executor: Executor, name: str, used: Callable[[], None]) -> None:
        self._device = device
        self.executor = executor
        self._used: Callable[[], None] | None = used
        self._work: _Work = SimpleQueue()
        # Daemons: a call that hangs in the driver must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._serve, args=(own,), name=f"{name}-{number}", daemon=True)
            for number, own in enumerate(executor.sets)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, requests: Sequence[Inputs], rows: int) -> Ticket:
        """Hand a batch to a thread; see ``Instance``."""
        if self._device.broken:
            raise DeviceBroken(self._device.broken)
        used, self._used = self._used, None
        if used is not None:
            used()
        loop = asyncio.get_running_loop()
        ticket = Ticket(loop.create_future(), loop.create_future())
        self._work.put(_Job(loop, requests, rows, ticket))
        return ticket

    def close(self) -> bool:
        """End the threads after the batches they work on, then free what they used.

        Returns:
            Whether that could be done; what a thread that hangs uses stays as it is.
        """
        if self._device.broken:
            return False  # nothing can be freed, and a thread of a broken device is better not ended
        for _ in self._threads:
            self._work.put(None)
        ends = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        with self._device.current():
            self.executor.close()
        return True

    def _serve(self, own: BufferSet) -> None:
        with self._device.current():
            while (job := self._work.get()) is not None:
                try:
                    self._run(own, job)
                except RuntimeError as error:
                    if not job.loop.is_closed():
                        log.exception("instance_ended", exc_info=error)
                    return  # the loop is closed: nobody waits any more
                del job  # not held while waiting for the next batch

    def _run(self, own: BufferSet, job: _Job) -> None:
        """One batch, from its copies in to its end.

        Raises:
            RuntimeError: the loop is closed.
        """
        tell, ticket = job.loop.call_soon_threadsafe, job.ticket
        issued: Issued | None = None
        failure: BaseException | None = None
        try:
            issued = self.executor.issue(own, job.requests, job.rows)
            own.copied.wait()
        except BaseException as error:
            # Its frames hold the requests' memory, which is somebody else's from now on.
            failure = self._settled(own, error.with_traceback(None))
        job.requests = ()  # not held longer than they are needed
        if not isinstance(failure, EngineBroken):  # nobody knows who still reads in a broken device's name
            tell(_free, ticket)
        outputs: Outputs = {}
        if failure is None:
            assert issued is not None
            try:
                own.done.wait()
                outputs = self._handed_out(issued)
            except BaseException as error:
                failure = self._settled(own, error.with_traceback(None))
        if failure is not None and issued is not None and not isinstance(failure, EngineBroken):
            self.executor.blocks.give(issued.block)
        tell(_complete, ticket, outputs, failure)

    def _settled(self, own: BufferSet, failure: BaseException) -> BaseException:
        """Wait until nothing of a failed batch is in flight.

        Returns:
            The failure, or ``DeviceBroken`` where that cannot be known: its memory must not be used again.
        """
        if isinstance(failure, EngineBroken):
            return failure
        try:
            self.executor.settle(own)
        except EngineBroken as broken:
            return broken
        except BaseException as error:
            log.error("batch_not_settled", extra={"why": repr(error), "after": repr(failure)})
            return DeviceBroken(str(error))
        return failure

    def _handed_out(self, issued: Issued) -> Outputs:
        """The outputs as they lie in their block, or copies where too many blocks are lent."""
        blocks, block = self.executor.blocks, issued.block
        arrays = self.executor.arrays(issued)
        if blocks.lend():
            return LeasedOutputs(arrays, partial(blocks.give, block, True))
        copied = copies(arrays)
        blocks.give(block)
        return copied


def _free(ticket: Ticket) -> None:
    if not ticket.inputs_free.done():
        ticket.inputs_free.set_result(None)


def _complete(ticket: Ticket, outputs: Outputs, failure: BaseException | None) -> None:
    if ticket.done.done():
        if isinstance(outputs, LeasedOutputs):
            outputs.release()
    elif failure is None:
        ticket.done.set_result(outputs)
    else:
        ticket.done.set_exception(failure)
