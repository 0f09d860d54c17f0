"""Which server is asked next, and whether a failed call is worth a second try: decisions without I/O."""

from __future__ import annotations

from collections import Counter

import pytest

from fakes import FakeClock
from saccade_serving.client import BadAnswer, ConnectionFailed, Refused
from saccade_serving.client.balance import FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_WAIT_S, Balance, Retry


class Stage:
    """A balance and its clock."""

    def __init__(self, servers: int = 3) -> None:
        self.clock = FakeClock()
        self.drawn = 0.0
        self.balance = Balance(servers, self.clock, lambda: self.drawn)

    def call(self, index: int, succeeded: bool | None, took_s: float = 0.0) -> None:
        began = self.balance.begin(index)
        self.clock.now += took_s
        self.balance.end(index, began, succeeded, bool(succeeded))

    def chosen(self, times: int) -> Counter[int | None]:
        """Choose several times, every call staying open."""
        found: Counter[int | None] = Counter()
        for _ in range(times):
            index = self.balance.choose()
            assert index is not None
            self.balance.begin(index)
            found[index] += 1
        return found


def test_one_server_is_asked_whatever_happened() -> None:
    stage = Stage(1)
    for _ in range(5):
        stage.call(0, succeeded=False)
        assert stage.balance.choose() == 0
        assert stage.balance.choose(besides=0) is None
        assert stage.balance.states() == (1, 0)


def test_an_older_call_that_ends_lets_no_second_trial_through() -> None:
    stage = Stage(2)
    older = stage.balance.begin(0)
    stage.clock.now += 0.01
    stage.call(0, succeeded=False)
    stage.clock.now += FIRST_PAUSE_S
    trial = stage.balance.begin(0)
    assert stage.balance.choose() == 1
    stage.balance.end(0, older, None)
    assert stage.balance.choose() == 1, "the trial is still under way"
    stage.balance.end(0, trial, succeeded=True)
    assert stage.balance.states() == (2, 0)


def test_idle_servers_take_turns() -> None:
    stage = Stage()
    picked = Counter(stage.balance.choose() for _ in range(300))
    assert picked == {0: 100, 1: 100, 2: 100}


def test_open_calls_are_spread_evenly() -> None:
    assert Stage().chosen(30) == {0: 10, 1: 10, 2: 10}


def test_a_slow_server_gets_what_the_others_leave() -> None:
    stage = Stage(2)
    for _ in range(10):
        stage.balance.begin(0)
    assert stage.chosen(10) == {1: 10}


def test_a_failing_server_is_set_aside_for_a_time_that_doubles_up_to_a_limit() -> None:
    stage = Stage(2)
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        stage.call(0, succeeded=False)
        stage.clock.now += pause_s - 0.001
        assert {stage.balance.choose() for _ in range(4)} == {1}
        assert stage.balance.states() == (1, 1)
        stage.clock.now += 0.002
        assert {stage.balance.choose() for _ in range(4)} == {0, 1}
    assert (FIRST_PAUSE_S, LONGEST_PAUSE_S) == (0.1, 5.0)


def test_one_call_tries_a_server_that_was_set_aside_and_the_others_wait_for_its_word() -> None:
    stage = Stage(2)
    stage.call(0, succeeded=False)
    stage.clock.now += 1
    began = stage.balance.begin(0)
    assert stage.chosen(5) == {1: 5}
    stage.balance.end(0, began, succeeded=True)
    assert stage.chosen(5) == {0: 5}
    assert stage.balance.states() == (2, 0)


def test_a_trial_that_nobody_waited_for_is_tried_again() -> None:
    stage = Stage(2)
    stage.call(0, succeeded=False)
    stage.clock.now += 1
    stage.call(0, succeeded=None)
    assert {stage.balance.choose() for _ in range(4)} == {0, 1}
    assert stage.balance.states() == (1, 1)


