"""An A/B test with real processes: cameras stay on their variant, a candidate that dies costs nobody an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration_support import (
    HOST,
    INFER,
    MODEL,
    PREDICT,
    Address,
    Service,
    eventually,
    multipart,
    v1_json,
    v2_binary,
    v2_grpc,
    v2_json,
)
from saccade_serving.oip import binary_codec
from saccade_transformers.split import is_candidates, place
from stub_predictor import StubPredictor

SALT, SHARE = "spring", 0.5
CAMERAS = [f"hall-{number}" for number in range(24)]
NAME = "x-saccade-variant"


def expected(camera: str) -> str:
    return "candidate" if is_candidates(place(f"camera:{camera}", SALT).point, SHARE) else "stable"


@dataclass
class Stage:
    """A transformer in front of a stub, which is stable, and of a real predictor, the candidate."""

    transformer: Service
    candidate: Service
    log: Path
    photo: bytes
    share_file: Path

    @property
    def address(self) -> Address:
        return self.transformer.address

    def in_service(self, times: int = 1) -> None:
        eventually(
            "the candidate is in service",
            lambda: len(self.transformer.events("candidate_in_service")) >= times,
            90,
        )

    def ask_detect(self, camera: str, **headers: str) -> str:
        """Who answers a camera by ``/detect``."""
        answer = self.address.http("/detect", self.photo, {"x-camera-id": camera, **headers})
        assert answer.status == 200, answer.body
        assert answer.headers[NAME] == answer.json["model"]["variant"]
        return str(answer.headers[NAME])

    def ask_all(self, camera: str) -> set[str]:
        """Who answers a camera, by every route and in every place where it can be stated."""
        address, photo = self.address, self.photo
        form, form_headers = multipart(photo, camera_id=camera)
        answers = [
            address.http("/detect", form, form_headers),
            address.http(f"/detect?camera_id={camera}", photo, {"x-camera-id": "another"}),
        ]
        found = {answer.json["model"]["variant"] for answer in answers}
        v1 = address.http(PREDICT, v1_json(photo, photo, camera_id=camera))
        found |= {one["model"]["variant"] for one in v1.json["predictions"]}
        v2 = address.http(INFER, v2_json(photo, camera_id=camera))
        found.add(v2.json["parameters"]["variant"])
        body, headers = v2_binary(photo)
        binary = address.http(INFER, body, {**headers, "x-camera-id": camera})
        response = binary_codec.decode_response(binary.body, binary.headers["inference-header-content-length"])
        found.add(str(response.parameters["variant"]))
        found |= {answer.headers[NAME] for answer in (*answers, v1, v2, binary)}
        rpc = address.rpc("ModelInfer", v2_grpc(photo), metadata=(("x-camera-id", camera),))
        found.add(rpc.message.parameters["variant"].string_param)
        return found


@pytest.fixture(scope="module")
def stage(
    choose_address: Callable[[], Address], tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("variants")
    stub = StubPredictor()
    log, share_file = folder / "ab.jsonl", folder / "share"
    share_file.write_text(str(SHARE))
    try:
        with Service("predictor", choose_address(), folder / "candidate") as candidate:
            settings = {
                "CANDIDATE_HOST": f"{HOST}:{candidate.address.rest}",
                "CANDIDATE_SHARE_FILE": str(share_file),
                "SPLIT_SALT": SALT,
                "VARIANT_HEADER": "true",
                "AB_LOG": str(log),
            }
            flags = [f"--predictor_host={HOST}:{stub.port}"]
            with Service("transformer", choose_address(), folder / "log", flags, settings) as transformer:
                transformer.wait_ready()
                stage = Stage(transformer, candidate, log, photos["coffee.jpg"], share_file)
                stage.in_service()
                yield stage
    finally:
        stub.close()


def test_the_share_is_raised_and_taken_back_without_a_restart(stage: Stage) -> None:
    def settles(share: float) -> None:
        stage.share_file.write_text(str(share))
        eventually(
            f"the log says that the share is {share}",
            lambda: (
                stage.transformer.events("candidate_share_changed")[-1:] != []
                and stage.transformer.events("candidate_share_changed")[-1]["share"] == share
            ),
            60,
        )

    settles(1)
    assert {stage.ask_detect(camera) for camera in CAMERAS} == {"candidate"}
    settles(0)
    assert {stage.ask_detect(camera) for camera in CAMERAS} == {"stable"}
    settles(SHARE)
    assert {camera: stage.ask_detect(camera) for camera in CAMERAS} == {camera: expected(camera) for camera in CAMERAS}


def test_cameras_stay_on_their_variant_by_every_route(stage: Stage) -> None:
    found = {camera: stage.ask_detect(camera) for camera in CAMERAS}
    assert found == {camera: expected(camera) for camera in CAMERAS}
    assert set(found.values()) == {"stable", "candidate"}
    for variant in ("stable", "candidate"):
        camera = next(camera for camera in CAMERAS if found[camera] == variant)
        assert stage.ask_all(camera) == {variant}


def test_each_variant_answers_as_its_own_model_does(stage: Stage) -> None:
    labels: dict[str, set[str]] = {}
    for variant in ("stable", "candidate"):
        answer = stage.address.http("/detect?score_threshold=0.2", stage.photo, {NAME: variant})
        assert answer.json["model"]["variant"] == variant
        labels[variant] = {one["label"] for one in answer.json["detections"]}
    assert labels["stable"] == {"person"}, "the stub finds nothing else"
    assert "cup" in labels["candidate"]


@pytest.mark.parametrize("camera", ["x" * 10_240, "", "a\tb"], ids=["10 kB", "empty", "control character"])
def test_a_camera_id_that_is_none_is_refused_everywhere(stage: Stage, camera: str) -> None:
    address, photo = stage.address, stage.photo
    form, form_headers = multipart(photo, camera_id=camera)
    answers = [
        address.http("/detect", photo, {"x-camera-id": camera}),
        address.http(PREDICT, v1_json(photo, camera_id=camera)),
        address.http(INFER, v2_json(photo, camera_id=camera)),
    ]
    if len(camera) < 4096:  # a field of a form has a limit of its own
        answers.append(address.http("/detect", form, form_headers))
    for answer in answers:
        assert answer.status == 400, answer.body
        assert "expected a string of 1 to 128 characters" in answer.error
        assert len(answer.error) < 300
    rpc = address.rpc("ModelInfer", v2_grpc(photo, camera_id=camera))
    assert rpc.code == "INVALID_ARGUMENT"
    assert "parameter 'camera_id'" in rpc.details


def test_an_error_names_the_variant_too(stage: Stage) -> None:
    for camera in CAMERAS[:8]:
        answer = stage.address.http("/detect", b"no picture", {"x-camera-id": camera})
        assert answer.status == 415
        assert answer.headers[NAME] == expected(camera)


def test_another_variant_than_the_two_cannot_be_chosen(stage: Stage) -> None:
    answer = stage.address.http("/detect", stage.photo, {NAME: "canary"})
    assert answer.status == 400
    assert answer.error == "header x-saccade-variant is 'canary'; expected 'stable' or 'candidate'"


def test_a_candidate_that_is_killed_costs_no_camera_its_answer_and_gets_its_own_back(stage: Stage) -> None:
    stage.candidate.kill()
    assert {stage.ask_detect(camera) for camera in CAMERAS} == {"stable"}
    samples = stage.address.scrape()
    own = [camera for camera in CAMERAS if expected(camera) == "candidate"]
    assert samples.total("saccade_variant_fallbacks_total", model=MODEL, variant="candidate") == len(own)
    assert samples.label_values("saccade_variant_requests_total", "variant") == {"stable", "candidate"}
    counted = samples.total("saccade_variant_requests_total", model=MODEL, variant="stable")
    assert samples.total("saccade_variant_seconds_count", model=MODEL, variant="stable") == counted
    stage.candidate.start()
    stage.in_service(2)
    assert {stage.ask_detect(camera) for camera in own} == {"candidate"}


def test_the_record_names_no_camera_and_the_report_reads_it(stage: Stage, tmp_path: Path) -> None:
    ids = []
    for number, camera in enumerate(CAMERAS * 2):
        ids.append(f"frame-{number}")
        stage.ask_detect(camera, **{"x-request-id": ids[-1]})
    assert stage.transformer.stop() == 0
    [closed] = stage.transformer.events("ab_log_closed")
    assert closed["dropped"] == 0
    assert "hall" not in stage.log.read_text()
    lines = [json.loads(line) for line in stage.log.read_text().splitlines()]
    assert len(lines) == closed["written"]
    assert {line["key"] for line in lines} >= {place(f"camera:{camera}", SALT).digest for camera in CAMERAS}

    outcomes, report = tmp_path / "outcomes.csv", tmp_path / "report.json"
    outcomes.write_text("request_id,value,name\n" + "".join(f"{one},{i % 2},confirmed\n" for i, one in enumerate(ids)))
    command = [sys.executable, "-m", "saccade_cli", "ab-report", "--log", str(stage.log)]
    command += ["--outcomes", str(outcomes), "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(report.read_text())
    fallbacks = sum(line["fallback"] for line in lines)
    assert content["candidate"]["fallbacks"] == fallbacks > 0
    assert [one["name"] for one in content["measures"]][-1] == "confirmed"
    assert f"Outcomes: {len(ids)} counted; 0 unreadable, 0 of unknown requests" in " ".join(done.stdout.split())
