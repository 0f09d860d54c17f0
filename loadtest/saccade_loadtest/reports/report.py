"""The report on a run: one HTML file that needs no network and no script, for light and dark screens and for print.

Says what was offered and what came of it, the verdict with its reasons, and shows latency by percentile, the run over
time, the servers' stages and the versions that answered. Judges nothing: it is handed the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from saccade_loadtest.judging.finding import Finding, Outcome, digits, figure, percent, percentile_name, seconds
from saccade_loadtest.judging.objectives import HITS
from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.judging.verdict import Verdict
from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.results import Run, Tally
from saccade_loadtest.reports import charts
from saccade_loadtest.reports.charts import STYLES, Curve
from saccade_loadtest.reports.html_parts import facts, mark, table
from saccade_loadtest.reports.tables import bounds_text, limit_text

_STYLE: Final = Path(__file__).with_name("report.css")
_PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 99.99, 100.0)
_WORDS: Final[dict[Outcome, str]] = {
    "pass": "PASS: every objective is met",
    "fail": "FAIL: an objective is not met",
    "invalid": "INVALID: this run cannot tell",
}


def to_html(run: Run, slo: Slo, verdict: Verdict) -> str:
    """The whole page."""
    title = f"{run.scenario} against SLO {slo.name}: {verdict.outcome}"
    return page(title, "".join(_sections(run, slo, verdict)))


def page(title: str, body: str) -> str:
    """A page of our style around a body; it may load nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _sections(run: Run, slo: Slo, verdict: Verdict) -> Iterator[str]:
    yield f"<h1>{escape(run.scenario)}</h1>"
    where = f"{run.target.service} {run.target.url}, model {run.target.model}"
    when = f", {run.began_at}" if run.began_at else ""
    yield f'<p class="soft">{escape(where)}{escape(when)}; SLO {escape(slo.name)}. {escape(slo.description)}</p>'
    if run.target.note:
        yield f'<p class="soft">{escape(run.target.note)}</p>'
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    yield (
        f'<section class="verdict {verdict.outcome}" role="status"><strong>{_WORDS[verdict.outcome]}</strong>'
        + (f"<ul>{reasons}</ul>" if reasons else "")
        + "</section>"
    )
    totals = {protocol: run.measured(protocol) for protocol in run.series}
    yield from _load(run, totals)
    yield "<h2>Objectives</h2>"
    yield _objectives(slo, verdict)
    if any(total.answered for total in totals.values()):
        yield from _latency(run, slo, totals)
    yield from _timeline(run, slo)
    yield from _servers(run)
    yield from _revisions(run)
    yield from _answers(run, totals)
    yield from _generator(run, verdict)
    yield from _reading(slo)


def _load(run: Run, totals: Mapping[str, Tally]) -> Iterator[str]:
    schedule = run.schedule
    due = sum(total.due for total in totals.values())
    answered = sum(total.answered for total in totals.values())
    offered = due / schedule.measured_s
    shown = {
        "offered": f"{digits(offered)}/s",
        "answered rightly": f"{digits(answered / schedule.measured_s)}/s",
        "requests that count": f"{due:,}",
        "without a right answer": f"{due - answered:,}",
        "measured for": seconds(schedule.measured_s),
        "arrivals": f"{schedule.arrivals}, {run.loop} loop",
    }
    yield facts(shown)
    if schedule.nominal_per_s is not None and offered < 0.99 * schedule.nominal_per_s:
        limit = "" if schedule.nominal_limit_ms is None else f" within {schedule.nominal_limit_ms:g} ms"
        yield (
            f"<p><strong>Not the nominal load.</strong> The scenario stands for {digits(schedule.nominal_per_s)} "
            f"requests/s{limit}; this run offered {digits(offered)}/s, {percent(offered / schedule.nominal_per_s)} "
            "of that. Its verdict is on the SLO above, at the rate that was offered.</p>"
        )
    if run.loop == "closed":
        yield (
            "<p><strong>Closed loop.</strong> Requests waited for answers, so that a slow server was sent less: "
            "the latencies lack what it held back.</p>"
        )
    yield "".join(f"<p>{escape(note)}</p>" for note in run.notes)


