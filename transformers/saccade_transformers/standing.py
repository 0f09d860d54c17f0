"""Whether a candidate may be asked: in service after it has answered a trial, out after several failures in a row.

Pure. What is a failure, and who tries again, is the caller's.
"""

from __future__ import annotations

from typing import Final

#: Failures in a row that put a candidate out of service: one may be chance, and each may be a camera's frame.
MAX_FAILURES: Final = 5


class Standing:
    """A candidate's standing; out of service until it has answered.

    Attributes:
        in_service: whether requests may be sent to it.
    """

    def __init__(self, max_failures: int = MAX_FAILURES) -> None:
        self.in_service = False
        self._max_failures = max_failures
        self._failures = 0

    def succeeded(self) -> None:
        """It has answered a request or a trial."""
        self.in_service = True
        self._failures = 0

    def failed(self) -> bool:
        """It has failed; returns whether this put it out of service.

        What was under way when it was put out does not count again.
        """
        if not self.in_service:
            return False
        self._failures += 1
        if self._failures < self._max_failures:
            return False
        self.in_service = False
        return True
