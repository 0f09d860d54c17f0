"""Comparing two runs: a change is told where it is one, and not where chance made it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from saccade_loadtest.__main__ import app
from saccade_loadtest.judging.comparing import Change, Comparison, compare
from saccade_loadtest.record import run_file
from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.results import TIMEOUT, Run, Worker
from saccade_loadtest.reports import comparison_report
from virtual_run import virtual_run


def drawn(seed: int, *, slower: float = 1.0, requests: int = 6_000, failing: float = 0.0) -> Run:
    """A run of one seed."""
    generator = np.random.default_rng(seed)
    latencies = np.exp(generator.normal(3, 0.4, requests)) * slower
    failed = np.flatnonzero(generator.random(requests) < failing).tolist()
    return virtual_run(latencies.tolist(), failures=dict.fromkeys(failed, TIMEOUT))


def changes(comparison: Comparison) -> dict[str, Change]:
    """By what was compared."""
    return {difference.name.partition(" ")[0]: difference.change for difference in comparison.differences}


def test_a_run_that_is_a_fifth_slower_is_worse_and_the_other_way_round_better() -> None:
    slower = compare(drawn(1), drawn(2, slower=1.2))
    assert (changes(slower)["p50"], changes(slower)["p99"]) == ("worse", "worse")
    assert (slower.change, slower.exit_code) == ("worse", 1)
    p50 = slower.differences[0]
    assert p50.low < 1.2 < p50.high
    faster = compare(drawn(2, slower=1.2), drawn(1))
    assert (faster.change, faster.exit_code) == ("better", 0)


def test_a_run_is_the_same_as_itself_as_far_as_it_is_long_enough_to_tell() -> None:
    comparison = compare(drawn(1), drawn(1))
    found = changes(comparison)
    assert found["p50"] == "same"
    assert "worse" not in found.values()
    assert "better" not in found.values()
    assert comparison.exit_code == 0


def test_runs_of_the_same_service_are_seldom_told_apart() -> None:
    # 16 pairs with 4 figures each: each bound is wrong in 1 of 100, so one or two are expected, and not six.
    wrong = 0
    for seed in range(16):
        found = changes(compare(drawn(100 + seed, requests=2_000), drawn(900 + seed, requests=2_000)))
        wrong += sum(change in ("worse", "better") for change in found.values())
    assert wrong <= 5


def test_stalls_do_not_pass_for_a_slower_service_where_their_number_is_chance() -> None:
    # One stall in A, none in B: 2 % of A's requests took a second, all of them in one moment.
    stalled = [1_000.0 if 2_000 <= number < 2_120 else 20.0 for number in range(6_000)]
    comparison = compare(virtual_run(stalled), virtual_run([20.0] * 6_000))
    assert changes(comparison)["p99"] == "unknown"
    assert changes(comparison)["p50"] == "same"


def test_failures_are_compared() -> None:
    comparison = compare(drawn(1, failing=0.002), drawn(2, failing=0.02))
    assert changes(comparison)["failures"] == "worse"
    assert comparison.exit_code == 1
    # None of 6,000 in both: more than 1 of 1,000 is ruled out for either.
    assert changes(compare(drawn(1), drawn(2)))["failures"] == "same"
    # None of 600 does not rule it out.
    assert changes(compare(drawn(1, requests=1_000), drawn(2, requests=1_000)))["failures"] == "unknown"


def test_a_percentile_for_which_the_runs_are_too_short_is_unknown_with_the_number_needed() -> None:
    comparison = compare(drawn(1, requests=1_200), drawn(2, requests=1_200))
    p999 = comparison.differences[3]
    assert p999.change == "unknown"
    assert p999.reason == "too few requests: A has 1,200, at least 10,000 are needed"
    short = compare(drawn(1, requests=300), drawn(2, requests=300))
    assert (short.change, short.exit_code) == ("unknown", 2)
    assert "A has 3 seconds" in short.differences[0].reason


def test_where_both_percentiles_fall_on_failed_requests_nothing_is_said_of_them() -> None:
    comparison = compare(drawn(1, failing=0.03), drawn(2, failing=0.03))
    assert "requests without a right answer" in comparison.differences[2].reason


def test_runs_that_are_not_alike_are_compared_with_a_remark() -> None:
    other = virtual_run([20.0] * 6_000, per_s=300)
    other.scenario = "soak"
    other.loop = "closed"
    other.machine["cpu"] = "another"
    other.series["v1"] = virtual_run([20.0], protocol="v1").series["v1"]
    remarks = " / ".join(compare(drawn(1), other).remarks)
    for words in (
        "scenario: virtual and soak",
        "loop: open and closed",
        "machine",
        "loads: 100.0/s",
        "has v1",
    ):
        assert words in remarks


def lose_a_worker(run: Run) -> None:
    run.workers.append(Worker("w2", lost="it ended with -9"))


def be_late(run: Run) -> None:
    run.workers[0].schedule_error = Histogram([90_000.0] * 6_000)


def be_cut_short(run: Run) -> None:
    run.faults.append("it was cut short at 31 s: by SIGINT")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_a_worker, "B: 1 of 1 workers told their results; lost: w2 (it ended with -9)"),
        (be_late, "B: one of a hundred requests was sent 90"),
        (be_cut_short, "B: it was cut short at 31 s"),
    ],
)
def test_nothing_is_concluded_from_a_run_that_is_no_measurement_unless_forced(
    tmp_path: Path, spoil: Callable[[Run], None], words: str
) -> None:
    good, bad = drawn(1), drawn(2, slower=1.5)
    assert compare(good, bad).change == "worse"
    spoil(bad)
    comparison = compare(good, bad)
    assert (comparison.change, comparison.exit_code) == ("unknown", 2)
    assert words in comparison.remarks[0]
    assert changes(comparison)["p50"] == "worse", "the figures are shown"
    forced = compare(good, bad, forced=True)
    assert (forced.change, forced.exit_code, forced.remarks) == ("worse", 1, comparison.remarks)

    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for run, path in zip((good, bad), paths, strict=True):
        run_file.save(run, Path(path))
    result = CliRunner().invoke(app, ["compare", *paths], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "nothing is concluded: a generator did not do what was planned" in result.output
    assert CliRunner().invoke(app, ["compare", *paths, "--force"]).exit_code == 1


def test_runs_without_a_protocol_in_common_are_not_compared() -> None:
    comparison = compare(virtual_run([1.0] * 100), virtual_run([1.0] * 100, protocol="v1"))
    assert comparison.differences == ()
    assert (comparison.change, comparison.exit_code) == ("unknown", 2)
    assert "nothing to compare" in comparison.remarks[-1]


def test_the_same_two_records_give_the_same_answer() -> None:
    pair = drawn(1, failing=0.01), drawn(2)
    assert comparison_report.to_json(compare(*pair)) == comparison_report.to_json(compare(*pair))


def test_as_json_it_has_no_figure_that_is_no_number() -> None:
    comparison = compare(drawn(1, failing=0.03), drawn(2, failing=0.03, requests=500))
    found = json.loads(comparison_report.to_json(comparison), parse_constant=lambda word: word)
    assert found["change"] == comparison.change
    assert [difference["name"] for difference in found["differences"]][-1] == "failures (jpeg)"
    assert found["differences"][3]["low"] is None
    assert not {"NaN", "Infinity"} & {str(value) for item in found["differences"] for value in item.values()}


def test_as_html_it_shows_both_runs() -> None:
    one, other = drawn(1), drawn(2, slower=1.3)
    other.target = dataclasses.replace(other.target, url="http://b<&>")
    page = comparison_report.to_html(one, other, ("a.json", "b.json"), compare(one, other))
    assert "B is worse than A" in page
    assert "http://b&lt;&amp;&gt;" in page
    assert page.count("<polyline") == 2
