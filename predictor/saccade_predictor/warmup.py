"""Warm-up: real inferences before a model says it is ready, so that the first client pays for nothing."""

from __future__ import annotations

import logging
import time
from typing import Final

import numpy as np

from saccade_predictor.batcher import Batcher
from saccade_predictor.engines.engine import EngineDescription, Inputs
from saccade_serving.connection.exchange import Exchange
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import TensorMetadata

log = logging.getLogger("saccade.warmup")

#: Time the slowest engine may take for its first batch.
TIMEOUT_S: Final = 600.0
#: Size put in for a variable dimension.
VARIABLE_DIM: Final = 1


async def run(batcher: Batcher, description: EngineDescription, max_batch_size: int, model: str) -> None:
    """Infer zeros once with one row and, for batched models, once with the largest batch.

    Raises:
        EngineFailed: the engine cannot run its own model.
    """
    for rows in sorted({1, max_batch_size or 1}):
        begun = time.monotonic()
        exchange = Exchange.begin("warmup", {}, TIMEOUT_S)
        await batcher.submit(_zeros(description, rows, bool(max_batch_size)), rows, exchange)
        log.info("warmed_up", extra={"model": model, "rows": rows, "ms": round((time.monotonic() - begun) * 1e3, 1)})


def _zeros(description: EngineDescription, rows: int, batched: bool) -> Inputs:
    return {tensor.name: _zero(tensor, rows, batched) for tensor in description.inputs}


def _zero(tensor: TensorMetadata, rows: int, batched: bool) -> np.ndarray:
    dims = [VARIABLE_DIM if size < 0 else size for size in tensor.shape]
    if batched:
        dims[0] = rows
    if tensor.datatype == "BYTES":
        return np.full(dims, b"", dtype=object)
    return np.zeros(dims, NUMPY_DTYPES[tensor.datatype])
