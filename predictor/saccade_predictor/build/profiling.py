"""``saccade-build profile``: measures a model's batches on this machine, and derives what an autoscaler needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade_predictor import warmup
from saccade_predictor.batchingconfig import make_rules
from saccade_predictor.engines.engine import Instance
from saccade_predictor.loading import load_engines
from saccade_predictor.repository import ModelDirectory
from saccade_serving.cpus import container_cpus
from saccade_serving.oip.datatypes import BYTES
from saccade_serving.oip.messages import Tensor, TensorMetadata
from saccade_serving.scheduling.autoscaling import TARGET_LOAD, Autoscaling, derive
from saccade_serving.scheduling.profile import LatencyProfile


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's profile and what follows.

    Attributes:
        model: name and version.
        times: seconds by number of rows.
        slo_ms: 0 for none.
        instances: of one replica.
        autoscaling: what follows.
    """

    model: str
    times: dict[int, float]
    slo_ms: float
    instances: int
    autoscaling: Autoscaling

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        found = self.autoscaling
        yield f"{self.model}, {self.instances} instance(s), {f'SLO {self.slo_ms:g} ms' if self.slo_ms else 'no SLO'}"
        yield "  rows  ms per batch  rows per second"
        for rows, seconds in self.times.items():
            yield f"{rows:6}  {seconds * 1e3:12.2f}  {rows / seconds:15.1f}"
        yield f"largest batch{' that keeps the SLO (B*)' if self.slo_ms else ''}: {found.largest} rows"
        yield f"capacity of a replica: {found.capacity:.1f} rows per second"
        yield f"autoscaling target (concurrency, at {TARGET_LOAD:.0%} of capacity): {found.soft_target}"
        yield f"containerConcurrency: 0; if there has to be a hard limit, at least {found.hard_limit}"
        profile = ",".join(f"{rows}:{seconds * 1e3:.4g}" for rows, seconds in self.times.items())
        yield f"to replay recorded traffic on this: bench/replay.py --trace FILE --profile {profile}"
        if self.slo_ms and self.times[min(self.times)] * 1e3 > self.slo_ms:
            yield "note: one row alone takes longer than the SLO"


def measure(directory: Path, threads: int, slo_ms: float | None) -> Measured:
    """Measure the newest version that is served.

    Args:
        directory: the model's.
        threads: of a CPU instance; 0 is what the predictor would take.
        slo_ms: instead of the configured one.

    Raises:
        RepositoryError, ValueError: the model cannot be loaded, or not run at all.
    """
    loaded = load_engines(ModelDirectory(directory.name, directory), threads or max(1, container_cpus() - 1))
    newest = loaded[-1]
    config = newest.config
    instances = newest.engine.instances()
    batch = (-1,) if config.max_batch_size else ()
    inputs = [TensorMetadata(one.name, one.datatype, (*batch, *one.dims)) for one in config.inputs]
    if not batch:
        raise ValueError(f"{config.name} has no batches (max_batch_size 0), so there is nothing to choose")
    try:
        times = asyncio.run(_measure(instances[0], inputs, config.max_batch_size, config.name))
    finally:
        for one in loaded:
            one.engine.close()
    if not times:
        raise ValueError(f"{config.name} could not be run with any batch size")
    chosen_ms = config.slo_ms if slo_ms is None else slo_ms
    rules = make_rules(config.dynamic_batching, config.max_batch_size, chosen_ms)
    found = derive(LatencyProfile(times), rules, len(instances), max(one.depth for one in instances))
    return Measured(f"{config.name} version {newest.version}", times, chosen_ms, len(instances), found)


async def _measure(instance: Instance, inputs: Sequence[TensorMetadata], largest: int, model: str) -> dict[int, float]:
    async def infer(make: Callable[[], Sequence[Tensor]]) -> float:
        tensors = make()
        arrays = {tensor.name: _as_array(tensor) for tensor in tensors}
        begun = time.monotonic()
        await instance.submit([arrays], tensors[0].shape[0]).done
        return time.monotonic() - begun

    return await warmup.measure(infer, inputs, largest, model)


def _as_array(tensor: Tensor) -> NDArray[Any]:
    """As an engine takes it: BYTES are object arrays."""
    if tensor.datatype != BYTES:
        return tensor.array
    array = np.empty(len(tensor.elements), dtype=object)
    array[:] = [bytes(element) for element in tensor.elements]
    return array.reshape(tensor.shape)
