"""A release on the real controllers: it becomes Ready, has the settings that were promised, and leaves nothing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_support import KUBECTL, VALUES, Namespace
from helm_support import CHART, HELM, Object, only, options
from saccade_cli.passed_on import find_difference
from saccade_cli.rollout import COMPONENTS

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


Change = Callable[[Object], object]


def change_container(**fields: Any) -> Change:
    """A change of the predictor's container: fields that are set, lists that go behind those that are there."""

    def change(predictor: Object) -> None:
        [container] = predictor["containers"]
        for field, value in fields.items():
            container[field] = [*container[field], *value] if isinstance(value, list) else value

    return change


@pytest.mark.parametrize(
    ("change", "sets", "said"),
    [
        (lambda one: one.update(minReplicas=4), "predictor.minReplicas=4", "minReplicas is 4"),
        (lambda one: one.update(timeout=601), "predictor.timeoutSeconds=601", "timeoutSeconds is 601"),
        (
            lambda one: one.update(containerConcurrency=1001),
            "predictor.concurrency.hard=1001",
            "concurrency.hard is 1001",
        ),
        (
            change_container(
                resources={"requests": {"cpu": "5", "memory": "4Gi"}, "limits": {"cpu": "4", "memory": "4Gi"}}
            ),
            "predictor.resources.requests.cpu=5",
            "requests.cpu is 5 and limits.cpu 4",
        ),
        (
            change_container(image="dev.local/saccade-predictor:1:0.1.0"),
            "predictor.image.repository=dev.local/saccade-predictor:1",
            "expected it without a tag",
        ),
        (
            change_container(env=[{"name": "PORT", "value": "a"}]),
            "predictor.env[0].name=PORT,predictor.env[0].value=a",
            "env has PORT",
        ),
        (
            change_container(env=[{"name": "STORAGE_URI", "value": "a"}]),
            "predictor.env[0].name=STORAGE_URI,predictor.env[0].value=a",
            "env has STORAGE_URI, which is there already",
        ),
        (
            change_container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]),
            "predictor.env[0].name=A,predictor.env[0].valueFrom.fieldRef.fieldPath=status.hostIP",
            "a valueFrom with fieldRef",
        ),
        (
            lambda one: one.update(serviceAccountName="nobody"),
            "serviceAccount.create=false",
            "serviceAccount.name empty",
        ),
        (
            lambda one: one.update(tolerations=[{"key": "a", "effect": "No"}]),
            "predictor.tolerations[0].effect=No",
            "at '/predictor/tolerations/0/effect'",
        ),
    ],
    ids=lambda value: value.partition("=")[0] if isinstance(value, str) and "=" in value else "",
)
def test_what_knative_would_refuse_the_chart_refuses_first(
    namespace: Namespace, change: Change, sets: str, said: str
) -> None:
    assert said in namespace.refused(sets)
    service = rendered(namespace)
    change(service["spec"]["predictor"])
    assert is_refused(namespace, service), f"{sets} works by now: the chart may allow it"


def rendered(namespace: Namespace, name: str = "broken") -> Object:
    """An InferenceService of the chart that works, by another name, to be changed."""
    command: list[str | Path] = ["template", "demo", CHART, *options(*VALUES, "serviceAccount.create=false")]
    ended = namespace.helm(*command, "--set", "serviceAccount.name=default")
    assert ended.returncode == 0, ended.stderr
    service = only([one for one in yaml.safe_load_all(ended.stdout) if one], "InferenceService")
    service["metadata"] = {"name": name, "annotations": service["metadata"]["annotations"]}
    return service


def is_refused(namespace: Namespace, service: Object) -> bool:
    """Whether an InferenceService is refused at once, or its Knative service is."""
    ended = namespace.run(KUBECTL, "-n", namespace.name, "apply", "-f", "-", stdin=yaml.safe_dump(service))
    if ended.returncode != 0:
        return True
    reason = '{.status.conditions[?(@.type=="PredictorReady")].reason}'
    failed = f"--for=jsonpath={reason}=ReconcileFailed"
    if namespace.run(KUBECTL, "-n", namespace.name, "wait", "isvc/broken", failed, "--timeout=30s").returncode != 0:
        return False
    ended = namespace.rollout("wait", "broken", "--timeout", "1")
    return ended.returncode == 1 and "ReconcileFailed" in ended.stderr and "denied the request" in ended.stderr


def test_what_works_is_not_taken_for_refused(namespace: Namespace) -> None:
    assert not is_refused(namespace, rendered(namespace))