def _objectives(slo: Slo, verdict: Verdict) -> str:
    rows = [_objective(finding) for finding in verdict.findings]
    return table(
        ("objective", "verdict", "measured", "limit", "bounds", "of", "remark"),
        rows,
        numbers=(2, 3, 4, 5),
        caption=f"Each bound holds with {percent(slo.confidence)} confidence.",
    )


def _objective(finding: Finding) -> tuple[str, ...]:
    return (
        escape(finding.objective),
        mark(finding.outcome, finding.outcome),
        escape(figure(finding.measured, finding.unit)),
        escape(limit_text(finding)),
        escape(bounds_text(finding)),
        f"{finding.requests:,}",
        escape(finding.reason),
    )


def _latency(run: Run, slo: Slo, totals: Mapping[str, Tally]) -> Iterator[str]:
    yield "<h2>Latency</h2>"
    curves = []
    rows = []
    for number, (protocol, tally) in enumerate(totals.items()):
        if tally.answered:
            curves.append(Curve(protocol, tally.latency, tally.due, STYLES[number % len(STYLES)]))
        for what, histogram in (("from due", tally.latency), ("from sent", tally.service)):
            figures = (_percentile(histogram, level) for level in _PERCENTILES)
            rows.append((escape(protocol), what, f"{tally.due:,}", f"{tally.answered:,}", *figures))
    if len(totals) == 1:
        [only] = totals.values()
        curves.append(Curve("from sent, as a closed loop would see it", only.service, only.due, "s2 thin"))
    limits = [
        (limit.percentile, limit.limit_ms) for limit in slo.latency if not limit.stage and limit.failures == "worst"
    ]
    names = charts.legend([(curve.label, curve.style) for curve in curves])
    yield f'<div class="card">{names}{charts.percentile_plot("Latency by percentile", curves, limits)}</div>'
    heads = ("protocol", "counted", "due", "answered", *(_level_name(level) for level in _PERCENTILES))
    yield table(heads, rows, numbers=tuple(range(2, len(heads))), caption="Right answers, after the warm-up.")


def _percentile(histogram: Histogram, level: float) -> str:
    """A percentile in words; nothing where the sample is so small that it is the slowest."""
    if level < 100 and histogram.count * (1 - level / 100) < 1 - 1e-9:
        return "-"
    return figure(histogram.percentile_us(level) / 1e3, "ms")


def _level_name(level: float) -> str:
    return "slowest" if level == 100 else percentile_name(level)


def _timeline(run: Run, slo: Slo) -> Iterator[str]:
    stretch = charts.moments(run)
    if not stretch:
        return
    yield "<h2>Over time</h2>"
    limits = [limit.limit_ms for limit in slo.latency if not limit.stage and limit.percentile == 99]
    for plot, legend in charts.timeline_plots(run, stretch, min(limits, default=None)):
        yield f'<div class="card">{legend}{plot}</div>'
    nothing = "" if any(m.tally.failed or m.tally.not_sent for m in stretch) else " Nothing failed."
    yield (
        f'<p class="soft">Each point stands for {seconds(stretch[0].length_s)}; where fewer than 100 requests were '
        f"due in it, its p99 is the slowest of them.{nothing}</p>"
    )


def _servers(run: Run) -> Iterator[str]:
    if run.server is None:
        yield '<h2>Stages</h2><p class="soft">The servers\' metrics were not read.</p>'
        return
    stages = {name: times for name, times in sorted(run.server.stages.items()) if times.count}
    yield "<h2>Stages</h2>"
    yield "".join(f"<p>{escape(name)}: {escape(reason)}</p>" for name, reason in run.server.missing.items())
    if stages:
        yield f'<div class="card">{charts.STAGE_LEGEND}{charts.stage_plot(stages)}</div>'
        rows = []
        for name, times in stages.items():
            ranges = (times.percentile_bounds_s(level) for level in (50, 99))
            told = (f"{figure(low * 1e3, 'ms')} to {figure(high * 1e3, 'ms')}" for low, high in ranges)
            rows.append((escape(name), f"{times.count:,.0f}", figure(times.mean_s * 1e3, "ms"), *told))
        heads = ("stage", "requests", "mean", "p50 between", "p99 between")
        yield table(heads, rows, numbers=(1, 2, 3, 4), caption="From the servers' own histograms.")
    plots = charts.gauge_plots(run.server, run)
    if plots:
        yield "<h2>The servers over time</h2>"
        yield "".join(f'<div class="card">{plot}</div>' for plot in plots)


