"""Shadow traffic with real processes: answers are the same with it, and a candidate's trouble stays its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest

from integration_support import INFER, PREDICT, Address, Service, eventually, v1_json, v2_binary, v2_grpc
from saccade_serving.oip.messages import InferRequest, TensorMetadata
from stub_predictor import ROWS, Reply, StubPredictor, answer, refusal

Start = Callable[..., Service]


@pytest.fixture
def candidate() -> Iterator[StubPredictor]:
    made = StubPredictor()
    yield made
    made.close()


def another_box(request: InferRequest) -> Reply:
    """Finds a bicycle where the other stub finds a person."""
    table = np.zeros((len(request.inputs[0].array), ROWS, 6), np.float32)
    table[:, 0] = (8, 8, 40, 56, 0.7, 1)
    return answer(request, table, "9")


def answers(address: Address, image: bytes) -> list[Any]:
    """One image by every route: bodies and the headers that say something of the answer."""
    body, own = v2_binary(image)
    found: list[Any] = []
    for path, content, headers in (
        (INFER, body, own),
        (PREDICT, v1_json(image), {}),
        ("/detect", image, {}),
        ("/detect", image, {"accept": "image/jpeg"}),
    ):
        got = address.http(path, content, {**headers, "x-request-id": "same"})
        telling = {name: value for name, value in got.headers.items() if name not in ("date", "x-request-id")}
        found.append((got.status, telling, got.body))
    found.append(address.rpc("ModelInfer", v2_grpc(image)).message.SerializeToString())
    return found


def outcomes(service: Service) -> dict[str, float]:
    samples = service.address.scrape()
    names = samples.label_values("saccade_shadow_requests_total", "outcome")
    counts = {name: samples.total("saccade_shadow_requests_total", outcome=name) for name in names}
    return {name: count for name, count in counts.items() if count}


def kept(directory: Path) -> list[Any]:
    return [orjson.loads(line) for line in (directory / "worst.jsonl").read_bytes().splitlines()]


def test_answers_are_the_same_and_frames_that_disagree_are_found_in_the_store(
    stub: StubPredictor,
    candidate: StubPredictor,
    start: Start,
    photos: dict[str, bytes],
    tmp_path: Path,
) -> None:
    candidate.reply = another_box
    candidate.state(versions=["9"])
    flag = f"--predictor_host=127.0.0.1:{stub.port}"
    store = tmp_path / "shadow"
    plain = start("transformer", flag)
    shadowed = start(
        "transformer",
        flag,
        SHADOW_HOST=f"127.0.0.1:{candidate.port}",
        SHADOW_SHARE="1",
        SHADOW_DIR=str(store),
        SHADOW_IMAGES="true",
    )
    for image in photos.values():
        assert answers(shadowed.address, image) == answers(plain.address, image)
    count = 5 * len(photos)
    eventually("all are compared", lambda: outcomes(shadowed) == {"compared": count})
    samples = shadowed.address.scrape()
    assert samples.total("saccade_shadow_class_changes_total") == count
    assert samples.total("saccade_shadow_agreement_sum") == 0
    assert samples.total("saccade_shadow_seconds_count") == count
    assert shadowed.stop() == 0
    frames = kept(store)
    assert len(frames) == count
    for frame in frames:
        assert frame["agreement"] == 0
        assert frame["differences"]["class_changes"] == 1
        assert (frame["served"]["version"], frame["candidate"]["version"]) == ("1", "9")
        assert frame["served"]["answer"][0]["box"] == frame["candidate"]["answer"][0]["box"]
        picture = cv2.imread(str(store / frame["image"]))
        assert picture is not None
        assert picture.shape == (frame["height"], frame["width"], 3)
        assert (store / frame["image"]).read_bytes() in photos.values()


def test_a_candidate_with_a_larger_input_is_compared_in_pixels_of_the_image(
    stub: StubPredictor, candidate: StubPredictor, start: Start, photos: dict[str, bytes]
) -> None:
    candidate.state(inputs=[TensorMetadata("image", "UINT8", (-1, 128, 128, 3))])

    def doubled(request: InferRequest) -> Reply:
        table = np.zeros((1, ROWS, 6), np.float32)
        table[:, 0] = (16, 16, 80, 112, 0.9, 0)
        return answer(request, table)

    candidate.reply = doubled
    service = start(
        "transformer",
        f"--predictor_host=127.0.0.1:{stub.port}",
        SHADOW_HOST=f"127.0.0.1:{candidate.port}",
        SHADOW_SHARE="1",
    )
    image = photos["coffee.jpg"]

    def compared() -> float:
        assert service.address.http("/detect", image).status == 200
        return outcomes(service).get("compared", 0)

    eventually("an image is compared", compared)
    samples = service.address.scrape()
    agreed = samples.total("saccade_shadow_agreement_sum")
    assert agreed == samples.total("saccade_shadow_agreement_count") > 0
    assert samples.total("saccade_shadow_iou_sum") == pytest.approx(agreed, rel=0.01)
    assert {asked.request.inputs[0].shape for asked in candidate.asked} == {(1, 128, 128, 3)}


def test_a_dead_candidate_is_nobodys_trouble(
    stub: StubPredictor, candidate: StubPredictor, start: Start, photos: dict[str, bytes]
) -> None:
    port = candidate.port
    candidate.close()
    service = start(
        "transformer",
        f"--predictor_host=127.0.0.1:{stub.port}",
        SHADOW_HOST=f"127.0.0.1:{port}",
        SHADOW_SHARE="1",
    )

    def paused() -> float:
        assert service.address.http("/detect", photos["coffee.jpg"]).status == 200
        return outcomes(service).get("paused", 0)

    eventually("it is left alone", paused)
    assert outcomes(service)["failed"] >= 5
    assert len(service.events("shadow_pauses")) == 1
    assert service.stop() == 0


@pytest.mark.parametrize("trouble", ["errors", "other shapes", "closed connections"])
def test_a_broken_candidate_is_nobodys_trouble(
    stub: StubPredictor, candidate: StubPredictor, start: Start, photos: dict[str, bytes], trouble: str
) -> None:
    candidate.reply = {
        "errors": lambda _request: refusal(500, "it broke"),
        "other shapes": lambda request: answer(request, np.zeros((1, 3, 6), np.float32)),
        "closed connections": lambda _request: Reply(0, {}, b""),
    }[trouble]
    service = start(
        "transformer",
        f"--predictor_host=127.0.0.1:{stub.port}",
        SHADOW_HOST=f"127.0.0.1:{candidate.port}",
        SHADOW_SHARE="1",
    )
    for _ in range(8):
        assert service.address.http("/detect", photos["coffee.jpg"]).status == 200
    eventually("the failures are counted", lambda: outcomes(service).get("failed"))
    assert service.stop() == 0


def test_a_candidate_that_hangs_takes_its_places_and_the_end_is_not_held_up(
    stub: StubPredictor, candidate: StubPredictor, start: Start, photos: dict[str, bytes]
) -> None:
    door = threading.Event()

    def hang(request: InferRequest) -> Reply:
        door.wait()
        return answer(request)

    candidate.reply = hang
    try:
        service = start(
            "transformer",
            f"--predictor_host=127.0.0.1:{stub.port}",
            SHADOW_HOST=f"127.0.0.1:{candidate.port}",
            SHADOW_SHARE="1",
            SHADOW_QUEUE="4",
            SHADOW_TIMEOUT_S="600",
        )
        for _ in range(20):
            assert service.address.http("/detect", photos["coffee.jpg"]).status == 200
        assert len(candidate.asked) == 2
        assert outcomes(service) == {"dropped": 14}
        service.send(signal.SIGTERM)
        assert service.ended(20) == 0
    finally:
        door.set()


def test_a_predictor_agrees_with_itself(predictor: Address, start: Start, photos: dict[str, bytes]) -> None:
    host = f"127.0.0.1:{predictor.rest}"
    service = start("transformer", f"--predictor_host={host}", SHADOW_HOST=host, SHADOW_SHARE="1")
    for image in photos.values():
        assert service.address.http("/detect", image).status == 200
    eventually("all are compared", lambda: outcomes(service) == {"compared": len(photos)})
    samples = service.address.scrape()
    assert samples.total("saccade_shadow_agreement_sum") == len(photos)
    assert samples.total("saccade_shadow_score_shift_sum") == pytest.approx(0, abs=0.01)


def test_a_directory_that_cannot_be_written_ends_the_start_with_a_sentence(
    choose_address: Callable[[], Address], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    settings = {"SHADOW_HOST": "127.0.0.1:1", "SHADOW_DIR": str(tmp_path / "file")}
    with Service("transformer", choose_address(), tmp_path / "log", ["--predictor_host=x:1"], settings) as service:
        assert service.ended() == 1
    text = (tmp_path / "log").read_text()
    assert "SACCADE_TRANSFORMER_SHADOW_DIR=" in text
    assert "Traceback" not in text
