"""What is around a release, on the real API: Knative's settings, the Job that builds a plan, the priority class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cluster_support import KUBECTL, Namespace
from helm_support import CHART, ROOT, Object, helm, only
from integration_support import eventually

PLATFORM = ROOT / "helm" / "platform"
EXAMPLE = CHART / "ci" / "plan-build-values.yaml"
#: Images that need no registry; a class of the namespace's own, since classes are the cluster's.
SETS = (
    "predictor.image.repository=dev.local/saccade-predictor",
    "transformer.image.repository=dev.local/saccade-transformer",
    "planBuild.image.repository=dev.local/saccade-plan-builder",
)


def settings(values: Path) -> dict[str, dict[str, str]]:
    """Knative's ConfigMaps as the platform's chart sets them; Kourier's is not on this control plane."""
    rendered = helm(
        "template", "platform", PLATFORM, "-n", "knative-serving", "--kube-version", "1.34.0", "-f", values
    )
    assert rendered.returncode == 0, rendered.stderr
    objects = [one for one in yaml.safe_load_all(rendered.stdout) if one]
    config: dict[str, dict[str, str]] = only(objects, "KnativeServing")["spec"]["config"]
    return {name: keys for name, keys in config.items() if name != "kourier"}


def patched(knative: Namespace, name: str, keys: dict[str, str]) -> str:
    """What Knative's webhook says to settings, which stay as they are."""
    patch = json.dumps({"data": keys})
    command = ["-n", knative.name, "patch", "configmap", f"config-{name}", "--type", "merge", "--dry-run=server"]
    ended = knative.run(KUBECTL, *command, "-p", patch)
    return "taken" if ended.returncode == 0 else ended.stderr


@pytest.mark.parametrize("name", ["default", "aws", "gcp"])
def test_knative_takes_the_platforms_settings(name: str, kubeconfig: Path) -> None:
    knative = Namespace("knative-serving", kubeconfig)
    found = settings(PLATFORM / "ci" / f"{name}-values.yaml")
    assert {"features", "deployment", "autoscaler", "defaults", "gc", "observability", "network"} <= found.keys()
    assert {one: patched(knative, one, keys) for one, keys in found.items()} == dict.fromkeys(found, "taken")


def test_knative_would_refuse_a_wrong_one(kubeconfig: Path) -> None:
    knative = Namespace("knative-serving", kubeconfig)
    assert "unsupported protocol" in patched(knative, "observability", {"metrics-protocol": "statsd"})
    assert "denied the request" in patched(knative, "autoscaler", {"stable-window": "often"})


@pytest.fixture
def labelled(namespace: Namespace) -> Namespace:
    namespace.kubectl("label", "node", "fake-node-0", "nvidia.com/gpu.product=NVIDIA-L4", "--overwrite")
    return namespace


def options(namespace: Namespace) -> list[str]:
    names = (f"priorityClass.name={namespace.name}", f"predictor.priorityClassName={namespace.name}")
    return ["-f", str(EXAMPLE), *(word for one in (*SETS, *names) for word in ("--set", one))]


@pytest.mark.parametrize("which", ["helm 4", "helm 3"])
def test_the_plans_job_runs_before_the_service_and_leaves_nothing(labelled: Namespace, which: str) -> None:
    """Its container does nothing here; that it is admitted, scheduled on a GPU and ended before the rest is real."""
    waiting = ["--wait=hookOnly"] if which == "helm 4" else []
    for _ in ("install", "upgrade"):
        ended = labelled.helm(
            "upgrade", "--install", "demo", CHART, *options(labelled), *waiting, "--timeout", "100s", which=which
        )
        assert ended.returncode == 0, ended.stderr
        events = json.loads(labelled.kubectl("get", "events", "-o", "json"))["items"]
        assert any(one["reason"] == "Completed" and one["involvedObject"]["name"] == "demo-plan" for one in events), (
            "no Job has run"
        )
        assert "demo-plan" not in [*labelled.names("job"), *labelled.names("serviceaccount")]
        assert labelled.names("daemonset") == ["demo-pre-pull"]
        assert labelled.names("inferenceservice") == ["demo"]
    ended = labelled.helm("uninstall", "demo", which=which)
    assert ended.returncode == 0, ended.stderr
    for kind in ("job", "daemonset", "inferenceservice"):
        eventually(f"no {kind} is left", lambda kind=kind: not labelled.names(kind), 60)  # type: ignore[misc]
    assert labelled.name not in labelled.names("priorityclass")


def test_a_build_that_cannot_succeed_is_tried_once(labelled: Namespace) -> None:
    rendered = helm("template", "demo", CHART, "-n", labelled.name, "--kube-version", "1.34.0", *options(labelled))
    job: Object = only([one for one in yaml.safe_load_all(rendered.stdout) if one], "Job")
    job["spec"]["template"]["metadata"]["annotations"] = {"fakenode/exit-code": "2"}
    job["spec"]["template"]["spec"]["serviceAccountName"] = "default"
    labelled.kubectl("apply", "-f", "-", stdin=json.dumps(job))

    def failed() -> Object | None:
        status: Object = labelled.get("job", "demo-plan").get("status", {})
        return status if any(one["type"] == "Failed" for one in status.get("conditions", ())) else None

    status = eventually("the Job has failed", failed, 60)
    assert status is not None
    assert status["failed"] == 1
    assert {one["reason"] for one in status["conditions"]} == {"PodFailurePolicy"}
