"""Two variants behind one model: who answers, what the answer says, and what a candidate that fails costs: nothing."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fakes import FakeV2Client, candidates, detector_client, detector_metadata, eventually
from saccade_serving import lines as lines_module
from saccade_serving.client import ConnectionFailed, Refused
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import DeadlineExceeded, InvalidRequest, Overloaded, PredictorUnavailable
from saccade_serving.lines import LineWriter
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
from saccade_transformers import standing as standing_module
from saccade_transformers import variants as variants_module
from saccade_transformers.cache.cache import CacheLimits, FrameCache
from saccade_transformers.cache.owner import LocalOwner
from saccade_transformers.cache.policy import Rules
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.ledger import Ledger, encode
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.model import TransformerModel, v1_answer
from saccade_transformers.origin import Origin
from saccade_transformers.pipeline import Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.sources import Encoded
from saccade_transformers.split import is_candidates, place, salt_digest
from saccade_transformers.standing import MAX_FAILURES
from saccade_transformers.target import Target
from saccade_transformers.tasks.detection import DetectionTask
from saccade_transformers.variants import Assigned, Variants
from saccade_transformers.workers import ImageWorkers

PERSON = (8, 6, 16, 12, 0.9, 0)
CAT = (0, 0, 4, 4, 0.8, 1)
PNG = cv2.imencode(".png", np.full((48, 64, 3), 100, np.uint8))[1].tobytes()

#: Another size, other labels, another version than the stable one's.
OTHER = detector_metadata(
    versions=["7"],
    inputs=[TensorMetadata("pixels", "UINT8", (-1, 48, 64, 3))],
    properties={
        "saccade.input": "rgb_nhwc",
        "saccade.candidates": "4",
        "saccade.min_score": "0.2",
        "saccade.labels": '["forklift", "pallet"]',
    },
)


def make_task(contract: PredictorContract) -> DetectionTask:
    return DetectionTask(
        contract.labels,
        int(contract.properties["saccade.candidates"]),
        float(contract.properties["saccade.min_score"]),
        score_threshold=0.4,
        iou_threshold=0.5,
        max_detections=3,
    )


def candidate_client() -> FakeV2Client:
    return detector_client(PERSON, CAT, version="7", metadata=OTHER)


def failing(client: FakeV2Client, error: Exception) -> FakeV2Client:
    """A client whose calls fail from now on."""

    async def fail(*_: Any) -> Any:
        raise error

    client.answer = client.describe = fail
    return client


@dataclass
class Served:
    """A model with two variants, ready."""

    model: TransformerModel
    variants: Variants
    metrics: TransformerMetrics
    stable: FakeV2Client
    candidate: FakeV2Client
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.variants, self.metrics)

    async def ask(
        self, parameters: dict[str, Any] | None = None, image: bytes = PNG, **headers: str
    ) -> tuple[InferResponse, Exchange]:
        exchange = Exchange.begin("rest", {name.replace("_", "-"): value for name, value in headers.items()}, 10)
        exchange.model = "detector"
        request = InferRequest("detector", [Tensor.of_bytes("image", (1,), [image])], parameters=parameters or {})
        return await self.model.infer(request, exchange), exchange

    async def variant_of(self, camera: str) -> str:
        answer, _ = await self.ask({"camera_id": camera})
        return str(answer.parameters["variant"])

    async def in_service(self) -> None:
        await eventually(lambda: self.variants._standing.in_service, "the candidate is in service")

    def fallbacks(self) -> float:
        return sum(self.metrics.variant_fallbacks.values.values())


Serve = Callable[..., Any]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants_module, "_RETRY_S", (0.001, 0.002))


@pytest.fixture
def _not_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that falls out is tried at once."""
    monkeypatch.setattr(standing_module, "AGAIN_S", (0.001, 0.002))


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves two variants and closes them at the end."""
    made: list[Served] = []

    async def begin(
        stable: FakeV2Client | None = None,
        candidate: FakeV2Client | None = None,
        share: float = 0.5,
        by_header: bool = False,
        draw: Callable[[], float] = lambda: 0.25,
        cached: bool = False,
    ) -> Served:
        metrics = TransformerMetrics()
        workers = ImageWorkers(2, 64)
        clients = stable or detector_client(PERSON), candidate or candidate_client()
        first, second = (
            Target(Predictor(client, "behind", metrics.predictor_seconds), make_task, name)
            for client, name in zip(clients, ("stable", "candidate"), strict=True)
        )
        variants = Variants(first, second, share, "spring", by_header, metrics, draw)
        cache = FrameCache(Rules(), CacheLimits(), metrics.cache, LocalOwner()) if cached else None
        pipeline = Pipeline(workers, ImageLimits(100_000, 10_000), metrics, cache)
        model = TransformerModel("detector", variants, pipeline, workers, 4, 40_000)
        served = Served(model, variants, metrics, *clients)
        made.append(served)
        await model.prepare()
        return served

    yield begin
    for served in made:
        await served.model.close()
        assert served.stable.closed
        assert served.candidate.closed


def cameras(of: str, count: int, share: float = 0.5) -> list[str]:
    """Some cameras of one variant."""
    found: list[str] = []
    for i in range(1_000_000):
        if is_candidates(place(f"camera:{i}", "spring").point, share) == (of == "candidate"):
            found.append(str(i))
        if len(found) == count:
            return found
    raise AssertionError("no such cameras")


# Who answers, and what the answer says.


async def test_a_camera_stays_with_its_variant_and_the_answer_names_it(serve: Serve) -> None:
    served = await serve()
    await served.in_service()
    for variant, version, labels in (("stable", "3", [b"person"]), ("candidate", "7", [b"forklift", b"pallet"])):
        for camera in cameras(variant, 5) * 2:
            answer, exchange = await served.ask({"camera_id": camera})
            assert answer.parameters == {"variant": variant}
            assert exchange.answer_headers == {"x-saccade-variant": variant}
            assert answer.model_version == exchange.version == version
            assert list(answer.output("labels").elements) == labels


async def test_a_header_and_a_user_key_decide_like_a_parameter(serve: Serve) -> None:
    served = await serve()
    await served.in_service()
    for camera in cameras("stable", 2) + cameras("candidate", 2):
        answer, exchange = await served.ask(x_camera_id=camera)
        assert answer.parameters["variant"] == await served.variant_of(camera)
        assert exchange.notes.origin == Origin(camera)
    variants = set()
    for user in range(20):
        [one] = {(await served.ask(x_user_key=str(user)))[0].parameters["variant"] for _ in range(2)}
        variants.add(one)
    assert variants == {"stable", "candidate"}


async def test_the_share_holds_over_cameras_and_over_requests_without_one(serve: Serve) -> None:
    points = iter(np.random.default_rng(1).random(400).tolist())
    served = await serve(share=0.25, draw=lambda: next(points))
    await served.in_service()
    by_camera = [await served.variant_of(str(i)) for i in range(400)]
    by_chance = [(await served.ask())[0].parameters["variant"] for _ in range(400)]
    for found in (by_camera, by_chance):
        assert found.count("candidate") == pytest.approx(100, abs=35)


async def test_without_a_candidate_no_answer_says_anything_of_variants(serve: Serve) -> None:
    metrics = TransformerMetrics()
    workers = ImageWorkers(1, 4)
    target = Target(Predictor(detector_client(PERSON), "behind", metrics.predictor_seconds), make_task)
    pipeline = Pipeline(workers, ImageLimits(100_000, 10_000), metrics)
    model = TransformerModel("detector", target, pipeline, workers, 4, 40_000)
    exchange = Exchange.begin("rest", {"x-saccade-variant": "candidate"}, 10)
    [answered] = await model.answer([Encoded(PNG)], {"camera_id": "7"}, exchange)
    assert v1_answer(answered, "detector")["model"] == {"name": "detector", "version": "3"}
    assert exchange.answer_headers == {}
    answer = await model.infer(InferRequest("detector", [Tensor.of_bytes("image", (1,), [PNG])]), exchange)
    assert answer.parameters == {}
    with pytest.raises(InvalidRequest, match="parameter 'camera_id'"):
        await model.answer([Encoded(PNG)], {"camera_id": "x" * 10_240}, exchange)
    await model.close()


async def test_detect_and_v1_name_the_variant_beside_the_version(serve: Serve) -> None:
    served = await serve()
    await served.in_service()
    [camera] = cameras("candidate", 1)
    exchange = Exchange.begin("detect", {}, 10)
    [answered] = await served.model.answer([Encoded(PNG)], {"camera_id": camera}, exchange)
    assert v1_answer(answered, "detector")["model"] == {"name": "detector", "version": "7", "variant": "candidate"}


async def test_what_a_request_chooses_is_held_against_its_own_variants_model(serve: Serve) -> None:
    served = await serve()
    await served.in_service()
    low = {"score_threshold": 0.1}
    await served.ask({"camera_id": cameras("stable", 1)[0], **low})
    with pytest.raises(InvalidRequest, match=r"the model reports nothing under 0\.2"):
        await served.ask({"camera_id": cameras("candidate", 1)[0], **low})
    assert served.fallbacks() == 0, "a client's mistake is no failure of the candidate"
    sizes = {request.inputs[0].shape for request in served.candidate.requests}
    assert sizes == {(1, 48, 64, 3)}


async def test_versions_are_those_of_both_and_one_that_only_one_has_chooses_it(serve: Serve) -> None:
    served = await serve(share=0)
    await served.in_service()
    assert served.model.versions() == ["3", "7"]
    assert served.model.metadata("7").properties["saccade.labels"] == '["forklift", "pallet"]'
    assert served.model.metadata().properties["saccade.labels"] == '["person", "cat"]'
    exchange = Exchange.begin("rest", {}, 10)
    request = InferRequest("detector", [Tensor.of_bytes("image", (1,), [PNG])], model_version="7")
    assert (await served.model.infer(request, exchange)).parameters == {"variant": "candidate"}
    assert exchange.notes.is_chosen


# Chosen by header.


async def test_a_header_chooses_the_variant_where_that_is_permitted(serve: Serve) -> None:
    served = await serve(share=0, by_header=True)
    await served.in_service()
    answer, exchange = await served.ask(x_saccade_variant="candidate")
    assert answer.parameters == {"variant": "candidate"}
    assert exchange.notes.is_chosen
    with pytest.raises(InvalidRequest, match="is 'canary'; expected 'stable' or 'candidate'"):
        await served.ask(x_saccade_variant="canary")


async def test_a_header_chooses_nothing_where_that_is_not_permitted(serve: Serve) -> None:
    served = await serve(share=0)
    await served.in_service()
    for name in ("candidate", "canary"):
        answer, exchange = await served.ask(x_saccade_variant=name)
        assert answer.parameters == {"variant": "stable"}
        assert not exchange.notes.is_chosen


async def test_who_chose_a_candidate_that_cannot_answer_is_told_so(serve: Serve) -> None:
    served = await serve(share=0, by_header=True, candidate=failing(candidate_client(), ConnectionFailed("gone")))
    with pytest.raises(PredictorUnavailable, match="cannot be reached"):
        await served.ask(x_saccade_variant="candidate")
    assert served.fallbacks() == 0


# A candidate that cannot answer.


async def test_a_candidate_that_is_not_there_at_the_start_keeps_nobody_waiting(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve(share=1, candidate=failing(candidate_client(), ConnectionFailed("gone")))
    assert served.model.ready
    answer, exchange = await served.ask({"camera_id": "1"})
    assert answer.parameters == {"variant": "stable"}
    assert exchange.answer_headers == {"x-saccade-variant": "stable"}
    assert exchange.notes.fell_back
    assert served.metrics.variant_fallbacks.values == {("detector", "candidate"): 1}
    there = candidate_client()
    served.candidate.answer, served.candidate.describe = there.answer, there.describe
    await served.in_service()
    assert await served.variant_of("1") == "candidate"
    await eventually(lambda: "waiting_for_candidate" in caplog.messages, "the log says so")


@pytest.mark.parametrize(
    "error",
    [ConnectionFailed("gone"), Refused(500, "broken"), Refused(503, "no upstream"), Refused(404, "no such model")],
    ids=str,
)
async def test_what_a_candidate_fails_to_answer_stable_answers(serve: Serve, error: Exception) -> None:
    served = await serve(share=1)
    await served.in_service()
    failing(served.candidate, error)
    for i in range(12):
        answer, exchange = await served.ask({"camera_id": str(i)})
        assert answer.parameters == {"variant": "stable"}
        assert exchange.version == "3"
        assert exchange.notes.fell_back
    assert served.fallbacks() == 12


async def test_cached_answers_do_not_keep_a_candidate_in_service_that_has_failed(serve: Serve) -> None:
    served = await serve(share=1, cached=True)
    await served.in_service()
    await served.ask()
    failing(served.candidate, ConnectionFailed("gone"))
    for shade in range(MAX_FAILURES):
        assert served.variants._standing.in_service
        answer, _ = await served.ask()
        assert answer.parameters["variant"] == "candidate"
        assert str(answer.parameters["cache"]).startswith("exact")
        image = cv2.imencode(".png", np.full((48, 64, 3), shade, np.uint8))[1].tobytes()
        answer, _ = await served.ask(image=image)
        assert answer.parameters["variant"] == "stable"
    assert not served.variants._standing.in_service


@pytest.mark.parametrize("priority", ["abc", "-1", 1.5, True, ""])
async def test_a_priority_that_is_none_is_the_clients_mistake_and_asks_nobody(serve: Serve, priority: Any) -> None:
    served = await serve(share=1)
    await served.in_service()
    asked = len(served.candidate.requests)
    for _ in range(6):
        with pytest.raises(InvalidRequest, match=r"parameter 'priority' is .* expected a whole number >= 0"):
            await served.ask({"camera_id": "1", "priority": priority})
    assert len(served.candidate.requests) == asked
    assert served.variants._standing.in_service


async def test_a_priority_is_passed_on_as_a_number(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    for priority in (2, "2"):
        await served.ask({"camera_id": "1", "priority": priority})
        assert served.candidate.requests[-1].parameters["priority"] == 2


async def test_a_candidate_that_calls_requests_bad_stays_in_service_and_stable_answers(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    there = served.candidate.answer

    async def refuse(_: InferRequest) -> InferResponse:
        raise Refused(400, "parameter 'x' is bad")

    served.candidate.answer = refuse
    for _ in range(6):
        assert await served.variant_of("1") == "stable"
    served.candidate.answer = there
    assert await served.variant_of("1") == "candidate"


async def test_answers_that_break_the_candidates_contract_are_stables_to_give(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()

    async def nonsense(request: InferRequest) -> InferResponse:
        return InferResponse("detector", [Tensor.of("candidates", np.zeros((1, 9, 9), np.float32))], "7")

    served.candidate.answer = nonsense
    assert await served.variant_of("1") == "stable"


async def test_several_images_fall_back_together(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    calls = iter(range(1000))

    async def every_other(request: InferRequest) -> InferResponse:
        if next(calls) % 2:
            raise ConnectionFailed("gone")
        return InferResponse("detector", [candidates(PERSON)], model_version="7")

    served.candidate.answer = every_other
    exchange = Exchange.begin("rest", {}, 10)
    answered = await served.model.answer([Encoded(PNG)] * 3, {"camera_id": "1"}, exchange)
    assert {one.variant for one in answered} == {"stable"}
    assert {one.version for one in answered} == {"3"}


@pytest.mark.usefixtures("_not_left_alone")
async def test_a_candidate_that_fails_again_and_again_is_left_alone_until_it_answers_a_trial(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve(share=1)
    await served.in_service()
    there = served.candidate.answer, served.candidate.describe
    failing(served.candidate, ConnectionFailed("gone"))
    for _ in range(5):
        assert await served.variant_of("1") == "stable"
    assert not served.variants._standing.in_service
    assert caplog.messages.count("candidate_out_of_service") == 1
    served.candidate.answer, served.candidate.describe = there
    await served.in_service()
    assert await served.variant_of("1") == "candidate"


async def test_a_candidate_that_hangs_costs_five_deadlines_and_no_more(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()

    failing(served.candidate, TimeoutError())  # what a client says when the request's time is over
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await served.ask({"camera_id": "1"})
    for _ in range(3):
        assert await served.variant_of("1") == "stable"
    assert served.fallbacks() == 3


def late(served: Served, needs_s: float) -> list[float]:
    """Have the candidate need so long from now on; returns the times that trials gave it."""
    there = served.candidate.answer
    trials: list[float] = []

    async def answer(request: InferRequest) -> InferResponse:
        given_s = float(request.parameters["timeout"]) / 1e6
        if (request.inputs[0].array == 114).all():
            trials.append(given_s)
        if given_s < needs_s:
            raise TimeoutError
        return await there(request)

    served.candidate.answer = answer
    return trials


async def ask_within(served: Served, seconds: float, count: int) -> list[str]:
    """Ask; returns who answered, or "late"."""
    found = []
    for _ in range(count):
        exchange = Exchange.begin("rest", {}, seconds)
        try:
            [answered] = await served.model.answer([Encoded(PNG)], {"camera_id": "1"}, exchange)
            found.append(answered.variant)
        except DeadlineExceeded:
            found.append("late")
    return found


@pytest.mark.usefixtures("_not_left_alone")
async def test_a_candidate_slower_than_its_clients_deadlines_costs_five_and_does_not_come_back(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    trials = late(served, 2.5)
    assert await ask_within(served, 2, 5) == ["late"] * 5
    for _ in range(5):
        tried = len(trials)
        await eventually(lambda: len(trials) > tried, "it is tried again")  # noqa: B023
        assert await ask_within(served, 2, 5) == ["stable"] * 5
    assert max(trials) <= 2


@pytest.mark.usefixtures("_not_left_alone")
async def test_a_candidate_that_was_too_slow_comes_back_for_clients_that_wait_longer(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    late(served, 2.5)
    await ask_within(served, 2, 5)
    await ask_within(served, 9, 2)
    await served.in_service()
    assert await ask_within(served, 9, 1) == ["candidate"]


async def test_one_that_answers_trials_alone_is_left_alone_for_longer_each_time(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    served.variants._pause = pause
    there = served.candidate.answer

    async def trials_alone(request: InferRequest) -> InferResponse:
        if not (request.inputs[0].array == 114).all():
            raise ConnectionFailed("gone")
        response: InferResponse = await there(request)
        return response

    served.candidate.answer = trials_alone
    assert await ask_within(served, 9, 5) == ["stable"] * 5
    await served.in_service()
    for _ in range(7):
        assert await ask_within(served, 9, 1) == ["stable"]
        await served.in_service()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.usefixtures("_not_left_alone")
async def test_each_return_of_one_that_hangs_costs_one_request_however_many_come_at_once(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    there, hangs, waiting, over = served.candidate.answer, True, 0, asyncio.Event()

    async def trials_alone(request: InferRequest) -> InferResponse:
        nonlocal waiting
        if hangs and not (request.inputs[0].array == 114).all():
            waiting += 1
            await over.wait()
            raise TimeoutError
        response: InferResponse = await there(request)
        return response

    async def ask_at_once(count: int) -> list[str]:
        nonlocal waiting
        waiting = 0
        over.clear()
        asking = [asyncio.create_task(ask_within(served, 9, 1)) for _ in range(count)]
        await eventually(lambda: waiting + sum(one.done() for one in asking) == count, "all others are answered")
        over.set()
        return sorted([answer for [answer] in await asyncio.gather(*asking)])

    served.candidate.answer = trials_alone
    assert await ask_at_once(5) == ["late"] * 5
    for _ in range(3):
        await served.in_service()
        assert await ask_at_once(10) == ["late"] + ["stable"] * 9
        assert not served.variants._standing.in_service
    hangs = False
    await served.in_service()
    assert await ask_within(served, 9, 1) == ["candidate"]
    assert await ask_at_once(5) == ["candidate"] * 5, "having answered one it has them all again"


async def test_requests_in_a_hurry_do_not_take_the_candidate_from_the_others(serve: Serve) -> None:
    served = await serve(share=1)
    await served.in_service()
    for target in served.variants.targets:
        target.predictor.usual_s = 0.5
    late(served, 0.9)
    assert await ask_within(served, 0.8, 10) == ["late"] * 10
    assert served.variants._standing.in_service
    assert await ask_within(served, 9, 1) == ["candidate"]
    late(served, 9)
    assert await ask_within(served, 3, 6) == ["late"] * 5 + ["stable"]


async def test_clients_that_leave_a_candidate_that_hangs_are_noticed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants_module, "_PATIENCE_S", 0.0)
    served = await serve(share=1)
    await served.in_service()
    entered = asyncio.Event()

    async def hang(*_: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    served.candidate.answer = hang
    for _ in range(5):
        entered.clear()
        asking = asyncio.create_task(served.ask({"camera_id": "1"}))
        await entered.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert await served.variant_of("1") == "stable"


async def test_a_candidate_that_does_not_say_what_it_expects_holds_nobody_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants_module, "_ASK_S", 0.01)
    served = await serve(share=1)
    await served.in_service()

    async def hang(*_: Any) -> ModelMetadata:
        await asyncio.Event().wait()
        raise AssertionError

    served.candidate.describe = hang
    assert served.variants.candidate is not None
    served.variants.candidate.predictor.forget()
    assert await asyncio.wait_for(served.variant_of("1"), 5) == "stable"


async def test_stable_fails_as_it_always_did(serve: Serve) -> None:
    served = await serve(share=0)
    await served.in_service()
    failing(served.stable, ConnectionFailed("gone"))
    with pytest.raises(PredictorUnavailable):
        await served.ask({"camera_id": "1"})
    assert served.fallbacks() == 0


async def test_an_overload_of_this_service_is_no_failure_of_the_candidate(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serve(share=1)
    await served.in_service()

    async def full(*_: Any) -> Any:
        raise Overloaded("64 images wait for a thread, which is the limit")

    monkeypatch.setattr(served.model.workers, "admit", full)
    for _ in range(6):
        with pytest.raises(Overloaded, match="wait for a thread"):
            await served.ask({"camera_id": "1"})
    assert served.variants._standing.in_service
    assert served.fallbacks() == 0


# Counted and recorded.


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Path, LineWriter]]:
    path = tmp_path / "ab.jsonl"
    lines = LineWriter("ab_log", encode, path, 2**20)
    yield path, lines
    lines.close()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_request_of_a_variant_is_counted_and_is_one_line(
    serve: Serve, log: tuple[Path, LineWriter]
) -> None:
    path, lines = log
    served = await serve(share=0.5)
    await served.in_service()
    ledger = Ledger(served.variants, served.metrics, lines)
    camera = cameras("candidate", 1)[0]
    _, exchange = await served.ask({"camera_id": camera}, x_request_id="order-66")
    exchange.stages["receive"] = 0.2
    ledger.record(exchange, "7", "200", 0.5)
    _, exchange = await served.ask()
    exchange.protocol = "grpc"
    ledger.record(exchange, "7", "OK", 0.25)
    failing(served.candidate, ConnectionFailed("gone"))
    _, exchange = await served.ask({"camera_id": camera})
    ledger.record(exchange, "3", "200", 0.125)
    failing(served.stable, ConnectionFailed("gone"))
    exchange = Exchange.begin("rest", {}, 10)
    exchange.model = "detector"
    with pytest.raises(PredictorUnavailable):
        await served.model.answer([Encoded(PNG)], {"camera_id": cameras("stable", 1)[0]}, exchange)
    ledger.record(exchange, "3", "502", 0.01)
    ledger.record(Exchange.begin("rest", {}, 10), "3", "400", 0.01)  # refused before it had a variant
    lines.close()

    first, second, third, fourth = read(path)
    digest = place(f"camera:{camera}", "spring").digest
    assert first.pop("time").endswith("Z")
    assert first == {
        "request_id": "order-66",
        "variant": "candidate",
        "fallback": False,
        "chosen": False,
        "key": digest,
        "salt": salt_digest("spring"),
        "share": 0.5,
        "latency_ms": 300.0,
        "code": "200",
        "items": 2,
    }
    assert (second["variant"], second["key"], second["code"], second["latency_ms"]) == ("candidate", "", "OK", 250)
    assert (third["variant"], third["fallback"], third["key"], third["items"]) == ("stable", True, digest, 1)
    assert (fourth["variant"], fourth["code"], fourth["items"]) == ("stable", "502", 0)
    assert served.metrics.variant_requests.values == {
        ("detector", "candidate", "200"): 1,
        ("detector", "candidate", "OK"): 1,
        ("detector", "stable", "200"): 1,
        ("detector", "stable", "502"): 1,
    }
    rows = {labels: sum(row[:-1]) for labels, row in served.metrics.variant_seconds.rows()}
    assert rows == {("detector", "candidate"): 2, ("detector", "stable"): 2}


async def test_a_disk_that_does_not_keep_up_costs_lines_and_not_time(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "_INTERVAL_S", 60.0)
    served = await serve()
    lines = LineWriter("ab_log", encode, tmp_path / "ab", 2**20, room=2)
    ledger = Ledger(served.variants, served.metrics, lines)
    exchange = Exchange.begin("rest", {}, 10)
    exchange.notes = Assigned(Origin(), served.variants.stable)
    for _ in range(5):
        ledger.record(exchange, "3", "200", 0.1)
    lines.close()
    assert (lines.written, lines.dropped) == (2, 3)


async def test_thirty_thousand_cameras_leave_nothing_behind(serve: Serve) -> None:
    served = await serve()
    await served.in_service()

    def ask(i: int) -> None:
        exchange = Exchange.begin("rest", {"x-camera-id": f"camera-{i}"}, 10)
        exchange.model = "detector"
        served.variants.assign({}, exchange)
        served.ledger.record(exchange, "3", "200", 0.01)

    for i in range(100):
        ask(i)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(30_000):
            ask(i)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
    assert len(served.metrics.variant_requests.values) == 2
