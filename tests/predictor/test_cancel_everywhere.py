"""Clients that leave, deadlines that pass, models that go: at every point between a socket and an engine.

The listener, the route and the model are the real ones; only the engine is a fake, and the test decides when its
batches are finished. Whatever happened, nothing may be held afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette

from fakes import FakeEngine, eventually, finds, settle
from http1_support import HOST, INFER, LOOPS, Client, scenario
from saccade_predictor.batcher import Batcher
from saccade_predictor.batchingconfig import DynamicBatching
from saccade_predictor.engines.engine import EngineDescription, LeasedOutputs
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import ModelConfig, TensorConfig
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import LoadedEngine, Surroundings
from saccade_serving.application import _ConnectionCloser
from saccade_serving.connection.front import Front
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.infer import Infer
from saccade_serving.connection.operation import Router
from saccade_serving.listener import HttpListener, bind
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import TensorMetadata
from saccade_serving.settings import FIRST_SLOT_BYTES, ServiceSettings

#: Floats in a row; two rows of the wide one are 200 kB.
NARROW, WIDE = 2, 25_000
STEP = 7
DEADLINE = "X-Deadline-Ms: 500\r\n"

Leave = Callable[[Client], None]


@pytest.fixture(scope="module", params=list(LOOPS))
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


def half_close(client: Client) -> None:
    client.raw.shutdown(socket.SHUT_WR)


LEAVES = pytest.mark.parametrize("leave", [Client.leave, Client.reset, half_close], ids=["closed", "reset", "ended"])
WIDTHS = pytest.mark.parametrize("width", [NARROW, WIDE], ids=["small", "200 kB"])


def binary(width: int = NARROW, value: float = 1.0, rows: int = 2, headers: str = "", id_: str = "r") -> bytes:
    """A request with one binary tensor."""
    data = np.full((rows, width), value, np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, width], "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"id": id_, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST {INFER} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(text) + len(data)}\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n{headers}\r\n"
    )
    return head.encode() + text + data


def model_of(engine: FakeEngine, arena: Arena, metrics: PredictorMetrics, version: str) -> PredictorModel:
    config = ModelConfig(
        name="m",
        backend="onnxruntime",
        max_batch_size=4,
        inputs=(TensorConfig("x", "FP32", (-1,)),),
        outputs=(TensorConfig("y", "FP32", (-1,)),),
        default_model_filename="",
        dynamic_batching=DynamicBatching(),
    )
    directory = ModelDirectory("m", Path("nowhere"))
    return PredictorModel(directory, finds(LoadedEngine(version, config, engine)), Surroundings(metrics, arena, 100))


async def prepared(model: PredictorModel, engine: FakeEngine) -> PredictorModel:
    task = asyncio.create_task(model.prepare())

    def step() -> bool:
        engine.finish_all()
        return task.done()

    await eventually(step, "the model is warmed up")
    await task
    return model


@dataclass
class House:
    """A predictor's data plane in the test's own loop."""

    engine: FakeEngine
    model: PredictorModel
    gate: Gate
    front: Front
    metrics: PredictorMetrics
    port: int
    clients: list[Client] = field(default_factory=list)

    @property
    def batcher(self) -> Batcher:
        (loaded,) = self.model.loaded()
        return loaded.batcher

    async def connect(self, receive_buffer: int = 0) -> Client:
        self.clients.append(await Client.connect(self.port, receive_buffer))
        return self.clients[-1]

    async def computing(self, count: int = 1) -> None:
        """Wait until the engine has so many batches."""
        await eventually(lambda: len(self.engine.open) == count, f"the engine computes {count}")

    async def receiving(self, count: int = 1) -> None:
        """Wait until so many bodies are being received."""
        await eventually(lambda: [c._state.name for c in self.front.connections].count("BODY") == count, "BODY")

    async def queued(self, count: int = 1) -> None:
        await eventually(lambda: self.batcher.depth == count, f"{count} wait in the queue")

    async def occupied(self) -> Client:
        """Give the engine a request of its own, so that what comes next has to wait."""
        client = await self.connect()
        await client.send(binary(value=-1))
        await self.computing()
        return client

    def held(self) -> dict[str, Any]:
        """What is held for requests, wherever."""
        states = self.gate.arena.bytes_by_state()
        found = {
            "leases": self.gate.arena.leases,
            "open": len(self.gate.open),
            "working": self.gate._working,
            "of the model": self.model.inflight,
            **{state: states[state] for state in ("receiving", "queued", "staged")},
            "slots": sum(len(slot) for slot in self.gate.deadlines._slots.values()),
        }
        for loaded in self.model.loaded():
            found |= {"in the queue": loaded.batcher.depth, "running": len(loaded.batcher._running)}
        return {name: count for name, count in found.items() if count}

    async def quiet(self) -> None:
        """Wait until nothing is held for any request."""
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not self.held(), "nothing is held", 5)
        assert self.held() == {}

    async def gone(self) -> None:
        """All clients leave; then nothing may be held, connections neither."""
        for client in self.clients:
            client.leave()
        await eventually(lambda: not self.front.connections, "all connections are closed")
        await self.quiet()

    def count(self, code: str) -> float:
        return sum(value for labels, value in self.metrics.requests.values.items() if labels[2] == code)

    def rejected(self, reason: str) -> float:
        return sum(value for labels, value in self.metrics.rejected.values.items() if labels[1] == reason)


@contextlib.asynccontextmanager
async def house(depth: int = 1, **settings: Any) -> AsyncIterator[House]:
    """Serve until the block ends; then nothing may be held and nothing may have been raised unseen."""
    unseen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    chosen = ServiceSettings(**settings)
    arena = Arena(chosen.max_inflight_bytes, poison=True)
    metrics = PredictorMetrics()
    open_dims = [TensorMetadata("x", "FP32", (-1, -1))], [TensorMetadata("y", "FP32", (-1, -1))]
    engine = FakeEngine(depth=depth, description=EngineDescription("fake", *open_dims))
    model = await prepared(model_of(engine, arena, metrics, "1"), engine)
    gate = Gate({"m": model}, chosen, metrics, arena)
    front = Front(gate, Router([Infer(gate)]), 120)
    listening = bind(HOST, 0, "--http_port")
    app = _ConnectionCloser(Starlette(), gate)
    listener = HttpListener(app, listening, front, timeout_keep_alive=120)
    await listener.start()
    built = House(engine, model, gate, front, metrics, listening.getsockname()[1])
    try:
        yield built
        await built.gone()
        await model.close()
        assert unseen == []
    finally:
        for client in built.clients:
            client.leave()
        engine.finish_all()
        await listener.stop(1.0)
        listening.close()
        gate.deadlines.close()
        loop.set_exception_handler(None)


async def until_answered(house: House, client: Client) -> Any:
    """Finish whatever the engine gets until the client's request is answered."""
    task = asyncio.create_task(client.answer())

    def step() -> bool:
        house.engine.finish_all()
        return task.done()

    await eventually(step, "the request is answered")
    return await task


