"""Cameras and traces: what a fleet sends, what a file of it says, and what is refused with its line."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest_support import plan_for
from saccade_loadtest.load.arrivals import BadSchedule, constant
from saccade_loadtest.load.cameras import Fleet
from saccade_loadtest.load.loads import ClientsLoad, FleetLoad, TraceLoad, UsersLoad
from saccade_loadtest.load.scenarios import AnyLoad
from saccade_loadtest.load.sources import Mix, fleet_source, trace_source
from saccade_loadtest.load.trace import BadTrace, Shot, parse_trace, read_trace, write_trace


def test_every_camera_sends_its_frames_at_its_rate_with_jitter() -> None:
    fleet = Fleet(cameras=8, fps=10, duration_s=20, jitter=0.2)
    shots = list(fleet.shots())
    assert [shot.due_s for shot in shots] == sorted(shot.due_s for shot in shots)
    counts = Counter(shot.camera for shot in shots)
    assert set(counts) == set(range(8))
    assert all(abs(count - 200) <= 1 for count in counts.values())
    gaps = np.diff([shot.due_s for shot in shots if shot.camera == 3])
    assert gaps.min() >= 0.1 * (1 - 0.4) - 1e-9
    assert gaps.max() <= 0.1 * (1 + 0.4) + 1e-9
    assert gaps.std() > 0.005


def test_cameras_are_not_in_step_and_one_more_leaves_the_others_as_they_were() -> None:
    few, more = Fleet(cameras=3, fps=5, duration_s=5), Fleet(cameras=4, fps=5, duration_s=5)
    assert list(few.frames_of(2)) == list(more.frames_of(2))
    first = [next(few.frames_of(camera)).due_s for camera in range(3)]
    assert len(set(first)) == 3


def test_the_shares_of_generators_are_together_all_cameras() -> None:
    fleet = Fleet(cameras=5, fps=7, duration_s=4)
    shares = itertools.chain(*(fleet.shots(index, 2) for index in range(2)))
    assert sorted(shares) == list(fleet.shots())


def test_static_cameras_keep_their_scene_and_moving_ones_never_do() -> None:
    static = list(Fleet(cameras=1, fps=10, duration_s=60, static=1.0, scene_s=20).frames_of(0))
    assert 1 <= len({shot.scene for shot in static}) <= 20
    assert len({(shot.scene, shot.shot) for shot in static}) == len(static), "noise differs in every shot"
    moving = list(Fleet(cameras=1, fps=10, duration_s=20).frames_of(0))
    assert len({shot.scene for shot in moving}) == len(moving)


def test_duplicates_are_the_last_frame_again() -> None:
    shots = list(Fleet(cameras=1, fps=50, duration_s=40, duplicates=0.3).frames_of(0))
    same = sum(one[1:] == other[1:] for one, other in itertools.pairwise(shots))
    assert same / len(shots) == pytest.approx(0.3, abs=0.05)


def test_a_stall_holds_frames_back_and_lets_them_go_at_once() -> None:
    shots = list(Fleet(cameras=1, fps=20, duration_s=60, jitter=0, burst_every_s=10, burst_s=1).frames_of(0))
    bursts = Counter(shot.due_s for shot in shots)
    assert max(bursts.values()) >= 15, "a second of 20 frames comes at one moment"
    assert len(shots) == pytest.approx(1200, abs=21), "none is lost but those behind the end"


def test_nights_are_dark_and_slower() -> None:
    fleet = Fleet(cameras=1, fps=10, duration_s=90, day_s=30, night_fps=2)
    shots = list(fleet.frames_of(0))
    night = [shot for shot in shots if shot.light == "night"]
    assert len(night) == pytest.approx(3 * 10 * 2, abs=6)
    assert [phase.name for phase in fleet.phases] == ["day", "night"] * 3
    expected = sum(phase.per_s * (phase.ends_s - phase.begins_s) for phase in fleet.phases)
    assert len(shots) == pytest.approx(expected, abs=8)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("cameras", 0, "cameras is 0"),
        ("fps", 0, "fps is 0; it must be from 0.001 to 1000"),
        ("jitter", 0.6, "jitter is 0.6; it must be from 0 to 0.5"),
        ("static", 2, "static is 2"),
        ("burst_every_s", 0.01, "burst_every_s is 0.01"),
        ("night_fps", -1, "night_fps is -1"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused_with_the_field(field: str, value: float, sentence: str) -> None:
    with pytest.raises(BadSchedule, match=sentence):
        Fleet(**{"cameras": 1, "fps": 1, "duration_s": 1, field: value})  # type: ignore[arg-type]


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    fleet = Fleet(cameras=4, fps=5, duration_s=10, static=0.5, duplicates=0.2, day_s=5)
    shots = list(fleet.shots())
    path = tmp_path / "trace.csv"
    path.write_text(write_trace(shots))
    trace = read_trace(path)
    assert [shot[1:] for shot in trace.shots] == [shot[1:] for shot in shots]
    assert [shot.due_s for shot in trace.shots] == pytest.approx([shot.due_s for shot in shots], abs=1e-6)
    assert trace.cameras == 4
    assert sorted(itertools.chain(trace.share(0, 2), trace.share(1, 2))) == sorted(trace.shots)


def test_a_trace_may_have_moments_and_cameras_alone() -> None:
    assert parse_trace(["due_s,camera", "0.5,2", "", "0.5,3"], "t").shots == [Shot(0.5, 2), Shot(0.5, 3)]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["time,camera", "1,1"], "t, line 1: the header is 'time,camera'; expected 'due_s,camera,scene,shot,light'"),
        ([], "t, line 1: the header is ''"),
        (["due_s,camera"], "t: no frame"),
        (
            ["due_s,camera", "-0.5,1"],
            "t, line 2: due_s -0.5 cannot be; expected seconds from the beginning, at least 0",
        ),
        (
            ["due_s,camera", "1e300,1"],
            "due_s 1e300 cannot be; expected seconds from the beginning, at least 0 and at most",
        ),
        (["due_s,camera", f"1,{2**32}"], "camera '4294967296' is no whole number from 0 to 4294967295"),
        (["due_s,camera", "1," + "9" * 9000], "is no whole number"),
        (["due_s,camera", '1,"' + "9" * 200_000], "it is no CSV: field larger than field limit"),
        (["due_s", "1"], "the header is 'due_s'; expected"),
        (["due_s,scene", "1,1"], "the header is 'due_s,scene'; expected 'due_s,camera,scene,shot,light'"),
        (["due_s,camera", "2,1", "1,1"], "t, line 3: due_s 1 comes after 2; moments must ascend"),
        (["due_s,camera", "nan,1"], "due_s nan cannot be"),
        (["due_s,camera", "inf,1"], "due_s inf cannot be"),
        (["due_s,camera", "soon,1"], "due_s 'soon' is no number"),
        (["due_s,camera", "1,-1"], "camera '-1' is no whole number"),
        (["due_s,camera", "1,1,1"], "3 values; expected 2"),
        (["due_s,camera,scene,shot,light", "1,1,1,1,dusk"], "light 'dusk' is not known; expected day or night"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused_with_its_line(lines: list[str], sentence: str) -> None:
    with pytest.raises(BadTrace) as found:
        parse_trace(lines, "t")
    assert sentence in str(found.value)


def test_a_mix_has_the_shares_that_were_asked_for_and_a_camera_keeps_its_protocol() -> None:
    mix = Mix({"jpeg": 3, "v1": 1, "v2-json": 0})
    counts = Counter(mix.of(camera) for camera in range(1000))
    assert counts["jpeg"] == pytest.approx(750, abs=5)
    assert counts["v1"] == pytest.approx(250, abs=5)
    assert [mix.of(7) for _ in range(3)] == [mix.of(7)] * 3
    mix.assign(7, "v1")
    assert mix.of(7) == "v1"
    with pytest.raises(BadSchedule, match="v2-json"):
        mix.assign(7, "v2-json")
    with pytest.raises(BadSchedule, match="weights"):
        Mix({"jpeg": 0})


def test_switched_cameras_follow_their_schedule_from_the_moment_they_are_on() -> None:
    source = fleet_source(Fleet(cameras=1, fps=10, duration_s=1000))
    source.switch_on(1, 5.0)
    source.switch_on(2, 5.0)
    seen: Counter[int] = Counter()
    while source.next_due_s() < 10.0:
        seen[source.take().camera] += 1
    assert seen == {1: pytest.approx(50, abs=1), 2: pytest.approx(50, abs=1)}
    source.switch_off(1)
    while source.next_due_s() < 12.0:
        assert source.take().camera == 2
    source.end()
    assert source.is_over


def test_a_camera_whose_schedule_is_over_begins_anew() -> None:
    source = fleet_source(Fleet(cameras=1, fps=10, duration_s=2))
    source.switch_on(0, 0.0)
    count = 0
    while source.next_due_s() < 10.0:
        source.take()
        count += 1
    assert count == pytest.approx(100, abs=10)


def test_a_switched_camera_of_a_trace_plays_what_is_left_of_it() -> None:
    trace = parse_trace(["due_s,camera", "1,0", "2,1", "3,0", "4,0"], "t")
    source = trace_source(trace)
    source.switch_on(0, 2.5)
    assert [source.take().due_s for _ in range(2) if source.next_due_s() < 9] == [3.0, 4.0]
    assert source.next_due_s() == float("inf")


def test_random_state_of_the_process_does_not_matter() -> None:
    random.seed(os.urandom(4))
    one = list(Fleet(cameras=2, fps=3, duration_s=3).shots())
    random.seed(os.urandom(4))
    assert one == list(Fleet(cameras=2, fps=3, duration_s=3).shots())


def test_only_a_service_that_does_not_answer_can_hold_as_many_requests_as_may_be_open() -> None:
    def limit(load: AnyLoad, **changes: Any) -> int:
        return plan_for("http://h", constant(1, 2), load=load, **changes).open_limit

    clients = ClientsLoad.of(constant(1000, 60), "even", "even")
    assert limit(clients) == 12_100, "1,000/s for the 10 s that a client is patient, a fifth and 100 more"
    assert limit(clients, patience_s=2) == 2_500
    assert limit(clients, most_open=7) == 7
    assert limit(ClientsLoad.of(constant(9000, 60), "even", "even")) == 25_000, "as many ports as there are"
    assert limit(FleetLoad(cameras=10, fps=10)) == 1_300
    assert limit(TraceLoad(text="due_s,camera\n" + "1.5,0\n" * 50)) == 700
    assert limit(UsersLoad(users=500)) >= 500
    assert limit(FleetLoad(cameras=1, fps=1, switched=True)) == 25_000
