"""What a sample shows: binomial bounds checked against exact sums, and against how often they are wrong."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_loadtest.judging import confidence


def exact_cdf(successes: int, trials: int, share: float) -> float:
    """The same sum in fractions."""
    p = Fraction(share)
    return float(sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes + 1)))


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.001, 0.999))
def test_the_binomial_distribution_is_exact(successes: int, trials: int, share: float) -> None:
    expected = 1.0 if successes >= trials else exact_cdf(successes, trials, share)
    assert confidence.binomial_cdf(successes, trials, share) == pytest.approx(expected, abs=1e-9)


def test_the_binomial_distribution_of_many_is_near_the_normal_one() -> None:
    trials, share = 4_000_000, 0.25
    deviation = math.sqrt(trials * share * (1 - share))
    for score in (-2.0, 0.0, 2.0):
        normal = 0.5 * (1 + math.erf((score + 0.5 / deviation) / math.sqrt(2)))
        found = confidence.binomial_cdf(round(trials * share + score * deviation), trials, share)
        assert found == pytest.approx(normal, abs=1e-3)


def test_the_smallest_sample_for_a_percentile_is_wilks() -> None:
    # 59 for a 95/95 tolerance limit is the number of the textbooks.
    assert confidence.minimum_sample(95, 0.05) == 59
    assert confidence.minimum_sample(99, 0.01) == 459
    assert confidence.minimum_sample(99.9, 0.01) == 4603


@pytest.mark.parametrize(("percent", "alpha"), [(50, 0.01), (95, 0.05), (99, 0.01), (99.9, 0.01)])
def test_below_the_smallest_sample_nothing_bounds_a_percentile_from_above_and_from_it_on_the_largest_value(
    percent: float, alpha: float
) -> None:
    least = confidence.minimum_sample(percent, alpha)
    assert confidence.percentile_ranks(least - 1, percent, alpha)[1] == least
    assert confidence.percentile_ranks(least, percent, alpha)[1] == least


@given(st.integers(1, 3000), st.sampled_from([50.0, 90.0, 99.0]), st.sampled_from([0.01, 0.05]))
def test_ranks_are_the_closest_that_keep_to_alpha(requests: int, percent: float, alpha: float) -> None:
    lower, upper = confidence.percentile_ranks(requests, percent, alpha)
    below = percent / 100

    def too_high(rank: int) -> float:
        """The chance that the value of this rank is above the true percentile: fewer are not above that."""
        return confidence.binomial_cdf(rank - 1, requests, below)

    # A thousandth of alpha for the floating point of 1 - p.
    slack = alpha * 1e-3
    if lower > 0:
        assert too_high(lower) <= alpha + slack
    assert too_high(lower + 1) >= alpha - slack
    if upper <= requests:
        assert 1 - too_high(upper) <= alpha + slack
    if upper > 1:
        assert 1 - too_high(upper - 1) >= alpha - slack


@pytest.mark.parametrize("requests", [459, 2_000, 20_000])
def test_bounds_of_a_percentile_are_wrong_as_seldom_as_they_say(requests: int) -> None:
    drawn = np.random.default_rng(20261127)
    lower, upper = confidence.percentile_ranks(requests, 99, 0.01)
    true_p99 = -math.log(0.01)
    wrong_low = wrong_high = 0
    trials = 2_000
    for _ in range(trials):
        values = np.sort(drawn.exponential(size=requests))
        wrong_low += bool(values[lower - 1] > true_p99)
        wrong_high += bool(values[upper - 1] < true_p99)
    # At most 20 expected of each; more than 35 would come once in a thousand seeds.
    assert wrong_low <= 35
    assert wrong_high <= 35


def test_bounds_of_a_share_are_clopper_and_pearsons() -> None:
    # Of 0 in n the upper bound has a closed form; the rule of three is its approximation.
    low, high = confidence.share_bounds(0, 600, 0.05)
    assert low == 0
    assert high == pytest.approx(1 - 0.05 ** (1 / 600), rel=1e-9)
    low, high = confidence.share_bounds(600, 600, 0.05)
    assert low == pytest.approx(0.05 ** (1 / 600), rel=1e-9)
    assert high == 1
    low, high = confidence.share_bounds(3, 50, 0.025)
    assert exact_cdf(3, 50, high) == pytest.approx(0.025, rel=1e-6)
    assert 1 - exact_cdf(2, 50, low) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize("true_share", [0.005, 0.006, 0.02])
def test_the_planned_sample_decides_as_often_as_it_promises(true_share: float) -> None:
    planned = confidence.sample_to_decide(0.01, true_share, 0.01)
    assert planned is not None
    slow = np.random.default_rng(5).binomial(planned, true_share, size=4_000)
    if true_share < 0.01:
        decided = slow <= confidence.most_over(planned, 0.01, 0.01)
    else:
        decided = slow >= confidence.fewest_over(planned, 0.01, 0.01)
    assert 0.88 <= decided.mean() <= 0.96


def test_no_sample_tells_a_share_from_itself() -> None:
    assert confidence.sample_to_decide(0.01, 0.01, 0.01) is None
    assert confidence.sample_to_decide(0.01, 0.01 + 1e-9, 0.01) is None


def test_independent_requests_have_no_dispersion_in_most_runs() -> None:
    drawn = np.random.default_rng(8)
    found = [confidence.dispersion(drawn.binomial(100, 0.01, size=60).tolist(), [100] * 60) for _ in range(400)]
    assert sum(value > 1 for value in found) <= 40
    assert max(found) < 3


def test_slow_requests_that_come_in_bursts_count_for_less() -> None:
    bursts = [0] * 60
    bursts[20], bursts[41] = 60, 60
    # 120 of 6,000, in two events: the sample says as much as one of about a hundred requests.
    assert confidence.dispersion(bursts, [100] * 60) > 40


def test_where_nothing_or_everything_is_slow_there_is_no_dispersion() -> None:
    assert confidence.dispersion([0] * 10, [5] * 10) == 1
    assert confidence.dispersion([5] * 10, [5] * 10) == 1
    assert confidence.dispersion([], []) == 1
    assert confidence.dispersion([1], [2]) == 1


def test_bursts_make_a_pass_rarer_and_never_wrong_more_often() -> None:
    # Every second is good or bad as a whole: 1 % of seconds, so the true share over the limit is 1 %: not a pass.
    drawn = random.Random(3)
    passed = 0
    for _ in range(300):
        seconds = [100 if drawn.random() < 0.011 else 0 for _ in range(600)]
        sizes = [100] * 600
        factor = confidence.dispersion(seconds, sizes)
        counting = int(60_000 / factor)
        passed += int(sum(seconds) / factor) <= confidence.most_over(counting, 0.01, 0.01)
    # Taken as 60,000 independent requests, a third and more of these runs would pass.
    assert passed <= 9