def values(answer: Any) -> list[float]:
    """The first and the last number of a binary answer."""
    assert answer.status == 200, answer
    data = np.frombuffer(answer.body[int(answer.headers["inference-header-content-length"]) :], np.float32)
    return [float(data[0]), float(data[-1])]


# Clients that leave


def cuts(request: bytes) -> list[int]:
    """Every seventh byte of the head and of what follows it; of a long body fewer, and those where its slot grows."""
    body = request.index(b"\r\n\r\n") + 4
    dense = range(1, min(len(request), body + 200), STEP)
    sparse = range(body + 200, len(request), STEP * 1001)
    grows = [body + FIRST_SLOT_BYTES + by for by in (-1, 0, 1)]
    return sorted({*dense, *sparse, *(at for at in grows if at < len(request)), body, len(request) - 1})


@WIDTHS
@pytest.mark.parametrize("leave", [Client.leave, Client.reset], ids=["closed", "reset"])
@scenario
async def test_a_client_may_leave_after_any_byte_of_its_request(width: int, leave: Leave) -> None:
    request = binary(width)
    async with house() as here:
        for cut in cuts(request):
            client = await Client.connect(here.port)
            await client.send(request[:cut])
            await eventually(lambda: here.front.connections, "the connection is there")
            await settle(3)
            leave(client)
            await eventually(lambda: not here.front.connections, f"the connection is closed, cut at {cut}")
            assert here.held() == {}, f"cut at {cut}"
        assert here.engine.open == []
        assert here.count("200") == 0
        client = await here.connect()
        await client.send(request)
        assert values(await until_answered(here, client)) == [1, 1]


@WIDTHS
@LEAVES
@scenario
async def test_a_client_may_leave_while_its_request_waits_in_the_queue(width: int, leave: Leave) -> None:
    async with house() as here:
        first = await here.occupied()
        second = await here.connect()
        await second.send(binary(width, 2))
        await here.queued()
        third = await here.connect()
        await third.send(binary(width, 3))
        await here.queued(2)
        assert here.gate._working == 3
        leave(second)
        await here.queued(1)
        await eventually(lambda: here.gate.arena.leases == 2, "the lease is free at once")
        assert here.gate._working == 2
        here.engine.finish_all()
        assert values(await first.answer()) == [-1, -1]
        assert values(await until_answered(here, third)) == [3, 3]
        assert [float(batch.seen[0]["x"].flat[0]) for batch in here.engine.submitted[-2:]] == [-1, 3]
        assert here.count("499") == here.rejected("client_left") == 1


