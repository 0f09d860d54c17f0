"""The alerts of the chart, unit-tested by the real promtool: what fires, and what does not."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from exported_metrics import OF_ALL, exported, grouped, selected
from helm_support import CHART, ROOT, only, refused, render
from promtool import promtool
from saccade_serving.metrics import SECONDS

VALUES = CHART / "ci" / "production-aws-values.yaml"
SERVICE = 'namespace="vision",inferenceservice="gate-detector"'
TRANSFORMER = f'{SERVICE},component="transformer",revision="gate-detector-transformer-00001",pod="a"'
#: What is scraped of a transformer's pod: the transformer, and Knative's sidecar.
UP = (f'up{{{TRANSFORMER},container="kserve-container"}}', "1x99999")
SIDECAR_UP = (f'up{{{TRANSFORMER},container="queue-proxy"}}', "1x99999")


@functools.cache
def rules(*sets: str, values: Path = VALUES) -> dict[str, Any]:
    """The groups of the PrometheusRule; nobody changes them, so that each set of values is rendered once."""
    spec: dict[str, Any] = only(render(values, *sets), "PrometheusRule")["spec"]
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


MINUTES = {"m": 1, "h": 60, "d": 24 * 60}


def minutes(duration: str) -> int:
    """A duration of Prometheus with one unit, such as ``7h``."""
    return int(duration[:-1]) * MINUTES[duration[-1]]


def until(points: str, end: int) -> str:
    """A series without what promtool would expand and never read: no repetition is longer than the test."""
    return re.sub(r"x(\d+)", lambda found: f"x{min(int(found[1]), end)}", points)


def evaluate(
    tmp_path: Path,
    series: Iterable[tuple[str, str]],
    query: str,
    after: str,
    samples: list[dict[str, Any]],
    *sets: str,
    values: Path = VALUES,
) -> None:
    """Hold what a query gives after a time against what it should."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules(*sets, values=values)))
    end = minutes(after)
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "5m" if after.endswith("d") else "1m",  # a day by the minute takes half a minute
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": until(points, end)} for name, points in series],
                "promql_expr_test": [{"expr": query, "eval_time": after, "exp_samples": samples}],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    ended = promtool("test", "rules", "test.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def firing(
    tmp_path: Path,
    series: Iterable[tuple[str, str]],
    after: str,
    expected: set[str],
    *sets: str,
    values: Path = VALUES,
) -> None:
    """Hold the alerts that fire after a time against those expected, as ``name severity slo``."""
    wanted = []
    for one in sorted(expected):
        name, severity, slo = [*one.split(), ""][:3]
        more = f',slo="{slo}"' if slo else ""
        wanted.append({"labels": f'{{alertname="{name}",severity="{severity}"{more}}}', "value": 1})
    query = 'max by (alertname, severity, slo) (ALERTS{alertstate="firing"})'
    evaluate(tmp_path, series, query, after, wanted, *sets, values=values)


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
KNATIVE = 'k8s_namespace_name="vision",kn_revision_name="gate-detector'
CRASHING = (
    'kube_pod_container_status_waiting_reason{namespace="vision",pod="gate-detector-predictor-00002-deployment-a",'
    'container="kserve-container",reason="CrashLoopBackOff"}'
)


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
            f'saccade_model_unavailable{{{PREDICTOR},model="m",version="1",reason="plan"}}',
            "1",
            "0",
            "10m",
            "SaccadeModelUnavailable warning",
        ),
        (CRASHING, "1", "0", "10m", "SaccadePodsCrash warning"),
        (
            f'kn_revision_pods_pending_count{{{KNATIVE}-predictor-00002"}}',
            "1",
            "0",
            "15m",
            "SaccadePodsWait warning",
        ),
        (
            f'kn_revision_panic_mode{{{KNATIVE}-transformer-00002"}}',
            "1",
            "0",
            "20m",
            "SaccadeScalesInPanic info",
        ),
        (f'DCGM_FI_DEV_XID_ERRORS{{{POD},gpu="0"}}', "0 79", "79", "5m", "SaccadeGpuFault page"),
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
    theirs = 'k8s_namespace_name="vision",kn_revision_name="other-gate-detector-predictor-00002"'
    pending = f"kn_revision_pods_pending_count{{{theirs}}}"
    firing(tmp_path, [UP, (pending, "1x9999")], "1h", set())


