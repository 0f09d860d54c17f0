"""Four transformers with one Redis, as processes: hits behind random balancing, and Redis failing under load."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cache_support import scene
from integration_support import HOST, Service, eventually
from redis_support import RedisServer, redis_server
from saccade_serving.oip.messages import InferRequest
from stub_predictor import ROWS, Reply, StubPredictor, answer

PASSWORD = "s3cr3t-never-logged"  # of this test's own server
COUNT = 4


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, "--requirepass", PASSWORD, url=f"redis://:{PASSWORD}@{HOST}:{{port}}/0") as server:
        yield server


@pytest.fixture
def replicas(stub: StubPredictor, redis: RedisServer, start: Callable[..., Service]) -> list[Service]:
    """They share a Redis, and patience with a busy machine."""
    numbers = itertools.count(1)

    def numbered(request: InferRequest) -> Reply:
        table = np.zeros((len(request.inputs[0].array), ROWS, 6), np.float32)
        table[:, 0] = (20, 20, 25, 26, 0.5 + next(numbers) / 10_000, 0)
        return answer(request, table)

    stub.reply = numbered
    settings = {
        "CACHE": "redis",
        "CACHE_REDIS_URL": redis.url,
        "CACHE_REDIS_NAMESPACE": "tests/detector",
        "CACHE_REDIS_TIMEOUT_MS": "250",
        "CACHE_AUDIT_SHARE": "0",
        "CACHE_TTL_S": "30",
        "CACHE_MAX_AGE_S": "60",
    }
    host = f"--predictor_host={HOST}:{stub.port}"
    with ThreadPoolExecutor(COUNT) as pool:
        services = list(pool.map(lambda _: start("transformer", host, **settings), range(COUNT)))
    for service in services:
        eventually("Redis is in use", lambda service=service: is_up(service))  # type: ignore[misc]
    return services


def is_up(service: Service) -> bool:
    return service.address.scrape().total("saccade_cache_redis_up") == 1


def frame(shown: int, seed: int) -> bytes:
    picture = scene(shown, 320, 240) + np.random.default_rng(seed).normal(0, 2, (240, 320, 3))
    _, encoded = cv2.imencode(".jpg", picture.clip(0, 255).astype(np.uint8))
    return encoded.tobytes()


def detect(service: Service, image: bytes, camera: str) -> dict[str, Any]:
    answer = service.address.http("/detect", image, {"content-type": "image/jpeg", "x-camera-id": camera})
    assert answer.status == 200, answer.body
    return dict(answer.json)


def test_a_camera_behind_random_balancing(replicas: list[Service], redis: RedisServer) -> None:
    draw = random.Random(5)
    outcomes, scores = [], []
    for index in range(120):
        told = detect(draw.choice(replicas), frame(index // 20, index), "gate")
        outcomes.append(told["cache"])
        scores.append(told["detections"][0]["score"])
    assert outcomes.count("near") == 114
    assert scores == sorted(scores), "answers never go back"
    samples = replicas[0].address.scrape()
    assert samples.total("saccade_cache_redis_calls_total", outcome="ok") >= 2
    assert samples.total("saccade_cache_redis_connections") == 8
    assert b"gate" not in b"".join(redis.client.keys())


def test_faults_of_redis_under_load(replicas: list[Service], redis: RedisServer) -> None:
    ended = threading.Event()
    answers: list[str] = []

    def camera(name: str) -> None:
        draw = random.Random(name)
        for seed in itertools.count():
            answers.append(detect(draw.choice(replicas), frame(1, seed), name)["cache"])
            if ended.is_set():
                return

    def hits_come() -> None:
        before = answers.count("near")
        eventually("hits", lambda: answers.count("near") >= before + 20)

    with ThreadPoolExecutor(4) as pool:
        cameras = [pool.submit(camera, f"camera {index}") for index in range(4)]
        try:
            hits_come()
            for fault, mend in (("kill", "start"), ("freeze", "thaw")):
                getattr(redis, fault)()
                for service in replicas:
                    eventually("Redis is left alone", lambda service=service: not is_up(service))  # type: ignore[misc]
                seen = len(answers)
                eventually("answers all the same", lambda seen=seen: len(answers) >= seen + 20)  # type: ignore[misc]
                assert set(answers[seen + 10 :]) <= {"miss"}
                getattr(redis, mend)()
                hits_come()
        finally:
            ended.set()
    for one in cameras:
        one.result()
    assert [event["why"] for event in replicas[0].events("redis_away")]
    for service in replicas:
        assert PASSWORD not in service.log.read_text()


def test_a_url_that_is_none_ends_the_start_without_telling_the_password(
    stub: StubPredictor, start: Callable[..., Service]
) -> None:
    with pytest.raises(AssertionError, match="cache_redis_url is no URL of a Redis") as ended:
        start(
            "transformer",
            f"--predictor_host={HOST}:{stub.port}",
            CACHE="redis",
            CACHE_REDIS_NAMESPACE="tests/detector",
            CACHE_REDIS_URL=f"http://:{PASSWORD}@{HOST}:1/0",
        )
    assert PASSWORD not in str(ended.value)
