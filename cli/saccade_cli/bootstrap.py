"""Intervals for what was measured on cameras: a bootstrap of whole clusters, since one camera's requests are alike.

Pure: arrays in, numbers out, the same ones every time. Whoever treats a camera's thousand requests as a thousand
independent ones gets intervals that are far too narrow; here whole clusters are drawn with replacement, and a request
without a key is a cluster of its own. Sources: Davison and Hinkley, Bootstrap Methods and their Application (1997),
3.8, for clusters; Hesterberg, What Teachers Should Know About the Bootstrap (2015), for the expanded percentile
interval, which keeps its coverage where clusters are few. Knows nothing of logs and words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: With fewer clusters in a variant no interval is given.
MIN_CLUSTERS: Final = 5
#: With fewer, it is rough.
FEW_CLUSTERS: Final = 30
#: Values beyond a quantile that are needed to say anything of it.
_MIN_BEYOND: Final = 10
REPLICATES: Final = 1000
LEVEL: Final = 0.95
#: How probable it shall be that a difference of the size called detectable is seen.
POWER: Final = 0.8
#: Clusters that are drawn in one call: few calls, and little memory.
_AT_ONCE: Final = 2**18
_SEED: Final = 20261127
_NORMAL: Final = NormalDist()

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """What one variant was measured to do.

    Attributes:
        values: [n], n >= 1.
        clusters: [n], of each value the number of its cluster, 0 to their count - 1, none left out.
    """

    values: Floats
    clusters: NDArray[np.intp]

    @property
    def sizes(self) -> Floats:
        """Values of each cluster."""
        return np.bincount(self.clusters).astype(np.float64)

    @property
    def effective_clusters(self) -> float:
        """As how many clusters of equal size these count (Kish 1965: the squared sum over the sum of squares)."""
        sizes = self.sizes
        return float(sizes.sum() ** 2 / (sizes**2).sum())


@dataclass(frozen=True)
class Estimate:
    """A number with its interval of ``LEVEL``; without one (None) where there is too little to give it."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """Candidate less stable.

    Attributes:
        detectable: the size of a difference that would have been seen with a probability of ``POWER``.
    """

    value: float
    low: float | None = None
    high: float | None = None
    detectable: float | None = None

    @property
    def is_seen(self) -> bool:
        """Whether its interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Compared:
    """One statistic of both variants, and their difference."""

    stable: Estimate
    candidate: Estimate
    difference: Difference


def compare_means(stable: Sample, candidate: Sample, replicates: int = REPLICATES) -> Compared:
    """Compare the means."""
    generator = np.random.default_rng(_SEED)
    draws = [_draw_means(sample, generator, replicates) for sample in (stable, candidate)]
    return _compare((stable, candidate), [float(s.values.mean()) for s in (stable, candidate)], draws, True)


def compare_quantiles(
    stable: Sample, candidate: Sample, quantiles: Sequence[float], replicates: int = REPLICATES
) -> list[Compared]:
    """Compare quantiles, each in (0, 1): the least value with at least that share of all at or below it."""
    generator = np.random.default_rng(_SEED)
    samples = stable, candidate
    found = [_draw_quantiles(sample, quantiles, generator, replicates) for sample in samples]
    return [
        _compare(
            samples,
            [float(values[i]) for values, _ in found],
            [draws[i] for _, draws in found],
            all(len(s.values) * min(q, 1 - q) >= _MIN_BEYOND for s in samples),
        )
        for i, q in enumerate(quantiles)
    ]


def split_p_value(candidates: int, total: int, share: float) -> float | None:
    """How probable a split as far from the configured one is by chance: Pearson's chi-square with 1 degree of freedom.

    Args:
        candidates: keys (or requests without one) that the candidate had.
        total: of both.
        share: the candidate's configured share.

    Returns:
        The probability; None where fewer than 5 are expected on a side, too few for the approximation.
    """
    expected = total * share
    if min(expected, total - expected) < 5:
        return None
    chi_square = (candidates - expected) ** 2 / expected + (candidates - expected) ** 2 / (total - expected)
    return math.erfc(math.sqrt(chi_square / 2))


def t_quantile(p: float, degrees: float) -> float:
    """Student's t: Abramowitz and Stegun 26.7.5, within 0.3 % at 97.5 % from 4 degrees of freedom on."""
    z, v = _NORMAL.inv_cdf(p), degrees
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _draw_means(sample: Sample, generator: np.random.Generator, replicates: int) -> Floats:
    """Means of samples made of clusters drawn with replacement: [replicates]."""
    sizes = sample.sizes
    sums = np.bincount(sample.clusters, weights=sample.values)
    count = len(sizes)
    draws = np.empty(replicates)
    step = max(1, _AT_ONCE // count)
    for i in range(0, replicates, step):
        drawn = generator.integers(0, count, (min(step, replicates - i), count))
        draws[i : i + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return draws


def _draw_quantiles(
    sample: Sample, quantiles: Sequence[float], generator: np.random.Generator, replicates: int
) -> tuple[Floats, Floats]:
    """The quantiles [q], and those of samples made of clusters drawn with replacement [q, replicates]."""
    order = np.argsort(sample.values, kind="stable")
    values, clusters = sample.values[order], sample.clusters[order]
    count = len(sample.sizes)
    wanted = np.array(quantiles)

    def of(weights: NDArray[np.intp]) -> Floats:
        below = np.cumsum(weights[clusters])
        # Less a little, for q times the total may come out just above a whole number.
        at = np.searchsorted(below, wanted * below[-1] * (1 - 1e-12), side="left")
        chosen: Floats = values[at]
        return chosen

    draws = np.empty((len(quantiles), replicates))
    for i in range(replicates):
        draws[:, i] = of(np.bincount(generator.integers(0, count, count), minlength=count))
    return of(np.ones(count, np.intp)), draws


def _compare(
    samples: tuple[Sample, Sample], values: Sequence[float], draws: Sequence[Floats], is_enough: bool
) -> Compared:
    clusters = [sample.effective_clusters for sample in samples]
    change = values[1] - values[0]
    stable, candidate = (Estimate(value) for value in values)
    if not is_enough or min(len(sample.sizes) for sample in samples) < MIN_CLUSTERS:
        return Compared(stable, candidate, Difference(change))
    spread = [float(drawn.var()) for drawn in draws]
    # What is all alike says nothing of what else there may be.
    stable, candidate = (
        Estimate(value, *(_interval(drawn, n - 1) if v else ()))
        for value, drawn, n, v in zip(values, draws, clusters, spread, strict=True)
    )
    # Welch and Satterthwaite's: as many as make one variance of the two.
    above, below = sum(spread) ** 2, sum(v**2 / max(n - 1, 1) for v, n in zip(spread, clusters, strict=True))
    if not below or not math.isfinite(above):  # all alike, or so small or large that its square is no number
        return Compared(stable, candidate, Difference(change))
    degrees = above / below
    low, high = _interval(draws[1] - draws[0], degrees)
    deviation = math.sqrt(sum(spread) * (degrees + 1) / degrees)
    detectable = (t_quantile((1 + LEVEL) / 2, max(degrees, 3)) + _NORMAL.inv_cdf(POWER)) * deviation
    return Compared(stable, candidate, Difference(change, low, high, detectable))


def _interval(draws: Floats, degrees: float) -> tuple[float, float]:
    """The expanded percentile interval: percentiles further out, as Student's t is wider than the normal."""
    degrees = max(degrees, 3.0)
    tail = _NORMAL.cdf(-t_quantile((1 + LEVEL) / 2, degrees) * math.sqrt((degrees + 1) / degrees))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
