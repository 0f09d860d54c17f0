"""A model of the repository: what it says of itself, which version answers, what is refused before the queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import onnx_graphs as graphs
from fakes import FakeEngine, answer_of, eventually, finds, settle
from saccade_predictor.engines.engine import LeasedOutputs
from saccade_predictor.loading import find_versions
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.modelconfig import parse
from saccade_predictor.repository import ModelDirectory, RepositoryError
from saccade_predictor.version import LoadedEngine, Surroundings
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    UnknownTensor,
    WrongShape,
)
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor, TensorMetadata
from saccade_serving.tracing import Tracing

Prepare = Callable[..., Awaitable[PredictorModel]]

BATCHED = 'backend: "onnxruntime" max_batch_size: 4 dynamic_batching {} version_policy { all {} }\n'


def exchange(timeout_s: float = 30.0) -> Exchange:
    return Exchange.begin("rest", {}, timeout_s)


def model_of(path: Path, max_queue_size: int = 10) -> PredictorModel:
    return PredictorModel(
        ModelDirectory("m", path),
        lambda directory: find_versions(directory, 1),
        Surroundings(PredictorMetrics(), Arena(64 * 2**20, poison=True), max_queue_size),
    )


@pytest.fixture
async def prepare(tmp_path: Path) -> AsyncIterator[Prepare]:
    """Prepares the model that the test has laid out in its folder, and closes it at the end."""
    opened: list[PredictorModel] = []

    async def prepared(config: str | None = None) -> PredictorModel:
        if config is not None:
            (tmp_path / "config.pbtxt").write_text(config, encoding="utf-8")
        opened.append(model_of(tmp_path))
        await opened[-1].prepare()
        return opened[-1]

    yield prepared
    for model in opened:
        await model.close()


async def infer(model: PredictorModel, *tensors: Tensor, **more: Any) -> InferResponse:
    return await answer_of(model, InferRequest("m", tensors, **more), exchange())


def x(rows: int = 1, value: float = 1.0, width: int = 2) -> Tensor:
    return Tensor.of("x", np.full((rows, width), value, np.float32))


async def test_a_model_is_ready_only_after_it_is_prepared(tmp_path: Path) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx")
    model = model_of(tmp_path)
    assert not model.ready
    with pytest.raises(Overloaded, match="not ready: it is still loading"):
        model.check_ready()
    with pytest.raises(Overloaded, match="not ready"):
        model.metadata()
    with pytest.raises(Overloaded, match="not ready"):
        await infer(model, x())
    await model.prepare()
    model.check_ready("1")
    await model.close()
    assert not model.ready
    assert model.versions() == []


async def test_metadata_gives_tensors_versions_and_the_graphs_own_properties(tmp_path: Path, prepare: Prepare) -> None:
    properties = {"saccade.input": "rgb_nhwc", "saccade.min_score": "0.05", "author": "me"}
    graphs.identity(tmp_path / "1" / "model.onnx", "UINT8", ("n", 4, 4, 3), properties)
    graphs.identity(tmp_path / "10" / "model.onnx", "UINT8", ("n", 4, 4, 3), properties)
    model = await prepare(BATCHED)
    metadata = model.metadata()
    assert (metadata.name, metadata.platform) == ("m", "onnxruntime_onnx")
    assert metadata.versions == ["1", "10"]
    assert metadata.inputs == [TensorMetadata("x", "UINT8", (-1, 4, 4, 3))]
    assert metadata.outputs == [TensorMetadata("y", "UINT8", (-1, 4, 4, 3))]
    assert metadata.properties == {"saccade.input": "rgb_nhwc", "saccade.min_score": "0.05"}
    assert model.metadata("1").versions == ["1"]


async def test_labels_travel_in_the_metadata(tmp_path: Path, prepare: Prepare) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx")
    (tmp_path / "labels.txt").write_text("person\nz\xe8bre\n", encoding="utf-8")
    model = await prepare(
        BATCHED + 'output [{ name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }]'
    )
    assert json.loads(model.metadata().properties["saccade.labels"]) == ["person", "z\xe8bre"]


async def test_labels_that_are_missing_keep_the_model_from_becoming_ready(tmp_path: Path) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx")
    config = BATCHED + 'output [{ name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }]'
    (tmp_path / "config.pbtxt").write_text(config)
    model = model_of(tmp_path)
    with pytest.raises(RepositoryError, match=r"m/labels\.txt, named by label_filename"):
        await model.prepare()
    assert not model.ready
    await model.close()


async def test_only_the_configured_outputs_are_described_and_answered(tmp_path: Path, prepare: Prepare) -> None:
    graphs.summing(tmp_path / "1" / "model.onnx")
    model = await prepare(BATCHED + 'output [{ name: "product" data_type: TYPE_FP32 dims: [ 3 ] }]')
    assert [tensor.name for tensor in model.metadata().outputs] == ["product"]
    twos = np.full((1, 3), 2, np.float32)
    answer = await infer(model, Tensor.of("a", twos), Tensor.of("b", twos))
    assert [tensor.name for tensor in answer.outputs] == ["product"]
    assert answer.output("product").array.tolist() == [[4, 4, 4]]
    with pytest.raises(UnknownTensor, match="output 'sum'"):
        await infer(model, Tensor.of("a", twos), Tensor.of("b", twos), outputs=[RequestedOutput("sum")])


async def test_without_a_version_the_highest_answers(tmp_path: Path, prepare: Prepare) -> None:
    for version in ("2", "10"):
        graphs.identity(tmp_path / version / "model.onnx")
    graphs.doubling(tmp_path / "2" / "model.onnx")
    model = await prepare(BATCHED)
    span = exchange()
    answer = await answer_of(model, InferRequest("m", [x(value=3)], id="r1"), span)
    assert (answer.model_version, answer.id, answer.model_name) == ("10", "r1", "m")
    assert span.version == "10"
    assert answer.output("y").array.tolist() == [[3, 3]]
    older = await infer(model, x(value=3), model_version="2")
    assert (older.model_version, older.output("y").array.tolist()) == ("2", [[6, 6]])


async def test_a_version_that_is_not_served_is_not_found(tmp_path: Path, prepare: Prepare) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx")
    model = await prepare()
    for ask in (lambda: model.metadata("9"), lambda: model.check_ready("9")):
        with pytest.raises(ModelNotFound, match="version '9' of model 'm' is not served here; available: 1"):
            ask()
    with pytest.raises(ModelNotFound):
        await infer(model, x(), model_version="9")


async def test_a_request_that_does_not_fit_the_model_is_refused_before_it_is_queued(
    tmp_path: Path, prepare: Prepare
) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx")
    model = await prepare(BATCHED)
    for tensors, error in (
        ([], InvalidRequest),
        ([x(), Tensor.of("z", np.zeros(1, np.float32))], UnknownTensor),
        ([x(width=3)], WrongShape),
        ([Tensor.of("x", np.zeros((1, 2), np.float64))], WrongShape),
        ([x(rows=0)], WrongShape),
        ([x(rows=5)], WrongShape),
    ):
        with pytest.raises(error):
            await infer(model, *tensors)
    assert (await infer(model, x(rows=4))).output("y").shape == (4, 2)


async def test_many_requests_at_once_each_get_their_own_rows(tmp_path: Path, prepare: Prepare) -> None:
    graphs.doubling(tmp_path / "1" / "model.onnx")
    model = await prepare(BATCHED)
    answers = await asyncio.gather(*(infer(model, x(1 + value % 3, value)) for value in range(9)))
    for value, answer in enumerate(answers):
        assert answer.output("y").array.tolist() == [[2 * value, 2 * value]] * (1 + value % 3)


async def test_without_dynamic_batching_a_request_runs_alone_with_all_its_rows(
    tmp_path: Path, prepare: Prepare
) -> None:
    graphs.doubling(tmp_path / "1" / "model.onnx")
    model = await prepare('backend: "onnxruntime" max_batch_size: 4')
    answers = await asyncio.gather(*(infer(model, x(rows, rows)) for rows in (1, 4, 2)))
    assert [answer.output("y").shape for answer in answers] == [(1, 2), (4, 2), (2, 2)]


async def test_a_model_without_a_batch_dimension_takes_its_full_shape(tmp_path: Path, prepare: Prepare) -> None:
    graphs.doubling(tmp_path / "1" / "model.onnx", dims=(3, 2))
    model = await prepare('backend: "onnxruntime" max_batch_size: 0')
    assert model.metadata().inputs == [TensorMetadata("x", "FP32", (3, 2))]
    answers = await asyncio.gather(*(infer(model, x(3, value)) for value in range(4)))
    assert [float(answer.output("y").array[0, 0]) for answer in answers] == [0, 2, 4, 6]
    with pytest.raises(WrongShape):
        await infer(model, x(1))


async def test_text_goes_through_as_bytes_of_any_shape(tmp_path: Path, prepare: Prepare) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx", "STRING")
    model = await prepare(BATCHED)
    elements = [b"", "gr\xfcn".encode(), b"c", b"d"]
    answer = await infer(model, Tensor.of_bytes("x", (2, 2), [memoryview(element) for element in elements]))
    output = answer.output("y")
    assert (output.datatype, output.shape, list(output.elements)) == ("BYTES", (2, 2), elements)


async def test_text_that_the_engine_cannot_take_is_its_own_senders_error_alone(
    tmp_path: Path, prepare: Prepare
) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx", "STRING")
    model = await prepare(BATCHED)
    bad = Tensor.of_bytes("x", (1, 2), [b"\xff\xfe", b"ok"])
    good = Tensor.of_bytes("x", (1, 2), [b"a", b"b"])
    outcomes = await asyncio.gather(
        *(infer(model, tensor) for tensor in (good, bad, good, good)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [InferResponse, InvalidRequest, InferResponse, InferResponse]
    assert str(outcomes[1]) == "input 'x' has an element that is not UTF-8 text, which this model needs"


async def test_an_engine_that_fails_is_a_500_and_the_model_serves_on(tmp_path: Path, prepare: Prepare) -> None:
    graphs.picking(tmp_path / "1" / "model.onnx")
    model = await prepare(BATCHED)
    with pytest.raises(EngineFailed, match="the log has the cause"):
        await infer(model, Tensor.of("x", np.array([99], np.int64)))
    answer = await infer(model, Tensor.of("x", np.array([3], np.int64)))
    assert answer.output("y").array.tolist() == [[6, 7]]


# With an engine that the test drives.


TENSOR = 'put [{ name: "%s" data_type: TYPE_FP32 dims: [ 2 ] }]\n'
TENSORS = 'backend: "onnxruntime"\nin' + TENSOR % "x" + "out" + TENSOR % "y"


async def driven(
    config: str, max_queue_size: int = 10, arena: Arena | None = None
) -> tuple[PredictorModel, FakeEngine]:
    """A prepared model with a fake engine, its warm-up already answered."""
    parsed = parse(TENSORS + config, "m")[0]
    engine = FakeEngine()
    model = PredictorModel(
        ModelDirectory("m", Path("nowhere")),
        finds(LoadedEngine("1", parsed, engine)),
        Surroundings(PredictorMetrics(), arena or Arena(64 * 2**20, poison=True), max_queue_size),
    )
    preparing = asyncio.create_task(model.prepare())

    def step() -> bool:
        engine.finish_all()
        return preparing.done()

    await eventually(step, "the model is ready")
    await preparing
    return model, engine


async def test_a_model_is_not_ready_while_its_warm_up_runs() -> None:
    engine = FakeEngine()
    parsed, _ = parse(TENSORS + "max_batch_size: 4", "m")
    model = PredictorModel(
        ModelDirectory("m", Path("nowhere")),
        finds(LoadedEngine("1", parsed, engine)),
        Surroundings(PredictorMetrics(), Arena(2**20), 10),
    )
    preparing = asyncio.create_task(model.prepare())
    await eventually(lambda: engine.open, "the first warm-up batch")
    assert not model.ready
    engine.open[0].fail(RuntimeError("cannot"))
    with pytest.raises(EngineFailed):
        await preparing
    assert not model.ready
    await model.close()
    assert engine.closed


@pytest.mark.parametrize(("config", "requests"), [("", [1, 1, 1]), ("dynamic_batching {}", [1, 2])])
async def test_only_with_dynamic_batching_are_requests_that_wait_grouped(config: str, requests: list[int]) -> None:
    model, engine = await driven("max_batch_size: 4 " + config)
    warmed = len(engine.submitted)
    tasks = [await asked(model, engine)]
    tasks += [asyncio.create_task(infer(model, x(value=value))) for value in (1, 2)]
    await settle()

    def step() -> bool:
        engine.finish_all()
        return all(task.done() for task in tasks)

    await eventually(step, "all are answered")
    assert [len(batch.requests) for batch in engine.submitted[warmed:]] == requests
    await model.close()


@pytest.mark.parametrize(("configured", "limit"), [("", 2), ("default_queue_policy { max_queue_size: 1 }", 1)])
async def test_the_queues_limit_is_the_models_own_or_the_services(configured: str, limit: int) -> None:
    model, engine = await driven("max_batch_size: 1 dynamic_batching {" + configured + "}", max_queue_size=2)
    tasks = [asyncio.create_task(infer(model, x(value=value))) for value in range(1 + limit)]
    [version] = model.loaded()
    await eventually(lambda: version.batcher.depth == limit, "the queue is full")
    with pytest.raises(Overloaded, match=f"{limit} requests are waiting"):
        await infer(model, x())
    while not all(task.done() for task in tasks):
        engine.finish_all()
        await asyncio.sleep(0)
    await model.close()


POLICY = "max_batch_size: 1 dynamic_batching {{ default_queue_policy {{ default_timeout_microseconds: 20000 {} }} }}"


async def test_the_models_queue_timeout_bounds_the_time_in_the_queue_alone() -> None:
    model, engine = await driven(POLICY.format(""))
    computing = asyncio.create_task(infer(model, x()))
    await eventually(lambda: engine.open, "the first one is computed")
    with pytest.raises(DeadlineExceeded, match="the request's time in the queue was over after 2"):
        await infer(model, x(value=2))
    assert not computing.done()
    engine.finish_all()
    await computing
    await model.close()


@pytest.mark.parametrize("timeout_us", [5000, "5000"])
async def test_a_request_may_wait_for_less_than_the_model_allows(timeout_us: int | str) -> None:
    model, engine = await driven(POLICY.format("allow_timeout_override: true"))
    computing = asyncio.create_task(infer(model, x()))
    await eventually(lambda: engine.open, "the first one is computed")
    with pytest.raises(DeadlineExceeded, match=r"the request's time in the queue was over after [5-9]|1\d"):
        await infer(model, x(value=2), parameters={"timeout": timeout_us})
    engine.finish_all()
    await computing
    await model.close()


async def test_a_request_whose_time_is_over_is_delayed_where_the_policy_says_so() -> None:
    policy = POLICY.format("allow_timeout_override: true timeout_action: DELAY")
    model, engine = await driven(policy)
    assert not model.timeout_is_deadline("")
    tasks = [asyncio.create_task(infer(model, x()))]
    await eventually(lambda: engine.open, "the first one is computed")
    [version] = model.loaded()
    tasks.append(asyncio.create_task(infer(model, x(value=2), parameters={"timeout": 1000})))
    level = version.batcher.scheduler.queue._levels[0]
    await eventually(lambda: level.delayed.live == 1, "its time is over")
    tasks.append(asyncio.create_task(infer(model, x(value=3))))
    await settle()
    for value in (3, 2):
        engine.finish_all()
        await eventually(lambda: engine.open, "the next one is computed")
        assert engine.submitted[-1].seen[0]["x"].flat[0] == value
    engine.finish_all()
    await asyncio.gather(*tasks)
    await model.close()


async def test_priorities_are_the_clients_to_choose() -> None:
    model, engine = await driven(
        "max_batch_size: 1 dynamic_batching { priority_levels: 3 default_priority_level: 2 }", max_queue_size=10
    )
    tasks = [asyncio.create_task(infer(model, x(value=-1)))]
    await eventually(lambda: engine.open, "the first one is computed")
    for value, priority in ((0, 3), (1, 0), (2, 1), (3, "1")):
        tasks.append(asyncio.create_task(infer(model, x(value=value), parameters={"priority": priority})))
        await settle()
    for _ in range(4):
        engine.finish_all()
        await eventually(lambda: engine.open, "the next one is computed")
    assert [int(batch.seen[0]["x"].flat[0]) for batch in engine.submitted[-4:]] == [2, 3, 1, 0]
    engine.finish_all()
    await asyncio.gather(*tasks)
    with pytest.raises(InvalidRequest, match="parameter 'priority' is '-1'; expected a whole number >= 0"):
        await infer(model, x(), parameters={"priority": -1})
    await model.close()


async def test_with_an_slo_batches_are_measured_and_the_door_is_kept() -> None:
    slo = 'parameters { key: "slo_ms" value { string_value: "970" } }'
    model, engine = await driven("max_batch_size: 4 dynamic_batching { } " + slo, max_queue_size=100)
    [version] = model.loaded()
    scheduler = version.batcher.scheduler
    assert scheduler.profile.sizes == [1, 2, 4]
    scheduler.profile.learn({1: 0.1, 2: 0.15, 4: 0.25})
    scheduler.refresh()
    tasks = [asyncio.create_task(infer(model, x()))]
    await eventually(lambda: engine.open, "a batch is computed")
    tasks += [asyncio.create_task(infer(model, x(value=value))) for value in range(20)]
    await settle()
    # One computes for 100 ms; three batches of four behind it take 850 ms, and one more row 950 ms.
    assert version.batcher.depth == 13
    opened = exchange()
    with pytest.raises(Overloaded, match=r"an answer would take \S+ ms; \S+ ms are left") as refused:
        model.admit("", opened)
    assert opened.deadline - opened.started == pytest.approx(0.97), "the SLO is the request's deadline"
    assert opened.own_timeout_s == pytest.approx(30.0), "what it would have without"
    assert refused.value.retry_after_s == pytest.approx(13 / 16, rel=0.1)
    while not all(task.done() for task in tasks):
        engine.finish_all()
        await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(one, InferResponse) for one in ended) == 14
    assert sum(isinstance(one, Overloaded) for one in ended) == 7
    model.admit("", exchange())
    await model.close()


async def test_closing_answers_what_runs_refuses_what_waits_and_frees_the_engine() -> None:
    model, engine = await driven("max_batch_size: 1 dynamic_batching {}")
    running, waiting = (asyncio.create_task(infer(model, x(value=value))) for value in (1, 2))
    await eventually(lambda: engine.open, "the first request runs")
    closing = asyncio.create_task(model.close())
    with pytest.raises(Overloaded, match="being unloaded"):
        await waiting
    assert not engine.closed
    engine.finish_all()
    await closing
    assert (await running).output("y").array.tolist() == [[1, 1]]
    assert engine.closed
    assert not model.ready


async def test_a_cancelled_request_does_not_disturb_its_batch() -> None:
    model, engine = await driven("max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 50000 }")
    leaver, stayer = (asyncio.create_task(infer(model, x(2, value))) for value in (1, 2))
    await eventually(lambda: engine.open, "both run")
    leaver.cancel()
    await asyncio.sleep(0)
    engine.finish_all()
    assert (await stayer).output("y").array.tolist() == [[2, 2], [2, 2]]
    await model.close()


async def test_a_graph_that_takes_any_size_is_warmed_with_the_size_its_config_names(
    tmp_path: Path, prepare: Prepare
) -> None:
    graphs.identity(tmp_path / "1" / "model.onnx", "FLOAT", ("n", "m"))
    model = await prepare(
        BATCHED
        + 'input [{ name: "x" data_type: TYPE_FP32 dims: [ 5 ] }]'
        + 'output [{ name: "y" data_type: TYPE_FP32 dims: [ 5 ] }]'
    )
    assert model.ready
    assert (await infer(model, x(width=5))).output("y").shape == (1, 5)


async def test_a_largest_batch_that_the_arena_could_never_hold_is_not_warmed_but_the_model_serves() -> None:
    arena = Arena(4096)
    model, engine = await driven("max_batch_size: 1024 dynamic_batching {}", arena=arena)
    assert [batch.rows for batch in engine.submitted] == [1]
    assert model.ready
    await model.close()


# Ends: whatever becomes of a request, its memory and that of its answer are given back once.


class Lent:
    """An engine's own memory, and how often it came back."""

    def __init__(self, **outputs: Any) -> None:
        self.freed = 0
        self.outputs = LeasedOutputs({name: np.asarray(array) for name, array in outputs.items()}, self._free)

    def _free(self) -> None:
        self.freed += 1


