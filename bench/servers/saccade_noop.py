"""Saccade's own server with two models that do nothing: ``noop`` right behind it, ``noop_batched`` as the predictor.

``noop`` is the least ``ServedModel`` there can be, and shows what the data plane costs. ``noop_batched`` takes the
predictor's whole path (contract, batcher, metrics, an instance with its thread) to an engine that computes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from saccade_predictor.batchingconfig import DynamicBatching
from saccade_predictor.engines.engine import EngineDescription, Inputs, Outputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.settings import PredictorSettings
from saccade_predictor.version import Loadable, LoadedEngine, Surroundings
from saccade_serving.connection.exchange import Exchange
from saccade_serving.memory.arena import Arena
from saccade_serving.model import ServedModel
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
from saccade_serving.server import SaccadeServer, argument_parser
from saccade_serving.telemetry import configure_logging
from servers.noop import INPUT, MODEL, OUTPUT, first_byte
from servers.one_instance import OneInstance

BATCHED: Final = "noop_batched"
MAX_BATCH_SIZE: Final = 8
MAX_QUEUE_SIZE: Final = 1024

_INPUTS: Final = (TensorMetadata(INPUT, "UINT8", (-1, -1, -1, 3)),)
_OUTPUTS: Final = (TensorMetadata(OUTPUT, "FP32", (-1,)),)
#: Pictures of any size in, one number per row out.
_DESCRIPTION: Final = EngineDescription("noop", _INPUTS, _OUTPUTS)


class NoopModel(ServedModel):
    """Answers at once, on the event loop."""

    async def prepare(self) -> None:
        """Nothing to load."""
        self.ready = True

    def metadata(self, version: str = "") -> ModelMetadata:
        """One version, which is never checked."""
        return ModelMetadata(self.name, self.versions(), "noop", _INPUTS, _OUTPUTS)

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        """Read one byte."""
        output = Tensor.of(OUTPUT, first_byte(request.input(INPUT).array))
        return InferResponse(self.name, [output], "1", request.id)

    async def close(self) -> None:
        """Nothing to free."""
        self.ready = False

    def versions(self) -> list[str]:
        """The one there is."""
        return ["1"]


def first_bytes(requests: Sequence[Inputs], rows: int) -> Outputs:
    """Read one byte of every request; its other rows, which only the warm-up has, stay 0."""
    answer = np.zeros(rows, np.float32)
    at = 0
    for inputs in requests:
        image = inputs[INPUT]
        answer[at : at + 1] = first_byte(image)
        at += len(image)
    return {OUTPUT: answer}


def find(_directory: ModelDirectory) -> list[Loadable]:
    """One version, batched as ``config.pbtxt`` with an empty ``dynamic_batching`` says."""
    config = ModelConfig(
        name=BATCHED,
        backend="onnxruntime",
        max_batch_size=MAX_BATCH_SIZE,
        inputs=(TensorConfig(INPUT, "UINT8", (-1, -1, 3)),),
        outputs=(TensorConfig(OUTPUT, "FP32", ()),),
        default_model_filename="",
        dynamic_batching=DynamicBatching(),
    )
    return [Loadable("1", "", lambda: LoadedEngine("1", config, OneInstance(first_bytes, _DESCRIPTION)))]


def serve(
    name: str,
    http_port: str,
    grpc_port: str,
    models: Callable[[PredictorMetrics, Arena], list[ServedModel]],
    drain_quiet_s: float = 0,
) -> None:
    """Serve models as the predictor does, until SIGTERM.

    Args:
        name: of the program.
        http_port: where REST and the metrics are served.
        grpc_port: where gRPC is.
        models: makes them.
        drain_quiet_s: the setting of that name.
    """
    arguments = argument_parser(name, PredictorSettings).parse_args(
        [f"--http_port={http_port}", f"--grpc_port={grpc_port}"]
    )
    settings = PredictorSettings(host="127.0.0.1", metrics_port=0, drain_quiet_s=drain_quiet_s)
    configure_logging("warning", "text")
    metrics = PredictorMetrics()
    arena = Arena(settings.max_inflight_bytes)
    SaccadeServer(arguments, settings, metrics, arena=arena).start(models(metrics, arena))


def main() -> None:
    """Serve both models on the given ports until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drain-quiet-s", type=float, default=0)
    parser.add_argument("http_port")
    parser.add_argument("grpc_port")
    given = parser.parse_args()

    def models(metrics: PredictorMetrics, arena: Arena) -> list[ServedModel]:
        batched = PredictorModel(ModelDirectory(BATCHED, Path()), find, Surroundings(metrics, arena, MAX_QUEUE_SIZE))
        return [NoopModel(MODEL), batched]

    serve("saccade-noop", given.http_port, given.grpc_port, models, given.drain_quiet_s)


if __name__ == "__main__":
    main()
