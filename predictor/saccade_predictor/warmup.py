"""Warm-up: real inferences before a model says it is ready, so that the first client pays for nothing."""

from __future__ import annotations

import logging
import time
from typing import Final

import numpy as np

from saccade_predictor.batcher import Batcher
from saccade_predictor.engines.engine import EngineDescription
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import EngineFailed
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import TensorMetadata

log = logging.getLogger("saccade.warmup")

#: Time the slowest engine may take for its first batch.
TIMEOUT_S: Final = 600.0
#: Sizes tried for open dimensions, smallest first: what fits one graph is too small, or no multiple, for another.
OPEN_DIMS: Final = (1, 32, 224, 640)


async def run(batcher: Batcher, description: EngineDescription, max_batch_size: int, model: str) -> None:
    """Infer zeros once with one row and, for batched models, once with the largest batch.

    A model with open dimensions is tried in a few sizes; if it runs in none of them, a warning says that it was not
    warmed up, since its config cannot say which sizes it takes.

    Raises:
        EngineFailed: the engine cannot run its own model, whose dimensions are all known.
    """
    batched = bool(max_batch_size)
    is_open = any(-1 in tensor.shape[batched:] for tensor in description.inputs)
    for rows in sorted({1, max_batch_size or 1}):
        for side in OPEN_DIMS if is_open else OPEN_DIMS[:1]:
            begun = time.monotonic()
            inputs = {tensor.name: _zeros(tensor, rows, batched, side) for tensor in description.inputs}
            try:
                await batcher.submit(inputs, rows, Exchange.begin("warmup", {}, TIMEOUT_S))
            except EngineFailed:
                if not is_open:
                    raise
                continue
            ms = round((time.monotonic() - begun) * 1e3, 1)
            log.info("warmed_up", extra={"model": model, "rows": rows, "ms": ms})
            break
        else:
            log.warning("not_warmed_up", extra={"model": model, "rows": rows, "tried": list(OPEN_DIMS)})


def _zeros(tensor: TensorMetadata, rows: int, batched: bool, side: int) -> np.ndarray:
    dims = [side if size < 0 else size for size in tensor.shape]
    if batched:
        dims[0] = rows
    if tensor.datatype == "BYTES":
        return np.full(dims, b"", dtype=object)
    return np.zeros(dims, NUMPY_DTYPES[tensor.datatype])