def knatives(namespace: str) -> list[tuple[str, str]]:
    """What Knative tells of a revision that has all its troubles at once."""
    ours = f'k8s_namespace_name="{namespace}",kn_revision_name="gate-detector-predictor-00002"'
    counts = {"pods_pending_count": 1, "pods_not_ready_count": 1, "pods_terminating_count": 0, "panic_mode": 1}
    return [(f"kn_revision_{name}{{{ours}}}", f"{value}x9999") for name, value in counts.items()]


def test_a_service_of_the_same_name_elsewhere_is_not_ours(tmp_path: Path) -> None:
    firing(tmp_path, [UP, *knatives("staging")], "2h", set())
    crashing = CRASHING.replace('namespace="vision"', 'namespace="staging"')
    firing(tmp_path, [UP, (crashing, "1x9999")], "2h", set())
    every = {"SaccadePodsWait warning", "SaccadePodsNeverReady warning", "SaccadeScalesInPanic info"}
    firing(tmp_path, [UP, *knatives("vision")], "2h", every)
    query = 'count by (k8s_namespace_name) (ALERTS{alertstate="firing"})'
    wanted: list[dict[str, Any]] = [{"labels": '{k8s_namespace_name="vision"}', "value": 3}]
    evaluate(tmp_path, [UP, *knatives("vision"), *knatives("staging")], query, "2h", wanted)


def pods(component: str, not_ready: str, terminating: str = "0x9999") -> list[tuple[str, str]]:
    """What Knative counts of a revision's pods; those that go are among those that are not ready."""
    ours = f'{KNATIVE}-{component}-00002"'
    return [
        UP,
        (f"kn_revision_pods_not_ready_count{{{ours}}}", not_ready),
        (f"kn_revision_pods_terminating_count{{{ours}}}", terminating),
    ]


@pytest.mark.parametrize(("component", "deadline_min"), [("predictor", 30), ("transformer", 10)])
def test_pods_that_never_become_ready_are_told_of_before_knative_takes_them_away(
    tmp_path: Path, component: str, deadline_min: int
) -> None:
    never = {"SaccadePodsNeverReady warning"}
    taken_away = pods(component, f"1x{deadline_min} 0x9999")
    firing(tmp_path, taken_away, f"{deadline_min // 2}m", set())
    firing(tmp_path, taken_away, f"{deadline_min}m", never)
    firing(tmp_path, taken_away, f"{deadline_min + 30}m", never)
    firing(tmp_path, taken_away, f"{deadline_min + 90}m", set())
    firing(tmp_path, pods(component, f"1x{deadline_min // 2} 0x9999"), f"{deadline_min + 5}m", set())


def test_pods_that_go_are_not_among_those_that_never_become_ready(tmp_path: Path) -> None:
    firing(tmp_path, pods("predictor", "2x9999", "2x9999"), "2h", set())
    firing(tmp_path, pods("predictor", "3x9999", "2x9999"), "2h", {"SaccadePodsNeverReady warning"})


def test_a_pod_that_ends_again_and_again_is_told_of_while_it_runs_for_minutes_in_between(tmp_path: Path) -> None:
    at_times = " ".join(["1x2 _x6"] * 30)
    firing(tmp_path, [UP, (CRASHING, at_times)], "1h", {"SaccadePodsCrash warning"})
    firing(tmp_path, [UP, (CRASHING, "1x2 _x9999")], "1h", set())


def test_an_xid_pages_for_ten_minutes_and_another_one_again(tmp_path: Path) -> None:
    xids = f'DCGM_FI_DEV_XID_ERRORS{{{POD},gpu="0"}}'
    page = {"SaccadeGpuFault page"}
    of_an_application = [UP, (xids, "0x9 13x9999")]
    firing(tmp_path, of_an_application, "15m", page)
    firing(tmp_path, of_an_application, "25m", set())
    firing(tmp_path, [UP, (xids, "0x9 13x49 79x9999")], "65m", page)
    firing(tmp_path, [UP, (xids, "13x9 0x9999")], "12m", set())


