"""The transformer's model: both forms of V2 input, requests of several images, parameters, contract, readiness."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fakes import (
    DETECTOR_PROPERTIES,
    FakeV2Client,
    candidates,
    detector_client,
    detector_metadata,
    eventually,
)
from saccade_serving.client import ConnectionFailed, Refused
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import (
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    PredictorUnavailable,
    Unimplemented,
    UnknownTensor,
    WrongShape,
)
from saccade_serving.oip.messages import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    RequestedOutput,
    Tensor,
    TensorMetadata,
)
from saccade_transformers import model as model_module
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.model import TransformerModel, v1_answer
from saccade_transformers.pipeline import Answered, Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.sources import Encoded, Raw
from saccade_transformers.target import Target
from saccade_transformers.tasks.detection import DetectionTask
from saccade_transformers.workers import ImageWorkers

PERSON = (8, 6, 16, 12, 0.9, 0)
CAT = (0, 0, 4, 4, 0.8, 1)
PICTURE: NDArray[np.uint8] = np.full((48, 64, 3), 100, np.uint8)

Make = Callable[..., TransformerModel]


def png(picture: NDArray[np.uint8] = PICTURE) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def make_task(contract: PredictorContract) -> DetectionTask:
    return DetectionTask(
        contract.labels,
        int(contract.properties["saccade.candidates"]),
        float(contract.properties["saccade.min_score"]),
        score_threshold=0.4,
        iou_threshold=0.5,
        max_detections=3,
    )


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes models around fake predictors and closes them at the end."""
    made: list[TransformerModel] = []

    def make_model(
        client: FakeV2Client, max_images: int = 4, probe: bool = False, max_pixels: int = 40_000
    ) -> TransformerModel:
        metrics = TransformerMetrics()
        workers = ImageWorkers(2, 32)
        predictor = Predictor(client, "behind", metrics.predictor_seconds)
        pipeline = Pipeline(workers, ImageLimits(100_000, 10_000), metrics)
        target = Target(predictor, make_task)
        made.append(TransformerModel("detector", target, pipeline, workers, max_images, max_pixels, probe))
        return made[-1]

    yield make_model
    for model in made:
        await model.close()


def exchange() -> Exchange:
    return Exchange.begin("rest", {}, 10)


def asked(*tensors: Tensor, **more: Any) -> InferRequest:
    return InferRequest("detector", tensors, **more)


def encoded(*images: bytes) -> Tensor:
    return Tensor.of_bytes("image", (len(images),), images)


async def infer(model: TransformerModel, *tensors: Tensor, **more: Any) -> InferResponse:
    return await model.infer(asked(*tensors, **more), exchange())


# All images of a request together.


@pytest.mark.parametrize("form", ["encoded", "base64", "raw"])
async def test_the_images_of_a_request_have_a_limit_of_pixels_together(make: Make, form: str) -> None:
    model = make(detector_client(), max_pixels=2 * 48 * 64)

    def tensor(count: int) -> Tensor:
        if form == "raw":
            return Tensor.of("image", np.stack([PICTURE] * count))
        images = [base64.b64encode(png()) if form == "base64" else png()] * count
        return Tensor("image", "BYTES", (count,), images, is_text=form == "base64")

    await infer(model, tensor(2))
    with pytest.raises(PayloadTooLarge, match=r"^image [0-2]: the request .* 9216 pixels; the limit is 6144 pixels"):
        await infer(model, tensor(3))
    await infer(model, tensor(1))


# What is sent, what is answered.


@pytest.mark.parametrize(
    "tensor",
    [encoded(png(), png()), Tensor.of("image", np.stack([PICTURE, PICTURE]))],
    ids=["encoded pictures", "pixels"],
)
async def test_both_forms_of_the_input_give_the_same_answer(make: Make, tensor: Tensor) -> None:
    model = make(detector_client(PERSON, CAT))
    answer = await infer(model, tensor, id="r1")
    assert (answer.model_name, answer.model_version, answer.id) == ("detector", "3", "r1")
    assert answer.output("num_detections").array.tolist() == [2, 2]
    assert answer.output("boxes").array[0].tolist() == [[16, 12, 32, 24], [0, 0, 8, 8]]
    assert answer.output("class_ids").array.tolist() == [[0, 1]] * 2
    assert list(answer.output("labels").elements) == [b"person", b"cat"] * 2
    assert list(answer.output("cache").elements) == [b"miss", b"miss"]


