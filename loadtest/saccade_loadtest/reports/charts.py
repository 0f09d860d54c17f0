"""The figures of a report, as SVG: latency by percentile, the run over time, stages, the servers' readings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from saccade_loadtest.judging.finding import digits, percent
from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.results import Run, Tally
from saccade_loadtest.record.server_metrics import ServerRecord, StageTimes
from saccade_loadtest.reports import svg

#: Styles of lines, told apart by colour and by dashes; a sixth line looks like the first.
STYLES: Final = ("s0", "s1", "s2", "s3", "s4")
STAGE_LEGEND: Final = (
    '<ul class="legend"><li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
    '<rect class="stage-mean" x="12" y="0" width="3" height="10"/></svg>mean</li>'
    '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
    '<rect class="stage-bar" x="2" y="2" width="24" height="6"/></svg>bucket that holds the p99</li></ul>'
)
_MOST_POINTS: Final = 150
_CURVE_POINTS: Final = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """Latencies to draw.

    Attributes:
        label: for the legend.
        latency: of the right answers.
        size: requests that the curve stands for; those over the histogram's count had no right answer.
        style: one of ``STYLES``, and "thin" where it is for comparison only.
    """

    label: str
    latency: Histogram
    size: int
    style: str


def milliseconds(value: float) -> str:
    """A latency with its unit, short enough for an axis."""
    if value >= 1000:
        return f"{value / 1000:g} s"
    return f"{value:g} ms" if value >= 0.01 else f"{value * 1000:g} us"


def percentile_plot(title: str, curves: Sequence[Curve], limits: Sequence[tuple[float, float]]) -> str:
    """Latency over percentile, on an axis where each further nine takes the same room.

    Args:
        title: of the figure.
        curves: at least one that is not empty.
        limits: percentile (0 to 100) and milliseconds of objectives, marked.
    """
    drawn = [curve for curve in curves if curve.latency.count]
    steps = {curve.label: curve.latency.steps() for curve in drawn}
    fastest = min(found[0][0] for found in steps.values()) / 1e3
    slowest = max(found[-1][0] for found in steps.values()) / 1e3
    values = [fastest, slowest, *(limit for _, limit in limits)]
    size = max(curve.size for curve in drawn)
    plot = svg.Plot(
        title,
        _told(drawn),
        svg.tail(1 - 0.5 / size),
        svg.logarithmic(max(min(values), 0.001), max(values), milliseconds),
        height=360,
        x_label="percentile of the requests that were due",
        y_label="latency",
    )
    failed = max(1 - curve.latency.count / curve.size for curve in drawn)
    if failed > 0:
        plot.band(1 - failed, plot.x.high, f"no right answer: {percent(failed)}", "lost")
    for curve in drawn:
        points = _thinned([(_share(cumulative, curve.size), end / 1e3) for end, cumulative in steps[curve.label]])
        first = steps[curve.label][0][0] / 1e3
        plot.line([(0.0, first), *points], curve.style, curve.label)
    for level, limit in limits:
        at = level / 100
        plot.dots([(at, limit)], "limit-dot", [f"p{level:g} at most {limit:g} ms"])
        plot.line(
            [(max(0.0, 1 - 4 * (1 - at)), limit), (1 - (1 - at) / 4, limit)], "limit-line", f"limit of p{level:g}"
        )
        plot.text(plot.px(at), plot.py(limit) - 9, f"p{level:g} <= {limit:g} ms", "limit-text", "middle")
    return plot.render()


def _share(cumulative: int, size: int) -> float:
    return min(cumulative, size - 0.5) / size


def _thinned(points: Sequence[svg.Point]) -> list[svg.Point]:
    """About so many of them, evenly along the axis of nines, and always the last."""
    kept: list[svg.Point] = []
    last = -1.0
    span = -math.log10(1 - points[-1][0])
    for point in points:
        at = -math.log10(1 - point[0])
        if at - last >= span / _CURVE_POINTS or point is points[-1]:
            kept.append(point)
            last = at
    return kept


def _told(curves: Sequence[Curve]) -> str:
    def words(curve: Curve) -> str:
        latency = curve.latency
        told = ", ".join(f"p{at:g} {digits(latency.percentile_us(at) / 1e3)} ms" for at in (50, 90, 99, 99.9))
        return f"{curve.label}, {latency.count} right answers of {curve.size} requests: {told}"

    return ". ".join(words(curve) for curve in curves)


@dataclass(frozen=True, slots=True)
class Moment:
    """Several bins of a run as one point of a line."""

    at_s: float
    length_s: float
    tally: Tally


def moments(run: Run) -> list[Moment]:
    """The run in at most 150 stretches of equal length, each with what was due in it."""
    timeline = run.timeline()
    if not timeline:
        return []
    last = max(timeline)
    size = math.ceil((last + 1) / _MOST_POINTS)
    bin_s = run.schedule.bin_s
    found = []
    for first in range(0, last + 1, size):
        total = Tally()
        for number in range(first, min(first + size, last + 1)):
            if (tally := timeline.get(number)) is not None:
                total.merge(tally)
        # The last stretch may be cut short by the end of the schedule.
        end_s = min((first + size) * bin_s, max(run.schedule.duration_s, first * bin_s + bin_s / 2))
        found.append(Moment(first * bin_s, end_s - first * bin_s, total))
    return found


def timeline_plots(run: Run, stretch: Sequence[Moment], limit_ms: float | None) -> list[tuple[str, str]]:
    """Latency, rate, and failures if there are any, over time on the same axis, each with its legend as HTML."""
    end_s = max(run.schedule.duration_s, stretch[-1].at_s + stretch[-1].length_s)
    across = svg.linear(0.0, end_s, _clock(end_s), wanted=8)
    plots = [_latency_plot(run, stretch, across, limit_ms), _rate_plot(run, stretch, across)]
    if any(moment.tally.failed or moment.tally.not_sent for moment in stretch):
        plots.append(_failure_plot(run, stretch, across))
    return plots


def _latency_plot(run: Run, stretch: Sequence[Moment], across: svg.Scale, limit_ms: float | None) -> tuple[str, str]:
    def line(level: float) -> list[svg.Point]:
        return [
            (moment.at_s + moment.length_s / 2, moment.tally.latency.percentile_us(level) / 1e3) for moment in stretch
        ]

    lines = {"p50": line(50), "p99": line(99), "slowest": line(100)}
    seen = [y for points in lines.values() for _, y in points if math.isfinite(y)] or [1.0]
    values = seen if limit_ms is None else [*seen, limit_ms]
    plot = svg.Plot(
        "Latency over time",
        f"p50 between {digits(_least(lines['p50']))} and {digits(_most(lines['p50']))} ms, "
        f"p99 between {digits(_least(lines['p99']))} and {digits(_most(lines['p99']))} ms",
        across,
        svg.logarithmic(max(min(values), 0.001), max(values), milliseconds),
        height=260,
        x_label="",
        y_label="latency, by the moment a request was due",
    )
    _phases(plot, run)
    styles = {"slowest": "s2 thin", "p99": "s1", "p50": "s0"}
    for name, style in styles.items():
        plot.line(lines[name], style, name)
    if limit_ms is not None:
        plot.level(limit_ms, f"limit {limit_ms:g} ms")
    return plot.render(), legend([("p50", "s0"), ("p99", "s1"), ("slowest", "s2 thin")])


def _rate_plot(run: Run, stretch: Sequence[Moment], across: svg.Scale) -> tuple[str, str]:
    def line(count: str) -> list[svg.Point]:
        return [(m.at_s + m.length_s / 2, getattr(m.tally, count) / m.length_s) for m in stretch]

    due, answered = line("due"), line("answered")
    plot = svg.Plot(
        "Requests per second over time",
        f"due up to {digits(_most(due))}/s, answered rightly up to {digits(_most(answered))}/s",
        across,
        svg.up_to(max(_most(due), _most(answered)), lambda value: f"{value:g}"),
        height=200,
        y_label="requests per second",
    )
    _phases(plot, run, labels=False)
    plot.line(answered, "s0", "answered rightly")
    plot.line(due, "s1 thin", "due")
    return plot.render(), legend([("answered rightly", "s0"), ("due", "s1 thin")])


def _failure_plot(run: Run, stretch: Sequence[Moment], across: svg.Scale) -> tuple[str, str]:
    kinds = Tally()
    for moment in stretch:
        kinds.errors.update(moment.tally.errors)
    shown = [kind for kind, _ in kinds.errors.most_common(3)]

    def line(kind: str) -> list[svg.Point]:
        return [(m.at_s + m.length_s / 2, m.tally.errors[kind] / m.length_s) for m in stretch]

    lines = {kind: line(kind) for kind in shown}
    if len(kinds.errors) > len(shown):
        others = [
            (m.at_s + m.length_s / 2, sum(n for kind, n in m.tally.errors.items() if kind not in shown) / m.length_s)
            for m in stretch
        ]
        lines["others"] = others
    if any(m.tally.not_sent for m in stretch):
        lines["not sent"] = [(m.at_s + m.length_s / 2, m.tally.not_sent / m.length_s) for m in stretch]
    plot = svg.Plot(
        "Failures per second over time",
        ", ".join(f"{name}: up to {digits(_most(points))}/s" for name, points in lines.items()),
        across,
        svg.up_to(max(_most(points) for points in lines.values()), lambda value: f"{value:g}", wanted=3),
        height=170,
        x_label="seconds since the first request was due"
        if across.high < 600
        else "time since the first request was due",
        y_label="failures per second",
    )
    _phases(plot, run, labels=False)
    for number, (name, points) in enumerate(lines.items()):
        plot.line(points, STYLES[(number + 1) % len(STYLES)], name)
    return plot.render(), legend([(name, STYLES[(n + 1) % len(STYLES)]) for n, name in enumerate(lines)])


def _phases(plot: svg.Plot, run: Run, *, labels: bool = True) -> None:
    schedule = run.schedule
    if schedule.warmup_s:
        plot.band(0.0, schedule.warmup_s, "warm-up" if labels else "", "warmup")
    for number, phase in enumerate(schedule.phases):
        if phase.end_s > schedule.warmup_s:
            begin_s = max(phase.begin_s, schedule.warmup_s)
            label = f"{phase.name}, {digits(phase.offered_per_s)}/s" if labels else ""
            plot.band(begin_s, phase.end_s, label, f"phase-band{number % 2}")


def stage_plot(stages: Mapping[str, StageTimes]) -> str:
    """A row for each stage: the mean as a dot, and the bucket that holds the p99 as a bar."""
    rows = [(name, times) for name, times in sorted(stages.items()) if times.count]
    bounds = {name: times.percentile_bounds_s(99) for name, times in rows}
    largest = max([high if math.isfinite(high) else low * 2 for low, high in bounds.values()], default=1.0)
    smallest = min([times.mean_s for _, times in rows if times.mean_s > 0], default=0.001)
    height = svg.TOP + svg.BOTTOM + 24.0 * len(rows)
    across = svg.logarithmic(max(smallest * 1e3, 0.005), max(largest, smallest * 2) * 1e3, milliseconds)
    told = "; ".join(f"{name}: mean {digits(times.mean_s * 1e3)} ms" for name, times in rows)
    # The names of the stages stand inside, left of where the scale begins.
    plot = svg.Plot("Time in each stage", told, _indented(across), svg.Scale(0, 1, ()), height=height)
    plot.x_label = "as the servers' own histograms have it"
    for number, (name, times) in enumerate(rows):
        at = svg.TOP + 24 * number + 12
        low, high = bounds[name]
        high = high if math.isfinite(high) else across.high / 1e3
        label = f"{name}: p99 between {milliseconds(low * 1e3)} and {milliseconds(high * 1e3)}"
        plot.bar(at, 9, max(low * 1e3, across.low), high * 1e3, "stage-bar", label)
        plot.bar(at, 15, times.mean_s * 1e3 * 0.985, times.mean_s * 1e3 * 1.015, "stage-mean", f"{name}: mean")
        plot.text(8, at + 4, name, "stage-name")
    return plot.render(grid=False)


def _indented(scale: svg.Scale) -> svg.Scale:
    """The scale with a fifth of the plot free before it, for names; on a logarithmic axis."""
    span = math.log10(scale.high / scale.low)
    return svg.Scale(scale.low / 10 ** (span / 4), scale.high, scale.ticks, scale.warp)


def gauge_plots(server: ServerRecord, run: Run) -> list[str]:
    """A figure for each gauge that was read at least three times."""
    plots = []
    for name, points in sorted(server.gauges.items()):
        if len(points) < 3:
            continue
        in_bytes = name.endswith("_bytes")
        scaled = [(at, value / 2**20 if in_bytes else value) for at, value in points]
        end_s = max(run.schedule.duration_s, points[-1][0])
        plot = svg.Plot(
            name,
            f"from {digits(scaled[0][1])} to {digits(scaled[-1][1])}{' MiB' if in_bytes else ''}",
            svg.linear(0.0, end_s, _clock(end_s), wanted=8),
            svg.up_to(_most(scaled), lambda value: f"{value:g}", wanted=3),
            height=150,
            y_label=f"{name.removesuffix('_bytes')}, MiB" if in_bytes else name,
        )
        _phases(plot, run, labels=False)
        plot.line(scaled, "s0", name)
        plots.append(plot.render())
    return plots


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Lines with their names, as HTML."""
    items = "".join(
        '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        f'<line class="line {style}" x1="2" x2="26" y1="5" y2="5"/></svg>{escape(label)}</li>'
        for label, style in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _clock(end_s: float) -> Callable[[float], str]:
    if end_s < 600:
        return lambda value: f"{value:g} s"
    if end_s < 10_800:
        return lambda value: f"{value / 60:g} min"
    return lambda value: f"{value / 3600:.2g} h"


def _most(points: Sequence[svg.Point]) -> float:
    return max((y for _, y in points if math.isfinite(y)), default=0.0)


def _least(points: Sequence[svg.Point]) -> float:
    return min((y for _, y in points if math.isfinite(y)), default=0.0)
