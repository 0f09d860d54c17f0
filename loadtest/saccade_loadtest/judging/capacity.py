"""The highest rate that still meets an SLO: bracketing, then bisection, each rate tried several times.

Pure: ``Search`` says which rate is to be tried next and takes in what came of it. A rate holds when most of its trials
pass; trials stop as soon as the majority is certain. A trial that was invalid decides nothing and is repeated, a few
times; a rate that is invalid again and again ends the search, since then the generator is what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from saccade_loadtest.judging.finding import Outcome

KIND: Final = "saccade-capacity"
VERSION: Final = 1
_MOST_DOUBLINGS: Final = 14


class SearchFailed(Exception):
    """No capacity was found; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run at one rate.

    Attributes:
        per_s: offered.
        outcome: by the SLO.
        p50_ms: of right answers; ``p99_ms`` likewise, NaN without any.
        answered_per_s: right answers.
        reason: why it did not pass.
    """

    per_s: float
    outcome: Outcome
    p50_ms: float
    p99_ms: float
    answered_per_s: float
    reason: str = ""


@dataclass
class Search:
    """A search under way.

    Args:
        start_per_s: the first rate.
        tolerance: how far apart, as a share, the highest that holds and the lowest that does not may be in the end.
        trials: at most for each rate; odd, so that there is a majority.
        most_invalid: invalid trials of one rate after which the search ends.
        least_per_s: rates under it are not tried.
    """

    start_per_s: float
    tolerance: float = 0.05
    trials: int = 3
    most_invalid: int = 2
    least_per_s: float = 0.1
    made: list[Trial] = field(default_factory=list)
    holds_per_s: float = 0.0
    fails_per_s: float = float("inf")
    _next: float = 0.0
    _passed: int = 0
    _failed: int = 0
    _invalid: int = 0
    _rates: int = 0

    def __post_init__(self) -> None:
        if self.start_per_s <= 0 or not 0 < self.tolerance < 1 or self.trials < 1:
            raise ValueError("a search needs a first rate over 0, a tolerance between 0 and 1, and at least 1 trial")
        self._next = self.start_per_s

    @property
    def next_per_s(self) -> float | None:
        """The rate to try next; None when the search is over."""
        if self.fails_per_s < float("inf") and self.holds_per_s >= self.fails_per_s * (1 - self.tolerance):
            return None
        return self._next

    def take(self, trial: Trial) -> None:
        """Take in what came of a trial at ``next_per_s``.

        Raises:
            SearchFailed: there is nothing that could be found.
        """
        self.made.append(trial)
        if trial.outcome == "invalid":
            self._invalid += 1
            if self._invalid >= self.most_invalid:
                raise SearchFailed(
                    f"{trial.per_s:,.1f}/s could not be judged {self._invalid} times ({trial.reason}); "
                    f"up to {self.holds_per_s:,.1f}/s held"
                )
            return
        self._passed += trial.outcome == "pass"
        self._failed += trial.outcome == "fail"
        majority = self.trials // 2 + 1
        if self._passed >= majority:
            self._settle(True)
        elif self._failed >= majority:
            self._settle(False)

    def _settle(self, holds: bool) -> None:
        per_s = self._next
        if holds:
            self.holds_per_s = max(self.holds_per_s, per_s)
        else:
            self.fails_per_s = min(self.fails_per_s, per_s)
        self._passed = self._failed = self._invalid = 0
        self._rates += 1
        if self.fails_per_s == float("inf"):
            if self._rates > _MOST_DOUBLINGS:
                raise SearchFailed(f"{self.holds_per_s:,.1f}/s still held; begin higher with --start")
            self._next = per_s * 2
        elif self.holds_per_s == 0:
            self._next = self.fails_per_s / 2
            if self._next < self.least_per_s:
                raise SearchFailed(
                    f"not even {self.fails_per_s:,.2f}/s meet the SLO ({self.made[-1].reason}); there is no capacity"
                )
        else:
            self._next = (self.holds_per_s + self.fails_per_s) / 2

    @property
    def by_rate(self) -> dict[float, list[Trial]]:
        """Trials by rate, ascending."""
        found: dict[float, list[Trial]] = {}
        for trial in sorted(self.made, key=lambda one: one.per_s):
            found.setdefault(trial.per_s, []).append(trial)
        return found


def batch_profile(before: Any, after: Any) -> list[dict[str, float]]:
    """How long batches took while it was measured, by size, from two answers of V2's statistics route.

    Args:
        before: the parsed answer before.
        after: the one after.

    Returns:
        For each size of batch that was seen: ``size``, ``batches``, and ``compute_ms`` of each on average.
    """

    def read(answer: Any) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for model in answer.get("model_stats", []) if isinstance(answer, dict) else []:
            for batch in model.get("batch_stats", []):
                count, spent = found.get(int(batch["batch_size"]), (0, 0))
                infer = batch["compute_infer"]
                found[int(batch["batch_size"])] = (count + int(infer["count"]), spent + int(infer["ns"]))
        return found

    earlier = read(before)
    profile = []
    for size, (count, spent_ns) in sorted(read(after).items()):
        counted, spent_before_ns = earlier.get(size, (0, 0))
        if count > counted:
            compute_ms = (spent_ns - spent_before_ns) / (count - counted) / 1e6
            profile.append({"size": size, "batches": count - counted, "compute_ms": round(compute_ms, 3)})
    return profile