ROW = np.ones((1, 2), np.float32)


async def asked(model: PredictorModel, engine: FakeEngine) -> asyncio.Task[InferResponse]:
    """A request that the engine has."""
    task = asyncio.create_task(infer(model, x()))
    await eventually(lambda: engine.open, "it runs")
    return task


async def test_lent_outputs_are_the_answers_until_it_is_released() -> None:
    model, engine = await driven("max_batch_size: 1")
    task = await asked(model, engine)
    lent = Lent(y=ROW)
    engine.open[0].finish(lent.outputs)
    answer = await task
    assert answer.output("y").array is lent.outputs["y"]
    assert lent.freed == 0
    assert answer.release is not None
    answer.release()
    assert lent.freed == 1
    await model.close()


async def test_lent_outputs_nobody_waits_for_any_more_go_back() -> None:
    arena = Arena(2**20, poison=True)
    model, engine = await driven("max_batch_size: 1", arena=arena)
    task = await asked(model, engine)
    task.cancel()
    await settle()
    assert arena.leases == 1
    lent = Lent(y=ROW)
    engine.open[0].finish(lent.outputs)
    await settle()
    assert lent.freed == 1
    assert arena.leases == 0
    await model.close()


@pytest.mark.parametrize("outputs", [{"z": ROW}, {"y": ROW.astype(object)}], ids=["another name", "no datatype"])
async def test_outputs_that_are_not_the_models_fail_the_request_and_go_back(outputs: dict[str, Any]) -> None:
    arena = Arena(2**20, poison=True)
    model, engine = await driven("max_batch_size: 4 dynamic_batching {}", arena=arena)
    task = await asked(model, engine)
    lent = Lent(**outputs)
    engine.open[0].finish(lent.outputs)
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(task, 5)
    assert lent.freed == 1
    assert arena.leases == 0
    await model.close()


