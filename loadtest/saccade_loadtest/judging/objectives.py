"""Judges a run by each objective of an SLO: pass, fail, or invalid where the run cannot tell.

A percentile is a claim about the service, of which the run is a sample: it passes if its upper confidence bound is
within the limit, fails if its lower bound is over it, and is invalid in between, with the number of requests that
would decide. Shares (errors, goodput, ...) are judged as counted, unless the SLO asks for proof. Pure; knows nothing
of whether the generator did its work, which is ``verdict``'s to say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from saccade_loadtest.judging import confidence
from saccade_loadtest.judging.evidence import Bounds, Evidence
from saccade_loadtest.judging.finding import Finding, Outcome, figure, percent, percentile_name, seconds
from saccade_loadtest.judging.server_objectives import judge_growth, judge_stage
from saccade_loadtest.judging.slo import LatencyLimit, ShareLimit, Slo
from saccade_loadtest.record.results import Run

#: Cache outcomes for which no inference was made for the answer itself.
HITS = ("exact", "near", "coalesced")
#: A percentile passes on so many seconds with traffic at least: one good second is no sample of a service's time.
LEAST_SECONDS: Final = 10.0


#: What a run shows, by protocol; None for all together.
Evidences: TypeAlias = Callable[[str | None], Evidence]


def evidences(run: Run) -> Evidences:
    """Gathers what a run shows of a protocol once, however many objectives ask for it."""
    if len(run.series) == 1:
        whole = Evidence(run)
        return lambda _protocol: whole
    return functools.cache(functools.partial(Evidence, run))


def judge(run: Run, slo: Slo, of: Evidences) -> list[Finding]:
    """A finding for each objective, in the order of the SLO file's documentation."""
    findings: list[Finding] = []
    for limit in slo.latency:
        if limit.stage:
            findings.append(judge_stage(run.server, limit, slo.alpha))
        else:
            findings.extend(_latency(run, limit, slo.alpha, of))
    findings.extend(_shares(of(None), slo))
    findings.extend(_answers(run, slo, of(None)))
    if slo.growth is not None:
        findings.extend(judge_growth(run, slo.growth))
    return findings


def _latency(run: Run, limit: LatencyLimit, alpha: float, of: Callable[[str | None], Evidence]) -> Iterator[Finding]:
    protocols: list[str | None] = [None] if limit.protocol == "all" else [limit.protocol]
    if limit.protocol == "each":
        protocols = list(run.series) or [None]
    for protocol in protocols:
        where = "" if protocol is None else f" ({protocol})"
        name = f"{percentile_name(limit.percentile)} latency{where}"
        if limit.failures == "excluded":
            name += ", answered"
        if protocol is not None and protocol not in run.series:
            has = ", ".join(run.series) or "none"
            reason = f"the run sent nothing by {protocol}; protocols in it: {has}"
            yield Finding(name, "invalid", float("nan"), limit.limit_ms, True, "ms", reason=reason)
            continue
        yield _percentile(of(protocol), name, limit, alpha)


def _percentile(evidence: Evidence, name: str, limit: LatencyLimit, alpha: float) -> Finding:
    limit_us = limit.limit_ms * 1e3
    failures = limit.failures == "worst"
    found = evidence.percentile(limit.percentile, alpha, failures=failures, dispersed_at_us=limit_us)

    def finding(outcome: Outcome, reason: str) -> Finding:
        return Finding(
            objective=name,
            outcome=outcome,
            measured=found.value_us / 1e3,
            limit=limit.limit_ms,
            at_most=True,
            unit="ms",
            low=found.low_us / 1e3,
            high=found.high_us / 1e3,
            requests=found.requests,
            reason=reason,
        )

    if found.requests == 0:
        return finding("invalid", "no request that counts was due after the warm-up")
    if found.low_us > limit_us:
        return finding("fail", _why_slow(evidence, limit, found))
    least = confidence.minimum_sample(limit.percentile, alpha)
    if found.counting < least:
        return finding("invalid", _too_few(evidence, limit, found, least, alpha))
    if evidence.busy_s < LEAST_SECONDS:
        return finding(
            "invalid",
            f"too short: there was traffic in {seconds(evidence.busy_s)}, and a percentile is claimed of at least "
            f"{seconds(LEAST_SECONDS)}; measure for so long after the warm-up",
        )
    if found.high_us <= limit_us:
        return finding("pass", "")
    return finding("invalid", _undecided(evidence, limit, found, alpha))


