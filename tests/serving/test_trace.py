"""The arrival trace as a format: what is written is read, sorted, checked, and becomes a replay's arrivals."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from saccade_serving import errors
from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Queue
from saccade_serving.scheduling.replay import replay
from saccade_serving.scheduling.scheduler import Scheduler
from saccade_serving.scheduling.trace import Recorded, arrivals, encode, limit_s, read_trace


def one(
    at_s: float = 0.0, code: str = "200", total_s: float = 0.25, deadline_s: float = 30.0, **more: Any
) -> Recorded:
    return Recorded(at_s, "m", "1", more.pop("rows", 1), deadline_s, total_s, code, **more)


def changed(**fields: Any) -> bytes:
    """A line with other fields; None takes one out."""
    content = {**json.loads(encode(*one())), **fields}
    return json.dumps({key: value for key, value in content.items() if value is not None}).encode() + b"\n"


def test_what_is_written_is_read_again() -> None:
    plain = one(1.25, rows=8)
    full = one(2.000001, "DEADLINE_EXCEEDED", 0.5, 0.5, priority=3, timeout_s=0.125)
    lines = [encode(*plain), encode(*full)]
    assert read_trace(lines) == [plain, full]
    assert json.loads(lines[0]) == {
        "at_us": 1250000,
        "model": "m",
        "version": "1",
        "rows": 8,
        "deadline_us": 30000000,
        "total_us": 250000,
        "code": "200",
    }


def test_a_name_that_needs_escaping_stays_one_line() -> None:
    line = encode(*one()._replace(model='a "b"\n\u00e9'))
    assert line.count(b"\n") == 1
    assert read_trace([line])[0].model == 'a "b"\n\u00e9'


def test_a_deadline_that_had_passed_at_the_first_byte_is_none_at_all() -> None:
    assert read_trace([encode(*one(deadline_s=-0.001))])[0].deadline_s == 0.0


def test_the_largest_numbers_that_a_client_can_send_are_written() -> None:
    most = 2**64 - 1
    [found] = read_trace([encode(*one(priority=most, timeout_s=most / 1e6))])
    assert found.priority == most
    assert found.timeout_s == pytest.approx(2**53 / 1e6)


def test_requests_end_in_any_order_and_are_read_in_that_of_their_arrival() -> None:
    lines = [encode(*one(at_s)) for at_s in (3.0, 1.0, 2.0)]
    assert [found.at_s for found in read_trace(lines)] == [1.0, 2.0, 3.0]


def test_empty_lines_and_unknown_keys_are_passed_over() -> None:
    assert read_trace([b"\n", changed(weather="fine"), b"  \n"]) == [one()]


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    whole = encode(*one())
    assert read_trace([whole, whole[:20]]) == [one()]
    assert read_trace([whole, whole[:-1]]) == [one(), one()], "it lacks nothing but its newline"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"at=1\n", "line 2 is not JSON; expected an object with at_us, model, version, rows"),
        (b"[1]\n", "line 2 is no JSON object; expected one with at_us, "),
        (changed(rows=None), "line 2 has no rows; expected a whole number >= 1"),
        (changed(rows=0), "line 2: rows is '0'; expected a whole number >= 1"),
        (changed(rows=True), "line 2: rows is 'True'; expected a whole number >= 1"),
        (changed(at_us=1.5), "line 2: at_us is '1.5'; expected whole microseconds >= 0"),
        (changed(deadline_us=-1), "line 2: deadline_us is '-1'; expected whole microseconds >= 0"),
        (changed(code=200), "line 2: code is '200'; expected a string"),
        (changed(priority="high"), "line 2: priority is 'high'; expected a whole number >= 0"),
        (changed(model=["x" * 1000]), r"line 2: model is .{70,100}; expected a string"),
    ],
)
def test_a_line_of_something_else_is_named_with_what_is_expected(line: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_trace([encode(*one()), line, encode(*one())])


def test_every_error_has_a_fate_and_both_protocols_the_same() -> None:
    refused = {"arena_full", "overloaded", "deadline_exceeded", "predictor_unavailable", "slow_body"}
    for error in errors.SaccadeError.__subclasses__():
        by_rest, by_grpc = one(code=str(error.status)).fate, one(code=error.grpc_code).fate
        if error.reason in refused:
            assert by_grpc == "refused"
        else:
            assert by_rest == by_grpc == ("failed" if error.status == 500 else "invalid")
    assert {one(code=code).fate for code in ("200", "OK")} == {"answered"}
    assert {one(code=code).fate for code in ("503", "504")} == {"refused"}
    assert one(code="408").fate == "invalid", "its body never came"


def test_arrivals_keep_what_was_asked_and_those_that_never_came_to_the_queue_are_left_out() -> None:
    trace = [
        one(4.0, rows=8, priority=2, timeout_s=0.5),
        one(5.0, "400"),
        one(6.0, "499", total_s=0.125),
        one(7.0, "500"),
    ]
    first, left, failed = arrivals(trace)
    assert (first.at, first.rows, first.priority, first.timeout, first.signature) == (4.0, 8, 2, 0.5, "1")
    assert (first.deadline, first.leaves) == (34.0, 34.0)
    assert (left.deadline, left.leaves) == (36.0, 6.125), "the client would leave again"
    assert failed.leaves == 37.0


def test_an_slo_shortens_deadlines_and_speed_moves_arrivals_alone() -> None:
    trace = [one(4.0, deadline_s=0.25), one(8.0), one(9.0, "499", total_s=5.0)]
    found = arrivals(trace, slo_s=0.5, speed=2.0)
    assert [(a.at, a.deadline, a.leaves) for a in found] == [(2.0, 2.25, 2.25), (4.0, 4.5, 4.5), (4.5, 5.0, 5.0)]
    assert [limit_s(request, 0.0) for request in trace[:2]] == [0.25, 30.0]


def test_a_trace_can_be_replayed_at_once() -> None:
    lines = [encode(*one(at_s, deadline_s=1.0)) for at_s in (0.3, 0.0, 0.1, 0.2)]
    scheduler = Scheduler(Queue(), BatchingRules(4, slo_s=0.25), (1,), LatencyProfile({1: 0.15, 4: 0.2}))
    told = replay(scheduler, arrivals(read_trace(lines), slo_s=0.25), LatencyProfile({1: 0.15, 4: 0.2}).seconds)
    assert told.answered[0] == 0.15
    assert len(told.answered) + len(told.refused) + len(told.left) == 4
    assert all(math.isfinite(when) for when in told.answered.values())
