"""From a head to an answer: a readied model in the real predictor, read by the real transformer's task."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from fakes import answer_of
from onnx_heads import HEIGHT, WIDTH, Floats, Part, head_model
from saccade_predictor.build.__main__ import app
from saccade_predictor.loading import find_versions
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.repository import ModelDirectory
from saccade_predictor.version import Surroundings
from saccade_serving.connection.exchange import Exchange
from saccade_serving.memory.arena import Arena
from saccade_serving.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from saccade_transformers.__main__ import _detection
from saccade_transformers.image.letterbox import Letterbox, letterbox
from saccade_transformers.image.picture import Picture
from saccade_transformers.predictor import PredictorContract
from saccade_transformers.settings import TransformerSettings

#: In pixels of the input, for a grey picture (gain 1): two that overlap, one of the same place but another class, one
#: apart from them, and one that nobody is sure of.
BOXES = np.array([[8, 4, 24, 20], [9, 4, 25, 20], [8, 4, 24, 20], [40, 10, 60, 22], [1, 6, 9, 16]], np.float32)
SCORES = (0.9, 0.8, 0.7, 0.6, 0.1)
CLASSES = (1, 1, 0, 2, 1)
LABELS = ("person", "cat", "cup")
UNITS = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
#: The picture's size: 1.5 times the input, without a frame.
IMAGE = (96, 48)

Serve = Callable[..., Awaitable[PredictorModel]]


def padded(rows: Floats, boxes: int) -> Floats:
    """With rows that are nothing, as heads have most of."""
    result = np.zeros((boxes, *rows.shape[1:]), np.float32)
    result[: len(rows)] = rows
    return result


def by_class(classes: int = 3) -> Floats:
    result = np.zeros((len(SCORES), classes), np.float32)
    result[range(len(SCORES)), CLASSES] = SCORES
    return result


def centred() -> Floats:
    return np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], axis=1)


def yolov5() -> onnx.ModelProto:
    """Objectness 0.95, and class scores that make the scores of it."""
    sure = np.full((len(SCORES), 1), 0.95, np.float32)
    rows = padded(np.concatenate([centred(), sure, by_class() / 0.95], axis=1), 126)
    return head_model({"output": [Part(rows)]})


def ssd() -> onnx.ModelProto:
    """Logits that a softmax over background and classes makes the scores of."""
    chances = padded(np.concatenate([1 - by_class().sum(axis=1, keepdims=True), by_class()], axis=1), 1200)
    chances[len(SCORES) :, 0] = 1
    return head_model(
        {"boxes": [Part(padded(BOXES / UNITS, 1200))], "scores": [Part(np.log(np.maximum(chances, 1e-6)))]}
    )


def yolov10() -> onnx.ModelProto:
    numbers = padded(np.array(CLASSES, np.float32)[:, None], 300)
    values = padded(np.array(SCORES, np.float32)[:, None], 300)
    return head_model({"output0": [Part(padded(BOXES, 300)), Part(values), Part(numbers, "Numbers")]})


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Makes a model ready with the command, and serves it."""
    opened: list[PredictorModel] = []

    async def served(source: onnx.ModelProto, output: str, dims: Sequence[int], *options: str) -> PredictorModel:
        onnx.save(source, tmp_path / "in.onnx")
        repository = tmp_path / "m"
        (repository / "1").mkdir(parents=True)
        (repository / "labels.txt").write_text("\n".join(LABELS))
        (repository / "config.pbtxt").write_text(
            f'backend: "onnxruntime" max_batch_size: 4 dynamic_batching {{ }} output [ {{ name: "{output}" data_type:'
            f' TYPE_FP32 dims: {list(dims)} label_filename: "labels.txt" }} ]'
        )
        names = ["--labels", str(repository / "labels.txt")]
        target = str(repository / "1" / "model.onnx")
        done = CliRunner().invoke(app, ["ready", str(tmp_path / "in.onnx"), target, *names, *options])
        assert done.exit_code == 0, done.output
        model = PredictorModel(
            ModelDirectory("m", repository),
            lambda directory: find_versions(directory, 1),
            Surroundings(PredictorMetrics(), Arena(64 * 2**20, poison=True), 10),
        )
        opened.append(model)
        await model.prepare()
        return model

    yield served
    for model in opened:
        await model.close()


async def ask(model: PredictorModel, image: Any, **more: Any) -> InferResponse:
    request = InferRequest("m", [Tensor.of("image", image[None])], **more)
    return await answer_of(model, request, Exchange.begin("rest", {}, 30.0))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (yolov5, (0, 2, 3)),
        (ssd, (0, 2, 3)),
        (yolov10, (0, 1, 2, 3)),  # its boxes are unique already: the transformer removes none
    ],
)
async def test_the_detections_of_a_head_come_out_in_pixels_of_the_picture(
    serve: Serve, source: Callable[[], onnx.ModelProto], expected: tuple[int, ...]
) -> None:
    model = await serve(source(), "candidates", [100, 6], "--candidates", "100")
    contract = PredictorContract.of(model.metadata())
    assert contract.input_size == (WIDTH, HEIGHT)
    task = _detection(contract, TransformerSettings())

    grey = np.full((IMAGE[1], IMAGE[0], 3), 128, np.uint8)
    grey[:, ::2] = 127  # 127.5 on average, so that the model's gain is 1
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    place = letterbox(Picture.whole(grey), image)
    assert place == Letterbox.fit(IMAGE, (WIDTH, HEIGHT))
    answer = await ask(model, image)
    outputs = {tensor.name: tensor.array[0] for tensor in answer.outputs}
    found = task.to_image(task.read(outputs, task.options({})), place)
    assert task.to_v1(found) == [
        {
            "box": pytest.approx((BOXES[i] * 1.5).tolist(), abs=0.3),
            "score": pytest.approx(SCORES[i], abs=0.01),
            "class_id": CLASSES[i],
            "label": LABELS[CLASSES[i]],
        }
        for i in expected
    ]
    asked = task.read(outputs, task.options({"iou_threshold": 0.5}))
    assert len(asked) == 3, "a request may have overlaps removed whatever the head"


async def test_a_classifier_is_served_by_the_predictor_and_refused_by_the_transformer(serve: Serve) -> None:
    source = head_model({"logits": [Part(np.array([0.0, 3.0, 1.0], np.float32))]})
    model = await serve(source, "probabilities", [3])
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    top = RequestedOutput("probabilities", None, {"classification": 2})
    (answer,) = (await ask(model, image, outputs=[top])).outputs
    best = [bytes(element).decode().split(":") for element in answer.elements]
    powers = np.exp(np.array([0.0, 4.5, 1.5]))
    assert [(index, label) for _, index, label in best] == [("1", "cat"), ("2", "cup")]
    assert [float(score) for score, _, _ in best] == pytest.approx((powers / powers.sum())[[1, 2]].tolist(), rel=1e-4)
    with pytest.raises(ValueError, match="its graph ends in 'probabilities'; expected 'candidates', a detector's"):
        _detection(PredictorContract.of(model.metadata()), TransformerSettings())
