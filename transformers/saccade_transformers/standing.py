"""Whether a candidate may be asked: in service after it has answered a trial, out after several failures in a row.

One that comes back has to answer a request first, and until then has one at a time: if that fails, it is out again,
and only that request has paid for it. The very first time it has all its chances: nothing is held against it yet.

Pure. What is a failure, and who tries again, is the caller's; when, and how long a trial may take, is said here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Failures in a row that put a candidate out of service: one may be chance, and each may be a camera's frame.
MAX_FAILURES: Final = 5
#: First and longest pause before a candidate is tried that has fallen out again soon after it had come back.
AGAIN_S: Final = (1.0, 60.0)
#: Who has served for less than this has fallen out soon.
_SOON_S: Final = 60.0
#: Late answers to requests in a hurry count when nothing else has been answered for this long.
_SILENCE_S: Final = 10.0
#: Weight of the newest request in the time that a trial may take.
_SMOOTHING: Final = 0.1


class Standing:
    """A candidate's standing; out of service until it has answered a trial.

    Args:
        max_failures: in a row that put it out of service, where it has answered since it came back.
        clock: seconds, monotonic.

    Attributes:
        in_service: whether it is taken for one that answers; see ``admits``.
        pause_s: how long it shall be left alone before it is tried.
        trial_s: the time that requests gave it whose answers were late, and that those give that now go past it;
            None where none was late. One that needs longer would come back to be late again.
    """

    def __init__(self, max_failures: int = MAX_FAILURES, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_service = False
        self.pause_s = 0.0
        self.trial_s: float | None = None
        self._max_failures = max_failures
        self._clock = clock
        self._failures = 0
        self._silent_since: float | None = None  # the first failure in a row, counted or not
        self._returned_at = 0.0
        self._has_answered = False
        self._has_failed = False  # it has been put out of service before
        self._era = 0  # counts returns: what began before the last one says nothing of what came back
        self._is_asked = False  # in this era

    @property
    def admits(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.in_service and not (self._on_probation and self._is_asked)

    @property
    def _on_probation(self) -> bool:
        return self._has_failed and not self._has_answered

    def begins(self) -> int:
        """A request is sent to it. Returns what that shows at its end, which is told to ``ended`` in any case."""
        self._is_asked = True
        return self._era

    def hears(self, permit: int) -> bool:
        """Whether it is known by this request how the candidate is: it began since that came back."""
        return permit == self._era

    def ended(self, permit: int) -> None:
        """A request has ended, one way or the other."""
        if permit == self._era:
            self._is_asked = False

    def returned(self) -> None:
        """It has answered a trial."""
        self.in_service = True
        self._returned_at = self._clock()
        self._has_answered = self._is_asked = False
        self._era += 1
        self._begin_anew()

    def succeeded(self) -> None:
        """It has answered a request. What was under way when it was put out does not bring it back."""
        if self.in_service:
            self._has_answered = True
            self._begin_anew()

    def failed(self, given_s: float | None = None, fair_s: float = 0.0) -> bool:
        """It has failed; returns whether this put it out of service.

        What was under way when it was put out does not count again.

        Args:
            given_s: the time it had, where it was late.
            fair_s: had it less than this, the request was in a hurry: no fault, unless nothing else is answered.
        """
        if not self.in_service:
            return False
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
        if given_s is not None:
            if given_s < fair_s and now - self._silent_since < _SILENCE_S:
                return False
            self.trial_s = max(self.trial_s or 0.0, given_s, fair_s)
        self._failures += 1
        if self._failures < self._max_failures and not self._on_probation:
            return False
        self.in_service = False
        self._has_failed = True
        first_s, longest_s = AGAIN_S
        is_soon = not self._has_answered or now - self._returned_at < _SOON_S
        self.pause_s = min(max(2 * self.pause_s, first_s), longest_s) if is_soon else 0.0
        return True

    def passed_by(self, given_s: float) -> None:
        """A request that it would have had went past it: a few in a hurry shall not say how fast it has to be."""
        if not self.in_service and self.trial_s is not None:
            self.trial_s += _SMOOTHING * (given_s - self.trial_s)

    def _begin_anew(self) -> None:
        self._failures = 0
        self._silent_since = self.trial_s = None
