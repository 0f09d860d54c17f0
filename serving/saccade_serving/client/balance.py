"""Which of several equal servers is asked next, and whether a failed call is worth a second try.

Pure: it is told what happened, and the time; it sends nothing and waits for nothing.

A server whose calls fail is set aside for a while that doubles with every failure, then one call tries it. What a call
that began before it was set aside says does not count: many calls fail together, and those that are still answered
by a server on its way out prove nothing. A slow server is not set aside: its unanswered calls keep others away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from saccade_serving.client.client import BadAnswer, ConnectionFailed, Refused

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
#: Longest time that a call waits because the server said ``Retry-After``; one that says more is not waited for.
LONGEST_WAIT_S: Final = 5.0
#: What was refused at one moment shall not all come back at one moment: waits are longer by up to this share.
JITTER: Final = 0.25
#: Weight of the newest call in the time that calls are expected to take.
_NEWEST: Final = 0.1


class Retry(NamedTuple):
    """A second try: why (``connection``, ``overloaded``, ``no_model``), and after how many seconds."""

    reason: str
    wait_s: float


@dataclass(slots=True)
class _Server:
    open_calls: int = 0
    failures: int = 0  # since the last success
    set_aside_at: float = float("-inf")
    tried_again_at: float = float("-inf")
    trying: bool = False
    trial_began: float = float("-inf")


class Balance:
    """What is known of some servers.

    Args:
        servers: how many; they are called by their index.
        clock: seconds.
        draw: a number in [0, 1).

    Attributes:
        expected_s: how long a successful call takes, a moving average; 0 before the first.
    """

    def __init__(
        self,
        servers: int,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.expected_s = 0.0
        self._servers = [_Server() for _ in range(servers)]
        self._clock = clock
        self._draw = draw
        self._turn = 0

    def choose(self, besides: int | None = None) -> int | None:
        """The server to ask: of those not set aside the one with the fewest open calls, equals in turn.

        Args:
            besides: not this one.

        Returns:
            Its index. If all are set aside the one whose time is over first, unless ``besides`` is given: then None.
        """
        if len(self._servers) == 1:
            return 0 if besides is None else None
        now = self._clock()
        count = len(self._servers)
        if besides is None:  # looking for another one is no call: two failing servers would not take turns
            self._turn = (self._turn + 1) % count
        order = [(self._turn + step) % count for step in range(count)]
        able = [index for index in order if index != besides and self._is_able(self._servers[index], now)]
        if able:
            return min(able, key=lambda index: self._servers[index].open_calls)
        return None if besides is not None else min(order, key=lambda index: self._servers[index].tried_again_at)

    def begin(self, index: int) -> float:
        """A call to a server begins; returns when, which belongs into ``end``."""
        server = self._servers[index]
        server.open_calls += 1
        began = self._clock()
        if server.failures and not server.trying:
            server.trying, server.trial_began = True, began
        return began

    def end(self, index: int, began: float, succeeded: bool | None, gave_result: bool = False) -> None:
        """A call has ended.

        Args:
            index: of the server.
            began: what ``begin`` said.
            succeeded: the server answered, or it failed; None where nobody can tell (cancelled, out of time).
            gave_result: it answered with a result, not an error: its time says how long calls take.
        """
        server = self._servers[index]
        now = self._clock()
        if gave_result:
            self.expected_s += (now - began - self.expected_s) * (_NEWEST if self.expected_s else 1.0)
        server.open_calls -= 1
        if server.trying and began == server.trial_began:
            server.trying = False  # an older call that ends says nothing of the trial
        if succeeded is None or began < server.set_aside_at:
            return
        if succeeded:
            server.failures = 0
        else:
            server.failures += 1
            pause_s = FIRST_PAUSE_S * 2.0 ** min(server.failures - 1, 10)
            server.set_aside_at = now
            server.tried_again_at = now + min(pause_s, LONGEST_PAUSE_S)

    def retry(self, error: Exception, left_s: float, another: bool, named: bool = False) -> Retry | None:
        """Whether a failed call is worth a second try; inference may safely be repeated.

        Args:
            error: how it failed.
            left_s: time the request still has.
            another: there is another server to ask.
            named: the request names a version, which the others may have as little as the one that says 404.

        Returns:
            None for an answer that will be the same again (other 4xx, 500), that came too late (504), that had begun
            to come, or where there is no time for another.
        """
        if isinstance(error, ConnectionFailed):
            if error.answer_began or isinstance(error, BadAnswer):
                return None
            return Retry("connection", 0.0) if left_s > self.expected_s else None
        if isinstance(error, Refused) and error.status == 404 and another and not named:
            return Retry("no_model", 0.0) if left_s > self.expected_s else None
        if isinstance(error, Refused) and error.status == 503 and error.retry_after_s is not None:
            said_s = 0.0 if another else error.retry_after_s
            wait_s = said_s * (1 + JITTER * self._draw())
            if said_s <= LONGEST_WAIT_S and wait_s + self.expected_s < left_s:
                return Retry("overloaded", wait_s)
        return None

    def states(self) -> tuple[int, int]:
        """How many servers are asked, and how many are set aside; the only one is asked whatever it did."""
        if len(self._servers) == 1:
            return 1, 0
        aside = sum(1 for server in self._servers if server.failures)
        return len(self._servers) - aside, aside

    @staticmethod
    def _is_able(server: _Server, now: float) -> bool:
        return not server.failures or (not server.trying and server.tried_again_at <= now)
