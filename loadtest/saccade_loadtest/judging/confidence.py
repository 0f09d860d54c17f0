"""How much a sample shows: intervals for percentiles and shares, and how many requests a claim needs.

All of it follows from the binomial distribution and supposes nothing of the latencies' shape: of n requests, the
number that are not above the true p-th percentile is Binomial(n, p). So order statistics bound the percentile
(Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2; the minimum sample is Wilks 1941), and Clopper
and Pearson (1934) bound a share. Requests of one moment share their fate, which ``dispersion`` measures: the sample
counts for that much less. Pure; ``alpha`` is everywhere the chance that *one* bound is wrong, so that an interval of
two holds with 1 - 2 alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

#: Blocks of time whose numbers of slow requests are compared.
_BLOCKS: Final = 30
#: Beyond so many requests no test is planned: it is a day at more than 10,000 requests a second.
MOST_REQUESTS: Final = 1_000_000_000


def binomial_cdf(successes: int, trials: int, share: float) -> float:
    """The chance of at most so many successes; exact to about 1e-9.

    Args:
        successes: may be under 0 or over ``trials``.
        trials: 0 or more.
        share: chance of one success, 0 to 1.
    """
    if successes < 0:
        return 0.0
    if successes >= trials or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    if successes > trials * share:
        return 1.0 - _tail(trials - successes - 1, trials, 1 - share)
    return _tail(successes, trials, share)


def _tail(successes: int, trials: int, share: float) -> float:
    """Sum of the chances from ``successes`` down, for ``successes`` at most the mean or just above it."""
    log_first = (
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(share)
        + (trials - successes) * math.log1p(-share)
    )
    odds = (1 - share) / share
    term = total = 1.0
    for down in range(successes, 0, -1):
        term *= down / (trials - down + 1) * odds
        total += term
        if term < total * 1e-12:
            break
    return min(1.0, math.exp(log_first + math.log(total)))


def minimum_sample(percent: float, alpha: float) -> int:
    """The fewest requests from which "the percentile is at most x" can be concluded at all: 459 for p99 at 1 %.

    With fewer, even the largest value of the sample may lie below the true percentile with a chance over ``alpha``.
    """
    return math.ceil(math.log(alpha) / math.log(percent / 100))


def most_over(requests: int, allowed_share: float, alpha: float) -> int:
    """The most slow (or failed) requests with which a pass is certain enough; -1: none is, the sample is too small."""
    if binomial_cdf(0, requests, allowed_share) > alpha:
        return -1
    low, high = 0, max(1, math.ceil(requests * allowed_share))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_cdf(middle, requests, allowed_share) <= alpha else (low, middle)
    return low


def fewest_over(requests: int, allowed_share: float, alpha: float) -> int:
    """The fewest slow (or failed) requests with which a fail is certain enough; ``requests + 1``: none."""
    low, high = math.floor(requests * allowed_share), requests + 1
    while high - low > 1:
        middle = (low + high) // 2
        certain = 1 - binomial_cdf(middle - 1, requests, allowed_share) <= alpha
        low, high = (low, middle) if certain else (middle, high)
    return high


def percentile_ranks(requests: int, percent: float, alpha: float, dispersion: float = 1.0) -> tuple[int, int]:
    """Ranks (1 is the smallest value) of the order statistics that bound the true percentile, each but for ``alpha``.

    Args:
        requests: size of the sample, at least 1.
        percent: over 0, under 100.
        alpha: chance that one bound is wrong.
        dispersion: as ``dispersion`` gives; the ranks are those of a sample so many times smaller.

    Returns:
        Lower rank, 0 if even the smallest value is no bound; upper rank, ``requests + 1`` if the largest is none.
    """
    counting = max(1, int(requests / dispersion))
    over = 1 - percent / 100
    # The true percentile is at most the u-th value unless so few are above it: n - u may be most_over.
    may_be_over = most_over(counting, over, alpha)
    upper = requests + 1 if may_be_over < 0 else requests - int(may_be_over * requests / counting)
    must_be_over = fewest_over(counting, over, alpha)
    lower = 0 if must_be_over > counting else requests - math.ceil(must_be_over * requests / counting) + 1
    return max(lower, 0), upper


def share_bounds(count: float, requests: float, alpha: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of the true share of which ``count`` of ``requests`` were seen, each but for alpha.

    Args:
        count: 0 to ``requests``; a fraction where a sample counts for less than its size, and then rounded outwards.
        requests: over 0.
        alpha: chance that one bound is wrong.
    """
    trials = max(1, int(requests))
    few, many = min(math.floor(count), trials), min(math.ceil(count), trials)
    lower = 0.0 if few == 0 else _solve(lambda share: 1 - binomial_cdf(few - 1, trials, share) < alpha)
    upper = 1.0 if many == trials else _solve(lambda share: binomial_cdf(many, trials, share) > alpha)
    return lower, upper


def _solve(below: Callable[[float], bool]) -> float:
    """The share at which ``below`` turns from true to false."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def sample_to_decide(
    allowed_share: float, true_share: float, alpha: float, power: float = 0.9, dispersion: float = 1.0
) -> int | None:
    """How many requests it takes to tell a true share from the allowed one, on either side of it.

    Args:
        allowed_share: of slow or failed requests: 0.01 for a p99.
        true_share: supposed.
        alpha: chance of a wrong verdict if the true share were exactly the allowed one.
        power: chance of a verdict.
        dispersion: as ``dispersion`` gives.

    Returns:
        None if no run that can be done would tell the two apart.
    """

    def decided(requests: int) -> bool:
        if true_share < allowed_share:
            return binomial_cdf(most_over(requests, allowed_share, alpha), requests, true_share) >= power
        return 1 - binomial_cdf(fewest_over(requests, allowed_share, alpha) - 1, requests, true_share) >= power

    if true_share == allowed_share:
        return None
    enough = 16
    while not decided(enough):
        enough *= 2
        if enough * dispersion > MOST_REQUESTS:
            return None
    low = enough // 2
    while enough - low > max(1, low // 1000):
        middle = (low + enough) // 2
        low, enough = (low, middle) if decided(middle) else (middle, enough)
    return math.ceil(enough * dispersion)


def dispersion(over: Sequence[int], requests: Sequence[int]) -> float:
    """How much more the number of slow requests varies over time than chance would have it; 1 if it does not.

    Requests are gathered in about thirty blocks of time. Pearson's chi-squared over its degrees of freedom is the
    factor by which the variance of the whole count exceeds the binomial's (McCullagh and Nelder, Generalized Linear
    Models, section 4.5), and is used where it is over what chance exceeds in one of twenty cases.

    Args:
        over: slow requests by second, in order of time.
        requests: all requests by second.
    """
    size = max(1, math.ceil(len(requests) / _BLOCKS))
    blocks = [
        (sum(over[at : at + size]), sum(requests[at : at + size]))
        for at in range(0, len(requests), size)
        if sum(requests[at : at + size])
    ]
    total, slow = sum(n for _, n in blocks), sum(k for k, _ in blocks)
    if len(blocks) < 2 or slow in (0, total):
        return 1.0
    share = slow / total
    squares = sum((k - n * share) ** 2 / (n * share * (1 - share)) for k, n in blocks)
    freedom = len(blocks) - 1
    # Wilson and Hilferty's approximation of the chi-squared distribution's 95th percentile.
    usual = freedom * (1 - 2 / (9 * freedom) + 1.6449 * math.sqrt(2 / (9 * freedom))) ** 3
    return squares / freedom if squares > usual else 1.0
