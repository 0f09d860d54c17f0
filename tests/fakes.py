"""Fakes of our own for the seams: a clock, an engine whose batches the test completes, a V2 client, a served model.

Does not start processes and opens no sockets; ``fake_service.py`` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saccade_predictor.engines.engine import EngineDescription, Inputs, Outputs, Ticket
from saccade_predictor.model import Find
from saccade_predictor.version import Loadable, LoadedEngine
from saccade_serving.connection.deadlines import Deadlines
from saccade_serving.connection.exchange import AwaitedEnd, Exchange
from saccade_serving.model import ServedModel
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

#: For whatever normally takes milliseconds; generous, since the machine may be busy.
SOON_S = 30.0


async def eventually(condition: Callable[[], object], what: str, within_s: float = SOON_S) -> None:
    """Let the loop run until ``condition`` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.001)


async def settle(turns: int = 20) -> None:
    """Give everything that can run now the chance to: for asserting that something did *not* happen."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def answer_of(model: ServedModel, request: InferRequest, exchange: Exchange) -> InferResponse:
    """Ask a model as a connection does; whoever cancels this has left."""
    end = AwaitedEnd(asyncio.get_running_loop().create_future())
    exchange.sink = end
    exchange.watch(Deadlines())
    try:
        model.start_infer(request, exchange)
        answer: InferResponse = await end.wait()
        return answer
    finally:
        exchange.cancel()
        exchange.close()


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Submitted:
    """A batch the fake engine has accepted.

    Attributes:
        requests: the requests' own arrays; their memory may be used again once the inputs are free.
        seen: copies of them as they were at the beginning.
    """

    requests: Sequence[Inputs]
    rows: int
    ticket: Ticket
    seen: Sequence[Inputs] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = [{name: array.copy() for name, array in request.items()} for request in self.requests]

    def finish(self, outputs: Outputs | None = None) -> None:
        """Answer the batch; without outputs with its own ``x`` under the name ``y``, row for row."""
        if outputs is None:
            outputs = {"y": np.concatenate([request["x"] for request in self.requests])}
        self.free_inputs()
        self.ticket.done.set_result(outputs)

    def fail(self, error: BaseException) -> None:
        """End the batch with the engine's exception."""
        self.free_inputs()
        self.ticket.done.set_exception(error)

    def free_inputs(self) -> None:
        """Say that the requests' arrays are no longer read."""
        if not self.ticket.inputs_free.done():
            self.ticket.inputs_free.set_result(None)


class FakeInstance:
    """Accepts batches and completes none by itself."""

    def __init__(self, depth: int = 1) -> None:
        self.depth = depth
        self.submitted: list[Submitted] = []
        self.most_open = 0
        self.refuses: Exception | None = None

    def submit(self, requests: Sequence[Inputs], rows: int) -> Ticket:
        if self.refuses is not None:
            raise self.refuses
        loop = asyncio.get_running_loop()
        batch = Submitted(list(requests), rows, Ticket(loop.create_future(), loop.create_future()))
        self.submitted.append(batch)
        self.most_open = max(self.most_open, len(self.open))
        return batch.ticket

    @property
    def open(self) -> list[Submitted]:
        return [batch for batch in self.submitted if not batch.ticket.done.done()]


class FakeEngine:
    """An engine with instances that the test drives. Input ``x``, output ``y``, both FP32 [-1, 2] unless told."""

    def __init__(self, instances: int = 1, depth: int = 1, description: EngineDescription | None = None) -> None:
        self.lanes = [FakeInstance(depth) for _ in range(instances)]
        self.closed = False
        self.renewable = True
        self.given_up: list[FakeInstance] = []
        self.description = description or EngineDescription(
            "fake", [TensorMetadata("x", "FP32", (-1, 2))], [TensorMetadata("y", "FP32", (-1, 2))]
        )

    def describe(self) -> EngineDescription:
        return self.description

    def instances(self) -> Sequence[FakeInstance]:
        return self.lanes

    def renew(self, index: int) -> FakeInstance | None:
        if not self.renewable:
            return None
        self.given_up.append(self.lanes[index])
        self.lanes[index] = FakeInstance(self.lanes[index].depth)
        return self.lanes[index]

    def close(self) -> None:
        self.closed = True

    @property
    def submitted(self) -> list[Submitted]:
        return [batch for lane in self.lanes for batch in lane.submitted]

    @property
    def open(self) -> list[Submitted]:
        return [batch for lane in self.lanes for batch in lane.open]

    def finish_all(self) -> None:
        for batch in self.open:
            batch.finish()


Answer = Callable[[InferRequest], Awaitable[InferResponse]]


@dataclass
class FakeV2Client:
    """A ``V2Client`` that answers with plain functions and remembers what it was asked.

    Attributes:
        answer: the answer to ``infer``.
        describe: the answer to ``metadata``.
        ready: the answer to ``is_ready``.
    """

    answer: Answer
    describe: Callable[[], Awaitable[ModelMetadata]]
    ready: bool = True
    requests: list[InferRequest] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    metadata_calls: int = 0
    closed: bool = False

    async def infer(
        self, request: InferRequest, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        self.requests.append(request)
        self.timeouts.append(timeout_s)
        self.headers.append(dict(headers or {}))
        return await self.answer(request)

    async def metadata(self, model: str, timeout_s: float) -> ModelMetadata:
        self.metadata_calls += 1
        return await self.describe()

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        return self.ready

    async def close(self) -> None:
        self.closed = True


#: What a ready detector graph of 32 x 24 pixels says of itself, K = 4 candidates.
DETECTOR_PROPERTIES: dict[str, str] = {
    "saccade.input": "rgb_nhwc",
    "saccade.candidates": "4",
    "saccade.min_score": "0.05",
    "saccade.labels": '["person", "cat"]',
}


def detector_metadata(**changes: Any) -> ModelMetadata:
    """V2 metadata of such a detector; any field of ``ModelMetadata`` can be replaced."""
    values: dict[str, Any] = {
        "name": "detector",
        "versions": ["3"],
        "platform": "fake",
        "inputs": [TensorMetadata("image", "UINT8", (-1, 24, 32, 3))],
        "outputs": [TensorMetadata("candidates", "FP32", (-1, 4, 6))],
        "properties": DETECTOR_PROPERTIES,
        **changes,
    }
    return ModelMetadata(**values)


def candidates(*rows: Sequence[float]) -> Tensor:
    """The candidates tensor of one image, [1, 4, 6], unused rows 0."""
    table = np.zeros((1, 4, 6), np.float32)
    for index, row in enumerate(rows):
        table[0, index] = row
    return Tensor.of("candidates", table)


def detector_client(*rows: Sequence[float], version: str = "3", metadata: ModelMetadata | None = None) -> FakeV2Client:
    """A predictor that finds the same candidates in every image."""

    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, [candidates(*rows)], model_version=version)

    async def describe() -> ModelMetadata:
        return metadata or detector_metadata()

    return FakeV2Client(answer, describe)


def finds(*files: LoadedEngine) -> Find:
    """What finds versions in a model's directory, for a model whose engines are open already."""

    def loadable(file: LoadedEngine) -> Loadable:
        return Loadable(file.version, "", lambda: file)

    return lambda _directory: [loadable(file) for file in files]
