"""A release on the real controllers: it becomes Ready, has the settings that were promised, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster_support import KUBECTL, Namespace
from helm_support import CHART, HELM, Object

PRODUCTION = ("predictor.minReplicas=2", "predictor.maxReplicas=8", "predictor.concurrency.target=41")


@pytest.fixture
def demo(namespace: Namespace) -> Namespace:
    namespace.upgrade(
        *PRODUCTION,
        "predictor.gpu.count=1",
        "predictor.concurrency.hard=160",
        "predictor.gpu.product=NVIDIA-L4",
        "predictor.priorityClassName=system-cluster-critical",
        "predictor.settings.maxQueueSize=256",
    )
    return namespace


def label_nodes(namespace: Namespace) -> None:
    namespace.kubectl("label", "node", "fake-node-0", "nvidia.com/gpu.product=NVIDIA-L4", "--overwrite")


def test_settings_reach_the_revision_the_deployment_and_the_autoscaler(demo: Namespace) -> None:
    label_nodes(demo)
    demo.wait()
    [revision] = [one for one in demo.names("revision") if "predictor" in one]
    found = demo.get("revision", revision)
    annotations = found["metadata"]["annotations"]
    for key, value in {
        "min-scale": "2",
        "max-scale": "8",
        "target": "41",
        "metric": "concurrency",
        "class": "kpa.autoscaling.knative.dev",
        "initial-scale": "2",
        "target-burst-capacity": "0",
        "target-utilization-percentage": "100",
        "window": "6s",
    }.items():
        assert annotations[f"autoscaling.knative.dev/{key}"] == value, key
    assert annotations["serving.knative.dev/progress-deadline"] == "1800s"
    spec = found["spec"]
    assert (spec["containerConcurrency"], spec["timeoutSeconds"]) == (160, 60)

    autoscaler = demo.get("podautoscaler", revision)
    assert autoscaler["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "2"
    assert autoscaler["spec"]["containerConcurrency"] == 160

    deployment = demo.get("deployment", f"{revision}-deployment")
    assert deployment["spec"]["progressDeadlineSeconds"] == 1800
    pod = deployment["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["serviceAccountName"] == "demo"
    containers = {one["name"]: one for one in pod["containers"]}
    ours, proxy = containers["kserve-container"], containers["queue-proxy"]
    assert ours["resources"]["limits"]["nvidia.com/gpu"] == ours["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert ours["args"] == ["--model_name=detector", "--http_port=8080", "--grpc_port=8081"]
    assert environment(ours)["SACCADE_PREDICTOR_MAX_QUEUE_SIZE"] == "256"
    assert ours["startupProbe"]["httpGet"]["path"] == "/v2/models/detector/ready"
    assert proxy["resources"]["requests"]["cpu"] == "200m"
    assert proxy["resources"]["requests"]["memory"] == "256Mi"
    assert proxy["resources"]["limits"]["memory"] == "1Gi"
    assert "cpu" not in proxy["resources"]["limits"]
    assert len([one for one in demo.names("pod") if "predictor" in one]) == 2


def test_the_transformer_finds_its_predictor_and_has_one_worker(demo: Namespace) -> None:
    label_nodes(demo)
    demo.wait()
    [revision] = [one for one in demo.names("revision") if "transformer" in one]
    [ours] = demo.get("revision", revision)["spec"]["containers"]
    arguments = " ".join(ours["args"])
    assert f"--predictor_host demo-predictor.{demo.name}" in arguments
    assert arguments.count("workers") == 1
    assert "--workers=1" in ours["args"]
    assert "--predictor_protocol=v2" in ours["args"]
    assert environment(ours)["SACCADE_TRANSFORMER_METRICS_ON_HTTP"] == "false"


@pytest.mark.parametrize("which", HELM)
def test_the_least_values_are_enough_with_each_helm(namespace: Namespace, which: str) -> None:
    printed = namespace.upgrade(which=which)
    assert f"saccade rollout wait demo -n {namespace.name}" in printed
    namespace.wait()
    service = namespace.get("inferenceservice", "demo")
    assert service["status"]["url"].startswith(f"http://demo-transformer.{namespace.name}")


def test_uninstalling_leaves_nothing(namespace: Namespace) -> None:
    kinds = "isvc,ksvc,revision,deployment,pod,svc,sa,cm,networkpolicy,pdb,secret"
    before = namespace.kubectl("get", kinds, "-o", "name").split()
    namespace.upgrade()
    namespace.wait()
    ended = namespace.helm("uninstall", "demo", "--wait")
    assert ended.returncode == 0, ended.stderr
    namespace.kubectl("wait", "--for=delete", "pod,revision,deployment", "--all", "--timeout=60s")
    assert namespace.kubectl("get", kinds, "-o", "name").split() == before


def test_what_knative_would_refuse_the_chart_refuses_first(namespace: Namespace) -> None:
    namespace.upgrade()
    service = namespace.get("inferenceservice", "demo")
    for field, value, sets in (
        ("minReplicas", 4, "predictor.minReplicas=4"),
        ("timeout", 601, "predictor.timeoutSeconds=601"),
        ("containerConcurrency", 1001, "predictor.concurrency.hard=1001"),
    ):
        broken: Object = {
            **service,
            "metadata": {"name": "broken", "annotations": service["metadata"]["annotations"]},
            "spec": {**service["spec"], "predictor": {**service["spec"]["predictor"], field: value}},
        }
        broken.pop("status")
        assert sets.partition("=")[0].rpartition(".")[2] in namespace.refused(sets)
        assert is_refused(namespace, broken), f"{field}={value} works by now: the chart may allow it"


def is_refused(namespace: Namespace, service: Object) -> bool:
    """Whether an InferenceService is refused at once, or is never given a Knative service."""
    ended = namespace.run(KUBECTL, "-n", namespace.name, "apply", "-f", "-", stdin=yaml.safe_dump(service))
    if ended.returncode != 0:
        return True
    try:
        namespace.kubectl("wait", "isvc/broken", "--for=jsonpath={.status.conditions}", "--timeout=30s")
        ended = namespace.rollout("wait", "broken", "--timeout", "10")
        return ended.returncode == 1 and "has not made its Knative service" in ended.stderr
    finally:
        namespace.kubectl("delete", "isvc", "broken")


def test_rendering_with_the_cluster_changes_nothing(namespace: Namespace) -> None:
    sets = [
        option
        for one in (
            "predictor.image.repository=dev.local/p1",
            "transformer.image.repository=dev.local/t1",
            "model.storageUri=s3://models/repository",
        )
        for option in ("--set", one)
    ]
    command: list[str | Path] = ["upgrade", "--install", "same", CHART, *sets]
    first = namespace.helm(*command, "--dry-run=server")
    assert first.returncode == 0, first.stderr
    assert namespace.helm(*command).returncode == 0
    again = namespace.helm(*command, "--dry-run=server")
    assert manifest(again.stdout) == manifest(first.stdout)


def manifest(printed: str) -> str:
    """What of Helm's report is applied."""
    return printed.partition("MANIFEST:")[2].partition("NOTES:")[0]


def environment(container: Object) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}
