"""The alerts of the chart, unit-tested by the real promtool: what fires, and what does not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm_support import CHART, ROOT, only, refused, render
from promtool import promtool
from saccade_serving.metrics import SECONDS

VALUES = CHART / "ci" / "production-aws-values.yaml"
SERVICE = 'namespace="vision",inferenceservice="gate-detector"'
TRANSFORMER = f'{SERVICE},component="transformer",revision="gate-detector-transformer-00001",pod="a"'
UP = (f"up{{{TRANSFORMER}}}", "1x99999")


def rules(*sets: str) -> dict[str, Any]:
    """The groups of the PrometheusRule."""
    spec: dict[str, Any] = only(render(VALUES, *sets), "PrometheusRule")["spec"]
    return spec


def requests(per_minute: int, faults: float, code: str = "503") -> list[tuple[str, str]]:
    """So many requests, of which a share fails."""
    failed = round(per_minute * faults)
    ours = f'{TRANSFORMER},model="detector",protocol="rest"'
    return [
        UP,
        (f'saccade_requests_total{{{ours},code="200"}}', f"0+{per_minute - failed}x99999"),
        (f'saccade_requests_total{{{ours},code="{code}"}}', f"0+{failed}x99999"),
    ]


def latencies(shares: dict[str, float], per_minute: int = 10_000) -> list[tuple[str, str]]:
    """Requests, by what share of them is below each bound; the others are above all that are named."""
    ours = f'{TRANSFORMER},model="detector",version="1",stage="total"'
    found = [UP]
    below = 0.0
    for bound in [*map(str, map(float, SECONDS)), "+Inf"]:
        below = max(below, shares.get(bound, 1.0 if bound == "+Inf" else below))
        series = f'saccade_request_seconds_bucket{{{ours},le="{bound}"}}'
        found.append((series, f"0+{round(per_minute * below)}x99999"))
    return [*found, (f"saccade_request_seconds_count{{{ours}}}", f"0+{per_minute}x99999")]


def evaluate(
    tmp_path: Path,
    series: Iterable[tuple[str, str]],
    query: str,
    after: str,
    samples: list[dict[str, Any]],
    *sets: str,
) -> None:
    """Hold what a query gives after a time against what it should."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules(*sets)))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [{"expr": query, "eval_time": after, "exp_samples": samples}],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    ended = promtool("test", "rules", "test.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def firing(tmp_path: Path, series: Iterable[tuple[str, str]], after: str, expected: set[str], *sets: str) -> None:
    """Hold the alerts that fire after a time against those expected, as ``name severity slo``."""
    wanted = []
    for one in sorted(expected):
        name, severity, slo = [*one.split(), ""][:3]
        more = f',slo="{slo}"' if slo else ""
        wanted.append({"labels": f'{{alertname="{name}",severity="{severity}"{more}}}', "value": 1})
    query = 'max by (alertname, severity, slo) (ALERTS{alertstate="firing"})'
    evaluate(tmp_path, series, query, after, wanted, *sets)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    ended = promtool("check", "rules", "rules.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


BURNS = "SaccadeErrorBudgetBurns"


@pytest.mark.parametrize(
    ("faults", "after", "expected"),
    [
        (0.0, "1d", set()),
        (0.0005, "1d", set()),
        (0.002, "2h", {"SaccadeErrors warning availability", f"{BURNS} ticket availability"}),
        (0.004, "1d", {"SaccadeErrors warning availability", f"{BURNS} ticket availability"}),
        (
            0.01,
            "7h",
            {"SaccadeErrors warning availability", f"{BURNS} page availability", f"{BURNS} ticket availability"},
        ),
        (
            0.05,
            "10m",
            {"SaccadeErrors warning availability", f"{BURNS} page availability", f"{BURNS} ticket availability"},
        ),
    ],
    ids=["none", "within the budget", "twice the budget", "four times", "ten times", "fifty times"],
)
def test_faults(tmp_path: Path, faults: float, after: str, expected: set[str]) -> None:
    firing(tmp_path, requests(10_000, faults), after, expected)


@pytest.mark.parametrize("code", ["400", "404", "413", "499", "OK", "INVALID_ARGUMENT"])
def test_what_is_no_fault_of_the_service_fires_nothing(tmp_path: Path, code: str) -> None:
    firing(tmp_path, requests(10_000, 0.5, code), "2h", set())


@pytest.mark.parametrize("code", ["500", "502", "504", "UNAVAILABLE", "DEADLINE_EXCEEDED"])
def test_what_is_one_fires(tmp_path: Path, code: str) -> None:
    every = {"SaccadeErrors warning availability", f"{BURNS} page availability", f"{BURNS} ticket availability"}
    firing(tmp_path, requests(10_000, 0.5, code), "1h", every)


@pytest.mark.parametrize(
    ("below", "after", "expected"),
    [
        ({"0.05": 0.995}, "1d", set()),
        # Between 50 and 100 ms they are taken to lie evenly: 80 ms has 3/5 of them below.
        ({"0.05": 0.98, "0.1": 1.0}, "2h", set()),
        ({"0.05": 0.95, "0.1": 1.0}, "2h", {"SaccadeSlow warning", f"{BURNS} ticket latency"}),
        ({"0.05": 0.9, "0.2": 1.0}, "7h", {"SaccadeSlow warning", f"{BURNS} page latency", f"{BURNS} ticket latency"}),
        (
            {"0.05": 0.5, "1.0": 1.0},
            "15m",
            {"SaccadeSlow warning", f"{BURNS} page latency", f"{BURNS} ticket latency"},
        ),
    ],
    ids=["fast", "just fast enough", "twice the budget", "ten times", "half of them"],
)
def test_slow_answers(tmp_path: Path, below: dict[str, float], after: str, expected: set[str]) -> None:
    firing(tmp_path, latencies(below), after, expected)


def test_a_burn_that_is_over_pages_no_more(tmp_path: Path) -> None:
    ours = f'{TRANSFORMER},model="detector",protocol="rest"'
    series = [
        UP,
        (f'saccade_requests_total{{{ours},code="200"}}', "0+9000x60 540000+10000x99999"),
        (f'saccade_requests_total{{{ours},code="503"}}', "0+1000x60 60000+0x99999"),
    ]
    every = {"SaccadeErrors warning availability", f"{BURNS} page availability", f"{BURNS} ticket availability"}
    firing(tmp_path, series, "50m", every)
    firing(tmp_path, series, "3h", {f"{BURNS} ticket availability"})


POD = 'exported_namespace="vision",exported_pod="gate-detector-predictor-00001-deployment-a"'
PREDICTOR = f'{SERVICE},component="predictor",revision="gate-detector-predictor-00001",pod="b"'


@pytest.mark.parametrize(
    ("series", "fires", "rests", "after", "expected"),
    [
        (
            f'saccade_queue_age_seconds{{{PREDICTOR},model="m",version="1"}}',
            "0.2",
            "0.05",
            "5m",
            "SaccadeQueueIsOld warning",
        ),
        (
            f'saccade_engine_fallback{{{PREDICTOR},model="m",version="1"}}',
            "1",
            "0",
            "10m",
            "SaccadeServesWithoutItsPlan warning",
        ),
        (
            f"saccade_cache_cameras_switched_off_total{{{TRANSFORMER}}}",
            "0 0 1",
            "1",
            "10m",
            "SaccadeCacheDisagrees warning",
        ),
        (f"saccade_cache_redis_up{{{TRANSFORMER}}}", "0", "1", "5m", "SaccadeRedisDown warning"),
        (
            'kn_revision_pods_pending_count{kn_revision_name="gate-detector-predictor-00002"}',
            "1",
            "0",
            "15m",
            "SaccadePodsWait warning",
        ),
        (
            'kn_revision_panic_mode{kn_revision_name="gate-detector-transformer-00002"}',
            "1",
            "0",
            "20m",
            "SaccadeScalesInPanic info",
        ),
        (f'DCGM_FI_DEV_XID_ERRORS{{{POD},gpu="0"}}', "79", "0", "1m", "SaccadeGpuFault page"),
    ],
    ids=lambda value: value.split("{")[0] if isinstance(value, str) and "{" in value else "",
)
def test_what_else_goes_wrong(tmp_path: Path, series: str, fires: str, rests: str, after: str, expected: str) -> None:
    *before, last = fires.split()
    firing(tmp_path, [UP, (series, " ".join([*before, f"{last}x9999"]))], after, {expected})
    firing(tmp_path, [UP, (series, f"{rests}x9999")], after, set())


def test_another_services_troubles_are_not_ours(tmp_path: Path) -> None:
    other = [(name.replace("gate-detector", "other"), values) for name, values in requests(10_000, 0.5)]
    firing(tmp_path, [UP, *other], "1h", set())
    pending = 'kn_revision_pods_pending_count{kn_revision_name="other-gate-detector-predictor-00002"}'
    firing(tmp_path, [UP, (pending, "1x9999")], "1h", set())


def test_a_candidate_that_disagrees_is_told_of(tmp_path: Path) -> None:
    def agreement(mean: float) -> list[tuple[str, str]]:
        return [
            UP,
            (f"saccade_shadow_agreement_sum{{{TRANSFORMER}}}", f"0+{100 * mean}x9999"),
            (f"saccade_shadow_agreement_count{{{TRANSFORMER}}}", "0+100x9999"),
        ]

    firing(tmp_path, agreement(0.8), "90m", {"SaccadeShadowDisagrees info"})
    firing(tmp_path, agreement(0.95), "90m", set())


def test_silence_is_told_of(tmp_path: Path) -> None:
    firing(tmp_path, [(UP[0], "1x10 0x9999")], "5m", set())
    firing(tmp_path, [(UP[0], "1x10 0x9999")], "20m", {"SaccadeNobodyServes page"})


def test_a_canary_can_be_judged_beside_the_stable_revision(tmp_path: Path) -> None:
    canary = [
        (name.replace("00001", "00002").replace('pod="a"', 'pod="c"'), values) for name, values in requests(1000, 0.2)
    ]
    query = 'round(max by (revision) (revision:saccade_slo_errors:ratio_rate5m{slo="availability"}), 0.001)'
    samples: list[dict[str, Any]] = [
        {"labels": '{revision="gate-detector-transformer-00001"}', "value": 0},
        {"labels": '{revision="gate-detector-transformer-00002"}', "value": 0.2},
    ]
    evaluate(tmp_path, {**dict(requests(9000, 0)), **dict(canary)}.items(), query, "30m", samples)


def test_a_canary_that_was_forgotten_is_told_of(tmp_path: Path) -> None:
    stable = (UP[0], "1x1000")
    canary = UP[0].replace("00001", "00002")
    soon = "monitoring.rules.canaryHours=1"
    begun_and_ended = [stable, (canary, "_x130 1x30 _x840")]
    forgotten = [stable, (canary, "_x130 1x840")]
    firing(tmp_path, begun_and_ended, "240m", set(), soon)
    firing(tmp_path, forgotten, "170m", set(), soon)
    firing(tmp_path, forgotten, "240m", {"SaccadeCanaryIsOld warning"}, soon)


def test_the_chart_knows_the_bounds_of_the_histogram() -> None:
    text = (CHART / "templates" / "_slo.tpl").read_text(encoding="utf-8")
    [bounds] = re.findall(r'define "saccade.bounds" -}}\n(.*)\n', text)
    assert bounds.split() == [str(float(bound)) for bound in SECONDS if bound >= 0.001]


@pytest.mark.parametrize(
    ("p99_ms", "bounds"), [(100, ["0.1"]), (80, ["0.05", "0.1"]), (1, ["0.001"]), (2500, ["2.0", "5.0"])]
)
def test_a_promise_on_a_bound_needs_no_guess(p99_ms: int, bounds: list[str]) -> None:
    group = rules(f"slo.p99Ms={p99_ms}")["groups"][0]["rules"]
    [expression] = [
        rule["expr"]
        for rule in group
        if rule["record"].endswith("_errors:ratio_rate5m")
        and rule["labels"]["slo"] == "latency"
        and "revision" not in rule["record"]
    ]
    assert re.findall(r'le="([\d.]+)"', expression) == bounds


def test_every_metric_of_ours_exists() -> None:
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`(saccade_\w+)`", documented))
    named = set(re.findall(r"\b(saccade_[a-z_]+?)(?:_bucket|_count|_sum)?\{", yaml.safe_dump(rules(), width=10**6)))
    assert len(named) >= 7
    assert named <= known


def test_rules_without_what_they_read_are_refused() -> None:
    assert "monitoring.rules.enabled is true and monitoring.podMonitor.enabled false" in refused(
        VALUES, "monitoring.podMonitor.enabled=false"
    )
