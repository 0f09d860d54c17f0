"""The frame cache in its pipeline: what it answers, to whom, and what it never does."""

from __future__ import annotations

import asyncio
import itertools
import threading
import tracemalloc
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cache_support import OPTIONS, SIDE, TASK, Bench, frame, metadata, number_of, numbered, scene
from fakes import FakeV2Client, candidates, eventually, settle
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import DeadlineExceeded, PredictorUnavailable, SaccadeError
from saccade_serving.oip.messages import InferRequest, InferResponse
from saccade_transformers import auditing
from saccade_transformers.cache.cache import CacheLimits, size_of
from saccade_transformers.cache.frames import Frame, Kept, Scope
from saccade_transformers.cache.policy import compare
from saccade_transformers.image.decode import ImageLimits, decode, decode_for_input, decode_grey
from saccade_transformers.outcome import cache_line, hit_fields
from saccade_transformers.predictor import PredictorContract
from saccade_transformers.sources import Encoded, Raw
from saccade_transformers.target import Known, Target
from saccade_transformers.tasks.detection import Detections


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(numbered())
    yield bench
    await bench.close()


# The same bytes


async def test_the_same_bytes_are_answered_without_decoding_or_asking(bench: Bench) -> None:
    source = frame(scene())
    first, second = await bench.answer(source), await bench.answer(source, after_s=0.25)
    assert (first.cache, second.cache, bench.asked) == ("miss", "exact", 1)
    assert second.answer is first.answer
    assert (second.width, second.height, second.version) == (640, 480, "3")
    assert second.hit is not None
    assert second.hit.age_s == pytest.approx(0.25)
    assert cache_line([second, first]) == "exact;age=0.250, miss"
    assert hit_fields(second.hit) == {"cache_age_ms": 250.0}
    assert hit_fields(first.hit) == {}
    assert bench.value("saccade_cache_requests_total", outcome="exact") == 1
    assert bench.value("saccade_cache_requests_total", outcome="miss") == 1


@pytest.mark.parametrize(
    "more",
    [
        {"options": TASK.options({"score_threshold": 0.6})},
        {"options": TASK.options({"max_detections": 1})},
        {"model_version": "3"},
        {"known": Known(PredictorContract.of(metadata(width=320)), TASK)},
    ],
    ids=["score", "count", "version", "input"],
)
async def test_other_options_another_model_or_input_are_another_answer(bench: Bench, more: dict[str, Any]) -> None:
    source = frame(scene())
    await bench.answer(source)
    assert (await bench.answer(source, **more)).cache == "miss"
    assert bench.asked == 2


async def test_another_variant_is_another_answer(bench: Bench) -> None:
    source = frame(scene())
    await bench.answer(source)
    other = Target(bench.predictor, lambda _contract: TASK, "candidate")
    answered = await bench.answer(source, target=other)
    assert (answered.cache, answered.variant) == ("miss", "candidate")
    assert (await bench.answer(source, target=other)).cache == "exact"


async def test_equal_bytes_in_another_form_are_another_image(bench: Bench) -> None:
    pixels = scene(width=64, height=48)
    turned = pixels.reshape(64, 48, 3)
    assert (await bench.answer(Raw(pixels))).cache == "miss"
    assert (await bench.answer(Raw(turned))).cache == "miss"
    assert (await bench.answer(Raw(pixels.copy()))).cache == "exact"


async def test_an_exact_answer_holds_for_its_time_and_no_longer(bench: Bench) -> None:
    source = frame(scene())
    await bench.answer(source)
    assert (await bench.answer(source, after_s=59.9)).cache == "exact"
    assert (await bench.answer(source, after_s=0.2)).cache == "miss"


async def test_an_answer_of_a_version_that_is_gone_is_not_given(bench: Bench) -> None:
    source = frame(scene())
    await bench.answer(source)
    now = Known(PredictorContract.of(metadata(versions=("4",))), TASK)
    assert (await bench.answer(source, known=now)).cache == "miss"


