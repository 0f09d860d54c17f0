"""A model of the repository behind the V2 routes: its loaded versions, each with engine and batcher."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade_predictor import warmup
from saccade_predictor.batcher import Batcher, BatchingRules
from saccade_predictor.engines.engine import Engine, EngineDescription, Inputs, Outputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import InvalidRequest, ModelNotFound, Overloaded
from saccade_serving.model import ServedModel
from saccade_serving.oip.contract import check_request, count_rows
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

log = logging.getLogger("saccade.model")


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One version, ready to be asked."""

    version: str
    config: ModelConfig
    engine: Engine
    description: EngineDescription
    batcher: Batcher
    metadata: ModelMetadata


@dataclass(frozen=True, slots=True)
class EngineFile:
    """A version whose engine is loaded, not yet queued for."""

    version: str
    config: ModelConfig
    engine: Engine


class PredictorModel(ServedModel):
    """Serves one model directory.

    Args:
        directory: where the model lies.
        load: opens the engines of the versions that shall be served; blocking, called in a thread.
        max_queue_size: requests that may wait where the config sets no limit.
        metrics: the predictor's metrics.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        load: Callable[[ModelDirectory], list[EngineFile]],
        max_queue_size: int,
        metrics: PredictorMetrics,
    ) -> None:
        super().__init__(directory.name)
        self._directory = directory
        self._load = load
        self._max_queue_size = max_queue_size
        self._metrics = metrics
        self._versions: dict[str, LoadedVersion] = {}

    async def prepare(self) -> None:
        """Load all versions, warm each up, then be ready."""
        for file in await asyncio.to_thread(self._load, self._directory):
            loaded = self._open(file)
            self._versions[file.version] = loaded
            await warmup.run(loaded.batcher, loaded.description, loaded.config.max_batch_size, self.name)
        self.ready = True

    def versions(self) -> list[str]:
        """Loaded versions, ascending."""
        return sorted(self._versions, key=int)

    def loaded(self) -> list[LoadedVersion]:
        """All loaded versions."""
        return list(self._versions.values())

    def metadata(self, version: str = "") -> ModelMetadata:
        """Tensors as a client sends and gets them, the batch dimension as -1."""
        metadata = self._select(version).metadata
        return metadata if version else replace(metadata, versions=self.versions())

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        """Check the request against the model, queue it, answer its rows."""
        loaded = self._select(request.model_version)
        exchange.version = loaded.version
        metadata = loaded.metadata
        check_request(request, metadata.inputs, metadata.outputs)
        if (batching := loaded.config.dynamic_batching) and batching.default_timeout_microseconds:
            exchange.tighten(batching.default_timeout_microseconds / 1e6)
        rows = count_rows(request, loaded.config.max_batch_size) if loaded.config.max_batch_size else 1
        outputs = await loaded.batcher.submit(_arrays(request), rows, exchange)
        return InferResponse(
            model_name=self.name,
            model_version=loaded.version,
            id=request.id,
            outputs=_tensors(outputs, metadata.outputs),
        )

    async def close(self) -> None:
        """Answer what runs, then free the engines."""
        self.ready = False
        for loaded in self._versions.values():
            await loaded.batcher.close()
            await asyncio.to_thread(loaded.engine.close)
        self._versions.clear()

    def _select(self, version: str) -> LoadedVersion:
        if not self._versions:
            raise Overloaded(f"model {self.name!r} is not ready: {self.not_ready_because}")
        chosen = version or self.versions()[-1]
        if chosen not in self._versions:
            raise ModelNotFound(self.name, version, self.versions())
        return self._versions[chosen]

    def _open(self, file: EngineFile) -> LoadedVersion:
        config = file.config
        batching = config.dynamic_batching
        rules = BatchingRules(
            # Without dynamic_batching Triton runs requests one by one, each with the rows it brought.
            max_rows=config.max_batch_size if batching is not None else min(config.max_batch_size, 1),
            max_delay_s=batching.max_queue_delay_microseconds / 1e6 if batching is not None else 0.0,
            max_queue_size=(batching.max_queue_size if batching is not None else 0) or self._max_queue_size,
        )
        description = file.engine.describe()
        batcher = Batcher(file.engine, rules, self.name, file.version, self._metrics)
        return LoadedVersion(
            file.version, config, file.engine, description, batcher, self._describe(config, description, file.version)
        )

    def _describe(self, config: ModelConfig, description: EngineDescription, version: str) -> ModelMetadata:
        properties = {key: value for key, value in description.properties.items() if key.startswith("saccade.")}
        for output in config.outputs:
            if output.label_filename:
                labels = self._directory.labels(output.label_filename)
                properties["saccade.labels"] = json.dumps(labels, ensure_ascii=False)
        return ModelMetadata(
            name=self.name,
            versions=[version],
            platform=description.platform,
            inputs=[_metadata(tensor, config) for tensor in config.inputs],
            outputs=[_metadata(tensor, config) for tensor in config.outputs],
            properties=properties,
        )


def _metadata(tensor: TensorConfig, config: ModelConfig) -> TensorMetadata:
    """A tensor as clients see it: a batched model's dims are those of one row."""
    batch = (-1,) if config.max_batch_size else ()
    return TensorMetadata(tensor.name, tensor.datatype, (*batch, *tensor.dims))


def _arrays(request: InferRequest) -> Inputs:
    return {tensor.name: _array(tensor) for tensor in request.inputs}


def _array(tensor: Tensor) -> NDArray[Any]:
    """Numeric tensors as they are; BYTES as an object array.

    Raises:
        InvalidRequest: a BYTES element is no text. The engine would find out too late, and fail the whole batch.
    """
    if tensor.datatype != "BYTES":
        return tensor.array
    elements = [bytes(element) for element in tensor.elements]
    try:
        for element in elements:
            element.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"input {tensor.name!r} has an element that is not UTF-8 text, which this model needs"
        ) from None
    array = np.empty(tensor.element_count, dtype=object)
    array[:] = elements
    return array.reshape(tensor.shape)


def _tensors(outputs: Outputs, metadata: Sequence[TensorMetadata]) -> list[Tensor]:
    tensors = []
    for expected in metadata:
        array = outputs[expected.name]
        if expected.datatype == "BYTES":
            tensors.append(Tensor.of_bytes(expected.name, array.shape, list(array.ravel())))
        else:
            tensors.append(Tensor.of(expected.name, array))
    return tensors
