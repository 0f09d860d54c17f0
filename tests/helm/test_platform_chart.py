"""The chart of the platform: what Knative's operator and Knative take, by both versions of Helm; its install order."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from helm_support import CHART, EXAMPLES, HELM, KUBERNETES, ROOT, Object, helm, only
from helm_support import render as render_saccade
from tools import missing

PLATFORM = ROOT / "helm" / "platform"
KIND = PLATFORM / "values" / "kind.yaml"
PLATFORMS = [*sorted((PLATFORM / "ci").glob("*-values.yaml")), KIND]
AWS = PLATFORM / "ci" / "aws-values.yaml"
OPERATOR = Path(__file__).with_name("knativeserving.json")
#: Knative Serving 1.21.1, whose source Go's module proxy has; what 1.21.3 has beside it.
SERVING = "knative.dev/serving@v0.48.1"
NEWER = {f"queue-sidecar-tls-{of}" for of in ("cipher-suites", "curve-preferences", "max-version", "min-version")}

every_platform = pytest.mark.parametrize("values", PLATFORMS, ids=lambda path: path.stem)


def ask(*sets: str, values: Path | None = None, which: str = "helm 4", namespace: str = "knative-serving") -> Any:
    """Helm's rendering of the chart, done or refused."""
    options = [option for one in sets for option in ("--set", one)]
    file: list[str | Path] = ["-f", values] if values else []
    where = ["--namespace", namespace, "--kube-version", KUBERNETES]
    return helm("template", "platform", PLATFORM, *where, *file, *options, which=which)


def render(*sets: str, values: Path | None = None, which: str = "helm 4") -> list[Object]:
    ended = ask(*sets, values=values, which=which)
    assert ended.returncode == 0, ended.stderr
    return [found for found in yaml.safe_load_all(ended.stdout) if found]


def refused(*sets: str, namespace: str = "knative-serving") -> str:
    ended = ask(*sets, namespace=namespace)
    assert ended.returncode != 0, "it was not refused"
    return " ".join(ended.stderr.split())


@pytest.mark.parametrize("which", HELM)
@every_platform
def test_it_lints(values: Path, which: str) -> None:
    ended = helm("lint", PLATFORM, "--strict", "-n", "knative-serving", "-f", values, which=which)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@every_platform
def test_both_helms_render_the_same(values: Path) -> None:
    def by_kind(which: str) -> list[Object]:
        return sorted(render(values=values, which=which), key=json.dumps)

    assert by_kind("helm 3") == by_kind("helm 4")


@every_platform
def test_the_operator_takes_it(values: Path) -> None:
    spec = only(render(values=values), "KnativeServing")["spec"]
    schema = _closed(json.loads(OPERATOR.read_text(encoding="utf-8")))
    jsonschema.Draft202012Validator(schema).validate(spec)


def _closed(schema: Any) -> Any:
    """A CRD's schema that refuses what the API server would drop without a word."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(one) for key, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def test_the_operators_schema_refuses_a_name_that_it_does_not_know() -> None:
    spec = only(render(), "KnativeServing")["spec"]
    spec["ingress"]["kourier"]["serviceType"] = "LoadBalancer"
    schema = _closed(json.loads(OPERATOR.read_text(encoding="utf-8")))
    with pytest.raises(jsonschema.ValidationError, match="serviceType"):
        jsonschema.Draft202012Validator(schema).validate(spec)


@every_platform
def test_kubernetes_takes_the_namespaces(values: Path) -> None:
    for one in render(values=values):
        if one["kind"] == "Namespace":
            kubernetes_validate.validate(one, "1.35", strict=True)
            assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def known_keys() -> dict[str, set[str]]:
    written = yaml.safe_load((ROOT / "helm" / "knative_keys.yaml").read_text(encoding="utf-8"))
    return {name: set(keys) for name, keys in written.items()}


def test_the_keys_are_those_of_knatives_own_config_maps() -> None:
    """Against the sources: what their ConfigMaps hold and show as an example."""
    sources = {**_examples(_module(SERVING)), **_examples(_networking())}
    for name, keys in known_keys().items():
        theirs = sources[f"config-{name}"]
        ours = {"deployment": {"queue-sidecar-image", *NEWER, "default-affinity-type"}, "network": {"ingress-class"}}
        assert keys ^ theirs <= ours.get(name, set()), name
        assert keys >= NEWER or name != "deployment"


def _module(module: str) -> Path:
    """Where Go keeps a module's source."""
    if shutil.which("go") is None:
        missing("needs Go, which brings the sources of Knative: https://go.dev/dl")
    ended = subprocess.run(
        ["go", "mod", "download", "-json", module], capture_output=True, text=True, timeout=300, check=False
    )
    if ended.returncode != 0:
        missing(f"needs the source of {module}: go mod download {module}")
    return Path(json.loads(ended.stdout)["Dir"])


