"""The search for a capacity finds where a server gives way, and says so where there is nothing to find."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest_support import HEIGHT, WIDTH, served
from saccade_loadtest.__main__ import app
from saccade_loadtest.commands.example_command import fitting_cameras
from saccade_loadtest.judging.capacity import Search, SearchFailed, Trial, batch_profile
from saccade_loadtest.judging.finding import Outcome
from saccade_loadtest.judging.slo import parse
from saccade_loadtest.load import scenarios
from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.loads import ClientsLoad, FleetLoad, TraceLoad, UsersLoad
from saccade_loadtest.load.scenarios import UnknownScenario, Wishes, script_of


def search(limit_per_s: float, start_per_s: float, noise: float = 0.0, seed: int = 1, **options: float) -> Search:
    """Search a server that holds up to a limit; ``noise``: chance that a trial says the opposite."""
    chance = random.Random(seed)
    found = Search(start_per_s, **options)  # type: ignore[arg-type]
    while (per_s := found.next_per_s) is not None:
        holds = (per_s <= limit_per_s) != (chance.random() < noise)
        found.take(Trial(per_s, "pass" if holds else "fail", 1.0, 2.0, per_s))
    return found


@pytest.mark.parametrize("limit_per_s", [0.7, 9.9, 10.0, 123.4, 5000.0])
def test_the_capacity_is_found_from_below_and_from_above(limit_per_s: float) -> None:
    found = search(limit_per_s, 10.0)
    assert limit_per_s * 0.95 <= found.holds_per_s <= limit_per_s < found.fails_per_s
    assert len(found.made) <= 2 * 20


def test_a_rate_holds_if_most_of_its_trials_pass_and_no_more_are_made_than_that_needs() -> None:
    found = Search(10.0, trials=3)
    outcomes: list[Outcome] = ["fail", "pass", "pass"]
    for outcome in outcomes:
        assert found.next_per_s == 10.0
        found.take(Trial(10.0, outcome, 1, 1, 10))
    assert (found.holds_per_s, found.next_per_s) == (10.0, 20.0)


def test_single_wrong_trials_seldom_move_the_result() -> None:
    found = [search(100.0, 10.0, noise=0.05, seed=seed, trials=5).holds_per_s for seed in range(200)]
    assert sum(90 <= per_s <= 110 for per_s in found) >= 190


def test_trials_that_cannot_be_judged_end_the_search_with_the_reason() -> None:
    found = Search(10.0, trials=1)
    found.take(Trial(10.0, "pass", 1, 1, 10))
    found.take(Trial(20.0, "invalid", 1, 1, 10, "the generator used 90 % of its CPU"))
    with pytest.raises(
        SearchFailed, match=r"20\.0/s could not be judged 2 times .*90 % of its CPU.*up to 10\.0/s held"
    ):
        found.take(Trial(20.0, "invalid", 1, 1, 10, "the generator used 90 % of its CPU"))


def test_a_server_that_never_meets_the_slo_has_no_capacity() -> None:
    with pytest.raises(SearchFailed, match="there is no capacity"):
        search(0.01, 10.0)


def test_a_server_without_end_is_told_to_begin_higher() -> None:
    with pytest.raises(SearchFailed, match="begin higher with --start"):
        search(1e12, 1.0)


def test_the_profile_of_batches_is_the_difference_of_two_answers() -> None:
    def answer(*batches: tuple[int, int, int]) -> dict[str, object]:
        stats = [{"batch_size": size, "compute_infer": {"count": n, "ns": ns}} for size, n, ns in batches]
        return {"model_stats": [{"name": "m", "batch_stats": stats}]}

    profile = batch_profile(answer((1, 10, 10_000_000)), answer((1, 30, 70_000_000), (4, 5, 50_000_000)))
    assert profile == [
        {"size": 1, "batches": 20, "compute_ms": 3.0},
        {"size": 4, "batches": 5, "compute_ms": 10.0},
    ]
    assert batch_profile({}, {}) == []


def test_whole_cameras_fit_into_sixty_percent_and_one_slow_one_where_none_does() -> None:
    assert fitting_cameras(100.0) == (6, 10.0, "")
    assert fitting_cameras(16.7) == (1, 10.0, "")
    cameras, fps, remark = fitting_cameras(12.0)
    assert (cameras, fps) == (1, 5.0)
    assert "not even one camera at 10 fps fits into 60% of 12.0/s" in remark


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_every_scenario_has_a_load_and_an_objective_that_can_be_read(name: str) -> None:
    script = script_of(name, Wishes(capacity_per_s=50.0))
    assert parse(dict(script.slo)).name
    assert script.warmup_s < script.load.duration_s
    assert script.load.expected(0, script.load.duration_s) > 0


def test_the_seeds_load_is_a_hundred_cameras_at_ten_frames() -> None:
    script = script_of("slo", Wishes())
    assert isinstance(script.load, FleetLoad)
    assert script.load.fleet.per_s == script.nominal_per_s == 1000
    assert script.nominal_limit_ms == 100


def test_overload_is_twice_the_capacity_and_the_capstone_says_what_it_extrapolates() -> None:
    overload = script_of("overload", Wishes(capacity_per_s=40.0))
    assert isinstance(overload.load, ClientsLoad)
    assert overload.load.profile.rate_at(1) == 80
    capstone = script_of("capstone", Wishes(capacity_per_s=100.0))
    assert "143 replicas" in capstone.notes[0], "10,000 / (0.7 x 100), rounded up"
    assert "3 load generators of 3,500/s each" in capstone.notes[0]
    slower = script_of("capstone", Wishes(capacity_per_s=100.0, generator_per_s=1_000.0))
    assert "10 load generators of 1,000/s each" in slower.notes[0]
    assert "extrapolated and was not run" in capstone.notes[1]
    assert capstone.load.expected(0, 1) == pytest.approx(70)


def test_a_trace_users_or_a_shape_take_the_place_of_a_scenarios_load() -> None:
    trace = script_of("smoke", Wishes(trace=("due_s,camera\n1,0\n9,1\n", "mine")))
    assert isinstance(trace.load, TraceLoad)
    assert trace.warmup_s <= trace.load.duration_s / 4
    assert isinstance(script_of("slo", Wishes(users=3)).load, UsersLoad)
    shaped = script_of("smoke", Wishes(shape="ramp", rate_per_s=8.0))
    assert isinstance(shaped.load, ClientsLoad)
    assert shaped.load.profile.rate_at(15) == pytest.approx(4.0)


def test_what_a_scenario_lacks_is_said() -> None:
    with pytest.raises(BadSchedule, match="'overload' needs --rate, or --capacity"):
        script_of("overload", Wishes())
    with pytest.raises(UnknownScenario, match="'smok'; did you mean 'smoke'"):
        script_of("smok", Wishes())
    with pytest.raises(BadSchedule, match="shape 'zigzag' is not known"):
        script_of("smoke", Wishes(shape="zigzag", rate_per_s=1))


def test_trials_too_short_for_the_percentiles_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("name: test\nlatency: [{percentile: 90, limit_ms: 1000}]\n")
    arguments = ["capacity", "--url", "http://h", "--slo", str(slo), "--trial", "5"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "250"})
    assert result.exit_code == 2
    assert "--trial 5 is too short: the percentiles of SLO test are claimed of at least 10 s" in result.output


def test_a_real_server_that_gives_way_at_a_rate_is_found_by_the_command(tmp_path: Path) -> None:
    """Every answer takes a sixtieth of a second of the only thread that answers: 60 a second, and not one more."""
    slo, out = tmp_path / "slo.yaml", tmp_path / "capacity.json"
    slo.write_text(
        "name: test\nlatency: [{percentile: 90, limit_ms: 1000}]\nerrors: {at_most: 0.01}\n"
        "generator: {schedule_error_p99_ms: 10000}\n"
    )
    with served("planted", "--work", str(1 / 60)) as url:
        arguments = ["capacity", "--url", url, "--slo", str(slo), "--out", str(out), "--start", "40", "--trial", "10"]
        more = ["--trials", "1", "--tolerance", "0.5", "--size", f"{WIDTH}x{HEIGHT}"]
        result = CliRunner().invoke(app, [*arguments, *more], env={"COLUMNS": "150"})
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    # 40/s hold, also on a machine that is busy; 80/s do not: a queue of 20 more each second is over a second long.
    assert content["rate_per_s"] <= 60 < content["fails_at_per_s"]
    assert content["rate_per_s"] >= 40
    assert content["rate_per_replica_per_s"] == content["rate_per_s"]
    assert "<- capacity" in result.output