@WIDTHS
@LEAVES
@scenario
async def test_a_client_may_leave_while_its_batch_runs_and_its_memory_is_kept_until_then(
    width: int, leave: Leave
) -> None:
    async with house() as here:
        await here.occupied()
        leaving, staying = await here.connect(), await here.connect()
        await leaving.send(binary(width, 2))
        await here.queued(1)
        await staying.send(binary(width, 3))
        await here.queued(2)
        here.engine.finish_all()
        await eventually(lambda: here.engine.open and len(here.engine.open[0].requests) == 2, "both share a batch")
        (batch,) = here.engine.open
        leave(leaving)
        await eventually(lambda: here.count("499") == 1, "it is counted as left")
        assert here.gate.arena.leases == 2
        assert here.gate._working == 1
        assert [set(request["x"].flat) for request in batch.requests] == [{2.0}, {3.0}]
        batch.finish()
        assert values(await staying.answer()) == [3, 3]
        await here.quiet()


@WIDTHS
@LEAVES
@scenario
async def test_a_client_may_leave_while_its_batch_runs_and_then_fails(width: int, leave: Leave) -> None:
    async with house() as here:
        client = await here.connect()
        await client.send(binary(width))
        await here.computing()
        leave(client)
        await eventually(lambda: not here.gate.open, "it is let out")
        here.engine.open[0].fail(RuntimeError("no kernel"))
        await here.quiet()
        assert here.count("499") == 1
        assert here.count("500") == 0


@LEAVES
@scenario
async def test_a_client_may_leave_while_its_json_is_read_in_a_thread(leave: Leave) -> None:
    rows = json.dumps([[0.5] * 40_000] * 2)
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [2, 40000], "data": {rows}}}]}}'.encode()
    assert len(body) > 256 * 2**10
    request = f"POST {INFER} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with house() as here:
        client = await here.connect()
        await client.send(request)
        await eventually(lambda: here.gate._working, "the body is complete")
        leave(client)
        await eventually(lambda: not here.gate.open, "it is let out")
        here.engine.finish_all()  # the reading may have been faster
        await here.quiet()


@WIDTHS
@LEAVES
@scenario
async def test_a_client_may_leave_without_reading_its_answer(width: int, leave: Leave) -> None:
    async with house() as here:
        client = await here.connect(receive_buffer=4096)
        await client.send(binary(width))
        await here.computing()
        (batch,) = here.engine.open
        freed: list[bool] = []
        outputs = {"y": np.concatenate([request["x"] for request in batch.requests])}
        batch.finish(LeasedOutputs(outputs, lambda: freed.append(True)))
        await eventually(
            lambda: here.front.connections and next(iter(here.front.connections))._exchange is None, "end"
        )
        leave(client)
        if leave is not half_close:
            await eventually(lambda: not here.front.connections, "the connection is closed")
            await here.quiet()
        await here.gone()
        assert freed == [True]
        assert here.count("200") + here.count("499") == 1


@scenario
async def test_an_answer_that_is_not_taken_keeps_the_engines_memory_until_the_client_is_gone() -> None:
    async with house() as here:
        client = await here.connect(receive_buffer=4096)
        await client.send(binary())
        await here.computing()
        freed: list[bool] = []
        # The engine's rows are wider than its inputs: more than the system's buffers take.
        here.engine.open[0].finish(LeasedOutputs({"y": np.zeros((2, 2**22), np.float32)}, lambda: freed.append(True)))
        await eventually(lambda: [c._state.name for c in here.front.connections] == ["WRITING"], "it is being written")
        await client.receive()
        assert freed == []
        assert here.gate._working == 1
        client.reset()
        await here.gone()
        assert freed == [True]
        assert (here.count("200"), here.count("499")) == (0, 1)
        assert here.metrics.sent_bytes == 0


# Deadlines


@WIDTHS
@scenario
async def test_a_deadline_ends_a_request_in_the_queue(width: int) -> None:
    async with house() as here:
        first = await here.occupied()
        second = await here.connect()
        answer = await second.ask(binary(width, 2, headers=DEADLINE))
        assert answer.status == 504
        assert b"500 ms were over while it waited in the queue" in answer.body
        assert here.batcher.depth == 0
        assert here.gate.arena.leases == here.gate._working == 1
        here.engine.finish_all()
        assert values(await first.answer()) == [-1, -1]
        await here.quiet()
        assert len(here.engine.open) == 0


