"""Plots as SVG text: scales, axes, lines, bands. Knows nothing of load tests.

Colours come from the page's style sheet by class, so that a plot is readable on light and dark pages. Every plot has a
title and a description that screen readers tell; every label is escaped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

WIDTH: Final = 920.0
LEFT: Final = 64.0
RIGHT: Final = 30.0
TOP: Final = 26.0
BOTTOM: Final = 42.0
_BOTTOM_UNNAMED: Final = 26.0

Point = tuple[float, float]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to 0..1 along an axis.

    Attributes:
        low: value at 0.
        high: value at 1.
        ticks: values that are labelled, with their labels.
        warp: monotonic function in which the axis is even: identity, logarithm, ...
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    warp: Callable[[float], float] = float

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1; what is beyond an end is at the end."""
        value = min(max(value, self.low), self.high)
        begin, end = self.warp(self.low), self.warp(self.high)
        return (self.warp(value) - begin) / (end - begin)


def linear(low: float, high: float, label: Callable[[float], str], wanted: int = 6) -> Scale:
    """An even scale that ends at a round value, if it begins at 0."""
    if not high > low:
        high = low + 1
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Scale(low, high, tuple((at * step, label(at * step)) for at in range(first, last + 1)))


def up_to(high: float, label: Callable[[float], str], wanted: int = 5) -> Scale:
    """An even scale from 0 to a round value that is at least ``high``."""
    if not high > 0:
        high = 1.0
    rough = high / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return linear(0.0, step * math.ceil(high / step - 1e-9), label, wanted)


def logarithmic(low: float, high: float, label: Callable[[float], str]) -> Scale:
    """A scale of equal ratios from 1, 2 or 5 times a power of ten to another, around ``low`` and ``high`` (over 0)."""
    steps = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    begin = max(step for step in steps if step <= low * (1 + 1e-9))
    end = min((step for step in steps if step >= high * (1 - 1e-9) and step > begin), default=high * 2)
    inside = [step for step in steps if begin <= step <= end * (1 + 1e-9)]
    # Of many decades, only the powers of ten are labelled.
    shown = [step for step in inside if len(inside) <= 10 or abs(math.log10(step) % 1) < 1e-6]
    return Scale(begin, end, tuple((step, label(step)) for step in shown), math.log10)


def tail(last: float) -> Scale:
    """A scale for shares below 1 on which each further nine takes the same room: 0, 50 %, 90 %, 99 %, 99.9 %, ...

    Args:
        last: largest share shown, under 1.
    """
    nines = max(2, math.ceil(-math.log10(1 - last) - 1e-9))
    ticks = [(0.0, "0"), (0.5, "p50"), (0.75, "p75"), (0.9, "p90"), (0.95, "p95")]
    ticks += [(1 - 10.0**-count, f"p{100 - 10.0 ** (2 - count):g}") for count in range(2, nines + 1)]
    high = max(last, 1 - 10.0**-2)
    return Scale(0.0, high, tuple(tick for tick in ticks if tick[0] <= high), lambda share: -math.log10(1 - share))


