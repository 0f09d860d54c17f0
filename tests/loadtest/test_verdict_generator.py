"""What a verdict asks of the generator beyond the p99 of its lateness and its mean CPU, and of the run's length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from loadtest_support import plan_for
from saccade_loadtest.judging import slo
from saccade_loadtest.judging.verdict import judge, shortest_measurement_s
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.loads import FleetLoad, TraceLoad, UsersLoad
from saccade_loadtest.load.sources import Mix
from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.sending import generator
from virtual_run import virtual_run

P99 = slo.parse({"name": "test", "latency": [{"percentile": 99, "limit_ms": 100}]})
P999 = slo.parse({"name": "test", "latency": [{"percentile": 99.9, "limit_ms": 100}]})
FAST = [10.0] * 5_000
ALL = ("v2-binary", "v2-json", "v2-grpc", "jpeg", "v1")


def test_lateness_is_judged_at_the_percentile_that_is_claimed() -> None:
    run = virtual_run([500.0 if number % 200 == 0 else 10.0 for number in range(10_000)])
    # 0.5 % of the requests were sent half a second late: not seen at p99, and all of what is seen at p99.9.
    run.workers[0].schedule_error = Histogram([490_000.0] * 50 + [10.0] * 9_950)
    assert judge(run, P99).outcome == "pass"
    verdict = judge(run, P999)
    assert verdict.outcome == "invalid"
    assert verdict.reasons == (
        "one of 1,000 requests was sent 490 ms or more after its moment by worker generator-1; 10 ms are allowed",
    )
    run.workers[0].schedule_error = Histogram([10.0] * 10_000)
    assert judge(run, P999).outcome == "fail"


def test_a_percentile_does_not_pass_on_a_few_seconds_of_traffic() -> None:
    verdict = judge(virtual_run([10.0] * 1_000, per_s=1_000), P99)
    assert verdict.outcome == "invalid"
    assert "too short: there was traffic in 1 s, and a percentile is claimed of at least 10 s" in verdict.reasons[0]
    assert judge(virtual_run([10.0] * 10_000, per_s=1_000), P99).outcome == "pass"
    assert judge(virtual_run([500.0] * 1_000, per_s=1_000), P99).outcome == "fail", "what is slow, is"
    assert shortest_measurement_s(P99, 1_000) == 10


def test_the_busiest_seconds_of_a_generator_count_and_the_thread_that_keeps_the_schedule() -> None:
    run = virtual_run(FAST)
    worker = run.workers[0]
    worker.busiest_share = 0.97
    [reason] = judge(run, P99).reasons
    assert reason == "worker generator-1 used 97% of its CPU in its busiest seconds, at most 80% are allowed"
    worker.busiest_share = 0.0
    # With gRPC a generator may use two cores; the thread that keeps the schedule has one.
    worker.cores, worker.cpu_s, worker.thread_s = 2.0, 1.0 * worker.wall_s, 0.9 * worker.wall_s
    [reason] = judge(run, P99).reasons
    assert "used 90% of its CPU" in reason
    worker.thread_s = 0.5 * worker.wall_s
    assert judge(run, P99).outcome == "pass"


def test_a_generator_tells_its_busiest_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator.Generator(plan_for("http://127.0.0.1:1", constant(1, 60)), 0, 1, "w")
    # A fifth of a core, but for six seconds in the middle; each reading is a second after the last.
    shares = [0.2] * 20 + [0.9] * 6 + [0.2] * 20
    readings: Iterator[float] = itertools.accumulate([0.0, *shares])
    clock = SimpleNamespace(used=0.0)
    monkeypatch.setattr("saccade_loadtest.sending.generator.time.process_time", lambda: clock.used)
    monkeypatch.setattr("saccade_loadtest.sending.generator.time.thread_time", lambda: clock.used / 2)
    for second, used in enumerate(readings):
        clock.used = used
        made._measure_cpu(float(second))
    worker = made.recorder.worker
    assert worker.busiest_share == pytest.approx(0.9)
    assert worker.cpu_share == pytest.approx(sum(shares) / len(shares))
    assert worker.thread_s == pytest.approx(sum(shares) / 2)


def test_a_machine_that_lets_fewer_be_open_is_told_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade_loadtest.sending.generator.allow_open", lambda wanted: min(wanted, 960))
    made = generator.Generator(plan_for("http://127.0.0.1:1", constant(1000, 60)), 0, 1, "w")
    [note] = made.recorder.run.notes
    assert "only 960 requests may be under way, where the load may make 12,100" in note
    made = generator.Generator(plan_for("http://127.0.0.1:1", constant(10, 60)), 0, 1, "w")
    assert made.recorder.run.notes == []


def test_a_protocol_of_the_plan_by_which_nothing_was_sent_makes_a_run_invalid() -> None:
    run = virtual_run(FAST)
    run.protocols = ["jpeg", "v1"]
    verdict = judge(run, P99)
    assert verdict.outcome == "invalid"
    assert "requests were due by jpeg, and by none of the plan's v1" in verdict.reasons[0]
    run.protocols = ["jpeg"]
    assert judge(run, P99).outcome == "pass"


@pytest.mark.parametrize("cameras", [5, 6, 7, 12, 100])
def test_each_protocol_has_a_camera_where_there_are_as_many(cameras: int) -> None:
    mix = Mix(dict.fromkeys(ALL, 1.0) | {"v1": 0.001}, range(cameras))
    assert {mix.of(camera) for camera in range(cameras)} == set(ALL)


def test_fewer_cameras_than_protocols_are_refused_before_a_run() -> None:
    two = {"jpeg": 1.0, "v1": 1.0}
    for load in (FleetLoad(cameras=1), TraceLoad(text="due_s,camera\n1,7\n2,7\n"), UsersLoad(users=1)):
        with pytest.raises(ValidationError, match=r"1 camera cannot speak 2 protocols \(jpeg, v1\)"):
            plan_for("http://h", constant(1, 2), load=load, mix=two)
    plan = plan_for("http://h", constant(1, 2), load=TraceLoad(text="due_s,camera\n1,7\n2,99\n"), mix=two)
    assert {plan.new_mix().of(7), plan.new_mix().of(99)} == {"jpeg", "v1"}
    assert plan.run().protocols == ["jpeg", "v1"]
