"""Schedules: rates over time, arrivals that follow them, the same for a seed, shared out without loss."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade_loadtest.load.arrivals import (
    BadSchedule,
    Profile,
    arrivals,
    constant,
    diurnal,
    ramp,
    spike,
    step,
)

PROFILES = {
    "constant": constant(50, 40),
    "step": step([10, 0, 40, 20], 10),
    "ramp": ramp(0, 80, 40),
    "spike": spike(20, 90, 15, 10, 15),
    "diurnal": diurnal(5, 60, 40, 80),
}
every_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


@every_profile
def test_even_arrivals_are_as_many_as_the_area_under_the_rate(profile: Profile) -> None:
    moments = list(arrivals(profile, "even", 1))
    assert abs(len(moments) - profile.total) <= 1
    for phase in profile.phases:
        inside = sum(phase.begins_s <= at < phase.ends_s for at in moments)
        assert inside == pytest.approx(phase.per_s * (phase.ends_s - phase.begins_s), abs=1.5)


@every_profile
def test_arrivals_by_chance_follow_the_rate_and_not_only_its_mean(profile: Profile) -> None:
    moments = np.concatenate([list(arrivals(profile, "poisson", seed)) for seed in range(40)])
    for begins in np.arange(0, profile.duration_s, 5):
        expected = 40 * (profile.expected(begins + 5) - profile.expected(begins))
        found = ((moments >= begins) & (moments < begins + 5)).sum()
        assert abs(found - expected) <= 5 * math.sqrt(expected) + 1, f"from {begins} s on"


def test_gaps_by_chance_are_exponential() -> None:
    gaps = np.diff(list(arrivals(constant(100, 400), "poisson", 7)))
    assert gaps.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps.std() == pytest.approx(0.01, rel=0.03)
    assert (gaps > 0.03).mean() == pytest.approx(math.exp(-3), rel=0.15)


@every_profile
@pytest.mark.parametrize("process", ["even", "poisson"])
def test_moments_ascend_within_the_duration_and_are_the_same_for_a_seed(profile: Profile, process: str) -> None:
    moments = list(arrivals(profile, process, 3))  # type: ignore[arg-type]
    assert moments == sorted(moments)
    assert moments[0] >= 0
    assert moments[-1] < profile.duration_s
    assert moments == list(arrivals(profile, process, 3))  # type: ignore[arg-type]


@every_profile
def test_even_shares_are_together_the_whole_schedule(profile: Profile) -> None:
    shares = [arrivals(profile, "even", 1, index, 3) for index in range(3)]
    assert sorted(itertools.chain(*shares)) == pytest.approx(list(arrivals(profile, "even", 1)))


def test_shares_by_chance_differ_and_have_the_whole_rate_together() -> None:
    shares = [list(arrivals(constant(90, 100), "poisson", 1, index, 3)) for index in range(3)]
    assert shares[0][:5] != shares[1][:5] != shares[2][:5]
    for share in shares:
        assert len(share) == pytest.approx(3000, abs=5 * math.sqrt(3000))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 50), st.floats(0, 1000)), min_size=1, max_size=8),
    st.floats(0.001, 0.999),
)
def test_the_moment_of_a_count_is_the_inverse_of_what_is_expected(
    parts: list[tuple[float, float]], share: float
) -> None:
    at, knots = 0.0, [(0.0, 1.0)]
    for length, per_s in parts:
        at += length
        knots.append((at, per_s))
    profile = Profile(tuple(knots))
    count = share * profile.total
    assert profile.expected(profile.moment_of(count)) == pytest.approx(count, rel=1e-6, abs=1e-6)


def test_a_day_is_low_at_its_ends_and_high_in_its_middle() -> None:
    day = diurnal(10, 100, 60, 120)
    assert day.rate_at(0) == pytest.approx(10)
    assert day.rate_at(30) == pytest.approx(100)
    assert day.rate_at(60) == pytest.approx(10)
    assert [phase.name for phase in day.phases][:5] == ["night", "morning", "day", "evening", "night"]
    assert day.total == pytest.approx(55 * 120, rel=0.001)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: constant(-1, 10), "at least 0"),
        (lambda: constant(1, 0), "ascend from 0"),
        (lambda: constant(0, 10), "sends nothing"),
        (lambda: constant(math.nan, 10), "finite"),
        (lambda: diurnal(1, 2, 0, 10), "both must be above 0"),
        (lambda: list(arrivals(constant(1, 1), "uniform", 1)), "'uniform' are not known"),  # type: ignore[arg-type]
        (lambda: list(arrivals(constant(1, 1), "even", 1, 3, 3)), "share 3 of 3"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(make: object, sentence: str) -> None:
    with pytest.raises(BadSchedule, match=sentence):
        make()  # type: ignore[operator]