@pytest.mark.parametrize("name", ["1x", "a.b"])
def test_names_that_the_chart_refuses_kserve_refuses(namespace: Namespace, name: str) -> None:
    assert f"name, from the release's, is {name};" in namespace.refused(release=name)
    manifest = yaml.safe_dump(rendered(namespace, name))
    ended = namespace.run(KUBECTL, "-n", namespace.name, "apply", "-f", "-", stdin=manifest)
    assert "name must consist of lower case" in ended.stderr


def test_a_sidecar_with_more_memory_than_its_limit_would_never_be_ready(namespace: Namespace) -> None:
    assert "memoryRequest is 2Gi and memoryLimit 1Gi" in namespace.refused("predictor.queueProxy.memoryRequest=2Gi")
    service = rendered(namespace)
    service["spec"]["predictor"]["annotations"]["queue.sidecar.serving.knative.dev/memory-resource-request"] = "2Gi"
    namespace.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(service))
    created = "--for=jsonpath={.status.latestCreatedRevisionName}=broken-predictor-00001"
    namespace.kubectl("wait", "--for=create", "ksvc/broken-predictor", "--timeout=30s")
    namespace.kubectl("wait", "ksvc/broken-predictor", created, "--timeout=30s")
    namespace.kubectl("wait", "--for=create", "revision/broken-predictor-00001", "--timeout=30s")
    told = "--field-selector=reason=InternalError,involvedObject.kind=Revision"
    deadline = time.monotonic() + 60
    while "must be less than or equal to memory limit" not in namespace.kubectl("get", "events", told, "-o", "json"):
        assert time.monotonic() < deadline, "Kubernetes takes it by now: the chart may allow it"
        time.sleep(0.5)


def test_annotations_that_the_chart_refuses_kserve_does_not_pass_on(namespace: Namespace) -> None:
    service = rendered(namespace)
    given = {f"autoscaling.knative.dev/{key}": "2" for key in ("min-scale", "max-scale", "target")}
    service["spec"]["predictor"]["annotations"] |= given
    namespace.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(service))
    namespace.kubectl("wait", "--for=create", "ksvc/broken-predictor", "--timeout=30s")
    found = namespace.get("ksvc", "broken-predictor")["spec"]["template"]["metadata"]["annotations"]
    spec = service["spec"]["predictor"]
    wanted = [spec[field] for field in ("minReplicas", "maxReplicas", "scaleTarget")]
    assert [found[key] for key in given] == [str(value) for value in wanted]


def test_what_controllers_add_is_passed_on_and_what_a_release_takes_away_is_not(namespace: Namespace) -> None:
    lasting = ("canary.split=request",)
    more = (
        "canary.split=camera",
        "cache.mode=redis",
        "redis.existingSecret=cache",
        "predictor.env[0].name=A,predictor.env[0].value=a",
        "predictor.nodeSelector.kubernetes\\.io/os=linux",
        "predictor.tolerations[0].key=a,predictor.tolerations[0].operator=Exists",
        "predictor.priorityClassName=system-cluster-critical",
        "imagePullSecrets[0]=registry",
        r"string:predictor.annotations.autoscaling\.knative\.dev/panic-window-percentage=20",
    )
    templates = {}
    services = {}
    for at, sets in enumerate((more, lasting)):
        namespace.upgrade(*sets)
        deadline = time.monotonic() + 60
        while True:
            services[at] = namespace.get("isvc", "demo")
            templates[at] = {
                name: namespace.get("ksvc", f"demo-{name}")["spec"]["template"]
                for name in COMPONENTS
                if f"demo-{name}" in namespace.names("ksvc")
            }
            differences = {name: find_difference(services[at], name, one) for name, one in templates[at].items()}
            if differences == dict.fromkeys(COMPONENTS, ""):
                break
            assert time.monotonic() < deadline, differences
            time.sleep(0.2)
    for name in COMPONENTS:
        assert find_difference(services[1], name, templates[0][name]), "the old template is taken for the new one"
        assert find_difference(services[0], name, templates[1][name])
    for name, field in (
        ("predictor", "nodeSelector"),
        ("predictor", "tolerations"),
        ("predictor", "priorityClassName"),
        ("transformer", "imagePullSecrets"),
        ("transformer", "volumes"),
    ):
        without = copy.deepcopy(services[0])
        del without["spec"][name][field]
        assert find_difference(without, name, templates[0][name]).startswith(field)


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
