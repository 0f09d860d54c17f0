"""The dashboards: every metric and label is there, every query is PromQL, and Grafana's sidecar finds them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from exported_metrics import OF_ALL, exported, grouped, selected
from helm_support import CHART, ROOT, only, refused, render
from metrics_of_the_code import declared
from promtool import promtool

FILES = sorted((CHART / "files" / "dashboards").glob("*.json"))
AWS = CHART / "ci" / "production-aws-values.yaml"
#: As templates/prometheusrule.yaml records them.
RECORDED = {
    "inferenceservice:saccade_slo_error_budget:remaining": {"slo"},
    "revision:saccade_slo_errors:ratio_rate5m": {"slo"},
}
every_dashboard = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def dashboard(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def queries(path: Path) -> list[str]:
    return [target["expr"] for panel in dashboard(path)["panels"] for target in panel.get("targets", [])]


def known() -> dict[str, set[str]]:
    """Series and their labels: those that are exported, and those that the rules record."""
    return exported() | RECORDED


def test_there_are_five() -> None:
    assert [path.stem for path in FILES] == ["batching", "cache", "canary", "gpu", "overview"]


@every_dashboard
def test_every_metric_and_label_is_exported(path: Path) -> None:
    series_known = known()
    assert len(queries(path)) >= 12
    for expression in queries(path):
        series = selected(expression)
        assert series, expression
        for name, labels in series:
            assert name in series_known, f"{name} in {expression}"
            assert labels <= series_known[name] | OF_ALL, expression
        theirs = set.union(*(series_known[name] | OF_ALL for name, _ in series))
        assert grouped(expression) <= theirs, expression


@every_dashboard
def test_legends_name_labels_that_the_query_leaves(path: Path) -> None:
    for panel in dashboard(path)["panels"]:
        for target in panel.get("targets", []):
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            left = grouped(target["expr"]) | ({"revision", "slo"} if ":saccade_" in target["expr"] else set())
            assert named <= left, target


@every_dashboard
def test_every_query_is_promql(path: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{at}", "expr": expression.replace("$__rate_interval", "5m")}
        for at, expression in enumerate(queries(path))
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": path.stem, "rules": rules}]}))
    ended = promtool("check", "rules", "rules.yaml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(rules)} rules found" in ended.stdout


@every_dashboard
def test_panels_lie_beside_each_other(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@every_dashboard
def test_a_reader_is_told_how_to_read_each_panel(path: Path) -> None:
    for panel in dashboard(path)["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "heatmap"


@every_dashboard
def test_variables_are_asked_before_they_are_used(path: Path) -> None:
    asked = {"__rate_interval"}
    for variable in dashboard(path)["templating"]["list"]:
        if variable["type"] == "query":
            assert set(re.findall(r"\$\{?(\w+)", variable["query"]["query"])) <= asked
            [name] = re.findall(r"label_values\((\w+)", variable["query"]["query"])
            assert name in declared()
        asked.add(variable["name"])
    for expression in queries(path):
        assert set(re.findall(r"\$\{?(\w+)", expression)) <= asked


def test_each_has_an_address_of_its_own() -> None:
    assert len({dashboard(path)["uid"] for path in FILES}) == len(FILES)


def test_recorded_series_are_those_of_the_rules() -> None:
    groups = only(render(AWS), "PrometheusRule")["spec"]["groups"]
    records = {rule.get("record") for group in groups for rule in group["rules"]}
    assert set(RECORDED) <= records


def test_the_sidecar_finds_them() -> None:
    maps = [one for one in render(AWS) if one["kind"] == "ConfigMap" and "-dashboard-" in one["metadata"]["name"]]
    assert {one["metadata"]["name"] for one in maps} == {f"gate-detector-dashboard-{path.stem}" for path in FILES}
    for one in maps:
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "Saccade"}
        [(name, text)] = one["data"].items()
        assert json.loads(text) == dashboard(CHART / "files" / "dashboards" / name.removeprefix("saccade-"))


def test_label_and_folder_are_the_sidecars() -> None:
    sets = ("monitoring.dashboards.labels.grafana_dashboard=yes", "monitoring.dashboards.folder=")
    maps = [one for one in render(AWS, *sets) if "-dashboard-" in one["metadata"]["name"]]
    assert maps[0]["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert "annotations" not in maps[0]["metadata"]


def test_there_are_none_by_default() -> None:
    assert not [one for one in render() if "-dashboard-" in one["metadata"]["name"]]


def test_dashboards_without_what_they_read_are_refused() -> None:
    sets = ("monitoring.podMonitor.enabled=false", "monitoring.rules.enabled=false")
    assert "monitoring.dashboards.enabled is true and monitoring.podMonitor.enabled false; expected both" in refused(
        AWS, *sets
    )


def test_faults_are_those_of_the_alerts() -> None:
    code = "from dashboards.promql import FAULTS; print(FAULTS)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "helm", capture_output=True, text=True, timeout=60, check=True
    )
    text = (CHART / "templates" / "_slo.tpl").read_text(encoding="utf-8")
    [ours] = re.findall(r'define "saccade.faults" -}}\n(.*)\n', text)
    assert ended.stdout.strip() == ours