def _revisions(run: Run) -> Iterator[str]:
    found = [(protocol, version, rev) for protocol, s in run.series.items() for version, rev in s.revisions.items()]
    if not found:
        return
    yield "<h2>Versions that answered</h2>"
    total = sum(revision.answered for _, _, revision in found) or 1
    rows = []
    for protocol, version, revision in found:
        levels = (figure(revision.latency.percentile_us(level) / 1e3, "ms") for level in (50, 99))
        share = percent(revision.answered / total)
        rows.append((escape(version), escape(protocol), f"{revision.answered:,}", share, *levels))
    curves = [
        Curve(f"{version} ({protocol})", revision.latency, revision.answered, STYLES[number % len(STYLES)])
        for number, (protocol, version, revision) in enumerate(found[: len(STYLES)])
        if revision.answered
    ]
    if len(curves) > 1:
        names = charts.legend([(curve.label, curve.style) for curve in curves])
        yield f'<div class="card">{names}{charts.percentile_plot("Latency by version", curves, ())}</div>'
    heads = ("version", "protocol", "right answers", "share", "p50", "p99")
    yield table(
        heads, rows, numbers=(2, 3, 4, 5), caption="As right answers name it, after the warm-up; a failure names none."
    )


def _answers(run: Run, totals: Mapping[str, Tally]) -> Iterator[str]:
    rows = []
    for protocol, series in run.series.items():
        named = series.cache.total()
        for outcome, count in series.cache.most_common():
            kind = "hit" if outcome in HITS else ""
            rows.append((escape(protocol), escape(outcome), kind, f"{count:,}", percent(count / named)))
    if rows:
        yield "<h2>Frame cache</h2>"
        yield table(("protocol", "outcome", "", "answers", "share"), rows, numbers=(3, 4))
    errors = [
        (escape(protocol), escape(kind), f"{count:,}")
        for protocol, total in totals.items()
        for kind, count in total.errors.most_common()
    ]
    if errors:
        yield "<h2>Failures</h2>"
        yield table(("protocol", "kind", "requests"), errors, numbers=(2,))


def _generator(run: Run, verdict: Verdict) -> Iterator[str]:
    yield "<h2>The generator</h2>"
    checks = [
        (escape(check.name), mark("pass" if check.kept else "invalid", "kept" if check.kept else "broken"),
         escape(check.sentence))
        for check in verdict.checks
    ]  # fmt: skip
    yield table(("condition", "", "found"), checks)
    rows = [
        (
            escape(worker.name),
            f"{worker.cpu_share:.0%}" if worker.wall_s else "unknown",
            f"{worker.busiest_share:.0%}" if worker.busiest_share else "unknown",
            *(figure(worker.schedule_error.percentile_us(level) / 1e3, "ms") for level in (50, 99, 99.9, 100)),
            escape(worker.lost or "no"),
        )
        for worker in run.workers
    ]
    heads = ("worker", "CPU", "busiest 5 s", "late: p50", "p99", "p99.9", "most", "lost")
    yield table(heads, rows, numbers=(1, 2, 3, 4, 5, 6), caption="How long after its moment a request was sent.")
    if run.machine:
        told = "; ".join(f"{name}: {value}" for name, value in run.machine.items())
        yield f'<p class="soft">{escape(told)}</p>'


def _reading(slo: Slo) -> Iterator[str]:
    paragraphs: Sequence[str] = (
        "Latency counts from the moment at which a request was <em>due</em>, not from its sending: a server that "
        "stops for two seconds delays everything that was due meanwhile, and all of it is in here.",
        "A request without a right answer counts as slower than any other, unless the objective says otherwise. "
        "A percentile passes if its upper bound is within the limit, fails if its lower bound is over it, and is "
        f"invalid in between. Each bound is wrong in at most {percent(slo.alpha)} of runs.",
        "Histograms have three significant digits; those of several workers and seconds are added, never averaged.",
    )
    told = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    yield f"<details><summary>How to read this</summary>{told}</details>"