async def test_a_request_that_the_full_queue_refuses_keeps_its_body_and_can_be_cancelled() -> None:
    arena = Arena(2**20, poison=True)
    model, engine = await driven("max_batch_size: 1 dynamic_batching {}", max_queue_size=1, arena=arena)
    running = await asked(model, engine)
    waiting = asyncio.create_task(infer(model, x()))
    await settle()
    refused = exchange()
    refused.lease = arena.lease(8)
    array = np.frombuffer(refused.lease.view, np.float32).reshape(1, 2)
    with pytest.raises(Overloaded):
        model.start_infer(InferRequest("m", [Tensor.of("x", array)]), refused)
    refused.cancel()
    assert refused.lease is not None
    refused.close()
    for _ in range(2):
        engine.finish_all()
        await settle()
    await asyncio.gather(running, waiting)
    assert arena.leases == 0
    await model.close()


async def test_a_body_that_lies_in_the_arena_is_the_engines_without_a_copy() -> None:
    arena = Arena(2**20, poison=True)
    model, engine = await driven("max_batch_size: 1", arena=arena)
    span = exchange()
    span.lease = arena.lease(8)
    address = span.lease.address
    array = np.frombuffer(span.lease.view, np.float32).reshape(1, 2)
    task = asyncio.create_task(answer_of(model, InferRequest("m", [Tensor.of("x", array)]), span))
    await eventually(lambda: engine.open, "it runs")
    [batch] = engine.open
    assert batch.requests[0]["x"].__array_interface__["data"][0] == address
    assert span.lease is None, "the batcher's now"
    engine.finish_all()
    await task
    await settle()
    assert arena.leases == 0
    await model.close()


