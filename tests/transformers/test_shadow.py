"""Shadow traffic around a transformer's model: what is mirrored and compared, and that no request notices anything."""

from __future__ import annotations

import asyncio
import base64
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from fakes import (
    DETECTOR_PROPERTIES,
    FakeClock,
    FakeV2Client,
    detector_client,
    detector_metadata,
    eventually,
    settle,
)
from saccade_serving.client import ConnectionFailed, Refused
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import PredictorUnavailable
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
from saccade_transformers.breaker import Breaker
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.model import TransformerModel
from saccade_transformers.pipeline import Answered, Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.shadow import mirror as mirror_module
from saccade_transformers.shadow.mirror import Shadow, ShadowLimits
from saccade_transformers.shadow.sampling import Sampler, camera_digest
from saccade_transformers.shadow.store import WorstStore
from saccade_transformers.sources import Encoded, Raw, Source
from saccade_transformers.target import Target
from saccade_transformers.tasks.detection import DetectionTask
from saccade_transformers.workers import ImageWorkers

PERSON = (8, 6, 16, 12, 0.9, 0)
CAT = (0, 0, 4, 4, 0.8, 1)
PICTURE: NDArray[np.uint8] = np.full((48, 64, 3), (250, 10, 10), np.uint8)


def png() -> bytes:
    return cv2.imencode(".png", PICTURE[..., ::-1])[1].tobytes()


def make_task(contract: PredictorContract) -> DetectionTask:
    properties = contract.properties
    rows, least = int(properties["saccade.candidates"]), float(properties["saccade.min_score"])
    return DetectionTask(contract.labels, rows, least, 0.4, 0.5, 3)


class Rig:
    """A model with a predictor and a candidate, both fakes."""

    def __init__(
        self,
        candidate: FakeV2Client,
        share: float = 1.0,
        limits: ShadowLimits | None = None,
        store: WorstStore | None = None,
        served: FakeV2Client | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.served, self.candidate = served or detector_client(PERSON, CAT), candidate
        self.metrics = TransformerMetrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        workers = ImageWorkers(2, 32)
        shadow_predictor = Predictor(candidate, "next", self.metrics.shadow.seconds)
        self.shadow = Shadow(
            Target(shadow_predictor, make_task, "shadow"),
            Sampler(share, "random"),
            self.metrics.shadow,
            limits or ShadowLimits(),
            store,
            Breaker(),
            self.clock,
        )
        self.model = TransformerModel(
            "detector",
            Target(Predictor(self.served, "behind", self.metrics.predictor_seconds), make_task),
            Pipeline(workers, ImageLimits(100_000, 10_000), self.metrics),
            workers,
            8,
            10**6,
            shadow=self.shadow,
        )

    async def ask(
        self,
        source: Source | None = None,
        parameters: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        exchange = Exchange.begin("rest", headers or {}, 10)
        [answered] = await self.model.answer([source or Raw(PICTURE)], parameters or {}, exchange)
        return answered

    async def ask_and_mirror(self, source: Source | None = None, **more: Any) -> str:
        """Ask, wait for the mirror, return the outcome."""
        before = self.outcomes()
        await self.ask(source, **more)
        await eventually(lambda: self.outcomes() != before, "the image has an outcome")
        [outcome] = [name for name, count in self.outcomes().items() if count != before.get(name, 0)]
        return outcome

    def outcomes(self) -> dict[str, int]:
        return {labels[0]: int(count) for labels, count in self.metrics.shadow.requests.values.items() if count}

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


MakeRig = Callable[..., Rig]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeRig]:
    monkeypatch.setattr(mirror_module, "BEHIND_S", 0.0)
    made: list[Rig] = []

    def make(*arguments: Any, **more: Any) -> Rig:
        made.append(Rig(*arguments, **more))
        return made[-1]

    yield make
    for one in made:
        await one.model.close()


def raising(error: Exception) -> FakeV2Client:
    """A candidate whose every call fails."""

    async def answer(_request: InferRequest) -> InferResponse:
        raise error

    async def describe() -> ModelMetadata:
        raise error

    return FakeV2Client(answer, describe)


def hanging(client: FakeV2Client | None = None) -> FakeV2Client:
    """A candidate that says what it is and answers nothing."""
    client = client or detector_client()

    async def answer(_request: InferRequest) -> InferResponse:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    client.answer = answer
    return client


# What is mirrored and compared.


async def test_the_candidate_is_sent_the_same_tensor_and_its_answer_is_compared(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON, (0, 0, 4, 4, 0.6, 0)))
    assert await one.ask_and_mirror(headers={"x-request-id": "r-1", "authorization": "Bearer t"}) == "compared"
    [mirrored], [served] = one.candidate.requests, one.served.requests
    assert np.array_equal(mirrored.inputs[0].array, served.inputs[0].array)
    assert mirrored.model_name == "next"
    assert one.candidate.headers[0]["x-request-id"] == "r-1"
    assert "authorization" not in one.candidate.headers[0], "the client's token is the predictor's to see"
    assert one.sample("saccade_shadow_agreement_sum") == 0.5
    assert one.sample("saccade_shadow_class_changes_total") == 1
    assert one.sample("saccade_shadow_iou_sum") == 1
    assert one.sample("saccade_shadow_score_shift_count", direction="equal") == 1
    assert one.sample("saccade_shadow_count_difference_count", direction="equal") == 1
    assert one.registry.get_sample_value("saccade_shadow_seconds_count", {"model": "next"}) == 1
    assert one.registry.get_sample_value("saccade_predictor_seconds_count", {"model": "next"}) is None


