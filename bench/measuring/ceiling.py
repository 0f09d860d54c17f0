"""How much one process serves: requests at a rising rate until its CPU time reaches a share of one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: What a process is to be loaded with, so that bursts still find it idle: 70 % of one core.
SHARE: Final = 0.7
#: Fewer answers than this part of what was due: something else than the CPU share is the limit.
_KEPT_UP: Final = 0.97
_BEGIN: Final = 0.75
_RISE: Final = 1.1
_MOST_STEPS: Final = 14
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was offered.

    Attributes:
        offered_per_s: requests that were due each second, evenly.
        answered_per_s: answers.
        cpu_share: the server's CPU time as a part of one core.
        p50_ms: latency from the moment a request was due.
        p99_ms: the same.
    """

    offered_per_s: float
    answered_per_s: float
    cpu_share: float
    p50_ms: float
    p99_ms: float

    @property
    def kept_up(self) -> bool:
        """Whether as many were answered as were due."""
        return self.answered_per_s >= _KEPT_UP * self.offered_per_s


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a climb found.

    Attributes:
        per_s: answers per second at ``SHARE``, between the two steps around it; without a step above, those of the
            last step that kept up: a lower bound.
        reached: whether there was a step at or above ``SHARE``.
        at: the step nearest to ``SHARE``, as it was measured.
    """

    per_s: float
    reached: bool
    at: Step


def climb(guess_per_s: float, measure: Callable[[float], Step]) -> list[Step]:
    """Offer rising rates, from three quarters of a guess on, until the share is reached or answers stay behind.

    Args:
        guess_per_s: the rate at which the share is expected.
        measure: offers a rate for a while.

    Returns:
        The steps, the last of them at or over the share, or behind; none if even one per second is over the share.
    """
    steps: list[Step] = []
    rate = _BEGIN * guess_per_s
    while len(steps) < _MOST_STEPS:
        step = measure(rate)
        for _ in range(_TRIES - 1):
            if step.cpu_share >= SHARE or step.kept_up:
                break
            step = measure(rate)  # something else on the machine may have been in the way
        steps.append(step)
        if step.cpu_share >= SHARE and len(steps) == 1:
            # The guess was too high: begin again, lower.
            steps.clear()
            rate *= _BEGIN * SHARE / step.cpu_share
            if rate < 1:
                break
            continue
        if step.cpu_share >= SHARE or not step.kept_up:
            break
        rate *= _RISE
    return steps


def read(steps: Sequence[Step]) -> Ceiling:
    """Find the rate at ``SHARE`` among rising steps.

    Args:
        steps: at least one.
    """
    at = min(steps, key=lambda step: abs(step.cpu_share - SHARE))
    last = steps[-1]
    if last.cpu_share < SHARE:
        kept = [step for step in steps if step.kept_up] or [last]
        return Ceiling(kept[-1].answered_per_s, False, kept[-1])
    if len(steps) == 1:
        return Ceiling(last.answered_per_s * SHARE / last.cpu_share, True, last)
    below = steps[-2]
    part = (SHARE - below.cpu_share) / (last.cpu_share - below.cpu_share)
    return Ceiling(below.answered_per_s + part * (last.answered_per_s - below.answered_per_s), True, at)


def median_of(rounds: Sequence[Sequence[Step]]) -> Ceiling | None:
    """The round with the median rate (of an even number the lower) of those that reached the share, or else of all.

    Args:
        rounds: steps of each, none of them empty.

    Returns:
        None without a round.
    """
    found = [read(steps) for steps in rounds]
    found = sorted([one for one in found if one.reached] or found, key=lambda one: one.per_s)
    return found[(len(found) - 1) // 2] if found else None
