"""When requests are due: a rate over time, and arrivals that follow it, evenly or by chance, the same for a seed.

A schedule knows nothing of answers: that is what makes a load open-loop. All processes are made the same way: one of
one arrival per second on average is mapped through the inverse of the expected number of arrivals, which is exact
for rates that change (time rescaling; Devroye, Non-Uniform Random Variate Generation, 1986, section VI.1.3). Pure:
sends nothing, reads no clock.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

Process = Literal["even", "poisson"]
PROCESSES: Final[tuple[Process, ...]] = ("even", "poisson")
#: A day is drawn with this many straight lines; the rate between two is at most 0.1 % of the swing off the sine.
_DIURNAL_KNOTS: Final = 96


#: No generator sends more, and no run lasts longer.
MOST_PER_S: Final = 1_000_000.0
LONGEST_S: Final = 30 * 86_400.0


class BadSchedule(ValueError):
    """A schedule that cannot be; the sentence says what was given and what is expected."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A named stretch of a run.

    Attributes:
        name: as reports show it.
        begins_s: seconds from the beginning of the schedule.
        ends_s: likewise.
        per_s: the mean rate in it, requests per second.
    """

    name: str
    begins_s: float
    ends_s: float
    per_s: float


@dataclass(frozen=True)
class Profile:
    """A rate over time, of straight lines.

    Attributes:
        knots: (seconds, requests per second), seconds ascending from 0; two knots of one moment are a step.
        names: of the phases, with the moment at which each begins, ascending from 0.
    """

    knots: tuple[tuple[float, float], ...]
    names: tuple[tuple[str, float], ...] = (("constant", 0.0),)

    def __post_init__(self) -> None:
        times = [at for at, _ in self.knots]
        if len(times) < 2 or times[0] != 0 or times[-1] <= 0 or times != sorted(times):
            raise BadSchedule(f"a profile needs moments that ascend from 0 to its end; these are {times[:8]}")
        if any(not (math.isfinite(at) and math.isfinite(per_s)) or per_s < 0 for at, per_s in self.knots):
            raise BadSchedule("a profile needs finite moments and rates of at least 0 requests per second")
        if times[-1] > LONGEST_S or max(per_s for _, per_s in self.knots) > MOST_PER_S:
            raise BadSchedule(
                f"a profile may have {MOST_PER_S:,.0f} requests per second and {LONGEST_S:,.0f} s (30 days) at most; "
                f"this one has {max(per_s for _, per_s in self.knots):,g}/s and {times[-1]:,g} s"
            )
        if max(per_s for _, per_s in self.knots) == 0:
            raise BadSchedule("a profile whose rate is 0 all the time sends nothing")

    @property
    def duration_s(self) -> float:
        """Seconds from the beginning to the end."""
        return self.knots[-1][0]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The named stretches, in order, with what is expected in each."""
        ends = [begins for _, begins in self.names[1:]] + [self.duration_s]
        return tuple(
            Phase(name, begins, end, (self.expected(end) - self.expected(begins)) / (end - begins))
            for (name, begins), end in zip(self.names, ends, strict=True)
        )

    @cached_property
    def _sums(self) -> list[float]:
        """Arrivals expected up to each knot."""
        sums = [0.0]
        for (t0, r0), (t1, r1) in zip(self.knots, self.knots[1:], strict=False):
            sums.append(sums[-1] + (t1 - t0) * (r0 + r1) / 2)
        return sums

    @cached_property
    def _times(self) -> list[float]:
        return [at for at, _ in self.knots]

    @property
    def total(self) -> float:
        """Arrivals expected in all."""
        return self._sums[-1]

    def rate_at(self, at_s: float) -> float:
        """Requests per second at a moment; at a step, the rate after it."""
        if not 0 <= at_s <= self.duration_s:
            return 0.0
        after = min(bisect.bisect_right(self._times, at_s), len(self.knots) - 1)
        (t0, r0), (t1, r1) = self.knots[after - 1], self.knots[after]
        return r1 if t1 == t0 else r0 + (r1 - r0) * (at_s - t0) / (t1 - t0)

    def expected(self, at_s: float) -> float:
        """Arrivals expected up to a moment."""
        if at_s <= 0:
            return 0.0
        if at_s >= self.duration_s:
            return self.total
        before = bisect.bisect_right(self._times, at_s) - 1
        return self._sums[before] + (at_s - self._times[before]) * (self.knots[before][1] + self.rate_at(at_s)) / 2

    def moment_of(self, count: float) -> float:
        """When so many arrivals are expected: the inverse of ``expected``; infinite beyond ``total``."""
        if count >= self.total:
            return math.inf
        before = max(bisect.bisect_right(self._sums, count) - 1, 0)
        (t0, r0), (t1, r1) = self.knots[before], self.knots[before + 1]
        missing = count - self._sums[before]
        slope = (r1 - r0) / (t1 - t0)
        # The root of slope/2 x^2 + r0 x = missing in the form that stays exact where the slope is nearly 0.
        return t0 + 2 * missing / (r0 + math.sqrt(max(r0 * r0 + 2 * slope * missing, 0.0))) if missing else t0


