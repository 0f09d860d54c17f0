"""The parts of shadow traffic that only decide: which images, when to leave a target alone, what is worth keeping."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_transformers.breaker import Breaker
from saccade_transformers.shadow.sampling import Sampler, camera_digest
from saccade_transformers.shadow.worst import Kept, Worst

# Sampling


def test_all_images_of_a_camera_are_drawn_or_none_and_everywhere_the_same() -> None:
    cameras = [f"camera-{number}" for number in range(2000)]
    one, other = Sampler(0.05, "camera"), Sampler(0.05, "camera")
    drawn = {camera for camera in cameras if one.takes(camera)}
    assert 60 <= len(drawn) <= 140, "5 % of the cameras"
    for _ in range(3):
        assert {camera for camera in cameras if other.takes(camera)} == drawn


def test_a_larger_share_keeps_the_cameras_of_the_smaller_one() -> None:
    cameras = [str(number) for number in range(500)]
    small, large = ({c for c in cameras if Sampler(share, "camera").takes(c)} for share in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize("by", ["random", "camera"])
def test_a_share_of_none_draws_nothing_and_of_one_everything(by: str) -> None:
    for share in (0.0, 1.0):
        sampler = Sampler(share, by)  # type: ignore[arg-type]
        assert {sampler.takes(camera) for camera in ("", "a", "b", "\ud800", "x" * 10_000)} == {share == 1}


def test_images_without_a_camera_are_drawn_one_by_one() -> None:
    draws = iter([0.01, 0.9, 0.04])
    sampler = Sampler(0.05, "camera", lambda: next(draws))
    assert [sampler.takes("") for _ in range(3)] == [True, False, True]


def test_by_chance_the_camera_does_not_matter() -> None:
    sampler = Sampler(0.5, "random", random.Random(1).random)
    taken = sum(sampler.takes("the same") for _ in range(1000))
    assert 430 < taken < 570


def test_a_digest_stands_for_a_camera_without_naming_it() -> None:
    assert camera_digest("") == ""
    assert camera_digest("gate 7") == camera_digest("gate 7") != camera_digest("gate 8")
    assert len(camera_digest("gate 7")) == 16
    assert "gate" not in camera_digest("gate 7")


# The breaker


def fail(breaker: Breaker, now: float) -> bool:
    permit = breaker.begin(now)
    assert permit is not None
    return breaker.failed(permit, now)


def test_some_failures_in_a_row_open_it_and_a_success_between_them_counts_anew() -> None:
    breaker = Breaker(failures=3)
    for _ in range(2):
        assert not fail(breaker, 0)
    permit = breaker.begin(0)
    assert permit is not None
    breaker.succeeded(permit)
    assert [fail(breaker, 0) for _ in range(3)] == [False, False, True]
    assert breaker.is_open
    assert breaker.begin(0.9) is None


def test_one_call_tries_at_a_time_and_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    breaker = Breaker(failures=1, first_pause_s=1, longest_pause_s=5)
    now = 0.0
    pauses = []
    fail(breaker, now)
    for _ in range(5):
        begun = now
        while not breaker.admits(now):
            now += 0.25
        pauses.append(now - begun)
        permit = breaker.begin(now)
        assert permit is not None
        assert breaker.begin(now) is None, "another one tries already"
        breaker.failed(permit, now)
    assert pauses == [1, 2, 4, 5, 5]


def test_a_success_closes_it_and_the_next_pause_is_short_again() -> None:
    breaker = Breaker(failures=1, first_pause_s=1, longest_pause_s=60)
    fail(breaker, 0)
    fail(breaker, 1)
    permit = breaker.begin(3)
    assert permit is not None
    breaker.succeeded(permit)
    assert not breaker.is_open
    fail(breaker, 3)
    assert not breaker.admits(3.9)
    assert breaker.admits(4)


def test_calls_from_before_it_opened_are_not_heard() -> None:
    breaker = Breaker(failures=1, first_pause_s=1)
    first, second, third = (breaker.begin(0) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    breaker.failed(first, 0)
    assert not breaker.failed(second, 0), "the pause is not doubled for the same trouble"
    breaker.succeeded(third)
    assert breaker.begin(0.5) is None
    assert breaker.admits(1)


def test_a_call_that_was_withdrawn_leaves_the_try_to_the_next() -> None:
    breaker = Breaker(failures=1, first_pause_s=1)
    fail(breaker, 0)
    permit = breaker.begin(1)
    assert permit is not None
    breaker.withdrawn(permit)
    assert breaker.is_open
    assert breaker.admits(1)


# What is worth keeping


def kept(agreement: float, name: str, size: int = 10) -> Kept:
    return Kept(agreement, name, b"x" * (size - 1))


def test_the_frames_that_agree_least_stay() -> None:
    worst = Worst(2, 1000)
    gone = [frame.id for agreement, name in [(0.5, "a"), (0.9, "b"), (0.1, "c"), (0.7, "d"), (0.2, "e")]
            for frame in worst.add(kept(agreement, name))]  # fmt: skip
    assert [frame.id for frame in worst.frames] == ["c", "e"]
    assert gone == ["b", "d", "a"]


def test_a_frame_that_agrees_wholly_is_never_kept() -> None:
    worst = Worst(2, 1000)
    assert not worst.would_keep(1.0)
    frame = kept(1.0, "a")
    assert worst.add(frame) == [frame]


def test_of_equal_frames_it_is_chance_and_not_time_that_decides() -> None:
    names = [f"{random.Random(seed).getrandbits(64):016x}" for seed in range(200)]
    worst = Worst(10, 10_000)
    changes = sum(kept(0.0, name) not in worst.add(kept(0.0, name)) for name in names)
    places = sorted(names.index(frame.id) for frame in worst.frames)
    assert places[0] < 100 < places[-1]
    assert changes < 70, "ever fewer are written: about 10 (1 + ln 20)"


def test_full_by_bytes_only_what_agrees_less_than_the_best_kept_is_taken() -> None:
    worst = Worst(10, 100)
    for name in ("a", "b"):
        worst.add(kept(0.5, name, 50))
    assert not worst.would_keep(0.6, 50)
    assert worst.would_keep(0.4, 50)
    for frame, is_taken in [(kept(0.6, "c", 50), False), (kept(0.5, "c", 50), False), (kept(0.4, "c", 50), True)]:
        assert worst.takes(frame) is is_taken
        assert (frame not in worst.add(frame)) is is_taken
    assert [frame.id for frame in worst.frames] == ["c", "a"]


def test_a_frame_larger_than_all_room_drives_nobody_out() -> None:
    worst = Worst(5, 100)
    worst.add(kept(0.5, "a"))
    giant = kept(0.1, "b", 200)
    assert worst.add(giant) == [giant]
    assert [frame.id for frame in worst.frames] == ["a"]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(2, 60)), max_size=60), st.integers(1, 8), st.integers(1, 200))
def test_number_and_bytes_are_bounded_and_what_goes_agrees_more(
    offered: list[tuple[float, int]], keep: int, max_bytes: int
) -> None:
    worst = Worst(keep, max_bytes)
    for number, (agreement, size) in enumerate(offered):
        gone = worst.add(kept(agreement, f"{number:016x}", size))
        assert len(worst.frames) <= keep
        assert worst.size == sum(frame.size for frame in worst.frames) <= max_bytes
        assert worst.frames == sorted(worst.frames)
        fitting = [frame for frame in gone if frame.size <= max_bytes]
        assert all(not worst.frames or frame > worst.frames[-1] for frame in fitting)