async def test_pictures_in_json_are_base64(make: Make) -> None:
    text = base64.b64encode(png())
    tensor = Tensor("image", "BYTES", (1,), [text], is_text=True)
    assert (await infer(make(detector_client(PERSON)), tensor)).output("num_detections").array.tolist() == [1]


@pytest.mark.parametrize(
    ("tensors", "error", "sentence"),
    [
        ([], InvalidRequest, "0 inputs were sent; expected exactly one, 'image'"),
        ([encoded(png()), Tensor.of("mask", np.zeros(1))], UnknownTensor, "input 'mask' is not a tensor"),
        ([Tensor.of("images", np.zeros((1, 2, 2, 3), np.uint8))], UnknownTensor, "expected 'image'"),
        ([Tensor.of("image", np.zeros((1, 2, 2, 3), np.float32))], WrongShape, "is FP32; expected BYTES"),
        ([Tensor.of("image", np.zeros((2, 2, 3), np.uint8))], WrongShape, r"UINT8 of shape \[2, 2, 3\]"),
        ([Tensor.of("image", np.zeros((1, 2, 2, 4), np.uint8))], WrongShape, r"UINT8 of shape \[1, 2, 2, 4\]"),
        ([Tensor.of("image", np.zeros((0, 2, 2, 3), np.uint8))], WrongShape, r"UINT8 of shape \[0, 2, 2, 3\]"),
        ([Tensor.of("image", np.zeros((1, 0, 2, 3), np.uint8))], WrongShape, r"UINT8 of shape \[1, 0, 2, 3\]"),
        ([Tensor.of_bytes("image", (), [b"x"])], WrongShape, r"BYTES of shape \[\]"),
        ([Tensor.of_bytes("image", (1, 1), [b"x"])], WrongShape, r"BYTES of shape \[1, 1\]"),
        ([encoded()], WrongShape, r"BYTES of shape \[0\]"),
    ],
)
async def test_an_input_of_another_form_is_refused_with_what_is_expected(
    make: Make, tensors: list[Tensor], error: type[Exception], sentence: str
) -> None:
    client = detector_client(PERSON)
    with pytest.raises(error, match=sentence):
        await infer(make(client), *tensors)
    assert client.requests == []


async def test_requested_outputs_have_to_exist(make: Make) -> None:
    client = detector_client(PERSON)
    model = make(client)
    with pytest.raises(UnknownTensor, match="output 'masks' is not a tensor of this model; expected 'num_detections'"):
        await infer(model, encoded(png()), outputs=[RequestedOutput("masks")])
    assert client.requests == []
    await infer(model, encoded(png()), outputs=[RequestedOutput("cache"), RequestedOutput("boxes")])


async def test_more_images_than_allowed_are_refused(make: Make) -> None:
    client = detector_client(PERSON)
    with pytest.raises(PayloadTooLarge, match="the request has 5 images; the limit is 4 images"):
        await infer(make(client), encoded(*[png()] * 5))
    assert client.requests == []


async def test_images_of_one_request_that_were_answered_by_several_versions_name_them_all(make: Make) -> None:
    versions = iter(["4", "3", "4"])

    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, [candidates(PERSON)], next(versions))

    client = detector_client()
    client.answer = answer
    assert (await infer(make(client), encoded(*[png()] * 3))).model_version == "3,4"