def constant(per_s: float, duration_s: float) -> Profile:
    """The same rate all the time."""
    return Profile(((0.0, per_s), (duration_s, per_s)))


def step(levels_per_s: Sequence[float], each_s: float) -> Profile:
    """One level after the other."""
    knots: list[tuple[float, float]] = []
    for number, per_s in enumerate(levels_per_s):
        knots += [(number * each_s, per_s), ((number + 1) * each_s, per_s)]
    names = tuple((f"step {number + 1}", number * each_s) for number in range(len(levels_per_s)))
    return Profile(tuple(knots), names)


def ramp(from_per_s: float, to_per_s: float, duration_s: float) -> Profile:
    """From one rate to another in a straight line."""
    return Profile(((0.0, from_per_s), (duration_s, to_per_s)), (("ramp", 0.0),))


def spike(base_per_s: float, peak_per_s: float, before_s: float, peak_s: float, after_s: float) -> Profile:
    """A base rate, at once a peak, at once the base again."""
    begins, ends = before_s, before_s + peak_s
    knots = ((0.0, base_per_s), (begins, base_per_s), (begins, peak_per_s), (ends, peak_per_s), (ends, base_per_s))
    names = (("before", 0.0), ("spike", begins), ("after", ends))
    return Profile((*knots, (ends + after_s, base_per_s)), names)


def diurnal(low_per_s: float, high_per_s: float, period_s: float, duration_s: float) -> Profile:
    """Days: a sine from the low (midnight) over the high (noon) and back, once every ``period_s``."""
    if period_s <= 0 or duration_s <= 0:
        raise BadSchedule(f"a day of {period_s:g} s in a run of {duration_s:g} s cannot be; both must be above 0")
    middle, swing = (low_per_s + high_per_s) / 2, (high_per_s - low_per_s) / 2
    count = max(2, math.ceil(_DIURNAL_KNOTS * duration_s / period_s))
    moments = [duration_s * number / count for number in range(count + 1)]
    knots = tuple((at, middle - swing * math.cos(2 * math.pi * at / period_s)) for at in moments)
    quarters = math.ceil(duration_s / (period_s / 4) - 1e-9)
    labels = ("night", "morning", "day", "evening")
    # A night lies around midnight: the first and the last eighth of a period.
    borders = [0.0, *((number + 0.5) * period_s / 4 for number in range(quarters))]
    names = tuple((labels[number % 4], at) for number, at in enumerate(borders) if at < duration_s)
    return Profile(knots, names)


def arrivals(profile: Profile, process: Process, seed: int, index: int = 0, count: int = 1) -> Iterator[float]:
    """The moments at which requests are due, ascending, in seconds from the beginning.

    Args:
        profile: the rate over time.
        process: "even" spaces as the rate says; "poisson" is by chance, as independent clients arrive.
        seed: the same seed gives the same moments.
        index: which of the generators that share the schedule this is.
        count: how many share it. All shares together are the same kind of process, of the whole rate: evenly, they
            interleave; by chance, the sum of independent Poisson processes is one.

    Raises:
        BadSchedule: no such process or share.
    """
    if process not in PROCESSES:
        raise BadSchedule(f"arrivals {process!r} are not known; choose {' or '.join(PROCESSES)}")
    if not 0 <= index < count:
        raise BadSchedule(f"share {index} of {count} cannot be; it must be from 0 to {count - 1}")
    chance = random.Random(f"{seed}/{index}/{count}")  # noqa: S311 - reproducible, not secret
    reached = index + 0.5
    if process == "poisson":
        reached = chance.expovariate(1.0) * count
    while (due := profile.moment_of(reached)) < profile.duration_s:
        yield due
        reached += count if process == "even" else chance.expovariate(1.0) * count
