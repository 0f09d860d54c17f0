"""One loaded version of a model: its engine, its queue, and the requests it has.

Lives from its warm-up until it is retired, beside other versions of its model or in their place; which of them a
request is for is the model's matter.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from saccade_predictor import configuration, warmup
from saccade_predictor.batcher import HANG_LIMIT_S, Batcher
from saccade_predictor.batchingconfig import make_queue, make_rules
from saccade_predictor.delivery import Once, Outcome
from saccade_predictor.engines.engine import Engine
from saccade_predictor.loader import Loader
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.modelconfig import ModelConfig
from saccade_predictor.rows import row_bytes, rows_of
from saccade_predictor.tensors import answered, check_text, describe
from saccade_predictor.warmup import Sample
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.errors import DeadlineExceeded, InvalidRequest
from saccade_serving.memory.arena import Arena, ArenaFull, Lease
from saccade_serving.oip.classification import classify_outputs, requested_classes
from saccade_serving.oip.contract import check_request, count_rows
from saccade_serving.oip.messages import (
    InferRequest,
    InferResponse,
    Tensor,
    TensorSlot,
)
from saccade_serving.oip.rules import whole_parameter
from saccade_serving.scheduling.queue import Entry
from saccade_serving.scheduling.submission import Submission, fill, lay_out, place
from saccade_serving.tracing import Tracing

#: Time that a warm-up waits for memory.
ROOM_S: Final = 30.0
#: The "protocol" of requests that the model sends itself before it is ready: no SLO holds for them.
WARMUP: Final = "warmup"
#: Ids of submissions, unique in the process.
_ids: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An open engine of one version, not yet queued for.

    Attributes:
        labels: class names by output.
        samples: what the config wants it to be warmed up with; none: zeros.
        fallback: why it is not the configured engine; empty where it is.
    """

    version: str
    config: ModelConfig
    engine: Engine
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Loadable:
    """A version on disk that shall be served.

    Attributes:
        fingerprint: changes when anything does that the version is made of.
        open: loads it; blocking.
        missing: why it cannot be served, where that is no reason not to serve the others.
    """

    version: str
    fingerprint: str
    open: Callable[[], LoadedEngine]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all versions of all models share.

    Attributes:
        metrics: the predictor's.
        arena: where requests lie until an engine has read them.
        max_queue_size: requests that may wait where the config sets no limit.
        hang_limit_s: time that one batch may compute before its instance counts as hanging.
        loader: threads for what may block: files, copies of warm-ups.
        closer: threads for engines that are freed, which must not wait for loads.
    """

    metrics: PredictorMetrics
    arena: Arena
    max_queue_size: int
    hang_limit_s: float = HANG_LIMIT_S
    loader: Loader = field(default_factory=Loader)
    closer: Loader = field(default_factory=lambda: Loader(64))


class Version:
    """A version, ready to be asked once it is warm.

    Args:
        model: name.
        file: its open engine.
        fingerprint: of what it was loaded from.
        shared: arena, metrics and limits.
        tracing: tells who makes spans of batches; None where traces are off.
        broken: told when its engine hangs for good.

    Attributes:
        slo_s: the time that a request may take as a whole; 0 is no limit.
        delays: a request whose time in the queue is over is not refused but waits on, so that its parameter
            ``timeout`` is no deadline.
    """

    def __init__(
        self,
        model: str,
        file: LoadedEngine,
        fingerprint: str,
        shared: Surroundings,
        tracing: Callable[[], Tracing | None] = lambda: None,
        broken: Callable[[Version], None] = lambda version: None,
    ) -> None:
        config = file.config
        batching = config.dynamic_batching
        description = file.engine.describe()
        self.model = model
        self.version = file.version
        self.fingerprint = fingerprint
        self.config = config
        self.engine = file.engine
        self.labels = file.labels
        self.fallback = file.fallback
        self.metadata = describe(model, file.version, config, file.labels, description, file.fallback)
        self.configuration = configuration.describe(config, description.platform)
        self.slo_s = config.slo_ms / 1e3
        self.delays = batching is not None and batching.may_delay
        self._samples = file.samples
        self._row_bytes = row_bytes(config.inputs)  # of all inputs; 0 where that depends on the request
        self._reads_text = any(tensor.datatype == "BYTES" for tensor in config.inputs)
        self._arena = shared.arena
        self._loader = shared.loader
        self._closer = shared.closer
        self._metrics = shared.metrics
        self._tracing = tracing
        self._open: dict[int, tuple[Exchange, InferRequest, dict[str, int]]] = {}
        self._leased = 0  # answers that still lie in the engine's memory
        self._last: asyncio.Future[None] | None = None  # set when it has nothing any more, once it is to go
        self._known = True
        shared.metrics.hold(model, file.version)
        self._mark = object()  # what plans remember of this version: they must not keep it
        self.batcher = Batcher(
            file.engine,
            make_queue(batching, shared.max_queue_size),
            make_rules(batching, config.max_batch_size, config.slo_ms),
            model,
            file.version,
            shared.metrics,
            shared.arena,
            self._deliver,
            preserve_ordering=batching is not None and batching.preserve_ordering,
            hang_limit_s=shared.hang_limit_s,
            broken=lambda: broken(self),
            computed=self._trace,
        )

    @property
    def inflight(self) -> int:
        """Requests it has: waiting or computed."""
        return len(self._open)

    async def warm_up(self) -> None:
        """Send it real requests, and measure its batches if it has an SLO. From then on it is counted.

        Raises:
            SaccadeError: its engine cannot run it.
        """
        self.batcher.counted = False
        inputs, samples = self.metadata.inputs, self._samples
        await warmup.run(self._ask, inputs, self.config.max_batch_size, self.model, samples)
        if self.slo_s:
            largest = self.batcher.largest_rows
            self.batcher.learn(await warmup.measure(self._ask, inputs, largest, self.model, samples))
        self._samples = ()  # they may be large
        self.batcher.counted = True

    def admit(self, exchange: Exchange) -> None:
        """With an SLO: refuse what could not be answered in time before its body is received."""
        if self.slo_s:
            exchange.keep_slo(self.slo_s)
            exchange.rows = rows_of(exchange.headers, self._row_bytes, self.config.max_batch_size)
            self.batcher.knock(exchange.deadline, exchange.rows)

    def start_infer(self, request: InferRequest, exchange: Exchange) -> None:
        """Check the request against the model and queue it; its rows end the exchange."""
        exchange.version = self.version
        plan = request.plan
        if plan is not None and plan.checked[0] is self._mark:
            _, rows, classes, priority, queue_timeout_s = plan.checked
        else:
            rows, classes, priority, queue_timeout_s = self._check(request)
            if plan is not None:
                plan.checked = self._mark, rows, classes, priority, queue_timeout_s
        exchange.rows = rows
        if priority or queue_timeout_s:
            exchange.priority, exchange.queue_timeout_s = priority, queue_timeout_s
        if self.slo_s:
            exchange.keep_slo(self.slo_s)
        if exchange.deadline <= time.monotonic():
            raise exchange.too_late("before it was queued")
        if plan is not None and exchange.lease is not None:
            lease, tensors = exchange.lease, plan.tensors
        else:
            lease, tensors = place(request.inputs, exchange.lease, self._arena)
        self._submit(request, exchange, lease, tensors, rows, classes, priority, queue_timeout_s)

    def _submit(
        self,
        request: InferRequest,
        exchange: Exchange,
        lease: Lease,
        tensors: tuple[TensorSlot, ...],
        rows: int,
        classes: dict[str, int],
        priority: int = 0,
        queue_timeout_s: float = 0.0,
    ) -> None:
        number = next(_ids)
        submission = Submission(number, lease.name, tensors, rows, exchange.deadline, priority, queue_timeout_s)
        self._open[number] = exchange, request, classes
        received = exchange.lease if lease is exchange.lease else None
        if received is not None:
            exchange.take_lease()  # before the batcher can answer: what it was given is its own
        try:
            self.batcher.submit(submission)
        except BaseException:
            del self._open[number]
            exchange.lease = received
            if received is None:
                lease.release()
            raise
        # Only now: what was refused cannot be withdrawn.
        exchange.work(partial(self._withdraw, number))

    async def retire(self) -> None:
        """Answer what it has, then free its engine. Nobody may ask it any more."""
        if self._open or self._leased:
            self._last = asyncio.get_running_loop().create_future()
            await self._last
        await self.close()

    async def close(self) -> None:
        """Refuse what waits, answer what runs, free the engine. May be called twice."""
        await self.batcher.close()
        await self._closer.run(self.engine.close)
        if self._known:
            self._known = False
            self._metrics.let_go(self.model, self.version)

    def _check(self, request: InferRequest) -> tuple[int, dict[str, int], int, float]:
        """Hold a request against the model; returns rows, outputs to be classified, priority and queue timeout."""
        metadata, config = self.metadata, self.config
        check_request(request, metadata.inputs, metadata.outputs)
        rows = count_rows(request, config.max_batch_size) if config.max_batch_size else 1
        if self._reads_text:
            check_text(request)
        classes = requested_classes(request, metadata.outputs) if request.outputs else {}
        parameters = request.parameters
        if not parameters:
            return rows, classes, 0, 0.0
        timeout_us = whole_parameter(parameters, "timeout", " of microseconds")
        return rows, classes, whole_parameter(parameters, "priority"), timeout_us / 1e6

    def _deliver(self, number: int, outcome: Outcome) -> None:
        """End the exchange that a submission came from."""
        exchange, request, classes = self._open.pop(number)
        release = outcome.release
        if release is not None:
            self._leased += 1
            release = Once(partial(self._read, release))
        if self._last is not None:
            self._look_for_the_last()
        if outcome.outputs is None:
            assert outcome.error is not None
            exchange.fail(outcome.error)
            return
        stages = exchange.stages
        stages["queue"] = outcome.queue_s
        stages["compute"] = outcome.compute_s
        try:
            tensors = answered(outcome.outputs, self.metadata.outputs)
            response = InferResponse(self.model, tensors, self.version, request.id, {}, release)
            if classes:
                batched = bool(self.config.max_batch_size)
                response = classify_outputs(response, classes, batched, lambda name: self.labels.get(name, ()))
        except Exception as error:
            if release is not None:
                release()
            exchange.fail(error)
            return
        try:
            exchange.answer(response)
        except BaseException:
            if release is not None:
                release()
            raise

    def _withdraw(self, number: int) -> str:
        del self._open[number]
        where = self.batcher.withdraw(number)
        if self._last is not None:
            self._look_for_the_last()
        return where

    def _read(self, release: Callable[[], None]) -> None:
        """An answer has been sent or copied: its memory is the engine's again."""
        self._leased -= 1
        release()
        if self._last is not None:
            self._look_for_the_last()

    def _look_for_the_last(self) -> None:
        if not self._open and not self._leased and self._last is not None and not self._last.done():
            self._last.set_result(None)

    def _trace(self, batch: Sequence[Entry], rows: int, began: float, ended: float) -> None:
        """Have the batch's span link to those of its requests."""
        tracing = self._tracing()
        if tracing is not None:
            spans = [self._open[entry.id][0].span for entry in batch if entry.id in self._open]
            spans = [span for span in spans if span is not None]
            tracing.batch(spans, self.model, self.version, rows, began, ended)

    async def _ask(self, make: Callable[[], Sequence[Tensor]]) -> float:
        """Send one request all the way through; returns the seconds it was computed.

        Its tensors are made and put in their place in a thread, in memory that no client has to do without: other
        versions and models serve meanwhile.
        """
        parts, size = await self._loader.run(lambda: lay_out(make()))
        if size > self._arena.limit_bytes:
            raise InvalidRequest(f"a warm-up of {size} bytes; the limit is {self._arena.limit_bytes}")
        lease = await self._room(size)
        view = lease.view
        lease.hold()  # for the thread, which writes on where this task is cancelled
        filling = asyncio.get_running_loop().create_task(self._loader.run(lambda: fill(view, parts)))
        filling.add_done_callback(lambda _: lease.release())
        try:
            tensors = await asyncio.shield(filling)
        except BaseException:
            lease.release()
            raise
        exchange = Exchange.begin(WARMUP, {}, warmup.TIMEOUT_S)
        end = AwaitedEnd(asyncio.get_running_loop().create_future())
        exchange.sink = end
        try:
            async with asyncio.timeout(warmup.TIMEOUT_S):
                exchange.lease = lease
                rows = tensors[0].shape[0] if self.config.max_batch_size else 1
                request = InferRequest(self.model, [part.tensor for part in parts], self.version)
                self._submit(request, exchange, lease, tensors, rows, {})
                answer = await end.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"the engine did not answer its warm-up within {warmup.TIMEOUT_S:g} s") from None
        finally:
            exchange.cancel()
            exchange.close()
        if answer.release is not None:
            answer.release()
        return exchange.stages["compute"]

    async def _room(self, size: int) -> Lease:
        """Memory for a warm-up, as soon as there is some.

        Raises:
            ArenaFull: there was none for too long.
        """
        ends = time.monotonic() + ROOM_S
        while True:
            try:
                return self._arena.lease_uncounted(size)
            except ArenaFull:
                if time.monotonic() > ends:
                    raise
            await asyncio.sleep(0.05)