def _why_slow(evidence: Evidence, limit: LatencyLimit, found: Bounds) -> str:
    name = percentile_name(limit.percentile)
    sentence = f"the {name} is over {limit.limit_ms:g} ms: at least {figure(found.low_us / 1e3, 'ms')}"
    allowed = 1 - limit.percentile / 100
    if limit.failures == "worst" and evidence.without_answer > allowed * evidence.total.due:
        share = percent(evidence.without_answer / evidence.total.due)
        sentence = (
            f"{share} of the requests have no right answer, and a {name} allows {percent(allowed)}: "
            f"a failed request counts as slower than any"
        )
    return sentence


def _too_few(evidence: Evidence, limit: LatencyLimit, found: Bounds, least: int, alpha: float) -> str:
    needed = least * found.requests / found.counting
    counted = (
        "" if found.counting == found.requests else f", which count as {found.counting} as slow ones come together"
    )
    return (
        f"too few requests: {found.requests:,} measured{counted}, and to say anything of a "
        f"{percentile_name(limit.percentile)} with {percent(1 - alpha)} confidence takes at least {least:,}; "
        + _run_instead(evidence, needed)
    )


def _undecided(evidence: Evidence, limit: LatencyLimit, found: Bounds, alpha: float) -> str:
    failures = limit.failures == "worst"
    slow, requests = evidence.slow_by_second(limit.limit_ms * 1e3, failures=failures)
    allowed = 1 - limit.percentile / 100
    share = sum(slow) / sum(requests)
    dispersion = found.requests / found.counting if share < allowed else 1.0
    needed = confidence.sample_to_decide(allowed, share, alpha, dispersion=dispersion)
    how_long = (
        "no run that can be done would decide"
        if needed is None
        else f"if it goes on like this about {needed:,} requests decide: {_run_instead(evidence, needed)}"
    )
    return (
        f"too few requests to tell: {sum(slow):,} of {sum(requests):,} took over {limit.limit_ms:g} ms, so the "
        f"{percentile_name(limit.percentile)} may be {figure(found.low_us / 1e3, 'ms')} or "
        f"{figure(found.high_us / 1e3, 'ms')}; {how_long}"
    )


def _run_instead(evidence: Evidence, requests: float) -> str:
    rate = evidence.due_per_s
    return (
        f"at {figure(rate, '/s')} measure for {seconds(requests / rate)} after the warm-up "
        f"instead of {seconds(evidence.measured_s)}"
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """Good ones among all, and by second if that is known."""

    name: str
    good: int
    of: int
    noun: str
    bad_by_second: tuple[list[int], list[int]] | None = None


def _shares(evidence: Evidence, slo: Slo) -> Iterator[Finding]:
    total = evidence.total
    if slo.errors is not None:
        by_second = evidence.slow_by_second(float("inf"))
        counted = _Counted("errors", total.answered, total.due, "requests", by_second)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in total.errors.most_common(4))
        yield _share(evidence, counted, slo.errors, slo.alpha, at_most=True, more=kinds)
    if slo.availability is not None:
        tallies = evidence.seconds
        fails_over = slo.availability.second_fails_over
        up = sum((tally.due - tally.answered) / tally.due <= fails_over for tally in tallies)
        counted = _Counted("availability", up, len(tallies), "seconds")
        yield _share(evidence, counted, slo.availability.at_least, slo.alpha)
    if slo.goodput is not None:
        limit_us = slo.goodput.within_ms * 1e3
        good = total.latency.count_within_us(limit_us)
        name = f"goodput within {slo.goodput.within_ms:g} ms"
        if slo.goodput.at_least is not None:
            by_second = evidence.slow_by_second(limit_us)
            counted = _Counted(name, good, total.due, "requests", by_second)
            yield _share(evidence, counted, slo.goodput.at_least, slo.alpha)
        if slo.goodput.at_least_per_s is not None:
            rate, least = good / evidence.measured_s, slo.goodput.at_least_per_s
            reason = (
                "" if rate >= least else f"{figure(rate, '/s')} were answered rightly in time, {least:g}/s are needed"
            )
            yield Finding(
                name, "pass" if rate >= least else "fail", rate, least, False, "/s", requests=total.due, reason=reason
            )


