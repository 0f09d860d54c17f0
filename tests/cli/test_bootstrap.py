"""The intervals: they hold what they say, over many simulated experiments, and the numbers are those of the books."""

from __future__ import annotations

import numpy as np
import pytest

from saccade_cli.bootstrap import (
    MIN_CLUSTERS,
    Compared,
    Difference,
    Estimate,
    Sample,
    compare_means,
    compare_quantiles,
    split_p_value,
    t_quantile,
)

EXPERIMENTS = 200
#: What 95 % of 200 may look like by chance, and a little for the bootstrap's own error.
MOST, LEAST = 0.99, 0.90


def cameras(seed: int, count: int, spread: float = 0.3, shift: float = 0.0, each: int = 8) -> Sample:
    """Log-normal times of some cameras, each with a level of its own and with a number of frames of its own."""
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(count), 1 + generator.poisson(each, count))
    levels = generator.normal(0, spread, count)
    values = np.exp(3 + levels[clusters] + generator.normal(0, 0.3, len(clusters))) + shift
    return Sample(values, clusters)


def alone(sample: Sample) -> Sample:
    """The same values as if each were independent of all others."""
    return Sample(sample.values, np.arange(len(sample.values)))


@pytest.mark.parametrize(("stable", "candidate"), [(60, 60), (90, 10)])
def test_an_interval_of_95_percent_holds_the_truth_in_about_95_of_100_experiments(stable: int, candidate: int) -> None:
    mean = median = own = 0
    truth = float(np.exp(3 + (0.3**2 + 0.3**2) / 2))
    for seed in range(EXPERIMENTS):
        samples = cameras(2 * seed, stable), cameras(2 * seed + 1, candidate)
        compared = compare_means(*samples, replicates=200)
        mean += not compared.difference.is_seen
        assert compared.candidate.low is not None
        assert compared.candidate.high is not None
        own += compared.candidate.low <= truth <= compared.candidate.high
        [compared] = compare_quantiles(*samples, [0.5], replicates=200)
        median += not compared.difference.is_seen
    for hits in (mean, median, own):
        assert LEAST <= hits / EXPERIMENTS <= MOST


def test_whoever_takes_a_cameras_frames_for_independent_sees_differences_that_are_none() -> None:
    seen = clustered = 0
    for seed in range(100):
        samples = cameras(2 * seed, 40), cameras(2 * seed + 1, 40)
        seen += compare_means(alone(samples[0]), alone(samples[1]), replicates=200).difference.is_seen
        clustered += compare_means(*samples, replicates=200).difference.is_seen
    assert seen > 40
    assert clustered < 15


def test_independent_requests_have_intervals_that_hold_too() -> None:
    hits = 0
    for seed in range(100):
        samples = (alone(cameras(2 * seed, 20, spread=0)), alone(cameras(2 * seed + 1, 20, spread=0)))
        hits += not compare_quantiles(*samples, [0.9], replicates=200)[0].difference.is_seen
    assert hits >= 88


def test_a_difference_as_large_as_is_called_detectable_is_seen_in_about_80_of_100_experiments() -> None:
    called = [
        compare_means(cameras(2 * s, 60), cameras(2 * s + 1, 60), replicates=200).difference.detectable
        for s in range(30)
    ]
    size = float(np.mean([one for one in called if one is not None]))
    seen = sum(
        compare_means(cameras(2 * s, 60), cameras(2 * s + 1, 60, shift=size), replicates=200).difference.is_seen
        for s in range(100)
    )
    assert 65 <= seen <= 92


def test_the_same_data_give_the_same_numbers() -> None:
    samples = cameras(1, 20), cameras(2, 20)
    assert compare_means(*samples) == compare_means(*samples)
    assert compare_quantiles(*samples, [0.5, 0.9]) == compare_quantiles(*samples, [0.5, 0.9])


def test_a_quantile_is_the_least_value_with_that_share_at_or_below_it() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, 101)).astype(np.float64)
    sample = Sample(values, np.arange(100))
    found = compare_quantiles(sample, sample, [0.01, 0.5, 0.9, 0.99], replicates=50)
    assert [one.stable.value for one in found] == [1, 50, 90, 99]


def test_with_too_few_clusters_or_too_few_values_beyond_there_is_a_number_and_no_interval() -> None:
    few = cameras(1, MIN_CLUSTERS - 1, each=200)
    compared = compare_means(few, cameras(2, 50))
    assert compared.difference.low is compared.candidate.high is compared.difference.detectable is None
    assert not compared.difference.is_seen
    assert compared.stable.value == pytest.approx(few.values.mean())
    [p50, p99] = compare_quantiles(cameras(1, 20), cameras(2, 20), [0.5, 0.99], replicates=50)
    assert p50.difference.low is not None
    assert p99.difference.low is None, "180 values have two beyond their p99"


def test_values_that_are_all_alike_say_nothing_of_their_difference() -> None:
    same = Sample(np.zeros(100), np.arange(100))
    assert compare_means(same, same) == Compared(Estimate(0.0), Estimate(0.0), Difference(0.0))


def test_a_camera_that_has_nearly_all_frames_counts_as_hardly_more_than_one() -> None:
    clusters = np.concatenate([np.zeros(1000, np.intp), np.arange(1, 20)])
    assert Sample(np.ones(len(clusters)), clusters).effective_clusters == pytest.approx(1.04, abs=0.01)
    assert Sample(np.ones(100), np.repeat(np.arange(20), 5)).effective_clusters == pytest.approx(20)


@pytest.mark.parametrize(
    ("degrees", "p", "expected"),
    [(4, 0.975, 2.7764), (5, 0.975, 2.5706), (10, 0.975, 2.2281), (30, 0.975, 2.0423), (1e6, 0.975, 1.95996)],
)
def test_students_t_is_that_of_the_tables(degrees: float, p: float, expected: float) -> None:
    assert t_quantile(p, degrees) == pytest.approx(expected, rel=0.003)
    assert t_quantile(1 - p, degrees) == pytest.approx(-expected, rel=0.003)


def test_a_split_as_configured_is_probable_and_another_one_is_not() -> None:
    assert split_p_value(100, 1000, 0.1) == pytest.approx(1)
    # Pearson's statistic is 3.84 at 5 % and 10.83 at 0.1 %, with one degree of freedom.
    assert split_p_value(round(500 + (3.84 * 250) ** 0.5), 1000, 0.5) == pytest.approx(0.05, abs=0.002)
    assert split_p_value(round(500 - (10.83 * 250) ** 0.5), 1000, 0.5) == pytest.approx(0.001, abs=0.0001)
    assert split_p_value(3, 40, 0.1) is None, "4 are expected"
    assert split_p_value(0, 1000, 0.0) is None


def test_a_fair_split_is_rarely_called_unfair() -> None:
    generator = np.random.default_rng(3)
    values = [split_p_value(int(generator.binomial(500, 0.1)), 500, 0.1) or 0 for _ in range(2000)]
    assert sum(p < 0.05 for p in values) == pytest.approx(100, abs=40)