async def test_the_answers_come_in_the_order_of_the_images(make: Make) -> None:
    async def answer(request: InferRequest) -> InferResponse:
        shade = int(request.inputs[0].array[0, 12, 16, 0])
        for _ in range(50 - shade // 5):  # later images are answered first
            await asyncio.sleep(0)
        return InferResponse(request.model_name, [candidates(*[PERSON, CAT][: shade // 100])], "3")

    client = detector_client()
    client.answer = answer
    images = [np.full((24, 32, 3), shade, np.uint8) for shade in (0, 100, 200)]
    response = await infer(make(client), Tensor.of("image", np.stack(images)))
    assert response.output("num_detections").array.tolist() == [0, 1, 2]
    assert response.output("boxes").shape == (3, 2, 4)
    assert response.output("scores").array[0].tolist() == [0, 0], "padding"


# All or none.


async def test_one_damaged_image_fails_the_request_and_is_named_by_its_index(make: Make) -> None:
    model = make(detector_client(PERSON))
    with pytest.raises(InvalidImage, match=r"^image 1: ") as caught:
        await infer(model, encoded(png(), b"\x89PNG\r\n\x1a\nnonsense", png()))
    assert caught.value.status == 400


async def test_a_single_damaged_image_needs_no_index(make: Make) -> None:
    with pytest.raises(InvalidImage) as caught:
        await infer(make(detector_client(PERSON)), encoded(b""))
    assert "image 0" not in str(caught.value)


async def test_the_first_failure_cancels_the_rest(make: Make) -> None:
    cancelled = 0

    async def answer(request: InferRequest) -> InferResponse:
        nonlocal cancelled
        if int(request.inputs[0].array[0, 12, 16, 0]) == 200:
            raise Refused(503, "full", 3.0)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled += 1
        raise AssertionError("unreachable")

    client = detector_client()
    client.answer = answer
    images = [np.full((24, 32, 3), shade, np.uint8) for shade in (0, 100, 200)]
    with pytest.raises(Overloaded, match=r"^image 2: the predictor refused: full") as caught:
        await asyncio.wait_for(infer(make(client), Tensor.of("image", np.stack(images))), 10)
    assert caught.value.retry_after_s == 3.0
    assert cancelled == len(client.requests) - 1, "whoever had been asked was told to stop"


async def test_a_client_that_leaves_cancels_all_its_images(make: Make) -> None:
    ended = 0

    async def answer(_request: InferRequest) -> InferResponse:
        nonlocal ended
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended += 1
        raise AssertionError("unreachable")

    client = detector_client()
    client.answer = answer
    task = asyncio.create_task(infer(make(client), encoded(*[png()] * 3)))
    await eventually(lambda: len(client.requests) == 3, "all three were asked")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == 3


# Parameters.


@pytest.mark.parametrize(("mode", "outcome"), [("use", "miss"), ("refresh", "miss"), ("bypass", "bypass")])
async def test_the_cache_parameter_is_answered_with_what_happened(make: Make, mode: str, outcome: str) -> None:
    answer = await infer(make(detector_client(PERSON)), encoded(png()), parameters={"cache": mode})
    assert list(answer.output("cache").elements) == [outcome.encode()]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"cache": "maybe"}, "parameter 'cache' is 'maybe'; expected one of use, bypass, refresh"),
        ({"cache": True}, "parameter 'cache' is 'True'"),
        ({"score_threshold": 2}, "parameter 'score_threshold' is 2"),
        ({"score_threshold": 0.01}, "the model reports nothing under 0.05"),
        ({"max_detections": 0}, "parameter 'max_detections' is 0"),
        ({"iou_threshold": "wide"}, "parameter 'iou_threshold' is 'wide'"),
    ],
)
async def test_a_parameter_out_of_its_range_is_refused_before_an_image_is_decoded(
    make: Make, parameters: dict[str, Any], named: str
) -> None:
    client = detector_client(PERSON)
    with pytest.raises(InvalidRequest) as caught:
        await infer(make(client), encoded(b"not even an image"), parameters=parameters)
    assert named in str(caught.value)
    assert client.requests == []


async def test_only_the_priority_is_passed_on(make: Make) -> None:
    client = detector_client(PERSON)
    parameters = {"priority": 2, "camera_id": "gate-7", "score_threshold": 0.5, "cache": "use", "own": "x"}
    await infer(make(client), encoded(png()), parameters=parameters)
    assert set(client.requests[0].parameters) == {"priority", "timeout"}


async def test_thresholds_of_the_request_hold_for_its_answer(make: Make) -> None:
    model = make(detector_client(PERSON, CAT))
    strict = await infer(model, encoded(png()), parameters={"score_threshold": 0.85})
    assert strict.output("num_detections").array.tolist() == [1]
    one = await infer(model, encoded(png()), parameters={"max_detections": "1"})
    assert one.output("num_detections").array.tolist() == [1]


# The predictor's contract.


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"properties": {}}, "saccade.input=None"),
        ({"properties": {"saccade.input": "rgb_nhwc"}}, "does not fit this transformer"),
        ({"properties": {**DETECTOR_PROPERTIES, "saccade.candidates": "many"}}, "does not fit this transformer"),
        ({"properties": {**DETECTOR_PROPERTIES, "saccade.min_score": "0.9"}}, "does not fit this transformer"),
        ({"properties": {**DETECTOR_PROPERTIES, "saccade.labels": "person"}}, "does not fit this transformer"),
        ({"properties": {**DETECTOR_PROPERTIES, "saccade.labels": "5"}}, "does not fit this transformer"),
    ],
)
async def test_a_predictor_whose_model_does_not_fit_is_a_502_until_it_does(
    make: Make, changes: dict[str, Any], sentence: str
) -> None:
    client = detector_client(PERSON, metadata=detector_metadata(**changes))
    model = make(client)
    for _ in range(2):
        with pytest.raises(PredictorUnavailable, match=sentence):
            await infer(model, encoded(png()))

    async def mended() -> ModelMetadata:
        return detector_metadata()

    client.describe = mended
    assert (await infer(model, encoded(png()))).output("num_detections").array.tolist() == [1]