def test_a_candidate_that_disagrees_is_told_of(tmp_path: Path) -> None:
    def agreement(mean: float) -> list[tuple[str, str]]:
        return [
            UP,
            (f"saccade_shadow_agreement_sum{{{TRANSFORMER}}}", f"0+{100 * mean}x9999"),
            (f"saccade_shadow_agreement_count{{{TRANSFORMER}}}", "0+100x9999"),
        ]

    firing(tmp_path, agreement(0.8), "90m", {"SaccadeShadowDisagrees info"})
    firing(tmp_path, agreement(0.95), "90m", set())


def test_silence_is_told_of_while_the_sidecar_lives(tmp_path: Path) -> None:
    series = [(UP[0], "1x10 0x9999"), SIDECAR_UP]
    firing(tmp_path, series, "5m", set())
    firing(tmp_path, series, "20m", {"SaccadeNobodyServes page"})
    firing(tmp_path, [SIDECAR_UP], "20m", {"SaccadeNobodyServes page"})
    firing(tmp_path, [UP, SIDECAR_UP], "20m", set())


def test_a_service_that_may_be_idle_is_not_missed(tmp_path: Path) -> None:
    idle = ("transformer.minReplicas=0", "transformer.allowScaleToZero=true")
    firing(tmp_path, [], "20m", {"SaccadeNobodyServes page"})
    firing(tmp_path, [], "20m", set(), *idle)


def test_both_targets_of_a_pod_are_of_one_revision(tmp_path: Path) -> None:
    canary = [(name.replace("00001", "00002"), values) for name, values in (UP, SIDECAR_UP)]
    query = "inferenceservice:saccade_revisions:count"
    for series, count in (([UP, SIDECAR_UP], 1), ([UP, SIDECAR_UP, *canary], 2)):
        labels = f'{query}{{{SERVICE},component="transformer"}}'
        evaluate(tmp_path, series, query, "10m", [{"labels": labels, "value": count}])


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
    moved = [stable, (canary, "_x130 1x60 stale _x2 1x800")]
    firing(tmp_path, moved, "240m", {"SaccadeCanaryIsOld warning"}, soon)
    promoted = [stable, (canary, "_x130 1x90 stale _x800")]
    firing(tmp_path, promoted, "219m", {"SaccadeCanaryIsOld warning"}, soon)
    firing(tmp_path, promoted, "240m", set(), soon)


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


def test_every_series_that_the_rules_read_is_exported_or_recorded() -> None:
    every = [rule for group in rules()["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in every if "record" in rule}
    series_known = exported()
    for rule in every:
        read = [one for one in selected(rule["expr"]) if one[0] not in recorded]
        for name, labels in read:
            assert name in series_known, rule["expr"]
            assert labels <= series_known[name] | OF_ALL, rule["expr"]
        if read:
            theirs = set.union(*(series_known[name] | OF_ALL for name, _ in read))
            assert grouped(rule["expr"]) <= theirs, rule["expr"]


def promising(availability: float, tmp_path: Path) -> Path:
    """The values with another promise; ``--set`` would make a text of it."""
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    values["slo"]["availability"] = availability
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("availability", [0.5, 0.93])
def test_a_promise_so_small_that_its_page_cannot_fire_is_refused(availability: float, tmp_path: Path) -> None:
    values = promising(availability, tmp_path)
    sentence = (
        f"slo.availability is {availability}; expected at least 0.94: the page for a budget that goes 14.4 times too "
        "fast would need more faults than there are requests."
    )
    assert sentence in refused(values)
    render(values, "monitoring.rules.enabled=false")  # nothing pages


def test_the_smallest_promise_still_pages(tmp_path: Path) -> None:
    every = {"SaccadeErrors warning availability", f"{BURNS} page availability", f"{BURNS} ticket availability"}
    firing(tmp_path, requests(10_000, 0.9), "2h", every, values=promising(0.94, tmp_path))


def test_rules_without_what_they_read_are_refused() -> None:
    assert "monitoring.rules.enabled is true and monitoring.podMonitor.enabled false" in refused(
        VALUES, "monitoring.podMonitor.enabled=false"
    )