def _answers(run: Run, slo: Slo, evidence: Evidence) -> Iterator[Finding]:
    if slo.cache_hits is not None:
        named = sum(series.cache.total() for series in run.series.values())
        hits = sum(series.cache[outcome] for series in run.series.values() for outcome in HITS)
        counted = _Counted("cache hits", hits, named, "answers that named an outcome")
        yield _share(evidence, counted, slo.cache_hits, slo.alpha)
    if slo.agreement is not None:
        checked = sum(series.agreement_checked for series in run.series.values())
        agreed = sum(series.agreed for series in run.series.values())
        counted = _Counted("agreement", agreed, checked, "answers compared with a known one")
        yield _share(evidence, counted, slo.agreement, slo.alpha)


def _share(
    evidence: Evidence, counted: _Counted, limit: ShareLimit, alpha: float, *, at_most: bool = False, more: str = ""
) -> Finding:
    """Judge a share of good ones (``at_most``: of bad ones)."""
    bad = counted.of - counted.good
    allowed = limit.limit if at_most else 1 - limit.limit
    if counted.of == 0:
        reason = f"there were no {counted.noun} after the warm-up"
        return Finding(counted.name, "invalid", float("nan"), limit.limit, at_most, "share", reason=reason)
    dispersion = 1.0 if counted.bad_by_second is None else confidence.dispersion(*counted.bad_by_second)
    low, _ = confidence.share_bounds(bad, counted.of, alpha)
    _, high = confidence.share_bounds(bad / dispersion, counted.of / dispersion, alpha)
    what = f"{bad if at_most else counted.good:,} of {counted.of:,} {counted.noun}" + (f" ({more})" if more else "")
    if limit.prove:
        outcome, reason = _proved(evidence, counted, allowed, (low, high), dispersion, alpha)
    else:
        # In whole numbers: 1 - 0.98 is not quite 0.02.
        kept = bad <= allowed * counted.of + 1e-9 * counted.of
        outcome, reason = (
            ("pass", "") if kept else ("fail", f"{percent(bad / counted.of)} are bad, {percent(allowed)} may be")
        )
        if kept and high > allowed:
            reason = f"as counted; so few show only that it is {_at_worst(high, at_most)}"
    measured = bad / counted.of
    return Finding(
        objective=counted.name,
        outcome=outcome,
        measured=measured if at_most else 1 - measured,
        limit=limit.limit,
        at_most=at_most,
        unit="share",
        low=low if at_most else 1 - high,
        high=high if at_most else 1 - low,
        requests=counted.of,
        reason=f"{what}: {reason}" if reason else "",
    )


def _at_worst(high: float, at_most: bool) -> str:
    return f"at most {percent(high)}" if at_most else f"at least {percent(1 - high)}"


def _proved(
    evidence: Evidence,
    counted: _Counted,
    allowed: float,
    bounds: tuple[float, float],
    dispersion: float,
    alpha: float,
) -> tuple[Outcome, str]:
    low, high = bounds
    bad_share = (counted.of - counted.good) / counted.of
    if low > allowed:
        return "fail", f"certainly more than {percent(allowed)} are bad"
    if high <= allowed:
        return "pass", ""
    if allowed == 0:
        return "invalid", "no sample proves that nothing ever fails; ask for a share over 0, or leave out prove"
    needed = confidence.sample_to_decide(
        allowed, bad_share, alpha, dispersion=dispersion if bad_share < allowed else 1.0
    )
    if needed is None:
        return "invalid", f"too close to {percent(allowed)} for any run to tell"
    return "invalid", f"too few {counted.noun} to prove it; {_run_instead(evidence, needed)}"