async def test_the_client_has_its_answer_before_the_candidate_is_asked(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the candidate is sent takes a millisecond of the event loop, and the kernel wakes its process."""
    one = rig(detector_client(PERSON))
    monkeypatch.setattr(mirror_module, "BEHIND_S", 0.2)
    await one.ask()
    assert (one.candidate.metadata_calls, one.shadow._drawn) == (0, 1)
    await settle()
    assert (one.candidate.metadata_calls, one.shadow._drawn) == (0, 1), "nothing is done for it meanwhile"
    await eventually(lambda: one.outcomes() == {"compared": 1}, "it is mirrored all the same")
    assert one.shadow._drawn == 0


async def test_shifts_and_counts_are_told_by_direction(rig: MakeRig) -> None:
    one = rig(detector_client((8, 6, 16, 12, 0.7, 0)))
    await one.ask_and_mirror()
    assert one.sample("saccade_shadow_score_shift_sum", direction="less") == pytest.approx(0.2)
    assert one.sample("saccade_shadow_count_difference_sum", direction="less") == 1
    one.candidate.answer = detector_client((8, 6, 16, 12, 1.0, 0), CAT, (20, 0, 30, 9, 0.5, 0)).answer
    await one.ask_and_mirror()
    assert one.sample("saccade_shadow_score_shift_sum", direction="more") == pytest.approx(0.05)
    assert one.sample("saccade_shadow_count_difference_sum", direction="more") == 1


async def test_every_image_of_a_request_is_drawn_for_itself_and_the_warm_up_is_not(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON, CAT))
    await one.model.prepare()
    assert one.outcomes() == {}
    await one.model.answer([Raw(PICTURE)] * 3, {}, Exchange.begin("rest", {}, 10))
    await eventually(lambda: one.outcomes() == {"compared": 3}, "all three are compared")
    assert one.sample("saccade_shadow_agreement_sum") == 3


async def test_one_place_at_a_time_serves_all_that_come_one_after_the_other(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON), limits=ShadowLimits(queue=64, concurrency=1))
    await asyncio.gather(*(one.ask() for _ in range(30)))
    await eventually(lambda: one.outcomes() == {"compared": 30}, "none is left behind")
    assert one.shadow._drawn == 0
    assert not one.shadow._mirrors


async def test_large_parameters_are_not_kept_for_the_candidate(rig: MakeRig) -> None:
    one = rig(hanging())
    await one.ask(parameters={"camera_id": "c", "note": "x" * 10_000, "score_threshold": "0.5"})
    await eventually(lambda: one.shadow._drawn == 1, "it is on its way")
    exchange = Exchange.begin("rest", {}, 10)
    sample = one.shadow.draw({"camera_id": "c", "note": "x" * 10_000, "score_threshold": "0.5"}, exchange)
    assert sample is not None
    assert sample.parameters == {"camera_id": "c", "score_threshold": "0.5"}
    assert len(sample.camera) == 16
    sample.close()


async def test_who_a_request_comes_from_is_not_read_again(rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rig(detector_client(PERSON))
    exchange = Exchange.begin("rest", {}, 10)
    one.model._variants.assign({"camera_id": "c"}, exchange)
    monkeypatch.setattr(mirror_module, "read_origin", None)
    sample = one.shadow.draw({"camera_id": "c"}, exchange)
    assert sample is not None
    assert sample.camera == camera_digest("c")
    sample.close()


async def test_a_share_of_none_asks_the_candidate_nothing(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON), share=0.0)
    for _ in range(5):
        await one.ask()
    await settle()
    assert (one.candidate.requests, one.outcomes()) == ([], {})


@pytest.mark.parametrize("form", ["encoded", "base64", "raw"])
async def test_a_candidate_with_another_input_size_gets_a_tensor_of_its_own(rig: MakeRig, form: str) -> None:
    metadata = detector_metadata(inputs=[TensorMetadata("pixels", "UINT8", (-1, 48, 48, 3))])
    # 64 x 48 in 48 x 48: scaled by 0.75, 6 rows of frame above and below.
    one = rig(detector_client((12, 15, 24, 24, 0.9, 0), (0, 6, 6, 12, 0.8, 1), metadata=metadata))
    source: Source = Raw(PICTURE) if form == "raw" else Encoded(png())
    if form == "base64":
        source = Encoded(base64.b64encode(png()), is_base64=True)
    outcomes = [await one.ask_and_mirror(source) for _ in range(2)]
    # Pixels are gone when it turns out what the candidate wants; later ones are letterboxed while they are there.
    assert outcomes == ["incomparable" if form == "raw" else "compared", "compared"]
    mirrored = one.candidate.requests[-1]
    assert (mirrored.inputs[0].name, mirrored.inputs[0].shape) == ("pixels", (1, 48, 48, 3))
    assert mirrored.inputs[0].array[0, 24, 24].tolist() == [250, 10, 10]
    assert one.sample("saccade_shadow_agreement_sum") == one.outcomes()["compared"]
    assert one.sample("saccade_shadow_iou_sum") == one.outcomes()["compared"], "both answers are in the image's pixels"
    assert one.served.requests[0].inputs[0].shape == (1, 24, 32, 3)


async def test_request_parameters_hold_for_the_candidate_too(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON))
    assert await one.ask_and_mirror(parameters={"score_threshold": 0.85}) == "compared"
    assert one.sample("saccade_shadow_agreement_sum") == 1, "the cat of 0.8 is under the threshold"


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"saccade.labels": '["car", "person"]'}, {}),
        ({"saccade.min_score": "0.3"}, {"score_threshold": 0.1}),
    ],
    ids=["classes in another order", "a threshold under the candidate's least score"],
)
async def test_what_cannot_be_compared_is_not(
    rig: MakeRig, changes: dict[str, str], parameters: dict[str, Any]
) -> None:
    metadata = detector_metadata(properties={**DETECTOR_PROPERTIES, **changes})
    one = rig(detector_client(PERSON, metadata=metadata))
    for _ in range(8):
        assert await one.ask_and_mirror(parameters=parameters) == "incomparable"
    assert one.candidate.requests == []
    assert one.sample("saccade_shadow_agreement_count") == 0


async def test_a_candidate_may_have_more_classes(rig: MakeRig) -> None:
    metadata = detector_metadata(properties={**DETECTOR_PROPERTIES, "saccade.labels": '["person", "cat", "scooter"]'})
    assert await rig(detector_client(PERSON, metadata=metadata)).ask_and_mirror() == "compared"


# What is kept.


def kept(directory: Path) -> list[Any]:
    return [orjson.loads(line) for line in (directory / "worst.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("form", ["encoded", "base64", "raw"])
async def test_a_frame_that_disagrees_is_kept_with_both_answers_and_its_image(
    rig: MakeRig, tmp_path: Path, form: str
) -> None:
    store = WorstStore(tmp_path, 5, 10**6, 0.01)
    one = rig(detector_client(PERSON, version="8"), limits=ShadowLimits(keeps_images=True), store=store)
    one.candidate.describe = detector_client(metadata=detector_metadata(versions=["8"])).describe
    source: Source = Raw(PICTURE) if form == "raw" else Encoded(png())
    if form == "base64":
        source = Encoded(base64.b64encode(png()).decode(), is_base64=True)
    await one.ask_and_mirror(source, parameters={"camera_id": "gate 7"}, headers={"x-request-id": "r-9"})
    await one.shadow.close()
    [line] = kept(tmp_path)
    assert (line["request_id"], line["width"], line["height"]) == ("r-9", 64, 48)
    assert line["agreement"] == pytest.approx(2 / 3, abs=1e-4)
    assert line["differences"]["only_in_a"] == 1
    assert "gate" not in str(line)
    assert len(line["camera"]) == 16
    assert (line["served"]["version"], line["candidate"]["version"]) == ("3", "8")
    assert [one["label"] for one in line["served"]["answer"]] == ["person", "cat"]
    assert line["candidate"]["answer"] == [
        {"box": [16.0, 12.0, 32.0, 24.0], "score": 0.9, "class_id": 0, "label": "person"}
    ]
    if form == "raw":
        assert line["image"] is None, "there was no encoded image"
    else:
        picture = cv2.imread(str(tmp_path / line["image"]))
        assert picture is not None
        assert (picture == PICTURE[..., ::-1]).all()


async def test_without_the_switch_no_image_is_kept_or_copied(rig: MakeRig, tmp_path: Path) -> None:
    one = rig(detector_client(PERSON), store=WorstStore(tmp_path, 5, 10**6))
    await one.ask_and_mirror(Encoded(png()))
    await one.shadow.close()
    assert [line["image"] for line in kept(tmp_path)] == [None]
    assert list((tmp_path / "images").iterdir()) == []


async def test_frames_that_agree_are_not_kept(rig: MakeRig, tmp_path: Path) -> None:
    one = rig(detector_client(PERSON, CAT), store=WorstStore(tmp_path, 5, 10**6))
    await one.ask_and_mirror()
    await one.shadow.close()
    assert kept(tmp_path) == []


# What goes wrong.


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionFailed("refused"), "failed"),
        (Refused(500, "it broke"), "failed"),
        (Refused(404, "no such model"), "failed"),
        (Refused(503, "busy", 1.0), "refused"),
        (Refused(504, "late"), "late"),
        (TimeoutError(), "late"),
        (RuntimeError("a bug"), "failed"),
        (MemoryError(), "failed"),
    ],
)
async def test_a_candidate_that_fails_is_counted_and_the_request_is_answered(
    rig: MakeRig, error: Exception, outcome: str
) -> None:
    one = rig(raising(error))
    assert await one.ask_and_mirror() == outcome
    assert len((await one.ask()).answer) == 2


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [Tensor.of("candidates", np.zeros((2, 4, 6), np.float32))],
        [Tensor.of("candidates", np.zeros((1, 5, 6), np.float32))],
        [Tensor.of("candidates", np.full((1, 4, 6), np.nan, np.float32))],
        [Tensor.of_bytes("candidates", (1,), [b"x"])],
    ],
    ids=["nothing", "two rows", "another K", "NaN", "text"],
)
async def test_wrong_shapes_fail_and_the_candidate_is_asked_anew_what_it_is(
    rig: MakeRig, outputs: list[Tensor]
) -> None:
    one = rig(detector_client())

    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, outputs, "3")

    one.candidate.answer = answer
    assert await one.ask_and_mirror() == "failed"
    one.candidate.answer = detector_client(PERSON, CAT).answer
    assert await one.ask_and_mirror() == "compared"
    assert one.candidate.metadata_calls == 2


async def test_another_version_mid_stream_is_compared_under_its_own_name(rig: MakeRig, tmp_path: Path) -> None:
    one = rig(detector_client(PERSON), store=WorstStore(tmp_path, 5, 10**6))
    await one.ask_and_mirror()
    one.candidate.answer = detector_client(CAT, version="4").answer
    assert await one.ask_and_mirror() == "compared"
    await one.shadow.close()
    assert {line["candidate"]["version"] for line in kept(tmp_path)} == {"3", "4"}


async def test_a_candidate_that_changes_its_input_mid_stream_is_found_out(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON, CAT))
    assert await one.ask_and_mirror() == "compared"
    larger = detector_client((16, 12, 32, 24, 0.9, 0), (0, 0, 8, 8, 0.8, 1))
    metadata = detector_metadata(versions=["4"], inputs=[TensorMetadata("image", "UINT8", (-1, 48, 64, 3))])

    async def describe() -> ModelMetadata:
        return metadata

    async def answer(request: InferRequest) -> InferResponse:
        if request.inputs[0].shape != (1, 48, 64, 3):
            raise Refused(400, "wrong shape")
        return await larger.answer(request)

    one.candidate.answer, one.candidate.describe = answer, describe
    outcomes = [await one.ask_and_mirror() for _ in range(3)]
    assert outcomes == ["failed", "incomparable", "compared"]


async def test_a_candidate_that_states_a_giant_input_is_not_believed(rig: MakeRig) -> None:
    metadata = detector_metadata(inputs=[TensorMetadata("image", "UINT8", (-1, 100_000, 100_000, 3))])
    one = rig(detector_client(metadata=metadata))
    assert [await one.ask_and_mirror() for _ in range(3)] == ["failed"] * 3


async def test_what_fails_while_a_sample_is_taken_does_not_fail_the_request(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("saccade_transformers.shadow.sample.letterbox", no_memory)
    metadata = detector_metadata(inputs=[TensorMetadata("image", "UINT8", (-1, 48, 48, 3))])
    one = rig(detector_client(metadata=metadata))
    assert [await one.ask_and_mirror() for _ in range(2)] == ["incomparable"] * 2
    assert len((await one.ask()).answer) == 2


async def test_a_slow_candidate_fills_its_places_and_no_more_are_drawn(rig: MakeRig) -> None:
    one = rig(hanging(), limits=ShadowLimits(queue=3, concurrency=2))
    for _ in range(50):
        assert len((await one.ask()).answer) == 2
    assert len(one.candidate.requests) == 2
    assert len(one.shadow._waiting) == 3
    assert one.outcomes() == {"dropped": 45}


async def test_a_candidate_that_does_not_answer_in_time_is_late(rig: MakeRig) -> None:
    one = rig(hanging(), limits=ShadowLimits(timeout_s=0.01))
    assert await one.ask_and_mirror() == "late"


async def test_requests_that_fail_give_their_place_back_and_are_not_mirrored(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON), limits=ShadowLimits(queue=1, concurrency=1), served=detector_client(PERSON))

    async def broken(_request: InferRequest) -> InferResponse:
        raise ConnectionFailed("gone")

    good, one.served.answer = one.served.answer, broken
    for _ in range(10):
        with pytest.raises(PredictorUnavailable):
            await one.ask()
    assert (one.candidate.requests, one.outcomes()) == ([], {})
    one.served.answer = good
    assert await one.ask_and_mirror() == "compared"


async def test_a_client_that_leaves_takes_its_image_along(rig: MakeRig) -> None:
    one = rig(detector_client(PERSON), served=hanging(detector_client(PERSON)))
    for _ in range(30):
        asking = asyncio.create_task(one.ask())
        count = len(one.served.requests)
        await eventually(lambda count=count: len(one.served.requests) > count, "it waits")  # type: ignore[misc]
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert one.shadow._drawn == 0
    assert (one.candidate.requests, one.outcomes()) == ([], {})


async def test_an_hour_of_a_dead_candidate_costs_a_probe_a_minute_and_nothing_else(
    rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    one = rig(raising(ConnectionFailed("refused")))
    minutes, per_minute = 60, 30
    grown: list[int] = []
    with caplog.at_level(logging.INFO, "saccade"):
        tracemalloc.start()
        try:
            for minute in range(minutes):
                for _ in range(per_minute):
                    answered: Answered = await one.ask()
                    assert len(answered.answer) == 2
                    await settle(5)
                    one.clock.now += 60 / per_minute
                    assert one.shadow._drawn <= 1
                if minute >= 10:
                    grown.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    outcomes = one.outcomes()
    assert sum(outcomes.values()) == minutes * per_minute
    assert outcomes["failed"] == one.candidate.metadata_calls < 80, "5 at first, then ever fewer up to one a minute"
    assert outcomes["paused"] > 1700
    assert len(caplog.records) <= minutes + 1, "a line a minute at most"
    # The fake predictor remembers its requests; nothing else may add up: a tensor is 2304 bytes.
    assert len(one.shadow._waiting) == 0
    requests = (minutes - 11) * per_minute
    assert (grown[-1] - grown[0]) / requests < 2304 + 4096


async def test_a_candidate_that_comes_back_is_compared_again(rig: MakeRig) -> None:
    one = rig(raising(ConnectionFailed("refused")))
    for _ in range(5):
        assert await one.ask_and_mirror() == "failed"
    assert await one.ask_and_mirror() == "paused"
    good = detector_client(PERSON, CAT)
    one.candidate.answer, one.candidate.describe = good.answer, good.describe
    assert await one.ask_and_mirror() == "paused"
    one.clock.now += 1
    assert await one.ask_and_mirror() == "compared"
    assert await one.ask_and_mirror() == "compared"


async def test_shutdown_with_calls_in_flight_and_images_waiting_is_short(rig: MakeRig) -> None:
    one = rig(hanging(), limits=ShadowLimits(queue=3, concurrency=2, timeout_s=600))
    for _ in range(10):
        await one.ask()
    async with asyncio.timeout(5):
        await one.shadow.close()
    assert one.candidate.closed
    assert not one.shadow._mirrors
    assert one.shadow._drawn == 0
    assert len((await one.ask()).answer) == 2, "requests that are still in flight do not notice"
    assert len(one.candidate.requests) == 2
