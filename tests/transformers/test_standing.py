"""A candidate's standing: in after an answer, out after failures in a row."""

from __future__ import annotations

from saccade_transformers.standing import Standing


def test_a_candidate_is_out_of_service_until_it_has_answered() -> None:
    standing = Standing()
    assert not standing.in_service
    assert not standing.failed(), "it was out already"
    standing.succeeded()
    assert standing.in_service


def test_failures_in_a_row_put_it_out_and_the_last_one_says_so() -> None:
    standing = Standing(max_failures=3)
    standing.succeeded()
    assert [standing.failed() for _ in range(5)] == [False, False, True, False, False]
    assert not standing.in_service


def test_an_answer_between_failures_keeps_it_in_service() -> None:
    standing = Standing(max_failures=2)
    standing.succeeded()
    for _ in range(10):
        assert not standing.failed()
        standing.succeeded()
    assert standing.in_service


def test_back_in_service_it_has_all_its_chances_again() -> None:
    standing = Standing(max_failures=2)
    for _ in range(3):
        standing.succeeded()
        assert [standing.failed(), standing.failed()] == [False, True]
