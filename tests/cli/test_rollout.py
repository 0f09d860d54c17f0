"""Whether a release has arrived, judged from the API server's objects. With a real one: tests/cluster."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saccade_cli.passed_on import Object
from saccade_cli.rollout import Observed, deadline_s, look, missing

READY = {"type": "Ready", "status": "True"}


def spec(**more: Any) -> Object:
    container = {
        "name": "kserve-container",
        "image": "registry/predictor:1",
        "args": ["--model_name=detector", "--http_port=8080"],
        "env": [{"name": "A", "value": "1"}],
        "resources": {"limits": {"cpu": "1000m", "memory": "4Gi"}},
    }
    found: Object = {
        "annotations": {"serving.knative.dev/progress-deadline": "1800s"},
        "minReplicas": 2,
        "maxReplicas": 4,
        "scaleTarget": 34,
        "timeout": 60,
        "containerConcurrency": 0,
        "containers": [container],
        "tolerations": [],
    }
    return {**found, **more}


def knative(of: Object, newest: str, shares: dict[str, int], ready: str | None = None) -> Object:
    """The Knative service that KServe and Knative make of a component, with what they add and rewrite."""
    [container] = copy.deepcopy(of["containers"])
    container["args"] += ["--predictor_host", "detector-predictor.vision"]
    container["resources"] = {"limits": {"cpu": "1", "memory": "4Gi"}, "requests": {"cpu": "1"}}
    container["env"].append({"name": "PORT", "value": "8080"})
    annotations = {
        **of["annotations"],
        "autoscaling.knative.dev/min-scale": str(of["minReplicas"]),
        "autoscaling.knative.dev/max-scale": str(of["maxReplicas"]),
        "autoscaling.knative.dev/target": str(of["scaleTarget"]),
        "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
    }
    pods = {"containers": [container], "timeoutSeconds": of["timeout"], "containerConcurrency": 0}
    return {
        "metadata": {"generation": 3},
        "spec": {"template": {"metadata": {"annotations": annotations}, "spec": pods}},
        "status": {
            "observedGeneration": 3,
            "latestCreatedRevisionName": newest,
            "latestReadyRevisionName": newest if ready is None else ready,
            "conditions": [READY],
            "traffic": [{"revisionName": name, "percent": share} for name, share in shares.items()],
        },
    }


def observed(predictor: Object | None = None, rolled_out: str = "p-1", **shares: int) -> Observed:
    """A release of a predictor alone, whose newest revision is p-2; shares are by revision, p_1 for p-1."""
    wanted = predictor or spec()
    service = knative(wanted, "p-2", {name.replace("_", "-"): share for name, share in shares.items()})
    components = {
        "predictor": {
            "latestCreatedRevision": "p-2",
            "latestReadyRevision": "p-2",
            "latestRolledoutRevision": rolled_out,
        }
    }
    status = {"conditions": [READY], "components": components}
    return Observed({"spec": {"predictor": wanted}, "status": status}, {"predictor": service}, {})


def test_a_release_has_arrived_with_all_that_controllers_add_to_it() -> None:
    assert missing(observed(p_2=100)) == []
    [one] = look(observed(p_2=100))
    assert (one.name, one.newest, one.ready, one.traffic) == ("predictor", "p-2", "p-2", [("p-2", 100)])


def test_a_canary_has_arrived_with_its_share() -> None:
    canary = spec(canaryTrafficPercent=10)
    assert missing(observed(canary, p_1=90, p_2=10)) == []
    assert missing(observed(canary, p_1=100)) == ["predictor: revision p-2 has 0 % of the traffic; expected 10 %"]
    held = spec(canaryTrafficPercent=0)
    assert missing(observed(held, p_1=100, p_2=0)) == []
    assert missing(observed(held, p_2=100)) == ["predictor: revision p-2 has 100 % of the traffic; expected 0 %"]


def test_the_first_revision_gets_everything_whatever_the_percentage() -> None:
    assert missing(observed(spec(canaryTrafficPercent=10), rolled_out="p-2", p_2=100)) == []


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("minReplicas", 3, "annotations.autoscaling.knative.dev/min-scale"),
        ("timeout", 61, "timeoutSeconds"),
        ("containerConcurrency", 160, "containerConcurrency"),
        ("annotations", {"a/b": "c"}, "annotations.a/b"),
        ("tolerations", [{"key": "nvidia.com/gpu"}], "tolerations"),
        ("nodeSelector", {"a": "b"}, "nodeSelector"),
    ],
)
def test_a_spec_that_was_not_passed_on_is_seen_by_its_field(field: str, value: object, where: str) -> None:
    seen = observed(p_2=100)
    seen.service["spec"]["predictor"] = spec(**{field: value})
    [said] = missing(seen)
    assert said.startswith("predictor: KServe has not passed on the spec yet (")
    assert where in said


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"image": "registry/predictor:2"}, "containers[kserve-container]"),
        ({"args": ["--model_name=other"]}, "containers[kserve-container]"),
        ({"env": [{"name": "A", "value": "2"}]}, "containers[kserve-container]"),
        ({"resources": {"limits": {"cpu": "1001m"}}}, "containers[kserve-container]"),
    ],
)
def test_a_container_that_was_not_passed_on_is_seen(change: Object, where: str) -> None:
    seen = observed(p_2=100)
    seen.service["spec"]["predictor"]["containers"][0].update(change)
    assert missing(seen) == [f"predictor: KServe has not passed on the spec yet ({where})"]


def lay(seen: Observed, path: str, value: Any) -> None:
    """Leave something in the Knative service's template that the release before had, at a dotted path."""
    found: Any = seen.knative["predictor"]["spec"]["template"]
    *way, last = path.replace("container.", "spec.containers.0.").split(".")
    for step in way:
        found = found[int(step)] if step.isdecimal() else found.setdefault(step, {})
    if isinstance(value, list):
        found.setdefault(last, []).extend(value)
    else:
        found.setdefault(last, {}).update(value)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("container.env", [{"name": "B", "value": "2"}], "containers[kserve-container].env[B]"),
        ("container.args", ["--verbose"], "containers[kserve-container].args[--verbose]"),
        ("container.volumeMounts", [{"name": "a"}], "containers[kserve-container].volumeMounts[a]"),
        (
            "container.resources",
            {"limits": {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "1"}},
            "containers[kserve-container].resources.limits.nvidia.com/gpu",
        ),
        ("spec.nodeSelector", {"nvidia.com/gpu.product": "NVIDIA-L4"}, "nodeSelector.nvidia.com/gpu.product"),
        ("spec.tolerations", [{"key": "nvidia.com/gpu"}], "tolerations"),
        ("spec.volumes", [{"name": "rollout"}], "volumes[rollout]"),
        ("spec.imagePullSecrets", [{"name": "registry"}], "imagePullSecrets[registry]"),
        ("spec", {"priorityClassName": "serving"}, "priorityClassName"),
        (
            "metadata.annotations",
            {"autoscaling.knative.dev/window": "60s"},
            "annotations.autoscaling.knative.dev/window",
        ),
        (
            "metadata.annotations",
            {"queue.sidecar.serving.knative.dev/cpu-resource-limit": "1"},
            "annotations.queue.sidecar.serving.knative.dev/cpu-resource-limit",
        ),
        (
            "metadata.annotations",
            {"serving.kserve.io/enable-tag-routing": "true"},
            "annotations.serving.kserve.io/enable-tag-routing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_release_takes_away_is_not_passed_on_while_it_is_there(path: str, value: object, where: str) -> None:
    seen = observed(p_2=100)
    lay(seen, path, value)
    assert missing(seen) == [f"predictor: KServe has not passed on the spec yet ({where})"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("container.env", [{"name": "INFERENCE_SERVICE_NAME", "value": "a"}, {"name": "OTEL_SERVICE_NAME"}]),
        ("container.args", ["--workers", "1"]),
        ("metadata.annotations", {"autoscaling.knative.dev/metric": "concurrency", "a.webhook/of": "the cluster"}),
        ("metadata.annotations", {"internal.serving.kserve.io/storage-initializer-sourceuri": "s3://a"}),
        ("spec", {"responseStartTimeoutSeconds": 60, "enableServiceLinks": False}),
    ],
)
def test_what_controllers_add_is_no_difference(path: str, value: object) -> None:
    seen = observed(p_2=100)
    lay(seen, path, value)
    assert missing(seen) == []


