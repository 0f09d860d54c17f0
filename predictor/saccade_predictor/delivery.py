"""What becomes of a submission and its memory, and how it is told: once, and in order where the model asks for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from saccade_predictor.engines.engine import LeasedOutputs, Outputs
from saccade_serving.errors import SaccadeError
from saccade_serving.memory.arena import Lease
from saccade_serving.scheduling.queue import Entry


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


#: Told a batch: its requests, its rows, when it began and ended to compute.
Computed = Callable[[Sequence[Entry], int, float, float], None]
#: Told the outcome of a submission by its id, once, unless it was withdrawn.
Deliver = Callable[[int, Outcome], None]


class InOrder:
    """Delivers outcomes in the order in which their submissions were expected."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._order: deque[int] = deque()
        self._outcomes: dict[int, Outcome | None] = {}

    def expect(self, submission_id: int) -> None:
        """Note a submission whose outcome will come."""
        self._order.append(submission_id)

    def set(self, submission_id: int, outcome: Outcome | None) -> None:
        """Its outcome; None when it was withdrawn. Delivers all whose turn has come."""
        known = self._outcomes.get(submission_id)
        if known is not None and known.release is not None:
            known.release()  # it was ready, and withdrawn before its turn came
        self._outcomes[submission_id] = outcome
        order, outcomes = self._order, self._outcomes
        while order and order[0] in outcomes:
            first = order.popleft()
            ready = outcomes.pop(first)
            if ready is not None:
                self._deliver(first, ready)


class Once:
    """Calls a function the first time it is called itself."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        """Call it, if that has not been done."""
        call, self._call = self._call, None
        if call is not None:
            call()


def lease_of(entry: Entry) -> Lease:
    """The memory of a request in a batcher's queue."""
    lease: Lease = entry.owned[0]  # the batcher's own; behind it stand the arrays
    return lease


def give_back(batch: Sequence[Entry], _inputs_free: object = None) -> None:
    """The engine has read a batch's inputs: their memory may be used again."""
    for entry in batch:
        lease_of(entry).release()


def let_go(done: asyncio.Future[Outputs]) -> None:
    """Outputs have come that nobody wants any more."""
    if not done.cancelled() and done.exception() is None:
        outputs = done.result()
        if isinstance(outputs, LeasedOutputs):
            outputs.release()


def shares(batch: Sequence[Entry], outputs: Outputs) -> list[Outputs]:
    """The rows of the outputs that each request of a batch has, as views; who is alone has all of them."""
    if len(batch) == 1:
        return [outputs]
    parts: list[Outputs] = []
    at = 0
    for entry in batch:
        end = at + entry.rows
        parts.append({name: array[at:end] for name, array in outputs.items()})
        at = end
    return parts


def check_outputs(outputs: Outputs, rows: int | None) -> None:
    """Hold an engine to its contract: every output has a row for each row of the batch.

    Args:
        outputs: an engine may hand out anything.
        rows: of the batch; None for a model without batches, whose outputs may have any shape.

    Raises:
        ValueError: one has not.
    """
    for name, array in outputs.items():
        got = array.shape[0] if array.ndim else 0
        if rows is not None and got != rows:
            raise ValueError(f"output {name!r} has {got} rows for a batch of {rows}")
