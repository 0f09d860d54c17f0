"""A verdict as JSON, and as JUnit XML for a CI server. Writes what ``verdict.judge`` said and nothing of its own."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from typing import Any, Final
from xml.etree import ElementTree

from saccade_loadtest.judging.finding import Finding, figure
from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.judging.verdict import Verdict
from saccade_loadtest.record.results import Run
from saccade_loadtest.reports.tables import limit_text

KIND: Final = "saccade-loadtest-verdict"
VERSION: Final = 1
_PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
#: What XML 1.0 cannot hold, not even escaped.
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_json(run: Run, slo: Slo, verdict: Verdict) -> str:
    """The verdict as a JSON document; a figure that is no number is null."""
    document = {
        "kind": KIND,
        "version": VERSION,
        "verdict": verdict.outcome,
        "exit_code": verdict.exit_code,
        "reasons": list(verdict.reasons),
        "scenario": run.scenario,
        "target": asdict(run.target),
        "loop": run.loop,
        "began_at": run.began_at,
        "slo": {"name": slo.name, "confidence": slo.confidence},
        "load": _load(run),
        "objectives": [_finding(finding) for finding in verdict.findings],
        "generator": [asdict(check) for check in verdict.checks],
        "protocols": {protocol: _summary(run, protocol) for protocol in run.series},
        "notes": run.notes,
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _load(run: Run) -> dict[str, Any]:
    totals = [run.measured(protocol) for protocol in run.series]
    return {
        "arrivals": run.schedule.arrivals,
        "measured_s": run.schedule.measured_s,
        "warmup_s": run.schedule.warmup_s,
        "nominal_per_s": run.schedule.nominal_per_s,
        "planned_per_s": run.schedule.offered_per_s,
        "offered_per_s": sum(total.due for total in totals) / run.schedule.measured_s,
        "answered_per_s": sum(total.answered for total in totals) / run.schedule.measured_s,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    found = asdict(finding)
    for key in ("measured", "low", "high"):
        if found[key] is not None and not math.isfinite(found[key]):
            found[key] = None
    return found


def _summary(run: Run, protocol: str) -> dict[str, Any]:
    tally = run.measured(protocol)
    series = run.series[protocol]
    return {
        "due": tally.due,
        "sent": tally.sent,
        "not_sent": tally.not_sent,
        "answered": tally.answered,
        "errors": dict(tally.errors),
        "cache": dict(series.cache),
        "revisions": {version: revision.answered for version, revision in series.revisions.items()},
        "answered_latency_ms": {
            f"p{percent:g}": tally.latency.percentile_us(percent) / 1e3 for percent in _PERCENTILES if tally.answered
        },
    }


def to_junit(run: Run, slo: Slo, verdict: Verdict) -> str:
    """The verdict as JUnit XML: a test case for each objective and each check of the generator.

    A fail is a ``failure``; what is invalid is an ``error``, which CI servers count as broken, not as failed.
    """
    cases = [_objective_case(slo, finding) for finding in verdict.findings]
    for check in verdict.checks:
        case = ElementTree.Element("testcase", name=_clean(check.name), classname="generator", time="0")
        if not check.kept:
            _problem(case, "error", "invalid", check.sentence)
        cases.append(case)
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    counts["time"] = f"{run.schedule.duration_s:.3f}"
    suites = ElementTree.Element("testsuites", {"name": "saccade-loadtest", **counts})
    name = _clean(f"{run.scenario}: {slo.name}")
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, "skipped": "0", **counts})
    if run.began_at:
        # ISO 8601 without a zone is what the schemas of JUnit know.
        suite.set("timestamp", _clean(run.began_at)[:19])
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("verdict", verdict.outcome), ("target", run.target.url), ("loop", run.loop)):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    suite.extend(cases)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _objective_case(slo: Slo, finding: Finding) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", name=_clean(finding.objective), classname=_clean(f"slo.{slo.name}"), time="0"
    )
    sentence = f"{figure(finding.measured, finding.unit)}, wanted {limit_text(finding)}"
    if finding.reason:
        sentence += f": {finding.reason}"
    if finding.outcome == "pass":
        ElementTree.SubElement(case, "system-out").text = _clean(sentence)
    else:
        _problem(case, "failure" if finding.outcome == "fail" else "error", finding.outcome, sentence)
    return case


def _problem(case: ElementTree.Element, tag: str, kind: str, sentence: str) -> None:
    ElementTree.SubElement(case, tag, message=_clean(sentence), type=kind).text = _clean(sentence)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
