"""An engine of one instance around a blocking function, which gets every batch in a thread of its own."""

from __future__ import annotations

from collections.abc import Sequence

from saccade_predictor.engines.engine import EngineDescription
from saccade_predictor.engines.runner import Run, RunnerInstance


class OneInstance:
    """An ``Engine`` of depth 1.

    Args:
        run: computes a batch in the instance's thread.
        description: what the engine says of itself.
    """

    def __init__(self, run: Run, description: EngineDescription) -> None:
        self._description = description
        self._instance = RunnerInstance(run, description.platform)

    def describe(self) -> EngineDescription:
        """As it was made."""
        return self._description

    def instances(self) -> Sequence[RunnerInstance]:
        """The one."""
        return [self._instance]

    def renew(self, index: int) -> RunnerInstance | None:
        """It never hangs."""
        return None

    def close(self) -> None:
        """End the thread."""
        self._instance.close()
