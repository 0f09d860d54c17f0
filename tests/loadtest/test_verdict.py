"""The verdict: pass, fail and invalid, each with the sentence that says why, and what makes a run invalid."""

from __future__ import annotations

import math
from typing import Any

import pytest

from saccade_loadtest.judging import slo
from saccade_loadtest.judging.finding import Finding
from saccade_loadtest.judging.verdict import judge, shortest_measurement_s
from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.results import OVERLOADED, TIMEOUT, Run, Worker
from saccade_loadtest.record.server_metrics import Scrape, ServerRecord, StageTimes
from virtual_run import virtual_run

FAST = [10.0] * 5_000


def objective(**keys: Any) -> slo.Slo:
    """An SLO of these keys."""
    return slo.parse({"name": "test", **keys})


P99 = objective(latency=[{"percentile": 99, "limit_ms": 100}])


def findings(run: Run, slo_file: slo.Slo) -> list[Finding]:
    """What is said of each objective."""
    return list(judge(run, slo_file).findings)


def only(run: Run, slo_file: slo.Slo) -> Finding:
    """The one finding."""
    [finding] = findings(run, slo_file)
    return finding


def with_slow(share: float, requests: int = 5_000, slow_ms: float = 500) -> list[float]:
    """Latencies of which a share is slow, spread evenly."""
    every = round(1 / share)
    return [slow_ms if number % every == every // 2 else 10.0 for number in range(requests)]


def test_a_fast_run_passes_with_0() -> None:
    verdict = judge(virtual_run(FAST), P99)
    assert (verdict.outcome, verdict.exit_code, verdict.reasons) == ("pass", 0, ())
    assert all(check.kept for check in verdict.checks)


def test_a_slow_run_fails_with_1_and_says_how_slow() -> None:
    verdict = judge(virtual_run(with_slow(0.03)), P99)
    assert (verdict.outcome, verdict.exit_code) == ("fail", 1)
    assert verdict.reasons == ("p99 latency: the p99 is over 100 ms: at least 500 ms",)


def test_a_run_that_is_too_short_is_invalid_with_2_and_says_how_long_to_run() -> None:
    verdict = judge(virtual_run([10.0] * 300, per_s=5), P99)
    assert (verdict.outcome, verdict.exit_code) == ("invalid", 2)
    [reason] = verdict.reasons
    assert "300 measured" in reason
    assert "at least 459" in reason
    assert "at 5.00/s measure for 92 s after the warm-up instead of 60 s" in reason
    # What it says is true.
    assert judge(virtual_run([10.0] * 460, per_s=5), P99).outcome == "pass"
    assert shortest_measurement_s(P99, 5) == pytest.approx(459 / 5)


def test_a_run_too_close_to_the_limit_is_invalid_and_says_what_would_decide() -> None:
    verdict = judge(virtual_run(with_slow(0.008)), P99)
    assert verdict.outcome == "invalid"
    [reason] = verdict.reasons
    assert "40 of 5,000 took over 100 ms, so the p99 may be 10.0 ms or 500 ms" in reason
    assert "about" in reason
    assert "instead of 50 s" in reason


def test_a_run_that_is_invalid_for_want_of_requests_is_undecided_and_one_of_a_bad_generator_is_not() -> None:
    assert judge(virtual_run([10.0] * 300), P99).is_undecided
    assert not judge(virtual_run(FAST), P99).is_undecided
    spoiled = virtual_run([10.0] * 300)
    spoil_cpu(spoiled)
    verdict = judge(spoiled, P99)
    assert verdict.outcome == "invalid"
    assert not verdict.is_undecided


def test_a_clear_fail_needs_no_large_sample() -> None:
    assert judge(virtual_run([500.0] * 50), P99).outcome == "fail"


def test_requests_without_an_answer_are_slower_than_any() -> None:
    failures = dict.fromkeys(range(0, 5_000, 40), TIMEOUT)
    finding = only(virtual_run(FAST, failures=failures), P99)
    assert finding.outcome == "fail"
    assert math.isinf(finding.measured)
    assert "2.5 % of the requests have no right answer, and a p99 allows 1 %" in finding.reason
    excluded = objective(latency=[{"percentile": 99, "limit_ms": 100, "failures": "excluded"}])
    assert only(virtual_run(FAST, failures=failures), excluded).outcome == "pass"


def test_a_server_that_refuses_quickly_does_not_look_fast() -> None:
    # Half of the answers are refusals within a millisecond; the other half take 300 ms.
    failures = dict.fromkeys(range(0, 5_000, 2), OVERLOADED)
    assert only(virtual_run([300.0] * 5_000, failures=failures), P99).outcome == "fail"


def test_a_stall_is_seen_since_latency_counts_from_when_requests_were_due() -> None:
    # 2 s of 50 in which nothing is answered: what was due meanwhile waits for what is left of them.
    stalled = range(2_000, 2_200)
    latencies = [max(10.0, 2_000.0 - (n - 2_000) * 10) if n in stalled else 10.0 for n in range(5_000)]
    finding = only(virtual_run(latencies), P99)
    assert finding.outcome == "fail"
    # 4 % of the requests are due in the stall, so the slowest 1 % are those of its first quarter.
    assert finding.measured == pytest.approx(1_500, rel=0.02)


def test_slow_requests_that_come_together_make_a_pass_harder() -> None:
    spread = with_slow(1 / 250, requests=10_000)
    together = [500.0 if 3_000 <= number < 3_040 else 10.0 for number in range(10_000)]
    assert sum(value > 100 for value in spread) == sum(value > 100 for value in together) == 40
    assert only(virtual_run(spread), P99).outcome == "pass"
    finding = only(virtual_run(together), P99)
    assert finding.outcome == "invalid"
    assert "as slow ones come together" in finding.reason


def test_the_warm_up_does_not_count() -> None:
    run = virtual_run([900.0] * 500 + FAST, warmup_s=5)
    assert judge(run, P99).outcome == "pass"
    assert judge(virtual_run([900.0] * 500 + FAST), P99).outcome == "fail"


def test_protocols_are_judged_together_each_or_by_name() -> None:
    run = virtual_run(FAST)
    slow = virtual_run(with_slow(0.03), protocol="v1")
    run.series["v1"] = slow.series["v1"]

    def found(protocol: str) -> dict[str, str]:
        limits = objective(latency=[{"percentile": 99, "limit_ms": 100, "protocol": protocol}])
        return {finding.objective: finding.outcome for finding in findings(run, limits)}

    assert found("all") == {"p99 latency": "fail"}
    assert found("each") == {"p99 latency (jpeg)": "pass", "p99 latency (v1)": "fail"}
    assert found("v1") == {"p99 latency (v1)": "fail"}
    assert found("v2-grpc") == {"p99 latency (v2-grpc)": "invalid"}


def test_errors_are_judged_as_counted_and_the_reader_is_told_what_so_few_show() -> None:
    limit = objective(errors={"at_most": 0.001})
    finding = only(virtual_run([10.0] * 600, per_s=10), limit)
    assert finding.outcome == "pass"
    assert "0 of 600 requests: as counted; so few show only that it is at most 0.76 %" in finding.reason
    finding = only(virtual_run([10.0] * 600, per_s=10, failures={7: TIMEOUT}), limit)
    assert finding.outcome == "fail"
    assert finding.reason == "1 of 600 requests (1 timeout): 0.17 % are bad, 0.1 % may be"


def test_errors_can_be_asked_to_be_proved() -> None:
    limit = objective(errors={"at_most": 0.001, "prove": True})
    finding = only(virtual_run([10.0] * 600, per_s=10), limit)
    assert finding.outcome == "invalid"
    assert "too few requests to prove it" in finding.reason
    assert only(virtual_run([10.0] * 5_000), limit).outcome == "pass"
    assert only(virtual_run(FAST, failures=dict.fromkeys(range(0, 5_000, 100), TIMEOUT)), limit).outcome == "fail"
    none_ever = objective(errors={"at_most": 0, "prove": True})
    assert "no sample proves that nothing ever fails" in only(virtual_run(FAST), none_ever).reason


def test_availability_counts_seconds() -> None:
    limit = objective(availability={"at_least": 0.98})
    down = dict.fromkeys(range(1_000, 1_100), TIMEOUT)
    finding = only(virtual_run(FAST, failures=down), limit)
    assert (finding.outcome, finding.measured, finding.requests) == ("pass", 0.98, 50)
    finding = only(virtual_run(FAST, failures=down | dict.fromkeys(range(3_000, 3_006), TIMEOUT)), limit)
    assert (finding.outcome, finding.measured) == ("fail", 0.96)
    # 5 of 100 in a second are let pass.
    finding = only(virtual_run(FAST, failures=dict.fromkeys(range(3_000, 3_005), TIMEOUT)), limit)
    assert finding.measured == 1


def test_goodput_counts_right_answers_in_time() -> None:
    run = virtual_run(with_slow(0.1), failures=dict.fromkeys(range(0, 5_000, 10), TIMEOUT))
    share = objective(goodput={"within_ms": 100, "at_least": 0.8})
    assert only(run, share).measured == pytest.approx(0.8)
    assert only(run, share).outcome == "pass"
    assert only(run, objective(goodput={"within_ms": 100, "at_least": 0.81})).outcome == "fail"
    assert only(run, objective(goodput={"within_ms": 100, "at_least_per_s": 80})).outcome == "pass"
    finding = only(run, objective(goodput={"within_ms": 100, "at_least_per_s": 81}))
    assert (finding.outcome, finding.unit) == ("fail", "/s")
    assert finding.measured == pytest.approx(80)


def test_cache_hits_and_agreement_are_shares_of_the_answers_that_tell() -> None:
    run = virtual_run(FAST)
    both = objective(cache={"hits_at_least": 0.8}, agreement={"at_least": 0.98})
    assert [finding.outcome for finding in findings(run, both)] == ["invalid", "invalid"]
    series = run.series["jpeg"]
    series.cache.update({"near": 60, "exact": 15, "coalesced": 5, "miss": 15, "bypass": 5})
    series.agreement_checked, series.agreed = 100, 97
    hits, agreement = findings(run, both)
    assert (hits.outcome, agreement.outcome) == ("pass", "fail")
    assert hits.measured == pytest.approx(0.8)
    assert agreement.measured == pytest.approx(0.97)


BOUNDS_S = (0.01, 0.02, 0.05, 0.1)


@pytest.mark.parametrize(
    ("counts", "outcome", "words"),
    [
        ((9_000, 990, 5, 0, 0), "pass", ""),
        ((9_000, 500, 0, 500, 0), "fail", "5 % of 10,000 took longer"),
        ((0, 0, 0, 0, 50), "fail", "took longer"),
        ((300, 0, 0, 0, 0), "invalid", "too few requests: 300, and at least 459"),
        ((9_000, 900, 10, 95, 0), "invalid", "too few requests to tell: 95 of 10,005"),
    ],
)
def test_a_stage_is_judged_by_the_servers_buckets(counts: tuple[int, ...], outcome: str, words: str) -> None:
    run = virtual_run(FAST)
    run.server = ServerRecord({"predictor/queue": StageTimes(BOUNDS_S, counts, 1.0)})
    finding = only(run, objective(latency=[{"percentile": 99, "limit_ms": 50, "stage": "predictor/queue"}]))
    assert finding.outcome == outcome
    assert words in finding.reason


def test_a_limit_within_a_bucket_of_the_server_cannot_be_told() -> None:
    run = virtual_run(FAST)
    run.server = ServerRecord({"predictor/queue": StageTimes(BOUNDS_S, (9_000, 0, 1_000, 0, 0), 1.0)})
    finding = only(run, objective(latency=[{"percentile": 99, "limit_ms": 30, "stage": "predictor/queue"}]))
    assert finding.outcome == "invalid"
    assert "buckets cannot tell at 30 ms; their bounds near it: 10, 20, 50, 100 ms" in finding.reason
    finding = only(run, objective(latency=[{"percentile": 99, "limit_ms": 50, "stage": "predictor/que"}]))
    assert "stages they tell of: predictor/queue" in finding.reason


def test_growth_is_a_slope_that_a_single_jump_does_not_make() -> None:
    run = virtual_run(FAST)
    run.server = ServerRecord()
    for number in range(120):
        # 12 MiB an hour, a jump of 300 MiB for one reading, and the warm-up's own growth before the first minute.
        resident = 200 * 2**20 + number * 12 * 2**20 / 120 + (300 * 2**20 if number == 60 else 0)
        run.server.watch("predictor", 30.0 * number, Scrape(gauges={"process_resident_memory_bytes": resident}))

    def outcome(limit: float) -> Finding:
        return only(run, objective(growth={"memory_mib_per_hour": limit}))

    assert outcome(13).outcome == "pass"
    assert outcome(11).outcome == "fail"
    assert outcome(11).measured == pytest.approx(12, rel=0.01)
    assert only(run, objective(growth={"descriptors_per_hour": 1})).outcome == "invalid"


def test_a_short_run_tells_no_growth() -> None:
    run = virtual_run(FAST)
    run.server = ServerRecord()
    for number in range(50):
        run.server.watch("predictor", float(number), Scrape(gauges={"process_open_fds": 40}))
    finding = only(run, objective(growth={"descriptors_per_hour": 1}))
    assert finding.outcome == "invalid"
    assert "50 readings over 49 s" in finding.reason


def spoil_cpu(run: Run) -> None:
    run.workers[0].cpu_s = 0.81 * run.workers[0].wall_s


def spoil_cpu_silently(run: Run) -> None:
    run.workers[0].wall_s = 0


def spoil_schedule(run: Run) -> None:
    run.workers[0].schedule_error = Histogram([20_000.0] * 200 + [10.0] * 4_800)


def spoil_schedule_silently(run: Run) -> None:
    run.workers[0].schedule_error = Histogram()


def spoil_sending(run: Run) -> None:
    run.series["jpeg"].bins[3].not_sent += 100


def spoil_load(run: Run) -> None:
    for number in range(10, 20):
        del run.series["jpeg"].bins[number]


def lose_worker(run: Run) -> None:
    run.workers_expected = 2
    run.workers.append(Worker("generator-2", lost="no word from it since 31 s"))


def miss_worker(run: Run) -> None:
    run.workers_expected = 3


def lose_answers(run: Run) -> None:
    run.series["jpeg"].bins[3].sent += 1


def close_loop(run: Run) -> None:
    run.loop = "closed"


def find_fault(run: Run) -> None:
    run.faults.append("the target was not ready at 31 s")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_cpu, "worker generator-1 used 81% of its CPU, at most 80% are allowed"),
        (spoil_cpu_silently, "does not tell how much CPU time"),
        (spoil_schedule, "sent 20.0 ms or more after its moment by worker generator-1; 10 ms are allowed"),
        (spoil_schedule_silently, "no worker tells how late"),
        (spoil_sending, "100 of 5,100 requests were due and could not be sent"),
        (spoil_load, "4,000 requests were due, 5,000 were planned"),
        (lose_worker, "1 of 2 workers told their results; lost: generator-2 (no word from it since 31 s)"),
        (miss_worker, "1 of 3 workers told their results"),
        (lose_answers, "what became of 5,000 of 5,001 sent requests is known"),
        (close_loop, "closed loop"),
        (find_fault, "the target was not ready at 31 s"),
    ],
)
@pytest.mark.parametrize("latencies", [FAST, [500.0] * 5_000], ids=["would pass", "would fail"])
def test_a_generator_that_did_not_keep_to_the_plan_makes_any_run_invalid(
    spoil: Any, words: str, latencies: list[float]
) -> None:
    run = virtual_run(latencies)
    spoil(run)
    verdict = judge(run, P99)
    assert (verdict.outcome, verdict.exit_code) == ("invalid", 2)
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_a_closed_loop_is_judged_where_the_slo_says_so() -> None:
    run = virtual_run(FAST)
    close_loop(run)
    allowed = objective(latency=[{"percentile": 99, "limit_ms": 100}], generator={"closed_loop": True})
    assert judge(run, allowed).outcome == "pass"


