"""What accompanies a request: whichever deadline is the shortest, what is forwarded, where its time went."""

from __future__ import annotations

import time

import pytest

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import DeadlineExceeded, InvalidRequest


def begin(headers: dict[str, str] | None = None, timeout_s: float = 30.0, started: float = 100.0) -> Exchange:
    return Exchange.begin("rest", headers or {}, timeout_s, started)


def test_without_a_word_from_the_client_the_default_timeout_holds() -> None:
    assert begin(timeout_s=30.0, started=100.0).deadline == 130.0


def test_time_counts_from_now_when_the_first_byte_is_not_known() -> None:
    before = time.monotonic()
    exchange = Exchange.begin("rest", {}, 5.0)
    assert before <= exchange.started <= time.monotonic()
    assert 4.0 < exchange.remaining_s() <= 5.0


def test_the_deadline_header_brings_the_deadline_forward() -> None:
    assert begin({"x-deadline-ms": "250"}).deadline == 100.25
    assert begin({"x-deadline-ms": "0.5"}).deadline == pytest.approx(100.0005)


def test_the_deadline_header_cannot_buy_more_time_than_the_server_gives() -> None:
    assert begin({"x-deadline-ms": "3600000"}, timeout_s=30.0).deadline == 130.0


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "-inf", "1e999", "0x10", "1,5"])
def test_a_deadline_header_that_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="x-deadline-ms") as caught:
        begin({"x-deadline-ms": text})
    assert text in str(caught.value)


def test_tightening_never_moves_a_deadline_back() -> None:
    exchange = begin()
    exchange.tighten(2.0)
    exchange.tighten(9.0)
    assert exchange.deadline == 102.0


@pytest.mark.parametrize(("value", "deadline"), [(500_000, 100.5), ("500000", 100.5), (0, 130.0), ("0", 130.0)])
def test_tritons_timeout_parameter_is_in_microseconds_and_zero_is_none(value: int | str, deadline: float) -> None:
    exchange = begin()
    exchange.tighten_by_parameter({"timeout": value})
    assert exchange.deadline == deadline


def test_no_timeout_parameter_changes_nothing() -> None:
    exchange = begin()
    exchange.tighten_by_parameter({"priority": 3})
    assert exchange.deadline == 130.0


@pytest.mark.parametrize("value", [-1, 1.5, True, "-1", "1.5", "soon", "", "\u0661\u0662"])
def test_a_timeout_parameter_that_is_no_whole_number_is_refused(value: int | float | str | bool) -> None:
    with pytest.raises(InvalidRequest, match="parameter 'timeout'"):
        begin().tighten_by_parameter({"timeout": value})


def test_a_timeout_parameter_of_a_thousand_digits_is_no_work_and_no_deadline() -> None:
    exchange = begin()
    exchange.tighten_by_parameter({"timeout": "9" * 1000})
    assert exchange.deadline == 130.0


def test_a_passed_deadline_is_an_error_that_says_how_much_and_where() -> None:
    exchange = Exchange.begin("rest", {"x-deadline-ms": "40"}, 30.0, time.monotonic() - 1)
    assert exchange.remaining_s() < 0
    with pytest.raises(DeadlineExceeded) as caught:
        exchange.check_deadline("before it was queued")
    assert str(caught.value) == "the request's 40 ms were over before it was queued"


def test_a_deadline_that_is_still_to_come_is_no_error() -> None:
    Exchange.begin("rest", {}, 30.0).check_deadline("anywhere")


def test_the_clients_request_id_is_kept_and_forwarded() -> None:
    exchange = begin({"x-request-id": "order-66"})
    assert exchange.request_id == "order-66"
    assert exchange.forwarded["x-request-id"] == "order-66"


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    first, second = begin(), begin({"x-request-id": ""})
    assert len(first.request_id) == 16
    assert first.request_id != second.request_id
    assert first.forwarded == {"x-request-id": first.request_id}


def test_a_request_id_is_cut_before_it_fills_the_log() -> None:
    assert begin({"x-request-id": "x" * 5000}).request_id == "x" * 128


def test_trace_context_and_authorization_are_forwarded_and_nothing_else_is() -> None:
    sent = {"traceparent": "00-1-2-01", "tracestate": "a=b", "x-b3-traceid": "3", "authorization": "Bearer t"}
    exchange = begin({**sent, "cookie": "secret", "x-deadline-ms": "100", "host": "h", "x-request-id": "i"})
    assert exchange.forwarded == {**sent, "x-request-id": "i"}


def test_a_stage_entered_twice_adds_up() -> None:
    exchange = begin()
    exchange.spent("decode", 0.5)
    exchange.spent("decode", 0.25)
    assert exchange.stages == {"decode": 0.75}


def test_a_stage_that_fails_is_still_timed() -> None:
    exchange = begin()
    with pytest.raises(ValueError, match="bad"), exchange.stage("decode"):
        raise ValueError("bad")
    assert exchange.stages["decode"] >= 0