async def test_a_new_versions_first_answer_has_its_own_class_names(make: Make) -> None:
    client = detector_client(PERSON)
    model = make(client)
    await infer(model, encoded(png()))
    renamed = {**DETECTOR_PROPERTIES, "saccade.labels": '["human", "cat"]'}

    async def describe() -> ModelMetadata:
        return detector_metadata(versions=["4"], properties=renamed)

    client.describe = describe
    client.answer = detector_client(PERSON, version="4").answer
    answer = await infer(model, encoded(png()))
    assert answer.model_version == "4"
    assert [bytes(label) for label in answer.output("labels").elements] == [b"human"]


async def test_an_answer_that_breaks_the_contract_is_a_502_and_the_contract_is_asked_anew(make: Make) -> None:
    client = detector_client(PERSON)
    model = make(client)
    await infer(model, encoded(png()))

    async def other(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, [Tensor.of("masks", np.zeros((1, 2), np.float32))], "4")

    client.answer = other
    with pytest.raises(PredictorUnavailable, match="not what its model promises"):
        await infer(model, encoded(png()))
    assert client.metadata_calls == 2, "a version that it did not know answered"
    with pytest.raises(PredictorUnavailable):
        await infer(model, encoded(png()))
    assert client.metadata_calls == 3


async def test_a_new_model_behind_is_seen_with_its_new_size_and_labels(make: Make) -> None:
    client = detector_client(PERSON)
    model = make(client)
    await infer(model, encoded(png()))
    assert model.versions() == ["3"]

    async def larger() -> ModelMetadata:
        return detector_metadata(
            versions=["4"],
            inputs=[TensorMetadata("image", "UINT8", (-1, 48, 64, 3))],
            properties={**DETECTOR_PROPERTIES, "saccade.labels": '["dog"]'},
        )

    async def refuse(_request: InferRequest) -> InferResponse:
        raise Refused(400, "input 'image' has shape [1, 24, 32, 3]")

    answering, client.answer, client.describe = client.answer, refuse, larger
    with pytest.raises(PredictorUnavailable):
        await infer(model, encoded(png()))
    client.answer = answering
    answer = await infer(model, encoded(png()))
    assert client.requests[-1].inputs[0].shape == (1, 48, 64, 3)
    assert list(answer.output("labels").elements) == [b"dog"]
    assert model.versions() == ["4"]


# Readiness and metadata.


async def test_the_model_is_ready_once_an_image_went_all_the_way_through(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "_RETRY_S", (0.001, 0.002))
    failures: list[Exception] = [ConnectionFailed("refused"), Refused(503, "model is loading")]

    async def describe() -> ModelMetadata:
        if failures:
            raise failures.pop(0)
        return detector_metadata()

    client = detector_client(PERSON)
    client.describe = describe
    model = make(client)
    with pytest.raises(Overloaded, match="not ready: it is still loading"):
        model.check_ready()
    preparing = asyncio.create_task(model.prepare())
    await eventually(lambda: "cannot be reached" in model.not_ready_because or not failures, "the first attempt")
    await asyncio.wait_for(preparing, 10)
    model.check_ready("3")
    assert client.requests[0].inputs[0].shape == (1, 24, 32, 3)


async def test_while_the_predictor_is_away_the_reason_is_said(make: Make) -> None:
    async def describe() -> ModelMetadata:
        raise ConnectionFailed("refused")

    client = detector_client(PERSON)
    client.describe = describe
    model = make(client)
    preparing = asyncio.create_task(model.prepare())
    await eventually(lambda: "cannot be reached" in model.not_ready_because, "the first attempt")
    for ask in (model.check_ready, model.metadata):
        with pytest.raises(Overloaded, match="model 'detector' is not ready: the predictor cannot be reached"):
            ask()
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    assert not model.ready


