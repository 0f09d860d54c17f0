"""One image from its bytes to its answer: what each step costs, what stops it, and what a broken predictor does."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from fakes import FakeV2Client, candidates, detector_client, detector_metadata, eventually, settle
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import (
    DeadlineExceeded,
    InvalidImage,
    Overloaded,
    PayloadTooLarge,
    PredictorUnavailable,
    UnsupportedMedia,
)
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.pipeline import Answered, Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.sources import Encoded, Raw, Source
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.detection import DetectionTask
from saccade_transformers.workers import ImageWorkers

TASK = DetectionTask(["person", "cat"], 4, 0.05, 0.4, 0.5, 3)
OPTIONS = TASK.options({})
CONTRACT = PredictorContract.of(detector_metadata())
#: In the model's input of 32 x 24 pixels.
PERSON = (8, 6, 16, 12, 0.9, 0)
#: 64 x 48, exactly twice the model's input.
PICTURE: NDArray[np.uint8] = np.full((48, 64, 3), (250, 10, 10), np.uint8)


def png(picture: NDArray[np.uint8] = PICTURE) -> bytes:
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    return encoded.tobytes()


class Line:
    """A pipeline with its parts."""

    def __init__(self, client: FakeV2Client, threads: int = 1, max_waiting: int = 8) -> None:
        self.client = client
        self.metrics = TransformerMetrics()
        self.workers = ImageWorkers(threads, max_waiting)
        self.predictor = Predictor(client, "detector", self.metrics.predictor_seconds)
        limits = ImageLimits(max_bytes=100_000, max_pixels=10_000)
        self.pipeline = Pipeline(self.workers, limits, self.metrics)
        self.target = Target(self.predictor, lambda _contract: TASK)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    async def answer(self, source: Source, span: Exchange | None = None, **more: Any) -> Answered:
        span = span or Exchange.begin("rest", {}, 10)
        return await self.pipeline.answer(source, self.target, Known(CONTRACT, TASK), OPTIONS, {}, span, **more)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line(detector_client(PERSON))
    yield line
    await asyncio.to_thread(line.workers.close)


def replying(line: Line, *outputs: Tensor) -> None:
    """Let the predictor answer these tensors."""

    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, outputs, "3")

    line.client.answer = answer


@pytest.mark.parametrize(
    "source",
    [
        Encoded(png()),
        Encoded(memoryview(png())),
        Encoded(base64.b64encode(png()).decode(), is_base64=True),
        Encoded(base64.b64encode(png()), is_base64=True),
        Raw(PICTURE),
    ],
    ids=["bytes", "a view", "base64 text", "base64 bytes", "pixels"],
)
async def test_an_image_in_any_form_gets_boxes_in_its_own_pixels(line: Line, source: Source) -> None:
    answered = await line.answer(source)
    assert (answered.width, answered.height, answered.version, answered.cache) == (64, 48, "3", "miss")
    assert TASK.to_v1(answered.answer) == [
        {"box": [16.0, 12.0, 32.0, 24.0], "score": 0.9, "class_id": 0, "label": "person"}
    ]
    [tensor] = line.client.requests[0].inputs
    assert tensor.shape == (1, 24, 32, 3)
    assert tensor.array[0, 12, 16].tolist() == [250, 10, 10], "RGB, as it was sent"


async def test_version_and_cache_outcome_are_passed_through(line: Line) -> None:
    answered = await line.answer(Raw(PICTURE), model_version="7", cache="bypass")
    assert line.client.requests[0].model_version == "7"
    assert answered.cache == "bypass"


@pytest.mark.parametrize(("limit", "in_a_thread"), [(-1, True), (100, False)])
async def test_an_answer_is_read_in_a_thread_unless_it_is_light(
    line: Line, limit: int, in_a_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    read = DetectionTask.read

    def noting(task: DetectionTask, outputs: Any, options: Any) -> Any:
        threads.append(threading.get_ident())
        return read(task, outputs, options)

    monkeypatch.setattr(DetectionTask, "read", noting)
    monkeypatch.setattr("saccade_transformers.tasks.detection._LIGHT", limit)
    assert len((await line.answer(Raw(PICTURE))).answer) == 1
    assert (threads[0] != threading.get_ident()) == in_a_thread


async def test_every_stage_is_timed_also_for_a_request_that_fails(line: Line) -> None:
    span = Exchange.begin("rest", {}, 10)
    await line.answer(Raw(PICTURE), span)
    assert set(span.stages) == {"decode", "predict", "postprocess"}
    span = Exchange.begin("rest", {}, 10)
    with pytest.raises(InvalidImage):
        await line.answer(Encoded(b""), span)
    assert set(span.stages) == {"decode"}


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Encoded(b""), InvalidImage),
        (Encoded(b"GIF89a" + bytes(50)), UnsupportedMedia),
        (Encoded(png()[:60]), InvalidImage),
        (Encoded("not base64!", is_base64=True), InvalidImage),
        (Encoded(bytes(100_001)), PayloadTooLarge),
        (Encoded(png(np.zeros((101, 100, 3), np.uint8))), PayloadTooLarge),
        (Raw(np.zeros((101, 100, 3), np.uint8)), PayloadTooLarge),
    ],
)
async def test_an_image_that_is_not_served_never_reaches_the_predictor(
    line: Line, source: Source, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await line.answer(source)
    assert line.client.requests == []
    assert line.workers.pending == 0


async def test_a_request_without_time_left_is_not_even_decoded(line: Line) -> None:
    with pytest.raises(DeadlineExceeded, match="before the image was decoded"):
        await line.answer(Raw(PICTURE), Exchange.begin("rest", {}, -1))
    assert line.client.requests == []


async def test_a_deadline_that_passes_while_an_image_waits_for_a_thread_is_the_end_of_it(line: Line) -> None:
    door = threading.Event()
    busy = asyncio.create_task(line.workers.admit(lambda: door.wait(10)))
    await settle()
    with pytest.raises(DeadlineExceeded, match="over while the image was decoded"):
        await line.answer(Raw(PICTURE), Exchange.begin("rest", {}, 0.02))
    door.set()
    await busy
    assert line.client.requests == []
    assert line.workers.pending == 0


async def test_a_deadline_that_passes_while_a_drawing_waits_for_a_thread_is_the_end_of_it(line: Line) -> None:
    answered = await line.answer(Raw(PICTURE))
    door = threading.Event()
    busy = asyncio.create_task(line.workers.admit(lambda: door.wait(10)))
    await settle()
    with pytest.raises(DeadlineExceeded, match="over while the answer was drawn"):
        await line.pipeline.draw(Raw(PICTURE), answered, Exchange.begin("rest", {}, 0.02))
    door.set()
    await busy


async def test_an_answer_is_drawn_into_its_own_image(line: Line) -> None:
    answered = await line.answer(Encoded(png()))
    span = Exchange.begin("rest", {}, 10)
    drawn = cv2.imdecode(
        np.frombuffer(await line.pipeline.draw(Encoded(png()), answered, span), np.uint8), cv2.IMREAD_COLOR_RGB
    )
    assert drawn is not None
    assert drawn.shape == PICTURE.shape
    changed = np.abs(drawn.astype(int) - PICTURE).max(axis=2) > 60
    assert changed[12:24, 16:32].any(), "the box"
    assert not changed[36:].any(), "nothing far from it"
    assert set(span.stages) == {"draw"}


async def test_an_image_too_many_is_refused_before_it_is_decoded() -> None:
    line = Line(detector_client(PERSON), threads=1, max_waiting=0)
    door = threading.Event()
    busy = asyncio.create_task(line.workers.admit(lambda: door.wait(10)))
    await settle()
    with pytest.raises(Overloaded):
        await line.answer(Raw(PICTURE))
    assert line.client.requests == []
    door.set()
    await busy
    await asyncio.to_thread(line.workers.close)


async def test_an_image_that_was_inferred_is_finished_however_many_wait() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def answer(request: InferRequest) -> InferResponse:
        asked.set()
        await release.wait()
        return InferResponse(request.model_name, [candidates(PERSON)], "3")

    async def describe() -> ModelMetadata:
        return detector_metadata()

    line = Line(FakeV2Client(answer, describe), threads=1, max_waiting=0)
    task = asyncio.create_task(line.answer(Raw(PICTURE)))
    await asked.wait()
    door = threading.Event()
    busy = asyncio.create_task(line.workers.admit(lambda: door.wait(10)))
    await settle()
    release.set()
    await settle()
    door.set()
    assert len((await task).answer) == 1
    await busy
    await asyncio.to_thread(line.workers.close)


async def test_what_postprocessing_takes_is_kept_back_from_the_predictor(line: Line) -> None:
    await line.answer(Raw(PICTURE))
    line.pipeline._postprocess_s = 0.5
    await line.answer(Raw(PICTURE), Exchange.begin("rest", {}, 100))
    assert line.client.timeouts[0] > 9
    assert 98 < line.client.timeouts[1] < 99.6
    assert 0.4 < line.pipeline._postprocess_s < 0.5, "the mean follows what it really took"


async def test_slow_postprocessing_in_the_past_never_refuses_a_request_by_itself(line: Line) -> None:
    line.pipeline._postprocess_s = 40.0
    await line.answer(Raw(PICTURE), Exchange.begin("rest", {}, 10))
    assert 8 < line.client.timeouts[0] <= 9, "a tenth of the time at most"


async def test_a_full_table_is_counted_by_model_and_version(line: Line) -> None:
    replying(line, candidates(*[PERSON] * 4))
    span = Exchange.begin("rest", {}, 10)
    span.model = "detector"
    await line.answer(Raw(PICTURE), span)
    labels = {"model": "detector", "version": "3"}
    assert line.registry.get_sample_value("saccade_candidates_full_total", labels) == 1


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [Tensor.of("boxes", np.zeros((1, 4, 6), np.float32))],
        [Tensor.of("candidates", np.zeros((2, 4, 6), np.float32))],
        [Tensor.of("candidates", np.zeros((0, 4, 6), np.float32))],
        [Tensor.of("candidates", np.zeros((1, 5, 6), np.float32))],
        [Tensor.of("candidates", np.zeros((1, 4, 6), np.float64))],
        [Tensor.of("candidates", np.zeros((), np.float32))],
        [Tensor.of("candidates", np.full((1, 4, 6), np.nan, np.float32))],
        [Tensor.of_bytes("candidates", (1,), [b"x"])],
    ],
    ids=["nothing", "another name", "two rows", "no rows", "another K", "doubles", "a scalar", "NaN", "text"],
)
async def test_an_answer_that_is_not_what_the_model_promises_is_the_predictors_fault(
    line: Line, outputs: list[Tensor]
) -> None:
    await line.predictor.contract(5)
    replying(line, *outputs)
    with pytest.raises(PredictorUnavailable, match="is not what its model promises"):
        await line.answer(Raw(PICTURE))
    # Another model may stand there now, so the next request asks again.
    await line.predictor.contract(5)
    assert line.client.metadata_calls == 2


async def test_a_client_that_leaves_while_the_predictor_works_cancels_the_call(line: Line) -> None:
    seen: list[str] = []

    async def watch(_request: InferRequest) -> InferResponse:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("ended")
        raise AssertionError("unreachable")

    line.client.answer = watch
    task = asyncio.create_task(line.answer(Raw(PICTURE)))
    await eventually(lambda: line.client.requests, "the predictor was asked")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["ended"]


async def test_images_at_the_same_time_do_not_mix(line: Line) -> None:
    async def answer(request: InferRequest) -> InferResponse:
        shade = int(request.inputs[0].array[0, 12, 16, 0])
        await asyncio.sleep(0)
        return InferResponse(request.model_name, [candidates((0, 0, shade / 10, 10, 0.9, 1))], str(shade))

    line.client.answer = answer
    shades = list(range(10, 250, 40))
    answers = await asyncio.gather(*(line.answer(Raw(np.full((24, 32, 3), s, np.uint8))) for s in shades))
    assert [answered.version for answered in answers] == [str(shade) for shade in shades]
    assert [round(float(answered.answer.boxes[0, 2]), 3) for answered in answers] == [shade / 10 for shade in shades]