@WIDTHS
@scenario
async def test_a_deadline_ends_a_request_in_the_engine_whose_memory_is_kept_until_the_batch_is_over(
    width: int,
) -> None:
    async with house() as here:
        client = await here.connect()
        await client.send(binary(width, 2, headers=DEADLINE))
        await here.computing()
        answer = await client.answer()
        assert answer.status == 504
        assert b"500 ms were over while the engine computed" in answer.body
        assert here.gate._working == 0
        assert here.gate.arena.leases == 1
        (batch,) = here.engine.open
        assert set(batch.requests[0]["x"].flat) == {2.0}
        batch.finish()
        await here.quiet()
        await client.send(binary(width, 3))
        assert values(await until_answered(here, client)) == [3, 3]


@scenario
async def test_a_deadline_ends_a_request_whose_body_is_still_received() -> None:
    async with house() as here:
        client = await here.connect()
        request = binary(WIDE, headers="X-Deadline-Ms: 50\r\n")
        await client.send(request[:100_000])
        answer = await client.answer()
        assert answer.status == 504
        assert here.held() == {}
        await client.send(request[100_000:])
        await client.send(binary())
        assert values(await until_answered(here, client)) == [1, 1]


# Models that come and go


@pytest.mark.parametrize("remembered", [False, True], ids=["new", "remembered"])
@WIDTHS
@scenario
async def test_a_request_belongs_to_the_model_that_is_there_when_its_body_is_complete(
    width: int, remembered: bool
) -> None:
    async with house() as here:
        if remembered:
            warm = await here.connect()
            for _ in range(4):
                await warm.send(binary(width))
                assert values(await until_answered(here, warm)) == [1, 1]
        asked = len(here.engine.submitted)
        client = await here.connect()
        request = binary(width, 5)
        await client.send(request[:-3])
        await here.receiving()
        engine = FakeEngine(description=here.engine.description)
        old, other = here.model, await prepared(model_of(engine, here.gate.arena, here.metrics, "2"), engine)
        here.gate.models["m"] = other  # type: ignore[index]  # the repository's own dictionary
        await old.close()
        await client.send(request[-3:])
        await eventually(lambda: engine.open, "the new model has it")
        assert [set(one["x"].flat) for one in engine.open[0].requests] == [{5.0}]
        engine.finish_all()
        answer = await client.answer()
        assert values(answer) == [5, 5]
        assert (
            json.loads(answer.body[: int(answer.headers["inference-header-content-length"])])["model_version"] == "2"
        )
        assert len(here.engine.submitted) == asked
        here.model = other
        await here.quiet()


@scenario
async def test_a_model_that_is_taken_away_while_a_body_is_received_is_not_found() -> None:
    async with house() as here:
        client = await here.connect()
        request = binary(WIDE)
        await client.send(request[:-3])
        await here.receiving()
        here.gate.models.pop("m")  # type: ignore[attr-defined]  # the repository's own dictionary
        await client.send(request[-3:])
        assert (await client.answer()).status == 404
        await here.quiet()


@WIDTHS
@scenario
async def test_a_model_that_closes_answers_what_runs_and_refuses_what_waits_or_is_received(width: int) -> None:
    async with house() as here:
        running = await here.occupied()
        waiting = await here.connect()
        await waiting.send(binary(width, 2))
        await here.queued()
        receiving = [await here.connect() for _ in range(4)]
        request = binary(width, 3)
        for number, client in enumerate(receiving):
            await client.send(request[: -3 - number])
        await here.receiving(4)
        receiving[3].reset()
        await here.receiving(3)
        closing = asyncio.create_task(here.model.close())
        assert (await waiting.answer()).status == 503
        for number, client in enumerate(receiving[:2]):
            await client.send(request[-3 - number :])
            answer = await client.answer()
            assert answer.status == 503
            assert b"not ready" in answer.body
        assert not closing.done()
        here.engine.finish_all()
        assert values(await running.answer()) == [-1, -1]
        await closing
        assert here.engine.closed
        await receiving[2].send(request[-5:])
        assert (await receiving[2].answer()).status == 503
        await here.quiet()
        assert (await running.ask(binary())).status == 503


@scenario
async def test_a_request_sent_ahead_of_one_that_a_closing_model_refuses_is_refused_too() -> None:
    async with house() as here:
        running = await here.occupied()
        waiting = await here.connect()
        await waiting.send(binary(value=2) + binary(value=3))
        await here.queued()
        closing = asyncio.create_task(here.model.close())
        assert [(await waiting.answer()).status for _ in range(2)] == [503, 503]
        here.engine.finish_all()
        assert values(await running.answer()) == [-1, -1]
        await closing
        await here.quiet()
