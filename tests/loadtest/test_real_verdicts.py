"""One real pair of runs, judged: the same SLO passes one server and fails another, whose tail is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest_support import plan_for, served
from saccade_loadtest.judging import slo
from saccade_loadtest.judging.verdict import Verdict
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.reports import outputs
from saccade_loadtest.sending.conductor import Conductor

RATE_PER_S = 200.0
SECONDS = 10.0
#: The planted delay is 3 s and the limit a third of it, so that a busy machine decides nothing.
SLO = slo.parse(
    {
        "name": "pair",
        "latency": [{"percentile": 99, "limit_ms": 1000}],
        "errors": {"at_most": 0},
        "generator": {"schedule_error_p99_ms": 900, "cpu_at_most": 0.95},
    }
)


def verdict_on(folder: Path, share: float) -> Verdict:
    """On a run against a server that answers this share of the requests 3 s late."""
    with served("planted", "--share", str(share), "--delay", "3") as url:
        outcome = Conductor(plan_for(url, constant(RATE_PER_S, SECONDS))).run()
    return outputs.write(outcome.run, SLO, folder)


@pytest.mark.parametrize(("share", "expected"), [(0.001, "pass"), (0.04, "fail")])
def test_a_real_run_is_judged_by_its_tail(tmp_path: Path, share: float, expected: str) -> None:
    verdict = verdict_on(tmp_path, share)
    assert verdict.outcome == expected, verdict.reasons
    [latency, errors] = verdict.findings
    assert latency.requests == RATE_PER_S * SECONDS
    assert errors.outcome == "pass"
    assert (latency.measured > 3_000) == (expected == "fail")
