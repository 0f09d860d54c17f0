"""A service that takes requests and never answers fails, with a sentence; it is no fault of the generator."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from loadtest_support import plan_for
from saccade_loadtest.judging import slo
from saccade_loadtest.judging.verdict import judge
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.sending.conductor import Conductor

#: How busy this machine is is not what is tested.
SLO = slo.parse(
    {
        "name": "hang",
        "latency": [{"percentile": 99, "limit_ms": 1000}],
        "errors": {"at_most": 0.001},
        "generator": {"schedule_error_p99_ms": 10_000, "cpu_at_most": 0.95},
    }
)


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of one that never even accepts: the kernel completes some connections, others wait for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("most_open", [None, 50], ids=["the default limit", "a limit that is reached"])
def test_a_service_that_hangs_fails_the_run(hanging: str, most_open: int | None) -> None:
    outcome = Conductor(plan_for(hanging, constant(150, 3), patience_s=2.0, most_open=most_open)).run()
    verdict = judge(outcome.run, SLO)
    assert verdict.outcome == "fail", verdict.reasons
    assert any("have no right answer" in reason for reason in verdict.reasons)
    total = outcome.run.measured()
    assert (total.due, total.answered, total.not_sent, total.unresolved) == (450, 0, 0, 0)
    assert set(total.errors) == ({"timeout"} if most_open is None else {"timeout", "held_open"})
    if most_open is not None:
        assert any("50 requests were under way" in note for note in outcome.run.notes)