@pytest.mark.parametrize(
    ("headers", "rows"),
    [
        ({"content-length": str(100 + 3 * 8), "inference-header-content-length": "100"}, 3),
        ({"content-length": str(100 + 9 * 8), "inference-header-content-length": "100"}, 4),  # the batch's limit
        ({"content-length": "8", "inference-header-content-length": "1"}, 1),
        ({"content-length": "0", "inference-header-content-length": "0"}, 1),
        ({"content-length": "9" * 18, "inference-header-content-length": "1"}, 4),
        ({"content-length": "9" * 5000, "inference-header-content-length": "1"}, 1),  # is refused elsewhere
        ({"content-length": "1000"}, 1),  # JSON is as long as it likes
        ({}, 1),
    ],
)
async def test_the_door_guesses_the_rows_of_binary_requests_from_their_length(
    headers: dict[str, str], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slo = 'parameters { key: "slo_ms" value { string_value: "1000" } }'
    model, _ = await driven("max_batch_size: 4 dynamic_batching { } " + slo)
    [version] = model.loaded()
    asked: list[int] = []
    monkeypatch.setattr(version.batcher, "knock", lambda deadline, rows=1, priority=0: asked.append(rows))
    asking = Exchange.begin("rest", headers, 30)
    model.admit("", asking)
    assert asked == [asking.rows] == [rows]
    await model.close()


async def test_a_batchs_span_is_linked_to_its_requests() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    model, engine = await driven("max_batch_size: 4 dynamic_batching { }")
    model.tracing = Tracing(provider)
    exchanges = [exchange(), exchange(), exchange()]
    for one in exchanges[:2]:
        model.tracing.begin(one)
    requests = [InferRequest("m", [x(value=value)]) for value in range(3)]
    tasks = [asyncio.create_task(answer_of(model, *pair)) for pair in zip(requests, exchanges, strict=True)]
    await eventually(lambda: engine.open, "a batch is computed")
    engine.finish_all()
    await asyncio.gather(*tasks)
    (batch,) = exporter.get_finished_spans()
    assert (batch.name, batch.attributes) == (
        "batch",
        {"saccade.model": "m", "saccade.version": "1", "saccade.rows": 3},
    )
    linked = {link.context.span_id for link in batch.links}
    assert linked == {one.span.get_span_context().span_id for one in exchanges[:2]}
    await model.close()
