"""Which batch is run next, whom to refuse, and when to look again. Pure: queue, time and profile go in.

Triton's rules (docs/user_guide/batcher.md): requests join in the order they are to be served; the largest preferred
size that can be formed is taken; without one, whatever is there, at most ``max_rows``. With a delay, a batch that is
neither full nor of a preferred size waits until its oldest request is that old. What differs: a request of another
shape does not end a batch, those behind it with the batch's shape join; but nobody waits for company while it waits.

With an SLO, ours: an idle instance takes what is there, up to ``B*`` rows; who would not be answered in time is
refused, and the batch is never made smaller to save somebody (DESIGN section 4 has the reason).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from saccade_serving.scheduling.profile import SAFETY, LatencyProfile
from saccade_serving.scheduling.queue import Entry, Queue

_NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class BatchingRules:
    """How requests are grouped.

    Attributes:
        max_rows: rows of the largest batch; 0 runs every request alone.
        preferred: batch sizes to prefer, ascending; without any, the largest batch is the preferred one.
        max_delay_s: how long the oldest request may wait for company.
        slo_s: time from a request's first byte to its answer that shall be kept; 0 for none.
    """

    max_rows: int
    preferred: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    slo_s: float = 0.0


class Decision(NamedTuple):
    """What is to be done now that an instance is idle.

    Attributes:
        batch: run these, if there are any. They are still in the queue.
        late: refuse these: their deadline would pass before the batch is done.
        wake_at: otherwise look again at this time, or when a request comes.
    """

    batch: Sequence[Entry]
    late: Sequence[Entry] = ()
    wake_at: float = _NEVER


_NOTHING: Final = Decision(())


def decide(queue: Queue, now: float, rules: BatchingRules) -> Decision:
    """Choose the next batch by Triton's rules.

    Args:
        queue: who waits; timeouts have been applied.
        now: the time.
        rules: how requests are grouped.
    """
    first = queue.first()
    if first is None:
        return _NOTHING
    most = rules.max_rows
    preferred = rules.preferred or (most,)
    batch: list[Entry] = []
    rows = best = 0
    best_rows = 0
    closed = False  # it cannot grow any more
    oldest = first.enqueued
    for entry in queue.alike(first.signature):
        if batch and rows + entry.rows > preferred[-1] and not best:
            best, best_rows = len(batch), rows
        if batch and rows + entry.rows > most:
            closed = True
            break
        batch.append(entry)
        rows += entry.rows
        oldest = min(oldest, entry.enqueued)
        if rows in preferred:
            best, best_rows = len(batch), rows
        if rows >= most:
            closed = True
            break
    if rules.max_delay_s:
        waited_enough = now >= oldest + rules.max_delay_s
        if best and not waited_enough:
            return Decision(batch[:best])
        others_wait = queue.rows > rows
        if not (closed or waited_enough or others_wait or rows >= preferred[-1]):
            return Decision((), wake_at=min(oldest + rules.max_delay_s, queue.next_timeout()))
    elif best and best_rows < rows:
        return Decision(batch[:best])
    return Decision(batch)


def largest_batch(profile: LatencyProfile, rules: BatchingRules, depth: int) -> int:
    """``B*``: the largest batch with which a request that just missed one is still answered within the SLO.

    It waits for the batches that its instance holds and then for its own: (d + 1) t(n), and a tenth of reserve.

    Args:
        profile: what batches take.
        rules: with an SLO.
        depth: batches that an instance holds at a time.
    """
    if not profile:
        return rules.max_rows
    return profile.largest_within(rules.slo_s / ((depth + 1) * SAFETY), rules.max_rows)


def decide_in_time(
    queue: Queue, now: float, starts: float, rules: BatchingRules, profile: LatencyProfile, largest: int
) -> Decision:
    """Choose the next batch so that all of it is answered in time, and as much as possible.

    The batch is as large as the queue allows, ``largest`` at most. Who would be answered too late by a batch of that
    size is refused, and the next in the queue takes the place. If that leaves nobody, the last one is run all the
    same: the profile may be wrong, and would never learn it otherwise.

    Args:
        queue: who waits; timeouts have been applied.
        now: the time.
        starts: when the instance can begin to compute.
        rules: how requests are grouped; a delay holds here, too.
        profile: what batches take.
        largest: ``B*``.
    """
    first = queue.first()
    if first is None:
        return _NOTHING
    alike = queue.alike(first.signature)
    candidates: list[Entry] = []
    rows = 0
    oldest = first.enqueued
    for entry in alike:
        if candidates and rows + entry.rows > largest:
            break
        candidates.append(entry)
        rows += entry.rows
        oldest = min(oldest, entry.enqueued)
        if rows >= largest:
            break
    if rules.max_delay_s and rows < largest and queue.rows == rows and now < oldest + rules.max_delay_s:
        return Decision((), wake_at=min(oldest + rules.max_delay_s, queue.next_timeout()))
    done = starts + profile.seconds(max(rows, 1))
    if all(entry.deadline >= done for entry in candidates):
        return Decision(candidates)
    return _without_the_late(queue, first, largest, done, now)


def _without_the_late(queue: Queue, first: Entry, largest: int, done: float, now: float) -> Decision:
    batch: list[Entry] = []
    late: list[Entry] = []
    rows = 0
    for entry in queue.alike(first.signature):
        if entry.deadline < done:
            late.append(entry)
            continue
        if batch and rows + entry.rows > largest:
            break
        batch.append(entry)
        rows += entry.rows
        if rows >= largest:
            break
    if not batch and late[-1].deadline > now and len(late) == len(queue):
        batch = [late.pop()]
    return Decision(batch, late)


def time_to_answer(
    queue: Queue, now: float, rows: int, priority: int, free_at: Sequence[float], profile: LatencyProfile, largest: int
) -> float:
    """Seconds until a request that comes now would be answered: the work in front of it, and its own batch.

    Args:
        queue: who waits.
        now: the time.
        rows: of the request.
        priority: of the request; who waits at lower ones is not in front.
        free_at: when each instance will have done what it holds.
        profile: what batches take.
        largest: rows of the largest batch.
    """
    before = queue.rows_before(priority)
    instances = len(free_at)
    whole, rest = divmod(before, largest)
    rounds = whole // instances  # of full batches, on all instances
    begins = sorted(max(at, now) for at in free_at)[whole % instances]
    own = min(largest, rest + rows)
    return begins - now + rounds * profile.seconds(largest) + profile.seconds(own)
