"""The queue against a plain model of it, and that nothing in it depends on how many wait."""

from __future__ import annotations

import math
import random
import sys
import threading

import pytest

from saccade_serving.scheduling.queue import Entry, Queue, QueueFull, QueuePolicy


def ids(queue: Queue) -> list[int]:
    return [entry.id for entry in queue]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_the_queue_is_what_a_list_would_be(seed: int) -> None:
    chance = random.Random(seed)
    levels = chance.choice([0, 1, 3])
    policies = {2: QueuePolicy("DELAY", 5.0)} if levels == 3 else {}
    queue = Queue(QueuePolicy("REJECT", chance.choice([0.0, 8.0])), levels, min(levels, 1), policies)
    fresh: list[tuple[int, Entry, float]] = []  # level, entry, timeout
    delayed: list[tuple[int, Entry]] = []
    now = 0.0
    for number in range(600):
        now += chance.random()
        match chance.choice(["push", "push", "push", "withdraw", "serve", "expire"]):
            case "push":
                entry = Entry(
                    number, chance.randint(1, 3), signature=chance.choice("ab"), priority=chance.randint(0, 4)
                )
                queue.push(entry, now)
                level = queue.level_of(entry.priority)
                policy = policies.get(level + 1, QueuePolicy("REJECT", queue._levels[0].policy.default_timeout_s))
                timeout = policy.default_timeout_s or math.inf
                fresh.append((level, entry, now + timeout))
            case "withdraw":
                victim = chance.randrange(number + 1)
                found = queue.withdraw(victim)
                known = [e for _, e, _ in fresh if e.id == victim] + [e for _, e in delayed if e.id == victim]
                assert ([found] if found else []) == known
                fresh = [one for one in fresh if one[1].id != victim]
                delayed = [one for one in delayed if one[1].id != victim]
            case "serve":
                first = queue.first()
                order = _ordered(fresh, delayed)
                assert first is (order[0] if order else None)
                if first is not None:
                    alike = [entry for entry in order if entry.signature == first.signature]
                    assert list(queue.alike(first.signature)) == alike
                    for entry in alike[: chance.randint(1, 3)]:
                        queue.remove(entry)
                        fresh = [one for one in fresh if one[1] is not entry]
                        delayed = [one for one in delayed if one[1] is not entry]
            case "expire":
                refused = queue.expire(now)
                over = sorted((one for one in fresh if one[2] <= now), key=lambda one: one[2])
                assert {entry.id for entry in refused} == {
                    e.id for level, e, _ in over if policies.get(level + 1, QueuePolicy()).timeout_action == "REJECT"
                }
                delayed += [(level, e) for level, e, _ in over if e not in refused]
                fresh = [one for one in fresh if one[2] > now]
                assert queue.next_timeout() == min((one[2] for one in fresh), default=math.inf)
        order = _ordered(fresh, delayed)
        assert list(queue) == order
        assert (len(queue), queue.rows) == (len(order), sum(entry.rows for entry in order))
        for priority in range(levels + 1):
            level = queue.level_of(priority)
            before = [e for one, e, _ in fresh if one <= level] + [e for one, e in delayed if one <= level]
            assert queue.rows_before(priority) == sum(entry.rows for entry in before)


def _ordered(fresh: list[tuple[int, Entry, float]], delayed: list[tuple[int, Entry]]) -> list[Entry]:
    numbered = [(level, 0, n, e) for n, (level, e, _) in enumerate(fresh)]
    numbered += [(level, 1, n, e) for n, (level, e) in enumerate(delayed)]
    return [entry for _, _, _, entry in sorted(numbered, key=lambda one: one[:3])]


def test_a_full_level_takes_nobody_and_the_others_do() -> None:
    queue = Queue(QueuePolicy(max_queue_size=1), 2, 1)
    queue.push(Entry(1, 1, priority=1), 0.0)
    with pytest.raises(QueueFull, match="1 requests are waiting, which is the limit"):
        queue.push(Entry(2, 1, priority=1), 0.0)
    queue.push(Entry(3, 1, priority=2), 0.0)
    assert ids(queue) == [1, 3]


def test_a_delayed_request_still_takes_its_place_in_the_limit() -> None:
    queue = Queue(QueuePolicy("DELAY", 1.0, max_queue_size=1))
    queue.push(Entry(1, 1), 0.0)
    assert queue.expire(2.0) == []
    with pytest.raises(QueueFull):
        queue.push(Entry(2, 1), 2.0)


@pytest.mark.parametrize("timed", [False, True])
def test_who_comes_and_leaves_behind_one_who_stays_leaves_nothing_behind(timed: bool) -> None:
    queue = Queue(QueuePolicy(default_timeout_s=1000.0 if timed else 0.0))
    queue.push(Entry(0, 1), 0.0)
    for number in range(1, 20_000):
        queue.push(Entry(number, 1, signature=number), 0.0)
        assert queue.withdraw(number) is not None
    line = queue._levels[0].fresh
    assert len(line._order) < 200
    assert len(line._by_signature) < 200
    queue.next_timeout()
    assert len(queue._levels[0].timeouts) < 200
    assert ids(queue) == [0]


def test_a_hundred_thousand_shapes_are_served_one_by_one_without_a_search() -> None:
    queue = Queue()
    for number in range(100_000):
        queue.push(Entry(number, 1, signature=number), 0.0)
    steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += event == "call"

    sys.setprofile(count)
    try:
        for number in range(1000):
            first = queue.first()
            assert first is not None
            assert first.id == number
            assert [entry.id for entry in queue.alike(first.signature)] == [number]
            queue.remove(first)
    finally:
        sys.setprofile(None)
    assert steps < 20_000


def test_another_thread_may_ask_for_the_oldest_at_any_time() -> None:
    queue = Queue()
    stop = threading.Event()
    wrong: list[float] = []

    def ask() -> None:
        while not stop.is_set():
            oldest = queue.oldest()
            if not (oldest >= 0 or oldest == math.inf):
                wrong.append(oldest)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(20_000):
            queue.push(Entry(number, 1), float(number))
            if number % 3 == 2:
                for victim in range(number - 2, number + 1):
                    queue.withdraw(victim)
    finally:
        stop.set()
        asking.join()
    assert wrong == []
    assert queue.oldest() == (math.inf if not len(queue) else next(iter(queue)).enqueued)
