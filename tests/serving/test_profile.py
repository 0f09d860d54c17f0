"""What is known of the time of a batch: between sizes, after many batches, after one that stalled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.scheduling.profile import LatencyProfile
from virtual_clock import A100


@pytest.mark.parametrize(
    ("rows", "ms"), [(1, 8), (8, 12), (4, 8 + 4 * 3 / 7), (20, 17), (96, 47.5), (128, 60), (256, 120)]
)
def test_times_are_interpolated_between_the_measured_sizes(rows: int, ms: float) -> None:
    assert LatencyProfile(A100).seconds(rows) * 1e3 == pytest.approx(ms)


def test_nothing_is_known_before_the_first_batch() -> None:
    profile = LatencyProfile()
    assert not profile
    assert profile.seconds(8) == 0
    profile.observe(4, 0.02)
    assert profile
    assert profile.seconds(4) == pytest.approx(0.02)
    assert profile.seconds(8) == pytest.approx(0.04)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.2, 3.0])
def test_a_profile_that_is_wrong_learns(scale: float) -> None:
    profile = LatencyProfile(A100)
    truth = LatencyProfile({rows: seconds * scale for rows, seconds in A100.items()})
    for _ in range(40):
        profile.observe(64, truth.seconds(64))
    assert profile.seconds(64) == pytest.approx(truth.seconds(64), rel=0.01)
    assert profile.seconds(128) == pytest.approx(truth.seconds(128), rel=0.01)  # others follow


def test_one_batch_that_stalls_changes_nothing_and_many_do() -> None:
    profile = LatencyProfile(A100)
    profile.observe(64, 0.335)
    assert profile.seconds(64) == pytest.approx(0.035)
    for _ in range(10):
        profile.observe(64, 0.335)
    assert profile.seconds(64) == pytest.approx(0.335)


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0.0001, 1)), max_size=60))
def test_a_smaller_batch_never_takes_longer(observed: list[tuple[int, float]]) -> None:
    profile = LatencyProfile(A100)
    for rows, seconds in observed:
        profile.observe(rows, seconds)
    times = [profile.seconds(rows) for rows in range(1, 200)]
    assert times == sorted(times)
    assert times[0] > 0


@given(st.floats(0.001, 0.2), st.integers(1, 200))
def test_the_largest_batch_within_a_time_is_the_largest(limit_s: float, most: int) -> None:
    profile = LatencyProfile(A100)
    found = profile.largest_within(limit_s, most)
    assert found == max([n for n in range(1, most + 1) if profile.seconds(n) <= limit_s], default=1)


@pytest.mark.parametrize("seconds", [{0: 0.1}, {1: 0.0}, {1: -1.0}, {1: float("nan")}])
def test_what_is_no_time_is_refused(seconds: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LatencyProfile(seconds)


@pytest.mark.parametrize(("rows", "seconds"), [(0, 0.1), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_an_impossible_observation_is_passed_over(rows: int, seconds: float) -> None:
    profile = LatencyProfile(A100)
    profile.observe(rows, seconds)
    assert profile.table() == pytest.approx(A100)