def _networking() -> Path:
    """The module with config-network, of the version that Serving was built with."""
    lines = (_module(SERVING) / "go.mod").read_text(encoding="utf-8").split("\n")
    [version] = [line.split()[1] for line in lines if line.strip().startswith("knative.dev/networking ")]
    return _module(f"knative.dev/networking@{version}")


def _examples(module: Path) -> dict[str, set[str]]:
    """Keys of the ConfigMaps in a module, set or in the example."""
    found: dict[str, set[str]] = {}
    folders = [module / "config", module / "third_party" / "kourier-latest"]
    for file in (one for folder in folders if folder.exists() for one in folder.rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        if "kind: ConfigMap" not in text:
            continue
        for one in yaml.safe_load_all(text):
            if one and one["kind"] == "ConfigMap" and "data" in one:
                keys = {key for key in one["data"] if key != "_example"}
                keys |= set(yaml.safe_load(one["data"].get("_example", "")) or {})
                found.setdefault(one["metadata"]["name"], set()).update(keys)
    return found


@every_platform
def test_every_key_that_is_set_is_one_that_knative_knows(values: Path) -> None:
    known = known_keys()
    config = only(render(values=values), "KnativeServing")["spec"]["config"]
    assert config.pop("domain")
    assert config["network"].pop("ingress-class") == "kourier.ingress.networking.knative.dev"
    for name, keys in config.items():
        assert keys.keys() <= known[name], name
        assert all(isinstance(value, str) for value in keys.values())


def test_what_the_models_chart_asks_of_knative_is_enabled() -> None:
    """Knative's webhook refuses a field whose flag is off."""
    features = only(render(), "KnativeServing")["spec"]["config"]["features"]
    flags = {
        "nodeSelector": "nodeselector",
        "tolerations": "tolerations",
        "priorityClassName": "priorityclassname",
        "affinity": "affinity",
        "runtimeClassName": "runtimeclassname",
        "topologySpreadConstraints": "topologyspreadconstraints",
    }
    asked = set()
    for example in EXAMPLES:
        spec = only(render_saccade(example), "InferenceService")["spec"]
        asked |= {flags[field] for part in ("predictor", "transformer") for field in spec[part] if field in flags}
        if spec["predictor"]["containers"][0]["env"][0].get("value", "").startswith("pvc://"):
            asked.add("persistent-volume-claim")
    assert {"nodeselector", "tolerations", "priorityclassname", "persistent-volume-claim"} <= asked
    assert {f"kubernetes.podspec-{one}" for one in asked} <= {key for key, on in features.items() if on == "enabled"}


def test_metrics_are_exported() -> None:
    config = only(render(), "KnativeServing")["spec"]["config"]["observability"]
    assert config == {"metrics-protocol": "prometheus", "request-metrics-protocol": "prometheus"}


def test_a_key_of_ones_own_is_added_to_the_others() -> None:
    config = only(render("knative.config.autoscaler.stable-window=120s"), "KnativeServing")["spec"]["config"]
    assert config["autoscaler"] == {
        "enable-scale-to-zero": "true",
        "scale-to-zero-grace-period": "30s",
        "stable-window": "120s",
    }


def test_numbers_become_text() -> None:
    sets = ("knative.config.gc.max-non-active-revisions=1000000", "knative.config.autoscaler.max-scale-up-rate=2.5")
    config = only(render(*sets), "KnativeServing")["spec"]["config"]
    assert config["gc"]["max-non-active-revisions"] == "1000000"
    assert config["autoscaler"]["max-scale-up-rate"] == "2.5"


def test_a_node_can_be_drained() -> None:
    spec = only(render(), "KnativeServing")["spec"]
    assert spec["high-availability"]["replicas"] == 2
    assert {one["name"] for one in spec["podDisruptionBudgets"]} == {
        "activator-pdb",
        "webhook-pdb",
        "3scale-kourier-gateway-pdb",
    }
    assert all(one["maxUnavailable"] == 1 and "minAvailable" not in one for one in spec["podDisruptionBudgets"])


def test_the_clouds_controller_reads_the_gateways_annotations() -> None:
    spec = only(render(values=AWS), "KnativeServing")["spec"]
    [service] = spec["services"]
    assert service["name"] == "kourier"
    assert service["annotations"]["service.beta.kubernetes.io/aws-load-balancer-scheme"] == "internal"
    assert "services" not in only(render(), "KnativeServing")["spec"]


def test_prometheus_finds_knatives_pods_and_the_gateway() -> None:
    monitors = [one for one in render(values=AWS) if one["kind"] == "PodMonitor"]
    paths = {one["metadata"]["name"]: one["spec"]["podMetricsEndpoints"][0].get("path") for one in monitors}
    assert paths == {"knative-serving": None, "kourier-gateway": "/stats/prometheus"}
    assert all(one["metadata"]["labels"]["release"] == "prometheus" for one in monitors)
    assert not [one for one in render() if one["kind"] == "PodMonitor"]


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ("knative.config.autoscaler.stable-windows=60s", "stable-windows"),
        ("knative.config.features.kubernetes\\.podspec-nodeselectors=enabled", "nodeselectors"),
        ("knative.config.features.kubernetes\\.podspec-nodeselector=yes", "enabled"),
        ("knative.config.eventing.x=y", "eventing"),
        ("knative.config.network.ingress-class=istio", "ingress-class"),
        ("knative.kourier.serviceType=ExternalName", "/knative/kourier/serviceType"),
        ("knative.kourier.httpNodePort=80", "/knative/kourier/httpNodePort"),
        ("knative.replicas=0", "/knative/replicas"),
        ("knative.domain=https://example.com", "/knative/domain"),
        ("knative.version=newest", "/knative/version"),
        ("knative.istio.enabled=true", "istio"),
        ("namespaces[0].title=vision", "title"),
        ("namespaces[0].name=Vision", "/namespaces/0/name"),
        ("monitoring.podMonitor.interval=often", "/monitoring/podMonitor/interval"),
    ],
)
def test_the_schema_refuses(sets: str, named: str) -> None:
    text = refused(sets)
    assert "values don't meet the specifications of the schema" in text
    assert named in text


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (("knative.version=1.22.0",), "knative.version is 1.22.0; expected 1.21.x"),
        (
            ("knative.kourier.serviceType=ClusterIP", "knative.kourier.loadBalancerIP=10.0.0.1"),
            "loadBalancerIP is 10.0.0.1 and serviceType ClusterIP; expected serviceType=LoadBalancer",
        ),
        (
            ("knative.kourier.httpNodePort=31080",),
            "httpNodePort is 31080, httpsNodePort 0 and serviceType LoadBalancer",
        ),
        (
            ("knative.config.defaults.max-revision-timeout-seconds=60",),
            "max-revision-timeout-seconds is 60; expected at least 120",
        ),
    ],
)
def test_what_would_not_work_is_refused(sets: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(*sets)


def test_another_namespace_is_refused() -> None:
    assert "The release's namespace is default; expected knative-serving" in refused(namespace="default")


def test_what_is_refused_with_one_setting_is_taken_with_the_other() -> None:
    spec = only(
        render("knative.kourier.serviceType=NodePort", "knative.kourier.httpNodePort=31080"), "KnativeServing"
    )["spec"]
    assert spec["ingress"]["kourier"] == {"enabled": True, "service-type": "NodePort", "http-port": 31080}


def steps() -> list[Object]:
    found: list[Object] = yaml.safe_load((PLATFORM / "install.yaml").read_text(encoding="utf-8"))["steps"]
    return found


def test_versions_belong_together() -> None:
    at = {one["name"]: one.get("version") for one in steps()}
    chart = yaml.safe_load((PLATFORM / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((PLATFORM / "values.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == values["knative"]["version"] == "1.21.3"
    assert at["knative-operator"] == "v1.21.4", "1.21.3 of the operator holds Serving up to 1.21.2"
    assert {at[one] for one in at if one.startswith("kserve")} == {"v0.20.0"}
    assert all(one.get("version") for one in steps() if one["chart"] != ".")


@pytest.mark.parametrize("name", ["install.sh", "install-kind.sh"])
def test_the_printed_commands_run_in_their_order(name: str, tmp_path: Path) -> None:
    """By a shell, with a helm and a kubectl that write down how they were called."""
    target = "print-install-kind" if "kind" in name else "print-install"
    printed = subprocess.run(
        ["make", "-s", "-C", str(PLATFORM), target],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    log = tmp_path / "log"
    for program in ("helm", "kubectl", "kind"):
        file = tmp_path / program
        file.write_text(f'#!/bin/sh\necho {program} "$@" >>{log}\n', encoding="utf-8")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PLATFORM_VALUES": str(AWS)}
    ended = subprocess.run(
        ["sh"], input=printed, cwd=PLATFORM, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    calls = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    installed = [call[3] for call in calls if call[0] == "helm"]
    on_kind = name == "install-kind.sh"
    assert installed == [one["name"] for one in steps() if not on_kind or not (one.get("gpu") or one.get("optional"))]
    files = [call[at + 1] for call in calls for at, word in enumerate(call) if word == "--values"]
    assert files
    assert all((PLATFORM / file).is_file() for file in files)
    assert ("values/kind.yaml" in files) == on_kind
    created = next((call for call in calls if call[:3] == ["kind", "create", "cluster"]), None)
    assert (created is not None) == on_kind
    if created:
        node = created[created.index("--image") + 1]
        assert re.fullmatch(r"kindest/node:v1\.3[345]\.\d+", node), (
            f"{node} is no Kubernetes that docs/install.md names"
        )
    assert files.count(str(AWS)) == 1, "the chart's own values are a person's last word"
    order = [" ".join(call) for call in calls]
    [ready] = [at for at, call in enumerate(order) if "wait knativeserving/knative-serving" in call]
    assert ready < next(at for at, call in enumerate(order) if "kserve-resources" in call)


#: Of the charts that are installed, the values that our files name. Sources: kserve@v0.20.0 charts/kserve-resources,
#: cert-manager@v1.21.1 deploy/charts, k8s-device-plugin@v0.20.0 deployments/helm, dcgm-exporter@4.5.3-4.8.2
#: deployment, prometheus-community/helm-charts@kube-prometheus-stack-83.4.0 (and its Grafana chart).
THEIRS = {
    "kserve-resources": {"kserve.controller.deploymentMode", "kserve.controller.gateway.disableIstioVirtualHost"},
    "cert-manager": {"crds.enabled"},
    "device-plugin": {"gfd.enabled", "nfd.worker.tolerations"},
    "dcgm-exporter": {"nodeSelector.nvidia.com/gpu.present", "tolerations", "serviceMonitor.enabled"},
    "prometheus": {
        "prometheus.prometheusSpec.retention",
        "prometheus.prometheusSpec.podMonitorSelectorNilUsesHelmValues",
        "prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues",
        "prometheus.prometheusSpec.serviceMonitorSelectorNilUsesHelmValues",
        "grafana.sidecar.dashboards.enabled",
        "grafana.sidecar.dashboards.label",
        "grafana.sidecar.dashboards.labelValue",
        "grafana.sidecar.dashboards.searchNamespace",
        "grafana.sidecar.dashboards.folderAnnotation",
        "grafana.sidecar.dashboards.provider.foldersFromFilesStructure",
    },
}


def test_the_other_charts_have_the_values_that_they_are_given() -> None:
    named = {file for one in steps() for file in one.get("values", ())}
    assert named == {f"values/{name}.yaml" for name in THEIRS}
    for name, theirs in THEIRS.items():
        values = yaml.safe_load((PLATFORM / "values" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert set(_leaves(values)) == theirs


def _leaves(values: Any, path: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [path]
    return [leaf for key, one in values.items() for leaf in _leaves(one, f"{path}.{key}".lstrip("."))]


def test_prometheus_keeps_what_the_error_budgets_reach_back_to() -> None:
    groups = only(render_saccade(CHART / "ci" / "production-aws-values.yaml"), "PrometheusRule")["spec"]["groups"]
    expressions = " ".join(rule["expr"] for group in groups for rule in group["rules"])
    reach_days = max(int(days) for days in re.findall(r"\[(\d+)d\]", expressions))
    values = yaml.safe_load((PLATFORM / "values" / "prometheus.yaml").read_text(encoding="utf-8"))
    kept = re.fullmatch(r"(\d+)d", values["prometheus"]["prometheusSpec"]["retention"])
    assert kept is not None
    assert int(kept[1]) > reach_days >= 30


def test_kserve_is_told_the_mode_that_the_models_chart_asks_for() -> None:
    values = yaml.safe_load((PLATFORM / "values" / "kserve-resources.yaml").read_text(encoding="utf-8"))
    annotations = only(render_saccade(), "InferenceService")["metadata"]["annotations"]
    mode = values["kserve"]["controller"]["deploymentMode"]
    assert annotations["serving.kserve.io/deploymentMode"] == mode == "Knative"
    assert values["kserve"]["controller"]["gateway"]["disableIstioVirtualHost"] is True