async def test_bypass_neither_asks_nor_tells_the_cache(bench: Bench) -> None:
    source = frame(scene())
    assert (await bench.answer(source, "gate", cache="bypass")).cache == "bypass"
    assert (await bench.answer(source, "gate")).cache == "miss"
    answered = await bench.answer(source, "gate", cache="bypass")
    assert (answered.cache, number_of(answered)) == ("bypass", 3)
    assert number_of(await bench.answer(source)) == 2, "what was there has stayed"


async def test_refresh_asks_the_predictor_and_tells_the_cache(bench: Bench) -> None:
    source = frame(scene())
    await bench.answer(source)
    refreshed = await bench.answer(source, cache="refresh")
    assert (refreshed.cache, number_of(refreshed)) == ("miss", 2)
    again = await bench.answer(source)
    assert (again.cache, number_of(again)) == ("exact", 2)


async def test_a_failure_is_not_remembered(bench: Bench) -> None:
    source = frame(scene())
    works, bench.client.answer = bench.client.answer, failing
    with pytest.raises(PredictorUnavailable):
        await bench.answer(source)
    bench.client.answer = works
    assert (await bench.answer(source)).cache == "miss"
    assert (await bench.answer(source)).cache == "exact"


async def failing(_request: InferRequest) -> InferResponse:
    raise PredictorUnavailable("no")


async def test_the_cache_stays_within_its_memory() -> None:
    bench = Bench(numbered(), limits=CacheLimits(answer_bytes=2**16, camera_bytes=2**18))
    for seed in range(120):
        await bench.answer(frame(scene(seed % 7, 64, 48)), f"camera {seed}")
    assert bench.value("saccade_cache_bytes", kind="answers") <= 2**16
    assert bench.value("saccade_cache_bytes", kind="cameras") <= 2**18
    assert 0 < bench.value("saccade_cache_entries", kind="answers") < 120
    assert 0 < bench.value("saccade_cache_entries", kind="cameras") < 120
    await bench.close()


# Together


class Held:
    """A predictor that answers when it is let go."""

    def __init__(self, client: FakeV2Client) -> None:
        self._answer, client.answer = client.answer, self.answer
        self.go = asyncio.Event()
        self.fails = False

    async def answer(self, request: InferRequest) -> InferResponse:
        await self.go.wait()
        if self.fails:
            raise PredictorUnavailable("no")
        return await self._answer(request)


async def test_identical_frames_on_their_way_are_inferred_once(bench: Bench) -> None:
    held, source = Held(bench.client), frame(scene())
    tasks = [asyncio.create_task(bench.answer(source)) for _ in range(5)]
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    await settle()
    held.go.set()
    answered = await asyncio.gather(*tasks)
    assert sorted(one.cache for one in answered) == ["coalesced"] * 4 + ["miss"]
    assert bench.asked == 1
    assert len(bench.cache.flights) == 0


async def test_who_waits_for_an_inference_that_fails_asks_for_itself(bench: Bench) -> None:
    held, source = Held(bench.client), frame(scene())
    first = asyncio.create_task(bench.answer(source))
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    others = [asyncio.create_task(bench.answer(source)) for _ in range(3)]
    await settle()
    held.fails = True
    held.go.set()
    with pytest.raises(SaccadeError):
        await first
    failures = await asyncio.gather(*others, return_exceptions=True)
    assert all(isinstance(failure, PredictorUnavailable) for failure in failures)
    assert bench.asked == 4, "each has its own answer, at the same time"
    assert len(bench.cache.flights) == 0


async def test_who_waits_for_somebody_who_leaves_is_answered(bench: Bench) -> None:
    held, source = Held(bench.client), frame(scene())
    first = asyncio.create_task(bench.answer(source))
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    second = asyncio.create_task(bench.answer(source))
    await settle()
    first.cancel()
    held.go.set()
    assert (await second).cache == "miss"
    assert len(bench.cache.flights) == 0