async def test_waiting_is_nothing_to_warn_of_at_first(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def describe() -> ModelMetadata:
        raise ConnectionFailed("http://predictor cannot be reached: nobody")

    def said(level: int) -> list[logging.LogRecord]:
        waiting = [record for record in caplog.records if record.message == "waiting_for_predictor"]
        return [record for record in waiting if record.levelno == level]

    monkeypatch.setattr(model_module, "_RETRY_S", (0.001, 0.001))
    caplog.set_level(logging.INFO, "saccade.transformer")
    client = detector_client(PERSON)
    client.describe = describe
    preparing = asyncio.create_task(make(client).prepare())
    try:
        await eventually(lambda: len(said(logging.INFO)) == 1, "the first attempt")
        assert not said(logging.WARNING)
        monkeypatch.setattr(model_module, "_PATIENCE_S", 0.0)
        await eventually(lambda: len(said(logging.WARNING)) == 1, "the patience is over")
        await asyncio.sleep(0.02)
        assert len(said(logging.INFO)) == len(said(logging.WARNING)) == 1, "the same reason is said once at each level"
    finally:
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)


def test_a_cause_is_logged_only_where_it_says_more() -> None:
    told, hidden = Overloaded("the predictor refused: it is loading"), Overloaded("the predictor cannot be reached")
    told.__cause__ = Refused(503, "it is loading")
    hidden.__cause__ = ConnectionFailed("nobody listens")
    assert model_module._why(told) == {"why": str(told)}
    assert model_module._why(hidden) == {"why": str(hidden), "cause": repr(hidden.__cause__)}
    assert model_module._why(Overloaded("alone")) == {"why": "alone"}


async def test_the_configuration_is_the_predictors(make: Make) -> None:
    with pytest.raises(Unimplemented, match="the predictor has it: GET /v2/models/behind/config there"):
        make(detector_client(PERSON)).config()


async def test_metadata_names_what_clients_send_and_get(make: Make) -> None:
    model = make(detector_client(PERSON))
    await model.prepare()
    metadata = model.metadata()
    assert metadata.inputs == [TensorMetadata("image", "BYTES", (-1,))]
    names = [tensor.name for tensor in metadata.outputs]
    assert names == ["num_detections", "boxes", "scores", "class_ids", "labels", "cache"]
    answer = await infer(model, encoded(png()))
    assert [tensor.name for tensor in answer.outputs] == names
    for said, got in zip(metadata.outputs, answer.outputs, strict=True):
        assert said.datatype == got.datatype
        assert len(said.shape) == len(got.shape)
    assert metadata.versions == ["3"]
    assert metadata.properties["saccade.labels"] == '["person", "cat"]'
    assert "saccade.candidates" not in metadata.properties
    with pytest.raises(ModelNotFound, match="version '9' of model 'detector'"):
        model.metadata("9")


async def test_readiness_follows_the_predictor_only_where_that_is_asked_for(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "_PROBE_S", 0.001)
    clients = [detector_client(PERSON), detector_client(PERSON)]
    following, independent = make(clients[0], probe=True), make(clients[1])
    for model in (following, independent):
        await model.prepare()
        model.check_probe()
    for client in clients:
        client.ready = False

    def refuses() -> bool:
        try:
            following.check_probe()
        except Overloaded as error:
            return "the predictor is not ready" in str(error)
        return False

    await eventually(refuses, "the probe fails")
    independent.check_probe()
    following.check_ready()  # requests are still let in: they get their own answer
    clients[0].ready = True
    await eventually(lambda: not refuses(), "the probe recovers")


async def test_closing_closes_connections_and_threads_and_stops_probing(make: Make) -> None:
    client = detector_client(PERSON)
    model = make(client, probe=True)
    await model.prepare()
    await model.close()
    assert client.closed
    assert not model.ready


# The forms of /detect and v1.


async def test_drawing_gives_a_jpeg_of_the_pictures_size(make: Make) -> None:
    model = make(detector_client(PERSON))
    span = exchange()
    source = Encoded(png())
    [answered] = await model.answer([source], {}, span)
    drawn = cv2.imdecode(np.frombuffer(await model.draw(source, answered, span), np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == PICTURE.shape
    assert (drawn != PICTURE).any(), "something was drawn"
    assert span.stages["draw"] >= 0


async def test_the_plain_answer_has_boxes_size_cache_and_version(make: Make) -> None:
    model = make(detector_client(PERSON))
    [answered] = await model.answer([Raw(PICTURE)], {"cache": "bypass"}, exchange())
    assert isinstance(answered, Answered)
    assert v1_answer(answered, "detector") == {
        "detections": [{"box": [16.0, 12.0, 32.0, 24.0], "score": 0.9, "class_id": 0, "label": "person"}],
        "image": {"width": 64, "height": 48},
        "cache": "bypass",
        "model": {"name": "detector", "version": "3"},
    }
