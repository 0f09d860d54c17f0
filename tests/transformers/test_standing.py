"""A candidate's standing: in after an answer, out after failures in a row."""

from __future__ import annotations

import pytest

from fakes import FakeClock
from saccade_transformers.standing import Standing


def test_a_candidate_is_out_of_service_until_it_has_answered() -> None:
    standing = Standing()
    assert not standing.in_service
    assert not standing.failed(), "it was out already"
    standing.succeeded()
    assert not standing.in_service, "what was under way is no trial"
    standing.returned()
    assert standing.in_service


def test_failures_in_a_row_put_it_out_and_the_last_one_says_so() -> None:
    standing = Standing(max_failures=3)
    standing.returned()
    assert [standing.failed() for _ in range(5)] == [False, False, True, False, False]
    assert not standing.in_service


def test_an_answer_between_failures_keeps_it_in_service() -> None:
    standing = Standing(max_failures=2)
    standing.returned()
    for _ in range(10):
        assert not standing.failed()
        standing.succeeded()
    assert standing.in_service


def test_back_in_service_it_has_one_chance_and_all_of_them_after_an_answer() -> None:
    standing = Standing(max_failures=2)
    standing.returned()
    assert [standing.failed(), standing.failed()] == [False, True]
    for _ in range(3):
        standing.returned()
        assert standing.failed(), "the first one was enough"
    standing.returned()
    standing.succeeded()
    assert [standing.failed(), standing.failed()] == [False, True]


def test_who_came_back_is_asked_by_one_request_at_a_time_until_it_answers_one() -> None:
    standing = Standing(max_failures=1)
    standing.returned()
    standing.begins()
    assert standing.admits, "nothing is held against it yet"
    standing.failed()
    assert not standing.admits
    standing.returned()
    for _ in range(2):
        assert standing.admits
        permit = standing.begins()
        assert not standing.admits
        standing.ended(permit)  # the client left, or the fault was not the candidate's
    permit = standing.begins()
    standing.succeeded()
    standing.ended(permit)
    standing.begins()
    assert standing.admits


def test_what_began_before_it_came_back_says_nothing_of_it_and_does_not_make_room() -> None:
    standing = Standing(max_failures=1)
    standing.returned()
    old = standing.begins()
    assert standing.hears(old)
    standing.failed()
    standing.returned()
    assert not standing.hears(old)
    new = standing.begins()
    standing.ended(old)
    assert not standing.admits
    assert standing.hears(new)


def test_each_time_it_falls_out_soon_it_is_left_alone_for_twice_as_long_up_to_a_minute() -> None:
    clock = FakeClock()
    standing = Standing(max_failures=1, clock=clock)
    pauses = []
    for _ in range(9):
        standing.returned()
        clock.now += 10
        standing.succeeded()
        assert standing.failed()
        pauses.append(standing.pause_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    standing.returned()
    standing.succeeded()
    clock.now += 61
    standing.failed()
    assert standing.pause_s == 0, "it has served for a minute"
    standing.returned()
    clock.now += 1000
    standing.failed()
    assert standing.pause_s == 1, "it has not answered anything since"


def test_a_trial_has_the_time_that_late_answers_had_and_others_give() -> None:
    standing = Standing(max_failures=2)
    standing.returned()
    standing.failed()
    standing.failed()
    assert standing.trial_s is None, "nothing was late"
    standing.passed_by(5)
    assert standing.trial_s is None
    standing.returned()
    standing.failed(given_s=2)
    standing.failed(given_s=1)
    assert standing.trial_s == 2
    for _ in range(5):
        standing.passed_by(2)
    assert standing.trial_s == 2
    standing.passed_by(10)
    assert standing.trial_s == pytest.approx(2.8)


def test_late_answers_to_requests_in_a_hurry_count_only_when_nothing_else_is_answered() -> None:
    clock = FakeClock()
    standing = Standing(max_failures=2, clock=clock)
    standing.returned()
    for _ in range(50):
        assert not standing.failed(given_s=0.02, fair_s=0.03)
    clock.now += 11
    standing.succeeded()
    assert not standing.failed(given_s=0.02, fair_s=0.03)
    clock.now += 11
    assert not standing.failed(given_s=0.02, fair_s=0.03)
    assert standing.failed(given_s=0.02, fair_s=0.03)
