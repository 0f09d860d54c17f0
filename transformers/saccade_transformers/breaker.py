"""When to leave a failing target alone: after some failures in a row, for longer each time. Pure; sends nothing."""

from __future__ import annotations


class Breaker:
    """Closed, calls pass. After ``failures`` in a row it is open for a while; then one call may try.

    If that one succeeds it closes; if it fails it is open for twice as long, up to a limit. Calls that began before
    it opened are not heard any more.

    Args:
        failures: in a row that open it; at least 1.
        first_pause_s: how long it is open the first time.
        longest_pause_s: how long at most.
    """

    def __init__(self, failures: int = 5, first_pause_s: float = 1.0, longest_pause_s: float = 60.0) -> None:
        self._limit = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._in_a_row = 0
        self._pause_s = 0.0  # of the present or next time it is open; 0 while closed
        self._until = 0.0
        self._trying = False
        self._era = 0  # of the calls that are heard

    @property
    def is_open(self) -> bool:
        """Whether calls do not simply pass."""
        return self._pause_s > 0

    def admits(self, now: float) -> bool:
        """Whether a call would pass at this time; changes nothing."""
        return not self._pause_s or (now >= self._until and not self._trying)

    def begin(self, now: float) -> int | None:
        """Let a call pass, which must then end with ``succeeded``, ``failed`` or ``withdrawn``; None if it must not.

        Returns:
            What the call shows at its end.
        """
        if not self.admits(now):
            return None
        self._trying = self._pause_s > 0
        return self._era

    def succeeded(self, permit: int) -> None:
        """A call has been answered."""
        if permit == self._era:
            self._in_a_row, self._pause_s, self._trying = 0, 0.0, False

    def failed(self, permit: int, now: float) -> bool:
        """A call has failed. Returns whether this has opened it."""
        if permit != self._era:
            return False
        self._in_a_row += 1
        if not self._pause_s and self._in_a_row < self._limit:
            return False
        self._pause_s = min(2 * self._pause_s, self._longest_pause_s) if self._pause_s else self._first_pause_s
        self._until = now + self._pause_s
        self._trying = False
        self._era += 1
        return True

    def withdrawn(self, permit: int) -> None:
        """A call has ended without saying anything of the target."""
        if permit == self._era:
            self._trying = False