def test_an_annotation_of_the_whole_has_to_reach_its_components() -> None:
    seen = observed(p_2=100)
    seen.service["metadata"] = {"annotations": {"serving.kserve.io/enable-tag-routing": "true"}}
    where = "annotations.serving.kserve.io/enable-tag-routing"
    assert missing(seen) == [f"predictor: KServe has not passed on the spec yet ({where})"]
    lay(seen, "metadata.annotations", {"serving.kserve.io/enable-tag-routing": "true"})
    assert missing(seen) == []


def test_no_knative_service_is_said_with_the_reason() -> None:
    seen = observed(p_2=100)
    refused = {"type": "Ready", "status": "False", "reason": "ReconcileFailed", "message": "webhook denied"}
    seen.service["status"]["conditions"] = [refused]
    none = Observed(seen.service, {}, {})
    assert missing(none) == [
        "predictor: KServe has not made its Knative service yet (ReconcileFailed: webhook denied)"
    ]


def test_a_revision_that_is_not_ready_is_said_with_the_reasons_of_both() -> None:
    seen = observed(p_1=100)
    seen.knative["predictor"]["status"] |= {
        "latestReadyRevisionName": "p-1",
        "conditions": [{"type": "ConfigurationsReady", "status": "Unknown", "reason": "Deploying"}],
    }
    assert missing(seen) == ["predictor: revision p-2 is not ready: Deploying"]
    seen.service["status"]["conditions"].append(
        {"type": "PredictorReady", "status": "False", "reason": "ReconcileFailed", "message": "cpu"}
    )
    assert missing(seen) == ["predictor: revision p-2 is not ready: Deploying: ReconcileFailed: cpu"]


