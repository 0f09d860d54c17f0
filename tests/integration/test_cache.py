"""The frame cache in real processes: what a client of each protocol sees of it, and what the predictor is spared."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from integration_support import HOST, MODEL, PREDICT, Address, Service, eventually, v1_json, v2_grpc
from saccade_serving.oip import proto

NEAR_HIT = r"near;distance=\d+;change=\d+\.\d;age=\d+\.\d{3}"


@pytest.fixture
def cached(predictor: Address, start: Callable[..., Service]) -> Service:
    """A transformer with its cache on, before the session's predictor."""
    return start("transformer", f"--predictor_host={HOST}:{predictor.rest}", CACHE="local", CACHE_AUDIT_SHARE="0")


@pytest.fixture
def picture(photos: dict[str, bytes]) -> NDArray[np.uint8]:
    """[h, w, 3] BGR."""
    decoded = cv2.imdecode(np.frombuffer(photos["coffee.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


def frame(picture: NDArray[np.uint8], seed: int) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 2, picture.shape)
    _, encoded = cv2.imencode(".jpg", np.clip(picture + noise, 0, 255).astype(np.uint8))
    return encoded.tobytes()


def detect(service: Service, image: bytes, camera: str = "", **parameters: str) -> tuple[dict[str, Any], str]:
    query = "&".join(f"{key}={value}" for key, value in parameters.items())
    headers = {"content-type": "image/jpeg", **({"x-camera-id": camera} if camera else {})}
    answer = service.address.http(f"/detect?{query}", image, headers)
    assert answer.status == 200, answer.body
    return answer.json, answer.headers["x-saccade-cache"]


def test_a_client_sees_what_the_cache_did_in_every_protocol(
    cached: Service, picture: NDArray[np.uint8], photos: dict[str, bytes]
) -> None:
    first, told = detect(cached, photos["coffee.jpg"])
    assert (first["cache"], told) == ("miss", "miss")
    again, told = detect(cached, photos["coffee.jpg"])
    assert again["cache"] == "exact"
    assert told.startswith("exact;age=")
    assert again["detections"] == first["detections"]
    assert first["detections"], "there is something to find"
    assert 0 < again["cache_age_ms"] < 60_000

    with triton.InferenceServerClient(f"{HOST}:{cached.address.rest}") as client:
        image = triton.InferInput("image", [2], "BYTES")
        image.set_data_from_numpy(np.array([photos["coffee.jpg"], frame(picture, 1)], np.object_))
        answer = client.infer(MODEL, [image])
        assert answer.as_numpy("cache").tolist() == [b"exact", b"miss"]
        exact, miss = answer.get_response()["parameters"]["cache"].split(", ")
        assert exact.startswith("exact;age=")
        assert miss == "miss"

    message = proto.ModelInferResponse()
    message.CopyFrom(cached.address.rpc("ModelInfer", v2_grpc(photos["coffee.jpg"])).message)
    assert message.parameters["cache"].string_param.startswith("exact;age=")

    answer_v1 = cached.address.http(PREDICT, v1_json(photos["chelsea.jpg"], photos["chelsea.jpg"]), {})
    outcomes = [one["cache"] for one in answer_v1.json["predictions"]]
    assert outcomes == ["miss", "coalesced"]


def test_a_still_camera_costs_the_predictor_one_inference(
    cached: Service, predictor: Address, picture: NDArray[np.uint8]
) -> None:
    before = predictor.scrape().total("saccade_requests_total", model=MODEL)
    answers = [detect(cached, frame(picture, seed), "gate") for seed in range(10)]
    assert [answer["cache"] for answer, _ in answers] == ["miss"] + ["near"] * 9
    assert all(told.startswith("near;distance=") for _, told in answers[1:])
    assert predictor.scrape().total("saccade_requests_total", model=MODEL) == before + 1
    shown = picture.copy()
    shown[30:60, 40:70] = (40, 40, 230)
    changed, _ = detect(cached, frame(shown, 11), "gate")
    assert changed["cache"] == "miss"
    samples = cached.address.scrape()
    assert samples.total("saccade_cache_requests_total", outcome="near") == 9
    assert samples.total("saccade_cache_refusals_total", reason="outside") == 1
    assert samples.total("saccade_cache_entries", kind="cameras") == 1


def test_a_camera_by_parameter_and_modes(cached: Service, picture: NDArray[np.uint8]) -> None:
    image = frame(picture, 1)
    assert detect(cached, image, camera_id="yard")[0]["cache"] == "miss"
    assert detect(cached, frame(picture, 2), camera_id="yard")[0]["cache"] == "near"
    assert detect(cached, frame(picture, 3), "yard", cache="bypass")[1] == "bypass"
    assert detect(cached, frame(picture, 4), "yard", cache="refresh")[1] == "miss"
    assert detect(cached, image, score_threshold="0.9")[0]["cache"] == "miss"


def test_many_clients_with_one_picture_are_one_inference(
    cached: Service, predictor: Address, picture: NDArray[np.uint8]
) -> None:
    before = predictor.scrape().total("saccade_requests_total", model=MODEL)
    image = frame(picture, 77)
    with ThreadPoolExecutor(16) as pool:
        outcomes = [answer["cache"] for answer, _ in pool.map(lambda _: detect(cached, image), range(64))]
    assert outcomes.count("miss") == 1
    assert set(outcomes) <= {"miss", "coalesced", "exact"}
    assert predictor.scrape().total("saccade_requests_total", model=MODEL) == before + 1


def test_a_frozen_camera_is_logged(cached: Service, picture: NDArray[np.uint8]) -> None:
    image = frame(picture, 1)

    def look() -> bool:
        detect(cached, image, "gate 7")
        return cached.address.scrape().total("saccade_cameras", condition="frozen") == 1

    eventually("the camera is seen to be frozen", look, 60)
    [event] = cached.events("camera_frozen")
    assert "gate 7" not in json.dumps(event)


def test_hits_go_on_while_the_predictor_is_gone(
    predictor: Address, start: Callable[..., Service], picture: NDArray[np.uint8]
) -> None:
    own = start("predictor")
    service = start("transformer", f"--predictor_host={HOST}:{own.address.rest}", CACHE="local", CACHE_AUDIT_SHARE="0")
    image = frame(picture, 1)
    assert detect(service, image, "gate")[0]["cache"] == "miss"
    own.kill()
    assert detect(service, frame(picture, 2), "gate")[0]["cache"] == "near"
    assert detect(service, image)[0]["cache"] == "exact"
    assert service.address.http("/detect", frame(picture, 3), {"content-type": "image/jpeg"}).status == 502