def test_the_worst_worker_decides_not_the_mean_of_all() -> None:
    run = virtual_run(FAST)
    for number in range(9):
        run.workers.append(Worker(f"w{number}", cpu_s=1, wall_s=50, schedule_error=Histogram([10.0] * 500)))
    run.workers_expected = 10
    assert judge(run, P99).outcome == "pass"
    run.workers[4].schedule_error = Histogram([30_000.0] * 500)
    assert judge(run, P99).outcome == "invalid"


def test_a_fail_outweighs_what_cannot_be_told_and_both_outweigh_a_pass() -> None:
    mixed = objective(latency=[{"percentile": 99.9, "limit_ms": 100}], errors={"at_most": 0.001})
    short = virtual_run([10.0] * 600, per_s=10)
    assert judge(short, mixed).outcome == "invalid"
    assert judge(virtual_run([10.0] * 600, per_s=10, failures={5: TIMEOUT}), mixed).outcome == "fail"
    assert judge(virtual_run(FAST), mixed).outcome == "pass"


def test_a_run_in_which_nothing_was_due_is_invalid() -> None:
    run = virtual_run(FAST)
    run.series.clear()
    verdict = judge(run, P99)
    assert verdict.outcome == "invalid"
    assert "0 requests were due, 5,000 were planned" in verdict.reasons[0]