def test_a_status_of_before_is_not_believed() -> None:
    behind = observed(p_2=100)
    behind.knative["predictor"]["status"]["observedGeneration"] = 2
    assert missing(behind) == ["predictor: Knative has not seen the spec yet"]
    stale = observed(p_2=100)
    stale.service["status"]["components"]["predictor"]["latestCreatedRevision"] = "p-1"
    assert missing(stale) == ["predictor: KServe's status is behind that of Knative"]


def test_the_whole_has_to_be_ready_as_well() -> None:
    seen = observed(p_2=100)
    seen.service["status"]["conditions"] = [{"type": "Ready", "status": "Unknown", "reason": "IngressReady"}]
    assert missing(seen) == ["the InferenceService is not Ready yet: IngressReady"]


def test_it_is_waited_for_as_long_as_a_revision_may_take() -> None:
    assert deadline_s({"spec": {"predictor": spec()}}) == 1860
    assert deadline_s({"spec": {"predictor": spec(annotations={})}}) == 660
    assert deadline_s({}) == 660


def run(tmp_path: Path, *arguments: str, kubeconfig: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
    environment |= {"KUBECONFIG": kubeconfig or str(tmp_path / "none"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "saccade_cli", "rollout", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize("command", ["wait", "status", "digest"])
def test_without_a_cluster_it_says_so(tmp_path: Path, command: str) -> None:
    ended = run(tmp_path, command, "detector")
    assert ended.returncode == 2
    assert "there is no cluster to ask: no kubeconfig" in ended.stderr


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: a, user: {}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n"
    )
    ended = run(tmp_path, "wait", "detector", kubeconfig=str(tmp_path / "config"))
    assert ended.returncode == 2
    assert "the API server at http://127.0.0.1:9 cannot be reached: " in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = run(tmp_path, "wait", "detector", "--context", "b", kubeconfig=str(tmp_path / "config"))
    assert ended.returncode == 2
    assert "the kubeconfig cannot be used" in ended.stderr
