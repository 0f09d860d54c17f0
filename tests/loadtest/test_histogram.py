"""The latency histogram: HdrHistogram's layout and wire form, exact merging, percentiles by nearest rank."""

from __future__ import annotations

import base64
import math
import random

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from saccade_loadtest.record.histogram import HIGHEST_US, LOWEST_US, DamagedHistogram, Histogram

values_us = st.lists(st.integers(LOWEST_US, HIGHEST_US), max_size=300)


def reference(values: list[int]) -> HdrHistogram:
    """The same values in the histogram of the wheel, recorded one by one by its own code."""
    made = HdrHistogram(LOWEST_US, HIGHEST_US, 3)
    for value in values:
        assert made.record_value(value)
    return made


@given(values_us)
def test_values_are_counted_where_hdrhistogram_counts_them(values: list[int]) -> None:
    decoded: HdrHistogram = HdrHistogram.decode(Histogram(values).encode())
    expected = reference(values)
    assert list(decoded.counts) == list(expected.counts)
    assert decoded.total_count == len(values)


@given(values_us, st.floats(0.1, 100))
def test_a_percentile_is_the_nearest_rank_within_a_thousandth(values: list[int], percent: float) -> None:
    found = Histogram(values).percentile_us(percent)
    if not values:
        assert math.isnan(found)
        return
    exact = sorted(values)[math.ceil(round(percent * len(values) / 100, 6)) - 1]
    assert exact <= found <= exact * 1.001 + 1


def test_ninety_nine_point_nine_percent_of_a_thousand_is_the_999th_value() -> None:
    # 99.9 * 1000 / 100 is 999.0000000000001 in floating point, whose ceiling is 1000.
    assert Histogram(range(1, 1001)).percentile_us(99.9) == 999


@given(st.lists(values_us, max_size=5), st.randoms())
def test_merging_in_any_order_gives_what_one_histogram_of_all_would_hold(
    parts: list[list[int]], order: random.Random
) -> None:
    whole = Histogram(value for part in parts for value in part)
    order.shuffle(parts)
    merged = Histogram()
    for number, part in enumerate(parts):
        other = Histogram(part)
        if number % 2:
            other.pack()
            merged.pack()
        merged.merge(other)
    assert merged.encode() == whole.encode()
    assert merged.count == whole.count


def test_merged_percentiles_are_not_means_of_percentiles() -> None:
    fast, slow = Histogram([1_000] * 990 + [2_000] * 10), Histogram([1_000] * 100 + [900_000] * 10)
    average = (fast.percentile_us(99) + slow.percentile_us(99)) / 2
    fast.merge(slow)
    # 10 of 1,110 are slow, 0.9 %: the p99 is one of the fast, whatever the second worker's own p99 was.
    assert fast.percentile_us(99) < 2_100
    assert average > 400_000


@given(values_us)
def test_what_was_encoded_packed_and_decoded_holds_the_same(values: list[int]) -> None:
    histogram = Histogram(values)
    encoded = histogram.encode()
    histogram.pack()
    assert Histogram.decode(encoded).steps() == histogram.steps()
    histogram.record_us(5_000)
    assert histogram.count == len(values) + 1


@given(values_us, st.integers(LOWEST_US, HIGHEST_US))
def test_the_count_within_a_limit_holds_none_that_is_over_it(values: list[int], limit: int) -> None:
    within = Histogram(values).count_within_us(limit)
    assert within <= sum(value <= limit for value in values)
    # A value that shares its bucket with the limit may be left out, one well under it may not.
    assert within >= sum(value * 1.001 + 1 <= limit for value in values)


def test_what_is_beyond_the_bounds_is_counted_at_them() -> None:
    histogram = Histogram([0.0, -3.0, 0.4, HIGHEST_US * 10.0])
    assert histogram.at_rank_us(3) == LOWEST_US
    assert histogram.count == 4
    assert histogram.at_rank_us(4) >= HIGHEST_US
    assert histogram.at_rank_us(5) == math.inf


def test_a_mean_is_within_a_thousandth() -> None:
    drawn = random.Random(4)
    values = [drawn.uniform(50, 2_000_000) for _ in range(5_000)]
    assert Histogram(values).mean_us() == pytest.approx(sum(values) / len(values), rel=1e-3)


@pytest.mark.parametrize("damaged", ["", "abc", "AAAA", base64.b64encode(b"\0" * 60).decode()])
def test_what_is_no_histogram_is_refused(damaged: str) -> None:
    with pytest.raises(DamagedHistogram, match="cannot be read"):
        Histogram.decode(damaged)


def test_a_histogram_with_other_bounds_is_refused_with_both() -> None:
    other = HdrHistogram(1, 3_600_000_000, 2)
    other.record_value(5)
    with pytest.raises(DamagedHistogram, match=r"\(1, 3600000000, 2\).*\(1, 600000000, 3\)"):
        Histogram.decode(other.encode().decode())


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_a_percentile_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="over 0 and at most 100"):
        Histogram([1]).percentile_us(percent)