async def test_of_many_who_wait_for_somebody_who_leaves_one_takes_over(bench: Bench) -> None:
    held, source = Held(bench.client), frame(scene())
    first = asyncio.create_task(bench.answer(source))
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    others = [asyncio.create_task(bench.answer(source)) for _ in range(20)]
    await settle()
    first.cancel()
    await eventually(lambda: bench.asked == 2, "one of the others asks")
    held.go.set()
    outcomes = [answered.cache for answered in await asyncio.gather(*others)]
    assert sorted(outcomes) == ["coalesced"] * 19 + ["miss"]
    assert bench.asked == 2
    assert len(bench.cache.flights) == 0


async def test_a_near_hit_of_a_camera_is_no_answer_for_those_without_one(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    source = frame(scene())
    answers = await asyncio.gather(bench.answer(source, "gate"), *(bench.answer(source) for _ in range(8)))
    assert answers[0].cache == "near"
    assert sorted(answered.cache for answered in answers[1:]) == ["coalesced"] * 7 + ["miss"]
    assert {number_of(answered) for answered in answers[1:]} == {2}


async def test_who_waits_keeps_the_own_deadline(bench: Bench) -> None:
    Held(bench.client)
    source = frame(scene())
    first = asyncio.create_task(bench.answer(source))
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    with pytest.raises(DeadlineExceeded, match="while the same image was inferred for another request"):
        await bench.answer(source, exchange=Exchange.begin("rest", {}, 0.2))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_request_of_another_priority_does_not_wait_for_others(bench: Bench) -> None:
    held, source = Held(bench.client), frame(scene())
    tasks = [asyncio.create_task(bench.answer(source, parameters={"priority": priority})) for priority in (2, 1, 1)]
    await eventually(lambda: bench.asked == 2, "the predictor is asked")
    held.go.set()
    assert sorted([(await task).cache for task in tasks]) == ["coalesced", "miss", "miss"]


# The frames of a camera


async def test_a_still_camera_is_answered_by_its_earlier_frame(bench: Bench) -> None:
    first = await bench.answer(frame(scene()), "gate")
    second = await bench.answer(frame(scene(), quality=85), "gate", after_s=0.4)
    assert (first.cache, second.cache, bench.asked) == ("miss", "near", 1)
    assert second.hit is not None
    assert second.hit.age_s == pytest.approx(0.4)
    fields = hit_fields(second.hit)
    assert 0 <= fields["cache_distance"] <= 10
    assert 0 < fields["cache_change"] < 12
    assert cache_line([second]).startswith(f"near;distance={second.hit.distance};change=")
    assert bench.refused("first") == 1


async def test_without_a_camera_only_the_same_bytes_count(bench: Bench) -> None:
    await bench.answer(frame(scene()))
    assert (await bench.answer(frame(scene()))).cache == "miss"


async def test_cameras_share_nothing_but_the_same_bytes(bench: Bench) -> None:
    source = frame(scene())
    await bench.answer(source, "a")
    assert (await bench.answer(frame(scene()), "b")).cache == "miss"
    assert (await bench.answer(frame(scene()), "b")).cache == "near"
    await bench.answer(frame(scene(1)), "a")
    assert (await bench.answer(source, "c")).cache == "exact"


@pytest.mark.parametrize(("width", "height", "side"), [(640, 480, 12), (640, 480, 24), (1920, 1080, 36)])
@pytest.mark.parametrize("contrast", [30, 80])
async def test_a_small_thing_that_appears_is_noticed_on_its_first_frame(
    bench: Bench, width: int, height: int, side: int, contrast: int
) -> None:
    empty = scene(0, width, height)
    await bench.answer(frame(empty), "gate")
    assert (await bench.answer(frame(empty), "gate")).cache == "near"
    for x, y in ((101, 57), (333, 207)):
        shown = empty.astype(np.int16)
        shown[y : y + side, x : x + side] += contrast
        assert (await bench.answer(frame(shown.clip(0, 255).astype(np.uint8)), "gate")).cache == "miss"
        assert (await bench.answer(frame(empty), "gate")).cache == "miss", "and so is that it has gone"
    assert bench.refused("outside") == 4


async def test_another_scene_is_inferred(bench: Bench) -> None:
    await bench.answer(frame(scene(0)), "gate")
    assert (await bench.answer(frame(scene(1)), "gate")).cache == "miss"


async def test_an_answer_is_refreshed_after_a_number_of_hits(bench: Bench) -> None:
    outcomes = [(await bench.answer(frame(scene()), "gate", after_s=0.01)).cache for _ in range(64)]
    assert [at for at, outcome in enumerate(outcomes) if outcome == "miss"] == [0, 31, 62]
    assert bench.refused("heartbeat") == 2


async def test_no_answer_is_older_than_the_limit_however_often_it_was_given(bench: Bench) -> None:
    ages = []
    for _ in range(30):
        answered = await bench.answer(frame(scene()), "gate", after_s=1.0)
        ages.append(answered.hit.age_s if answered.hit is not None else 0.0)
    assert max(ages) == pytest.approx(10.0)
    assert bench.refused("max_age") == 2


async def test_a_camera_that_was_silent_begins_anew(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    assert (await bench.answer(frame(scene()), "gate", after_s=2.1)).cache == "miss"
    assert bench.refused("gap") == 1


async def test_a_clock_that_goes_back_makes_no_hit(bench: Bench) -> None:
    source = frame(scene())
    await bench.answer(source, "gate")
    assert (await bench.answer(frame(scene()), "gate", after_s=-5.0)).cache == "miss"
    assert (await bench.answer(source, "other", after_s=-5.0)).cache == "miss"


async def test_the_answers_to_a_camera_never_go_back(bench: Bench) -> None:
    """It alternates between two scenes: the earlier scene's answer is older than the later one's."""
    one, two = frame(scene(0)), frame(scene(1))
    newest = 0
    for source in (one, two, one, two, one, frame(scene(1)), one):
        answered = await bench.answer(source, "gate")
        assert number_of(answered) >= newest
        newest = number_of(answered)
    assert bench.value("saccade_cache_refusals_total", reason="older") > 0


async def test_two_cameras_with_one_name_get_no_answer_of_the_other(bench: Bench) -> None:
    for seed in (0, 1, 0, 1, 0):
        assert (await bench.answer(frame(scene(seed)), "gate")).cache == "miss"


async def test_frames_that_overtake_each_other_leave_the_later_one(bench: Bench) -> None:
    works, held = bench.client.answer, Held(bench.client)
    early = asyncio.create_task(bench.answer(frame(scene(1)), "gate"))
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    bench.client.answer = works
    late = await bench.answer(frame(scene(2)), "gate")
    held.go.set()
    await early
    near = await bench.answer(frame(scene(2)), "gate")
    assert (late.cache, near.cache) == ("miss", "near")
    assert number_of(near) == number_of(late)
    assert (await bench.answer(frame(scene(1)), "gate")).cache == "miss"


async def test_a_frame_whose_camera_had_to_go_meanwhile_finds_the_one_in_its_place() -> None:
    bench = Bench(numbered(), limits=CacheLimits(camera_bytes=2**19, audit_share=0.0))
    try:
        works, held, source = bench.client.answer, Held(bench.client), frame(scene(1))
        nobodys = asyncio.create_task(bench.answer(source))
        await eventually(lambda: bench.asked == 1, "the predictor is asked")
        early = asyncio.create_task(bench.answer(source, "gate"))  # waits for the same inference
        await settle()
        bench.client.answer = works
        for index in range(25):
            await bench.answer(frame(scene(index, 64, 48)), f"camera {index}")
        assert bench.value("saccade_cache_entries", kind="cameras") < 25
        await bench.answer(frame(scene(2)), "gate")
        held.go.set()
        await nobodys
        assert (await early).cache == "miss", "a later frame's answer was given"
        assert bench.refused("older") == 1
    finally:
        await bench.close()


async def test_many_cameras_are_kept_apart(bench: Bench) -> None:
    for _ in range(2):
        outcomes = [
            (await bench.answer(frame(scene(seed)), f"camera {seed}", after_s=0.01)).cache for seed in range(20)
        ]
    assert outcomes == ["near"] * 20
    assert bench.value("saccade_cache_entries", kind="cameras") == 20


# Audits


async def test_a_share_of_near_hits_is_inferred_all_the_same(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    bench.drawn = 0.019
    answered = await bench.answer(frame(scene()), "gate")
    assert (answered.cache, number_of(answered)) == ("near", 1)
    await eventually(lambda: bench.value("saccade_cache_audits_total", agreed="true") == 1, "the audit has ended")
    assert bench.asked == 2
    bench.drawn = 0.02
    after = await bench.answer(frame(scene()), "gate")
    assert (after.cache, number_of(after)) == ("near", 2), "what the audit found is the newest answer"
    assert bench.asked == 2


async def test_the_client_has_its_answer_before_the_predictor_is_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "BEHIND_S", 0.2)
    await bench.answer(frame(scene()), "gate")
    bench.drawn = 0.0
    assert (await bench.answer(frame(scene()), "gate")).cache == "near"
    await settle()
    assert bench.asked == 1
    await eventually(lambda: bench.value("saccade_cache_audits_total", agreed="true") == 1, "the audit has ended")


async def test_a_camera_whose_audits_disagree_loses_its_near_cache(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = itertools.count()

    async def elsewhere(request: InferRequest) -> InferResponse:
        at = 100 + 20 * (next(boxes) % 10)
        return InferResponse(request.model_name, [candidates((at, at, at + 15, at + 15, 0.9, 0))], "3")

    bench.client.answer = elsewhere
    bench.drawn = 0.0
    await bench.answer(frame(scene()), "gate")
    for audits in (1, 2, 3):
        assert (await bench.answer(frame(scene()), "gate")).cache == "near"
        await eventually(partial(bench.disagreed, audits), "the audit has ended")
    assert (await bench.answer(frame(scene()), "gate")).cache == "miss"
    assert bench.refused("off") == 1
    assert bench.value("saccade_cameras", condition="not_trusted") == 1
    [event] = [record for record in caplog.records if record.message == "camera_not_trusted"]
    assert "gate" not in str(vars(event)), "names of cameras are not logged"
    assert (await bench.answer(frame(scene(3)), "yard")).cache == "miss"
    bench.drawn = 0.9
    assert (await bench.answer(frame(scene(3)), "yard")).cache == "near", "the other cameras keep theirs"
    await bench.answer(frame(scene()), "gate", after_s=61)
    assert (await bench.answer(frame(scene()), "gate")).cache == "near"


async def test_an_audit_that_fails_or_hangs_costs_nothing(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    works, bench.client.answer = bench.client.answer, failing
    bench.drawn = 0.0
    assert (await bench.answer(frame(scene()), "gate")).cache == "near"
    await eventually(lambda: bench.value("saccade_cache_audit_failures_total") == 1, "the audit has failed")
    bench.client.answer = works
    Held(bench.client)
    for _ in range(5):
        assert (await bench.answer(frame(scene()), "gate")).cache == "near"
    await eventually(lambda: bench.asked == 1 + 1 + 2, "two are under way")
    await settle()
    assert bench.asked == 1 + 1 + 2, "no more than two at once"


async def test_another_version_s_answer_says_nothing_of_this_one(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    bench.drawn = 0.0

    async def newer(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, [candidates()], "4")

    bench.client.answer = newer
    await bench.answer(frame(scene()), "gate")
    await eventually(lambda: bench.asked == 2, "the predictor is asked")
    await settle()
    assert bench.value("saccade_cache_audits_total", agreed="false") == 0


# Cameras that something is wrong with


async def test_a_frozen_camera_is_told_of_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    source = frame(scene())
    for _ in range(15):
        await bench.answer(source, "gate", after_s=1.0)
    assert bench.value("saccade_cameras", condition="frozen") == 1
    assert [record.message for record in caplog.records].count("camera_frozen") == 1
    await bench.answer(frame(scene()), "gate")
    assert bench.value("saccade_cameras", condition="frozen") == 0


async def test_a_black_camera_is_told_of(bench: Bench) -> None:
    for _ in range(15):
        await bench.answer(frame(np.zeros((480, 640, 3), np.uint8)), "gate", after_s=1.0)
    assert bench.value("saccade_cameras", condition="black") == 1
    assert bench.value("saccade_cameras", condition="frozen") == 0


async def test_the_stages_of_a_near_hit(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    exchange = Exchange.begin("rest", {}, 10)
    await bench.answer(frame(scene()), "gate", exchange=exchange)
    assert set(exchange.stages) == {"cache", "decode", "phash"}
    assert all(seconds >= 0 for seconds in exchange.stages.values())


async def test_a_flight_of_an_earlier_frame_is_not_joined_by_a_camera_that_is_further(bench: Bench) -> None:
    held, source = Held(bench.client), frame(scene())
    leader = asyncio.create_task(bench.answer(source, "a"))
    await eventually(lambda: bench.asked == 1, "the predictor is asked")
    works = held._answer
    bench.client.answer = works
    newer = await bench.answer(frame(scene(1)), "b")
    follower = asyncio.create_task(bench.answer(source, "b"))
    await settle()
    held.go.set()
    await leader
    answered = await follower
    assert answered.cache == "miss"
    assert number_of(answered) > number_of(newer)


async def test_a_still_camera_s_jpegs_are_decoded_as_grey_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def noting(name: str, work: Any) -> Any:
        def run(*given: Any) -> Any:
            decoded.append(name)
            return work(*given)

        return run

    monkeypatch.setattr("saccade_transformers.preparation.decode_grey", noting("grey", decode_grey))
    monkeypatch.setattr("saccade_transformers.preparation.decode_for_input", noting("whole", decode_for_input))
    await bench.answer(frame(scene()), "gate")
    await bench.answer(frame(scene()), "gate")
    await bench.answer(frame(scene(1)), "gate")
    await bench.answer(frame(scene(1)), "gate", cache="refresh")
    assert decoded == ["whole", "grey", "grey", "whole", "whole"]
    decoded.clear()
    for seed in (2, 3, 4, 5):
        await bench.answer(frame(scene(seed)), "gate")
    assert decoded == ["whole"] * 4, "hits are unlikely"
    decoded.clear()
    bench.drawn = 0.0
    for _ in range(12):
        await bench.answer(frame(scene(5)), "gate", after_s=0.01)
    assert decoded == ["whole"] * 12, "an audit needs the model's input"
    bench.drawn = 1.0
    await bench.answer(frame(scene(5)), "gate")
    assert decoded[12:] == ["grey"]


async def test_a_picture_that_is_no_jpeg_has_near_hits_too(bench: Bench) -> None:
    def decoded() -> NDArray[np.uint8]:
        return decode(bytes(memoryview(frame(scene()).data)), ImageLimits(10**7, 10**7))  # type: ignore[arg-type]

    def lossless() -> Encoded:
        return Encoded(cv2.imencode(".png", decoded()[..., ::-1])[1].tobytes())

    assert (await bench.answer(lossless(), "gate")).cache == "miss"
    assert (await bench.answer(lossless(), "gate")).cache == "near"
    assert (await bench.answer(Raw(decoded()), "gate")).cache == "near", "the same scene as pixels"


async def test_a_frame_whose_reference_was_replaced_meanwhile_is_compared_with_the_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.answer(frame(scene(0)), "gate")
    go = threading.Event()

    def waiting(*given: Any) -> Any:
        go.wait(10)
        return decode_grey(*given)

    monkeypatch.setattr("saccade_transformers.preparation.decode_grey", waiting)
    slow = asyncio.create_task(bench.answer(frame(scene(0)), "gate"))
    await settle()
    replaced = await bench.answer(frame(scene(1)), "gate", cache="refresh")
    go.set()
    answered = await slow
    assert (replaced.cache, answered.cache) == ("miss", "miss"), "it is not the later scene, whose answer was given"
    assert number_of(answered) > number_of(replaced)


async def test_a_reference_that_was_replaced_meanwhile_by_another_version_is_none(bench: Bench) -> None:
    await bench.answer(frame(scene()), "gate")
    now = Known(PredictorContract.of(metadata(versions=("4",))), TASK)
    bench.now += 0.1
    arriving = Frame(Scope("", "detector", "", (SIDE, SIDE), OPTIONS), "gate", "use", TASK, bench.now, b"new")
    await bench.cache.arrive(arriving)
    before = bench.cache.candidate(arriving, ("3",))
    assert before is not None
    known, since = before
    verdict = compare(known.reference, since, known.reference.look, (640, 480), bench.cache.rules)
    assert verdict.is_hit
    await bench.answer(frame(scene()), "gate", cache="refresh")  # version 3 once more
    hit = await bench.cache.near(arriving, known.reference.look, (640, 480), known, verdict, now.contract.versions)
    assert hit is None
    assert bench.refused("version") == 1


async def test_answers_stay_in_order_when_a_cameras_picture_had_to_go() -> None:
    bench = Bench(numbered(), limits=CacheLimits(camera_bytes=2**20, audit_share=0.0))
    try:
        first, second = frame(scene(0)), frame(scene(1))
        await bench.answer(first, "gate")
        await bench.answer(second, "gate")
        for index in range(20):
            await bench.answer(frame(scene(index)), f"camera {index}")
        assert bench.value("saccade_cache_bytes", kind="cameras") <= 2**20
        again = await bench.answer(first, "gate")
        assert again.cache == "miss", "the second one's answer was given"
        assert bench.refused("older") == 1
    finally:
        await bench.close()


async def test_the_same_picture_in_new_bytes_is_frozen_however_it_is_decoded(bench: Bench) -> None:
    _, encoded = cv2.imencode(".jpg", scene(3))
    jpeg = encoded.tobytes()
    for index in range(70):
        comment = b"\xff\xfe\x00\x04" + index.to_bytes(2, "big")
        await bench.answer(Encoded(jpeg[:2] + comment + jpeg[2:]), "gate", after_s=0.5)
    assert bench.value("saccade_cameras", condition="frozen") == 1
    bench.now += 61
    assert bench.value("saccade_cameras", condition="frozen") == 0, "nobody asks about a camera that is gone"


async def test_cameras_that_are_never_answered_stay_within_their_memory() -> None:
    limit = 2**20
    bench = Bench(numbered(), limits=CacheLimits(camera_bytes=limit))
    bench.client.answer = failing
    for index in range(43):
        with pytest.raises(PredictorUnavailable):
            await bench.answer(frame(scene()), f"camera {index}")
    kept = sum(camera.health.nbytes for camera in bench.cache._cameras.values())
    assert 0 < kept <= bench.value("saccade_cache_bytes", kind="cameras") <= limit
    await bench.close()


@pytest.mark.parametrize("count", [0, 10, 300])
def test_an_answer_counts_for_no_less_than_it_takes_with_what_is_told_of_it(count: int) -> None:
    draw = np.random.default_rng(5)
    tracemalloc.start()
    kept = []
    for number in range(100):
        boxes, scores = draw.random((count, 4), np.float32), draw.random(count, np.float32)
        answer = Detections(boxes, scores, draw.integers(0, 80, count, np.int32))
        kept.append(Kept(answer, TASK, (640, 480), str(number), 1000.0 + number))
        kept[-1].to_v1()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < taken <= sum(size_of(one) for one in kept)
