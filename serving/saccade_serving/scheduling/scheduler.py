"""One model's queue, rules, profile and instances, under a clock that is handed in: what batcher and replay drive.

Pure: it starts nothing and waits for nothing. Whoever drives it pushes requests, asks for the next batch when
something has changed, runs it, and says when it is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from saccade_serving.scheduling.policy import BatchingRules, decide, decide_in_time, largest_batch, time_to_answer
from saccade_serving.scheduling.profile import LatencyProfile
from saccade_serving.scheduling.queue import Entry, Queue

#: ``B*`` is computed anew after so many batches.
_REFRESH: Final = 8
#: What a client is told at least and at most to wait before it tries again, seconds.
_LEAST_RETRY_S: Final = 0.05
_MOST_RETRY_S: Final = 60.0


class CannotMakeIt(Exception):
    """The door: the work in front of a request and its own batch take longer than it has.

    Attributes:
        needed_s: time until it would be answered.
        remaining_s: time it has.
    """

    def __init__(self, needed_s: float, remaining_s: float) -> None:
        super().__init__(
            f"an answer would take {needed_s * 1e3:.3g} ms; {max(0.0, remaining_s) * 1e3:.3g} ms are left"
        )
        self.needed_s = needed_s
        self.remaining_s = remaining_s


class Turn(NamedTuple):
    """What is to be done now.

    Attributes:
        lane: index of the instance that shall run ``batch``.
        batch: taken out of the queue; empty for nothing to run.
        expired: refuse these, whose queue timeout is over; taken out.
        late: refuse these, who cannot be answered in time; taken out.
        wake_at: with nothing to run: look again then.
    """

    lane: int
    batch: Sequence[Entry]
    expired: Sequence[Entry]
    late: Sequence[Entry]
    wake_at: float


class _Lane:
    """What is known of an instance."""

    __slots__ = ("began", "depth", "free_at", "held")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.held: deque[int] = deque()  # rows of the batches it has, the first is computing
        self.began = 0.0  # when the first one began
        self.free_at = 0.0  # when all of them are expected to be done


class Scheduler:
    """Decides for one model.

    Args:
        queue: empty.
        rules: how requests are grouped.
        depths: of each instance, batches that it holds at a time.
        profile: what batches take; kept fresh here.

    Attributes:
        largest: rows of the largest batch: ``B*`` with an SLO, else ``rules.max_rows``.
    """

    def __init__(
        self,
        queue: Queue,
        rules: BatchingRules,
        depths: Sequence[int] = (1,),
        profile: LatencyProfile | None = None,
    ) -> None:
        self.queue = queue
        self.rules = rules
        self.profile = profile if profile is not None else LatencyProfile()
        self._depth = max(depths)
        self._lanes = [_Lane(depth) for depth in depths]
        self._since = 0
        self.largest = 0
        self.refresh()

    def refresh(self) -> None:
        """Compute ``B*`` anew: the profile has changed."""
        rules = self.rules
        self._since = 0
        self.largest = (
            largest_batch(self.profile, rules, self._depth) if rules.slo_s and rules.max_rows else rules.max_rows
        )

    def knock(self, now: float, deadline: float, rows: int = 1, priority: int = 0) -> None:
        """Ask at the door whether a request that comes now can be answered in time. Without an SLO it always may try.

        Raises:
            CannotMakeIt: it cannot.
        """
        if not self.rules.slo_s or not self.profile:
            return
        queue = self.queue
        if not queue.rows and self.idle_lane() is not None:
            return  # nothing is in front of it: it is tried, whatever the profile says
        free_at = [lane.free_at for lane in self._lanes if lane.depth]
        if not free_at:
            return
        needed = time_to_answer(queue, now, rows, priority, free_at, self.profile, max(self.largest, 1))
        if now + needed > deadline:
            raise CannotMakeIt(needed, deadline - now)

    def push(self, entry: Entry, now: float) -> None:
        """Let a request wait.

        Raises:
            QueueFull: there is no room. It was not taken.
        """
        self.queue.push(entry, now)

    def idle_lane(self) -> int | None:
        """The instance with the fewest batches, if it may hold one more."""
        chosen = None
        fewest = self._depth
        for index, lane in enumerate(self._lanes):
            held = len(lane.held)
            if held < fewest and held < lane.depth:
                chosen, fewest = index, held
                if not held:
                    break
        return chosen

    def turn(self, now: float) -> Turn:
        """What is to be done now. Ask again until there is nothing to run."""
        queue = self.queue
        expired = queue.expire(now)
        chosen = self.idle_lane()
        if chosen is None:
            return Turn(0, (), expired, (), queue.next_timeout())
        lane = self._lanes[chosen]
        late: list[Entry] = []
        while True:
            if self.rules.slo_s and self.rules.max_rows and self.profile:
                starts = max(now, lane.free_at) if lane.held else now
                decision = decide_in_time(queue, now, starts, self.rules, self.profile, self.largest)
            else:
                decision = decide(queue, now, self.rules)
            for entry in decision.late:
                queue.remove(entry)
            late += decision.late
            if decision.batch or not decision.late:
                break  # else all of one shape were late: others may wait
        for entry in decision.batch:
            queue.remove(entry)
        if decision.batch:
            rows = sum([entry.rows for entry in decision.batch])
            if not lane.held:
                lane.began = lane.free_at = now
            lane.held.append(rows)
            lane.free_at = max(lane.free_at, now) + self.profile.seconds(rows)
        return Turn(chosen, decision.batch, expired, late, min(decision.wake_at, queue.next_timeout()))

    def done(self, lane: int, rows: int, now: float, failed: bool = False) -> float:
        """An instance has finished a batch.

        Args:
            lane: its index.
            rows: of the batch.
            now: the time.
            failed: it tells nothing about what a batch takes.

        Returns:
            Seconds that the batch took, without the time behind another one.
        """
        state = self._lanes[lane]
        state.held.remove(rows)
        seconds = now - state.began
        state.began = now
        if not failed:
            self.profile.observe(rows, seconds)
            self._since += 1
            if self._since >= _REFRESH:
                self.refresh()
        state.free_at = now + sum([self.profile.seconds(held) for held in state.held])
        return seconds

    def retire(self, lane: int) -> None:
        """An instance hangs: it gets no more batches, and what it has is forgotten."""
        self._lanes[lane] = _Lane(0)

    def restore(self, lane: int, depth: int) -> None:
        """A new instance has taken a retired one's place."""
        self._lanes[lane] = _Lane(depth)

    @property
    def working(self) -> int:
        """Instances that are not retired."""
        return sum(lane.depth > 0 for lane in self._lanes)

    def capacity(self) -> float:
        """Rows a second that can be answered; 0 while nothing is known."""
        rows = max(self.largest, 1)
        seconds = self.profile.seconds(rows)
        return self.working * rows / seconds if seconds else 0.0

    def retry_after_s(self) -> float:
        """When it is worth to try again: what waits now will have been answered. 1 s while nothing is known."""
        capacity = self.capacity()
        if not capacity:
            return 1.0
        return min(max(self.queue.rows / capacity, _LEAST_RETRY_S), _MOST_RETRY_S)
