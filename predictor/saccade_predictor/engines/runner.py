"""Adapts a blocking ``run(requests, rows) -> outputs`` to ``Instance``: one thread, one batch at a time."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence

from saccade_predictor.engines.engine import Inputs, Outputs, Ticket

Run = Callable[[Sequence[Inputs], int], Outputs]


class RunnerInstance:
    """An instance of depth 1 around a blocking function.

    The thread is a daemon: a call that hangs in native code must not keep the process from ending.
    """

    depth = 1

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._work: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Sequence[Inputs], int, Ticket] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Inputs], rows: int) -> Ticket:
        """Hand a batch to the thread."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(loop.create_future(), loop.create_future())
        self._work.put((loop, requests, rows, ticket))
        return ticket

    def close(self, timeout_s: float = 2.0) -> None:
        """End the thread after the batch it works on."""
        self._work.put(None)
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            loop, requests, rows, ticket = item
            outputs: Outputs = {}
            failure: BaseException | None = None
            try:
                outputs = self._run(requests, rows)
            except BaseException as error:
                # Its frames hold the requests' memory, which is somebody else's from now on.
                failure = error.with_traceback(None)
            try:
                loop.call_soon_threadsafe(_complete, ticket, outputs, failure)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del loop, requests, item, ticket, outputs, failure  # not held while waiting for the next batch


def _complete(ticket: Ticket, outputs: Outputs, failure: BaseException | None) -> None:
    """Both at once, the answers first: somebody waits for them, and for the inputs' memory nobody."""
    if not ticket.done.done():
        if failure is None:
            ticket.done.set_result(outputs)
        else:
            ticket.done.set_exception(failure)
    if not ticket.inputs_free.done():
        ticket.inputs_free.set_result(None)
