"""Warm-up: real inferences before a model says it is ready, so that the first client pays for nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

import numpy as np

from saccade_serving.errors import EngineFailed, InvalidRequest
from saccade_serving.memory.arena import ArenaFull
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import Tensor, TensorMetadata

log = logging.getLogger("saccade.warmup")

#: Time the slowest engine may take for its first batch.
TIMEOUT_S: Final = 600.0
#: How often a batch size is measured, and for how long at most unless twice takes longer.
RUNS: Final = 8
MEASURE_S: Final = 2.0
#: No warm-up has more; a text element counts as what it takes in memory.
MAX_BYTES: Final = 2**30
_BYTES_ELEMENT: Final = 64
#: Sizes tried for open dimensions, smallest first: what fits one graph is too small, or no multiple, for another.
OPEN_DIMS: Final = (1, 32, 224, 640)


#: Sends what a function makes, in a thread, through the model; returns the seconds it was computed.
Infer: TypeAlias = Callable[[Callable[[], Sequence[Tensor]]], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that a model's configuration wants it to be warmed up with.

    Attributes:
        rows: that it brings, all alike.
        count: how often it is sent.
        row: one row of each input; the full tensor where the model has no batches.
    """

    name: str
    rows: int
    count: int
    row: Sequence[Tensor]

    def tensors(self, rows: int) -> list[Tensor]:
        """Its inputs with so many rows."""
        return [_repeated(tensor, rows) if rows > 1 else tensor for tensor in self.row]


async def run(
    infer: Infer,
    inputs: Sequence[TensorMetadata],
    max_batch_size: int,
    model: str,
    samples: Sequence[Sample] = (),
) -> None:
    """Send the samples; without any, zeros: once one row and, for batched models, once the largest batch.

    Without samples, a model with open dimensions is tried in a few sizes; if it runs in none of them, a warning says
    that it was not warmed up, since its config cannot say which sizes it takes. So it does for a batch larger than one
    request may be.

    Args:
        infer: sends the inputs that a function makes through the model, as a request would.
        inputs: the model's, as a client sees them.
        max_batch_size: 0 for a model without a batch dimension.
        model: name, for the log.
        samples: from the model's configuration.

    Raises:
        EngineFailed: the engine cannot run its own model, whose dimensions are all known, or a sample.
        SaccadeError: a sample cannot be sent.
    """
    for sample in samples:
        begun = time.monotonic()
        for _ in range(sample.count):
            await infer(partial(sample.tensors, sample.rows))
        ms = round((time.monotonic() - begun) * 1e3, 1)
        log.info("warmed_up", extra={"model": model, "sample": sample.name, "rows": sample.rows, "ms": ms})
    if samples:
        return
    batched = bool(max_batch_size)
    is_open = any(-1 in tensor.shape[batched:] for tensor in inputs)
    for rows in sorted({1, max_batch_size or 1}):
        for side in OPEN_DIMS if is_open else OPEN_DIMS[:1]:
            begun = time.monotonic()
            try:
                await infer(partial(_all_zeros, inputs, rows, batched, side))
            except EngineFailed:
                if not is_open:
                    raise
                continue
            except (ArenaFull, InvalidRequest):
                continue
            ms = round((time.monotonic() - begun) * 1e3, 1)
            log.info("warmed_up", extra={"model": model, "rows": rows, "ms": ms})
            break
        else:
            log.warning("not_warmed_up", extra={"model": model, "rows": rows, "tried": list(OPEN_DIMS)})


async def measure(
    infer: Infer,
    inputs: Sequence[TensorMetadata],
    largest: int,
    model: str,
    samples: Sequence[Sample] = (),
) -> dict[int, float]:
    """Measure what batches take, for a model with an SLO: sizes 1, 2, 4 and so on, and the largest.

    Args:
        infer: sends the inputs that a function makes through the model; returns the seconds it was computed.
        inputs: the model's.
        largest: rows of the largest batch.
        model: name, for the log.
        samples: the first one's row is measured with; without any, zeros.

    Returns:
        Seconds by number of rows: of a few runs the slowest but one, since what is planned with is what nearly all
        batches keep. Sizes that the engine cannot run are left out.
    """
    times: dict[int, float] = {}
    sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest] + [largest]
    is_open = any(-1 in tensor.shape[1:] for tensor in inputs)
    side = OPEN_DIMS[-1] if is_open else OPEN_DIMS[0]
    for rows in sizes:
        taken: list[float] = []
        make = partial(samples[0].tensors, rows) if samples else partial(_all_zeros, inputs, rows, True, side)
        ends = time.monotonic() + MEASURE_S
        try:
            while len(taken) < RUNS and (len(taken) < 2 or time.monotonic() < ends):
                taken.append(await infer(make))
        except (EngineFailed, ArenaFull, InvalidRequest) as error:
            log.warning("not_measured", extra={"model": model, "rows": rows, "why": str(error)})
            continue
        times[rows] = max(sorted(taken)[-2], 1e-6)
    milliseconds = {rows: round(seconds * 1e3, 3) for rows, seconds in times.items()}
    log.info("measured", extra={"model": model, "batch_ms": milliseconds})
    return times


def _all_zeros(inputs: Sequence[TensorMetadata], rows: int, batched: bool, side: int) -> list[Tensor]:
    """Inputs of zeros.

    Raises:
        InvalidRequest: they would be larger than any request.
    """
    size = 0
    for tensor in inputs:
        itemsize = _BYTES_ELEMENT if tensor.datatype == "BYTES" else NUMPY_DTYPES[tensor.datatype].itemsize
        dims = tuple(side if dim < 0 else dim for dim in tensor.shape[batched:])
        size += math.prod(dims) * itemsize * (rows if batched else 1)
    if size > MAX_BYTES:
        raise InvalidRequest(f"a warm-up of {size} bytes; the limit is {MAX_BYTES}")
    return [_zeros(tensor, rows, batched, side) for tensor in inputs]


def _zeros(tensor: TensorMetadata, rows: int, batched: bool, side: int) -> Tensor:
    dims = tuple(side if size < 0 else size for size in tensor.shape)
    if batched:
        dims = (rows, *dims[1:])
    if tensor.datatype == "BYTES":
        return Tensor.of_bytes(tensor.name, dims, [b""] * math.prod(dims))
    return Tensor(tensor.name, tensor.datatype, dims, np.zeros(dims, NUMPY_DTYPES[tensor.datatype]))


def _repeated(tensor: Tensor, rows: int) -> Tensor:
    shape = (rows, *tensor.shape[1:])
    if isinstance(tensor.data, np.ndarray):
        return replace(tensor, shape=shape, data=np.repeat(tensor.data, rows, axis=0))
    return replace(tensor, shape=shape, data=list(tensor.data) * rows)
