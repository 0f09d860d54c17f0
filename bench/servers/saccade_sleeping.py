"""Saccade's own server with one model in SLO mode whose engine sleeps: ``sleeping``.

Everything but the engine is the predictor's: data plane, door, batcher, scheduler, the profile measured before it is
ready. The engine takes the times of ``servers.sleeping``, reads one byte of each request as the others do, and uses no
CPU worth mentioning.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from saccade_predictor.batchingconfig import DynamicBatching
from saccade_predictor.engines.engine import EngineDescription, Inputs, Outputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import Loadable, LoadedEngine, Surroundings
from saccade_serving.memory.arena import Arena
from saccade_serving.model import ServedModel
from saccade_serving.oip.messages import TensorMetadata
from servers.noop import INPUT, OUTPUT
from servers.one_instance import OneInstance
from servers.saccade_noop import first_bytes, serve
from servers.sleeping import JITTER, MAX_BATCH_SIZE, MODEL, SLO_S, profile

MAX_QUEUE_SIZE: Final = 1024
#: Of the small request; with the dimensions known, the profile is measured with pictures of its size.
_DIMS: Final = (8, 8, 3)


class SleepingEngine(OneInstance):
    """Small pictures in, one number per row out, after the profile's time."""

    def __init__(self) -> None:
        self._profile = profile()
        self._chance = random.Random(0)
        inputs = [TensorMetadata(INPUT, "UINT8", (-1, *_DIMS))]
        super().__init__(self._run, EngineDescription("sleeping", inputs, [TensorMetadata(OUTPUT, "FP32", (-1,))]))

    def _run(self, requests: Sequence[Inputs], rows: int) -> Outputs:
        ends = time.monotonic() + self._profile.seconds(rows) * (1 - self._chance.uniform(0, JITTER))
        answer = first_bytes(requests, rows)
        time.sleep(max(0.0, ends - time.monotonic()))
        return answer


def find(_directory: ModelDirectory) -> list[Loadable]:
    """One version, as ``config.pbtxt`` with ``dynamic_batching`` and ``slo_ms`` says."""
    config = ModelConfig(
        name=MODEL,
        backend="onnxruntime",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=(TensorConfig(INPUT, "UINT8", _DIMS),),
        outputs=(TensorConfig(OUTPUT, "FP32", ()),),
        default_model_filename="",
        dynamic_batching=DynamicBatching(),
        slo_ms=SLO_S * 1e3,
    )
    return [Loadable("1", "", lambda: LoadedEngine("1", config, SleepingEngine()))]


def main() -> None:
    """Serve the model on the given ports until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("http_port")
    parser.add_argument("grpc_port")
    given = parser.parse_args()

    def models(metrics: PredictorMetrics, arena: Arena) -> list[ServedModel]:
        return [PredictorModel(ModelDirectory(MODEL, Path()), find, Surroundings(metrics, arena, MAX_QUEUE_SIZE))]

    serve("saccade-sleeping", given.http_port, given.grpc_port, models)


if __name__ == "__main__":
    main()
