"""The loop that measures batches, whatever executes them: latency one at a time, throughput with several in flight.

Knows no engine: a ``Lane`` may be a raw TensorRT context, an engine of the predictor, or a fake.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from measuring.summary import percentile
from saccade_predictor.engines.engine import Inputs, Instance, LeasedOutputs
from saccade_serving.memory.arena import Arena, Lease
from saccade_serving.oip.datatypes import BYTES, NUMPY_DTYPES
from saccade_serving.oip.messages import TensorMetadata

_SEED: Final = 20261127


class Lane(Protocol):
    """Takes batches of one size. Belongs to one thread and one event loop."""

    @property
    def rows(self) -> int:
        """Of every batch."""

    @property
    def depth(self) -> int:
        """Batches it may hold at once."""

    async def give(self) -> Any:
        """Begin a batch; returns what ``finish`` is called with."""

    async def finish(self, given: Any) -> None:
        """Wait until that batch is done. Batches are finished in the order in which they were given."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured of each phase: for ``seconds``, but at least ``least`` batches.

    Attributes:
        warmup: batches before.
    """

    seconds: float = 5.0
    least: int = 50
    warmup: int = 20


@dataclass(frozen=True, slots=True)
class Timed:
    """What a lane took.

    Attributes:
        rows: of a batch.
        batches: measured one at a time.
        p50_ms: from giving a batch to having it, one at a time; ``p99_ms`` likewise.
        looped: batches with ``depth`` in flight.
        per_s: rows per second of these.
    """

    rows: int
    batches: int
    p50_ms: float
    p99_ms: float
    looped: int
    per_s: float


async def time_lane(lane: Lane, effort: Effort, clock: Callable[[], float] = time.perf_counter) -> Timed:
    """Measure a lane: first one batch at a time, then as many in flight as it may hold."""
    for _ in range(effort.warmup):
        await lane.finish(await lane.give())
    latencies_s: list[float] = []
    ends = clock() + effort.seconds
    while len(latencies_s) < effort.least or clock() < ends:
        begun = clock()
        await lane.finish(await lane.give())
        latencies_s.append(clock() - begun)
    looped, wall_s = await _loop(lane, effort, clock)
    p50_ms, p99_ms = (percentile(latencies_s, share) * 1e3 for share in (0.5, 0.99))
    return Timed(lane.rows, len(latencies_s), p50_ms, p99_ms, looped, looped * lane.rows / wall_s)


async def _loop(lane: Lane, effort: Effort, clock: Callable[[], float]) -> tuple[int, float]:
    """Keep the lane full; returns the batches done and the seconds from the first given to the last done."""
    given: deque[Any] = deque()
    done = 0
    begun = clock()
    while done + len(given) < effort.least or clock() - begun < effort.seconds:
        if len(given) == lane.depth:
            await lane.finish(given.popleft())
            done += 1
        given.append(await lane.give())
    while given:
        await lane.finish(given.popleft())
        done += 1
    return done, clock() - begun


class InstanceLane:
    """An instance of an engine, as the batcher drives it: every request one row, in the arena, outputs given back.

    Args:
        instance: of any engine.
        requests: of one batch, a row each; their memory stays as it is.
    """

    def __init__(self, instance: Instance, requests: Sequence[Inputs]) -> None:
        self._instance = instance
        self._requests = requests
        self.rows = len(requests)
        self.depth = instance.depth

    async def give(self) -> Any:
        """See ``Lane``."""
        return self._instance.submit(self._requests, self.rows)

    async def finish(self, given: Any) -> None:
        """See ``Lane``.

        Raises:
            ValueError: an output has not as many rows as the batch.
        """
        outputs = await given.done
        await given.inputs_free
        counts = {name: array.shape[0] for name, array in outputs.items()}
        if isinstance(outputs, LeasedOutputs):
            outputs.release()
        if set(counts.values()) != {self.rows}:
            raise ValueError(f"a batch of {self.rows} rows was answered with {counts}")


def rows_of(tensors: Sequence[TensorMetadata], count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Requests of one row each, random, the same ones each time.

    Args:
        tensors: a model's inputs, the batch in front.
        count: how many.

    Raises:
        ValueError: an input is of strings, or leaves a dimension behind the batch open.
    """
    random = np.random.default_rng(_SEED)
    for _ in range(count):
        yield {tensor.name: _row(tensor, random) for tensor in tensors}


def _row(tensor: TensorMetadata, random: np.random.Generator) -> NDArray[Any]:
    shape = (1, *tensor.shape[1:])
    if tensor.datatype == BYTES or min(shape) < 1:
        raise ValueError(
            f"input {tensor.name!r} is {tensor.datatype} {list(tensor.shape)}; only numbers are measured, of a fixed "
            "size behind the batch"
        )
    dtype = NUMPY_DTYPES[tensor.datatype]
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return random.random(shape, np.float32).astype(dtype)


def place(arena: Arena, requests: Iterator[Inputs]) -> tuple[list[Inputs], list[Lease]]:
    """Put requests where the predictor receives them: every tensor in a slot of its own in the arena."""
    placed: list[Inputs] = []
    leases: list[Lease] = []
    for request in requests:
        arrays = {}
        for name, array in request.items():
            lease = arena.lease(array.nbytes)
            arrays[name] = np.frombuffer(lease.view[: array.nbytes], array.dtype).reshape(array.shape)
            arrays[name][...] = array
            lease.queued()
            lease.staged()
            leases.append(lease)
        placed.append(arrays)
    return placed, leases