@dataclass
class Plot:
    """One plot in the making.

    Attributes:
        title: what it shows; visible above it.
        description: what a reader who cannot see it should know.
        height: in the units of the view, of which the width has 920.
    """

    title: str
    description: str
    x: Scale
    y: Scale
    height: float = 300.0
    x_label: str = ""
    y_label: str = ""
    _parts: list[str] = field(default_factory=list)

    @property
    def bottom(self) -> float:
        """Where the x axis is, counted down from the top of the view."""
        return self.height - (BOTTOM if self.x_label else _BOTTOM_UNNAMED)

    def px(self, value: float) -> float:
        """Across."""
        return LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)

    def py(self, value: float) -> float:
        """Down."""
        return TOP + (1 - self.y.place(value)) * (self.bottom - TOP)

    def band(self, begin: float, end: float, label: str, style: str) -> None:
        """Shade a stretch of the x axis, with a label at its top."""
        left, right = self.px(begin), self.px(end)
        self._parts.append(
            f'<rect class="{style}" x="{left:.1f}" y="{TOP:.1f}" width="{max(0.0, right - left):.1f}" '
            f'height="{self.bottom - TOP:.1f}"><title>{escape(label)}</title></rect>'
        )
        # About 6.5 units a letter: what has no room is told by the title alone.
        if label and right - left > 6.5 * len(label) + 8:
            self._parts.append(f'<text class="phase" x="{left + 4:.1f}" y="{TOP + 12:.1f}">{escape(label)}</text>')

    def line(self, points: Sequence[Point], style: str, label: str) -> None:
        """Join points; one that is not finite leaves a gap."""
        pieces: list[list[str]] = [[]]
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                pieces[-1].append(f"{self.px(x):.1f},{self.py(y):.1f}")
            elif pieces[-1]:
                pieces.append([])
        for piece in pieces:
            # A lone point is drawn as a dot: a line of no length with round ends.
            joined = " ".join(piece if len(piece) != 1 else piece * 2)
            if joined:
                self._parts.append(
                    f'<polyline class="line {style}" points="{joined}"><title>{escape(label)}</title></polyline>'
                )

    def dots(self, points: Sequence[Point], style: str, labels: Sequence[str]) -> None:
        """Mark points, each with what is told on pointing at it."""
        for (x, y), label in zip(points, labels, strict=True):
            self._parts.append(
                f'<circle class="{style}" cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="3.5">'
                f"<title>{escape(label)}</title></circle>"
            )

    def level(self, value: float, label: str, style: str = "limit") -> None:
        """A line across at a value, labelled at its right end; nothing if the value is out of the plot."""
        if not self.y.low <= value <= self.y.high:
            return
        at = self.py(value)
        self._parts.append(
            f'<line class="{style}" x1="{LEFT:.1f}" x2="{WIDTH - RIGHT:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="{style}-text" text-anchor="end" x="{WIDTH - RIGHT - 4:.1f}" '
            f'y="{at - 5 if at > TOP + 16 else at + 14:.1f}">{escape(label)}</text>'
        )

    def upright(self, value: float, label: str, style: str = "limit") -> None:
        """A line down at a value of the x axis, labelled at its top."""
        if not self.x.low <= value <= self.x.high:
            return
        at = self.px(value)
        anchor, text_at = ("end", at - 5) if at > WIDTH - 160 else ("start", at + 5)
        self._parts.append(
            f'<line class="{style}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP:.1f}" y2="{self.bottom:.1f}"/>'
            f'<text class="{style}-text" text-anchor="{anchor}" x="{text_at:.1f}" '
            f'y="{TOP + 12:.1f}">{escape(label)}</text>'
        )

    def bar(self, y: float, thickness: float, begin: float, end: float, style: str, label: str) -> None:
        """A bar along x, whose middle is at ``y`` (of the view, not of the scale)."""
        left, right = self.px(begin), self.px(end)
        self._parts.append(
            f'<rect class="{style}" x="{left:.1f}" y="{y - thickness / 2:.1f}" width="{max(1.0, right - left):.1f}" '
            f'height="{thickness:.1f}" rx="2"><title>{escape(label)}</title></rect>'
        )

    def text(self, x: float, y: float, words: str, style: str = "tick", anchor: str = "start") -> None:
        """Words at a place of the view."""
        self._parts.append(
            f'<text class="{style}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
        )

    def render(self, *, grid: bool = True) -> str:
        """The whole as an ``svg`` element."""
        number = next(_numbers)
        bottom = self.bottom
        head = (
            f'<svg viewBox="0 0 {WIDTH:.0f} {self.height:.0f}" role="img" '
            f'aria-labelledby="plot{number}-title plot{number}-text">'
            f'<title id="plot{number}-title">{escape(self.title)}</title>'
            f'<desc id="plot{number}-text">{escape(self.description)}</desc>'
        )
        axes: list[str] = []
        for value, label in self.x.ticks:
            at = self.px(value)
            axes.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP:.1f}" y2="{bottom:.1f}"/>')
            axes.append(
                f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{bottom + 16:.1f}">{escape(label)}</text>'
            )
        for value, label in self.y.ticks if grid else ():
            at = self.py(value)
            axes.append(f'<line class="grid" x1="{LEFT:.1f}" x2="{WIDTH - RIGHT:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
            axes.append(
                f'<text class="tick" text-anchor="end" x="{LEFT - 8:.1f}" y="{at + 4:.1f}">{escape(label)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        axes.append(
            f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{self.height - 6:.1f}">'
            f"{escape(self.x_label)}</text>"
            f'<text class="axis" x="6" y="14">{escape(self.y_label)}</text>'
        )
        return head + "".join(axes) + "".join(self._parts) + "</svg>"
