"""What is said of one objective or one check, and how figures are put into words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["pass", "fail", "invalid"]
Unit: TypeAlias = Literal["ms", "share", "/s", "MiB/h", "/h"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One objective, judged.

    Attributes:
        objective: as "p99 (jpeg)".
        outcome: "invalid" where the run cannot tell.
        measured: in ``unit``; NaN if there is nothing, infinity if more requests failed than the percentile allows.
        limit: in ``unit``.
        at_most: whether the limit is the largest allowed value, or the least.
        unit: of the figures.
        low: lower confidence bound; None: no interval is computed.
        high: upper confidence bound.
        requests: (or seconds) that the figure stands on.
        reason: a sentence; of a pass, a remark, or empty.
    """

    objective: str
    outcome: Outcome
    measured: float
    limit: float
    at_most: bool
    unit: Unit
    low: float | None = None
    high: float | None = None
    requests: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One condition on the generator without which the run means nothing.

    Attributes:
        name: as "schedule error".
        kept: whether it was.
        sentence: what was found, and what is expected.
    """

    name: str
    kept: bool
    sentence: str


def figure(value: float, unit: Unit) -> str:
    """A value with its unit, in three digits or so; "beyond any limit" where failures take up the percentile."""
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "unbounded"
    if unit == "share":
        return percent(value)
    return f"{digits(value)}{unit}" if unit == "/s" else f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """Three significant digits, more only before the point: 0.123, 12.3, 1,234."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, min(6, 2 - size))}f}"


def percent(share: float) -> str:
    """A share as percent, with as many nines as it has: 99.99 %, 0.012 %."""
    rest = min(share, 1 - share) if 0 < share < 1 else 0.0
    places = 0 if rest == 0 else max(0, 1 - math.floor(math.log10(rest * 100)))
    digits_shown = f"{share * 100:.{min(places, 6)}f}"
    return f"{digits_shown.rstrip('0').rstrip('.') if '.' in digits_shown else digits_shown} %"


def seconds(value: float) -> str:
    """A duration in the unit that a person would use."""
    if value < 120:
        return f"{math.ceil(value)} s"
    if value < 7200:
        return f"{math.ceil(value / 60)} min"
    return f"{value / 3600:.1f} h" if value < 172_800 else f"{value / 86_400:.1f} days"


def percentile_name(value: float) -> str:
    """P99 as "p99", p99.9 as "p99.9"."""
    return f"p{value:g}"