def test_many_calls_that_fail_together_count_as_one_failure() -> None:
    stage = Stage(2)
    begun = [stage.balance.begin(0) for _ in range(50)]
    stage.clock.now += 0.01
    for began in begun:
        stage.balance.end(0, began, succeeded=False)
    stage.clock.now += FIRST_PAUSE_S + 0.001
    assert {stage.balance.choose() for _ in range(4)} == {0, 1}


def test_a_late_answer_of_a_server_on_its_way_out_does_not_bring_it_back() -> None:
    stage = Stage(2)
    began = stage.balance.begin(0)
    stage.clock.now += 0.01
    stage.call(0, succeeded=False)
    stage.balance.end(0, began, succeeded=True)
    assert {stage.balance.choose() for _ in range(4)} == {1}


def test_where_all_are_set_aside_the_one_whose_time_is_over_first_is_asked() -> None:
    stage = Stage(2)
    stage.call(0, succeeded=False)
    stage.clock.now += FIRST_PAUSE_S + 0.01
    stage.call(0, succeeded=False)  # for 0.2 s now
    stage.call(1, succeeded=False)  # for 0.1 s
    assert {stage.balance.choose() for _ in range(4)} == {1}
    assert stage.balance.choose(besides=0) is None, "no better than another try with the first"


def test_the_other_server_is_one_that_is_not_set_aside() -> None:
    stage = Stage()
    stage.call(1, succeeded=False)
    assert {stage.balance.choose(besides=0) for _ in range(6)} == {2}


def test_the_expected_time_follows_the_calls_that_gave_a_result() -> None:
    stage = Stage(1)
    assert stage.balance.expected_s == 0
    stage.call(0, succeeded=True, took_s=0.1)
    assert stage.balance.expected_s == pytest.approx(0.1)
    for _ in range(100):
        stage.call(0, succeeded=True, took_s=0.2)
    assert stage.balance.expected_s == pytest.approx(0.2, rel=0.01)
    stage.call(0, succeeded=False, took_s=10)
    stage.call(0, succeeded=None, took_s=10)
    assert stage.balance.expected_s == pytest.approx(0.2, rel=0.01)


NO_ANSWER = ConnectionFailed("refused")
FULL = Refused(503, "full", 1.0)


@pytest.mark.parametrize(
    ("error", "left_s", "another", "expected"),
    [
        (NO_ANSWER, 1.0, False, Retry("connection", 0.0)),
        (NO_ANSWER, 1.0, True, Retry("connection", 0.0)),
        (NO_ANSWER, 0.05, True, None),
        (ConnectionFailed("half an answer", answer_began=True), 1.0, True, None),
        (BadAnswer("garbage"), 1.0, True, None),
        (FULL, 5.0, True, Retry("overloaded", 0.0)),
        (FULL, 0.5, True, Retry("overloaded", 0.0)),
        (FULL, 0.05, True, None),
        (FULL, 5.0, False, Retry("overloaded", 1.0)),
        (FULL, 1.05, False, None),
        (Refused(503, "full", LONGEST_WAIT_S + 1), 60.0, False, None),
        (Refused(503, "full"), 60.0, True, None),
        (Refused(504, "late", 1.0), 60.0, True, None),
        (Refused(500, "broken", 1.0), 60.0, True, None),
        (Refused(429, "slow down", 1.0), 60.0, True, None),
        (Refused(400, "wrong"), 60.0, True, None),
        (TimeoutError(), 60.0, True, None),
    ],
)
def test_only_what_may_do_better_and_in_time_is_tried_again(
    error: Exception, left_s: float, another: bool, expected: Retry | None
) -> None:
    stage = Stage(2)
    stage.call(0, succeeded=True, took_s=0.1)
    assert stage.balance.retry(error, left_s, another) == expected


def test_what_was_refused_at_one_moment_does_not_come_back_at_one_moment() -> None:
    stage = Stage(1)
    stage.call(0, succeeded=True, took_s=0.1)
    stage.drawn = 0.8
    assert stage.balance.retry(FULL, 5.0, False) == Retry("overloaded", 1.2)
    assert stage.balance.retry(FULL, 1.25, False) is None, "with that, there is no time for another"
