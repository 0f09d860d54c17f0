"""A model of the repository behind the V2 routes: its loaded versions, each with engine and batcher."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Final

from saccade_predictor import configuration, warmup
from saccade_predictor.batcher import HANG_LIMIT_S, Batcher
from saccade_predictor.batchingconfig import make_queue, make_rules
from saccade_predictor.delivery import Outcome
from saccade_predictor.engines.engine import Engine, EngineDescription, Outputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.rows import row_bytes, rows_of
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.errors import DeadlineExceeded, InvalidRequest, ModelNotFound, Overloaded
from saccade_serving.memory.arena import Arena
from saccade_serving.model import ModelConfiguration, ServedModel
from saccade_serving.oip.classification import classify_outputs, requested_classes
from saccade_serving.oip.contract import check_request, count_rows
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
from saccade_serving.oip.rules import whole_parameter
from saccade_serving.scheduling.submission import Submission, place

log = logging.getLogger("saccade.model")

#: The "protocol" of requests that the model sends itself before it is ready: no SLO holds for them.
WARMUP: Final = "warmup"
#: Ids of submissions, unique in the process.
_ids: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One version, ready to be asked.

    Attributes:
        labels: class names by output.
        slo_s: the time that a request may take as a whole; 0 is no limit.
        row_bytes: of one row of all inputs; 0 where that depends on the request.
        delays: a request whose time in the queue is over is not refused but waits on, so that its parameter
            ``timeout`` is no deadline.
        reads_text: one of its inputs is BYTES.
    """

    version: str
    config: ModelConfig
    engine: Engine
    description: EngineDescription
    batcher: Batcher
    metadata: ModelMetadata
    configuration: ModelConfiguration
    labels: Mapping[str, Sequence[str]]
    slo_s: float
    row_bytes: int
    delays: bool
    reads_text: bool


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An open engine of one version, not yet queued for."""

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
        arena: where requests lie until an engine has read them.
        hang_limit_s: time that one batch may compute before its instance counts as hanging.
    """

    extensions: ClassVar[tuple[str, ...]] = ("classification", "model_configuration")

    def __init__(
        self,
        directory: ModelDirectory,
        load: Callable[[ModelDirectory], list[LoadedEngine]],
        max_queue_size: int,
        metrics: PredictorMetrics,
        arena: Arena,
        hang_limit_s: float = HANG_LIMIT_S,
    ) -> None:
        super().__init__(directory.name)
        self._hang_limit_s = hang_limit_s
        self._directory = directory
        self._load = load
        self._max_queue_size = max_queue_size
        self._metrics = metrics
        self._arena = arena
        self._versions: dict[str, LoadedVersion] = {}
        self._newest: LoadedVersion | None = None
        self._open: dict[int, tuple[Exchange, InferRequest, LoadedVersion, dict[str, int]]] = {}

    async def prepare(self) -> None:
        """Load all versions, warm each up, then be ready."""
        for file in await asyncio.to_thread(self._load, self._directory):
            labels = await asyncio.to_thread(self._read_labels, file.config)
            loaded = self._add(file, labels)
            await warmup.run(
                partial(self._warm_up, loaded), loaded.metadata.inputs, loaded.config.max_batch_size, self.name
            )
            if loaded.slo_s:
                times = await warmup.measure(
                    partial(self._warm_up, loaded), loaded.metadata.inputs, loaded.batcher.largest_rows, self.name
                )
                loaded.batcher.learn(times)
            self._metrics.statistics.of(self.name, file.version).clear()
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

    def config(self, version: str = "") -> ModelConfiguration:
        """Triton's model configuration, as it is served."""
        return self._select(version).configuration

    def labels(self, output: str, version: str = "") -> Sequence[str]:
        """Class names of an output, from its ``label_filename``."""
        return self._select(version).labels.get(output, ())

    def admit(self, version: str, exchange: Exchange) -> None:
        """With an SLO: refuse what could not be answered in time before its body is received."""
        loaded = self._select(version)
        if loaded.slo_s:
            exchange.keep_slo(loaded.slo_s)
            exchange.rows = rows_of(exchange.headers, loaded.row_bytes, loaded.config.max_batch_size)
            loaded.batcher.knock(exchange.deadline, exchange.rows)

    def timeout_is_deadline(self, version: str) -> bool:
        """Not where the queue policy delays a request whose time is over."""
        return not self._select(version).delays

    def start_infer(self, request: InferRequest, exchange: Exchange) -> None:
        """Check the request against the model and queue it; its rows end the exchange."""
        loaded = self._select(request.model_version)
        exchange.version = loaded.version
        plan = request.plan
        if plan is not None and plan.checked[0] is loaded:
            _, rows, classes, priority, queue_timeout_s = plan.checked
        else:
            rows, classes, priority, queue_timeout_s = self._check(request, loaded)
            if plan is not None:
                plan.checked = loaded, rows, classes, priority, queue_timeout_s
        exchange.rows = rows
        if priority or queue_timeout_s:
            exchange.priority, exchange.queue_timeout_s = priority, queue_timeout_s
        if loaded.slo_s and exchange.protocol != WARMUP:
            exchange.keep_slo(loaded.slo_s)
        if exchange.deadline <= time.monotonic():
            raise exchange.too_late("before it was queued")
        if plan is not None and exchange.lease is not None:
            lease, tensors = exchange.lease, plan.tensors
        else:
            lease, tensors = place(request.inputs, exchange.lease, self._arena)
        number = next(_ids)
        submission = Submission(number, lease.name, tensors, rows, exchange.deadline, priority, queue_timeout_s)
        self._open[number] = exchange, request, loaded, classes
        received = exchange.lease if lease is exchange.lease else None
        if received is not None:
            exchange.take_lease()  # before the batcher can answer: what it was given is its own
        try:
            loaded.batcher.submit(submission)
        except BaseException:
            del self._open[number]
            exchange.lease = received
            if received is None:
                lease.release()
            raise
        # Only now: what was refused cannot be withdrawn.
        exchange.work(partial(self._withdraw, number))

    @staticmethod
    def _check(request: InferRequest, loaded: LoadedVersion) -> tuple[int, dict[str, int], int, float]:
        """Hold a request against the model; returns rows, outputs to be classified, priority and queue timeout."""
        metadata, config = loaded.metadata, loaded.config
        check_request(request, metadata.inputs, metadata.outputs)
        rows = count_rows(request, config.max_batch_size) if config.max_batch_size else 1
        if loaded.reads_text:
            check_text(request)
        classes = requested_classes(request, metadata.outputs) if request.outputs else {}
        parameters = request.parameters
        if not parameters:
            return rows, classes, 0, 0.0
        timeout_us = whole_parameter(parameters, "timeout", " of microseconds")
        return rows, classes, whole_parameter(parameters, "priority"), timeout_us / 1e6

    def _deliver(self, number: int, outcome: Outcome) -> None:
        """End the exchange that a submission came from."""
        exchange, request, loaded, classes = self._open.pop(number)
        if outcome.outputs is None:
            assert outcome.error is not None
            exchange.fail(outcome.error)
            return
        stages = exchange.stages
        stages["queue"] = outcome.queue_s
        stages["compute"] = outcome.compute_s
        try:
            tensors = _tensors(outcome.outputs, loaded.metadata.outputs)
            response = InferResponse(self.name, tensors, loaded.version, request.id, {}, outcome.release)
            if classes:
                batched = bool(loaded.config.max_batch_size)
                response = classify_outputs(response, classes, batched, lambda name: loaded.labels.get(name, ()))
        except Exception as error:
            if outcome.release is not None:
                outcome.release()
            exchange.fail(error)
            return
        exchange.answer(response)

    def _trace(self, version: str, numbers: Sequence[int], rows: int, began: float, ended: float) -> None:
        """Have the batch's span link to those of its requests."""
        if self.tracing is not None:
            spans = [self._open[number][0].span for number in numbers if number in self._open]
            self.tracing.batch([span for span in spans if span is not None], self.name, version, rows, began, ended)

    def _break(self, version: str) -> None:
        """An engine hangs for good: nothing but a new process helps."""
        self.ready = False
        self.not_ready_because = f"the engine of version {version} does not answer any more"
        self.must_restart = True

    def _withdraw(self, number: int) -> str:
        _, _, loaded, _ = self._open.pop(number)
        return loaded.batcher.withdraw(number)

    async def close(self) -> None:
        """Answer what runs, then free the engines."""
        self.ready = False
        for loaded in self._versions.values():
            await loaded.batcher.close()
            await asyncio.to_thread(loaded.engine.close)
        self._versions.clear()
        self._newest = None

    def _select(self, version: str) -> LoadedVersion:
        if self._newest is None:
            raise Overloaded(f"model {self.name!r} is not ready: {self.not_ready_because}")
        if not version:
            return self._newest
        chosen = self._versions.get(version)
        if chosen is None:
            raise ModelNotFound(self.name, version, self.versions())
        return chosen

    def _read_labels(self, config: ModelConfig) -> dict[str, list[str]]:
        """Class names by output; reads files."""
        return {
            output.name: self._directory.labels(output.label_filename)
            for output in config.outputs
            if output.label_filename
        }

    def _add(self, file: LoadedEngine, labels: Mapping[str, Sequence[str]]) -> LoadedVersion:
        config = file.config
        batching = config.dynamic_batching
        description = file.engine.describe()
        batcher = Batcher(
            file.engine,
            make_queue(batching, self._max_queue_size),
            make_rules(batching, config.max_batch_size, config.slo_ms),
            self.name,
            file.version,
            self._metrics,
            self._arena,
            self._deliver,
            preserve_ordering=batching is not None and batching.preserve_ordering,
            hang_limit_s=self._hang_limit_s,
            broken=partial(self._break, file.version),
            computed=partial(self._trace, file.version),
        )
        loaded = LoadedVersion(
            version=file.version,
            config=config,
            engine=file.engine,
            description=description,
            batcher=batcher,
            metadata=self._describe(config, description, file.version, labels),
            configuration=configuration.describe(config, description.platform),
            labels=labels,
            slo_s=config.slo_ms / 1e3,
            row_bytes=row_bytes(config.inputs),
            delays=batching is not None and batching.may_delay,
            reads_text=any(tensor.datatype == "BYTES" for tensor in config.inputs),
        )
        self._versions[file.version] = loaded
        self._newest = self._versions[self.versions()[-1]]
        return loaded

    async def _warm_up(self, loaded: LoadedVersion, inputs: Sequence[Tensor]) -> float:
        """Send one request all the way through, before the model is ready; returns the seconds it was computed."""
        exchange = Exchange.begin(WARMUP, {}, warmup.TIMEOUT_S)
        end = AwaitedEnd(asyncio.get_running_loop().create_future())
        exchange.sink = end
        try:
            async with asyncio.timeout(warmup.TIMEOUT_S):
                self.start_infer(InferRequest(self.name, inputs, loaded.version), exchange)
                answer = await end.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"the engine did not answer its warm-up within {warmup.TIMEOUT_S:g} s") from None
        finally:
            exchange.cancel()
        if answer.release is not None:
            answer.release()
        return exchange.stages["compute"]

    def _describe(
        self,
        config: ModelConfig,
        description: EngineDescription,
        version: str,
        labels: Mapping[str, Sequence[str]],
    ) -> ModelMetadata:
        properties = {key: value for key, value in description.properties.items() if key.startswith("saccade.")}
        for names in labels.values():
            properties["saccade.labels"] = json.dumps(names, ensure_ascii=False)
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


def check_text(request: InferRequest) -> None:
    """Refuse BYTES elements that are no text. The engine would find out too late, and fail the whole batch.

    Raises:
        InvalidRequest: an element is not UTF-8.
    """
    for tensor in request.inputs:
        if tensor.datatype != "BYTES":
            continue
        try:
            for element in tensor.elements:
                str(element, "utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"input {tensor.name!r} has an element that is not UTF-8 text, which this model needs"
            ) from None


def _tensors(outputs: Outputs, metadata: Sequence[TensorMetadata]) -> list[Tensor]:
    tensors = []
    for expected in metadata:
        array = outputs[expected.name]
        if expected.datatype == "BYTES":
            tensors.append(Tensor.of_bytes(expected.name, array.shape, list(array.ravel())))
        else:
            tensors.append(Tensor.of(expected.name, array))
    return tensors
