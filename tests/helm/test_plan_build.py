"""The Job that builds a plan before the service, what is pulled in advance, and the priority class."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import kubernetes_validate
import pytest

from helm_support import CHART, MINIMAL, ROOT, Object, container, environment, only, refused, render
from plan_support import needs_rtx
from s3_server import environment as s3_environment
from s3_server import s3_server
from saccade_predictor.engines.plan import read_sidecar

PLAN = CHART / "ci" / "plan-build-values.yaml"
EXAMPLE = ROOT / "examples" / "model-repository"
PVC = ("model.storageUri=pvc://models/plans/detector", "planBuild.source=pvc://graphs/exports")


def job(*sets: str) -> Object:
    """The Job's pod."""
    spec: Object = only(render(PLAN, *sets), "Job")["spec"]["template"]["spec"]
    return spec


def steps(*sets: str) -> dict[str, Object]:
    """Its containers by name, in the order in which they run."""
    pod = job(*sets)
    return {one["name"]: one for one in [*pod.get("initContainers", []), *pod["containers"]]}


@pytest.mark.parametrize("version", ["1.33", "1.35"])
@pytest.mark.parametrize("sets", [(), PVC], ids=["bucket", "volumes"])
def test_kubernetes_takes_it(sets: tuple[str, ...], version: str) -> None:
    objects = render(PLAN, *sets)
    for kind in ("Job", "DaemonSet", "PriorityClass"):
        kubernetes_validate.validate(only(objects, kind), version, strict=True)


def test_it_runs_before_the_service() -> None:
    objects = render(PLAN)
    annotations = only(objects, "Job")["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    account = only(objects, "ServiceAccount", "demo-plan")["metadata"]["annotations"]
    assert int(account["helm.sh/hook-weight"]) < int(annotations["helm.sh/hook-weight"])
    assert account["eks.amazonaws.com/role-arn"].endswith("role/models")
    assert job()["serviceAccountName"] == "demo-plan"


def test_an_account_that_is_there_is_used() -> None:
    objects = render(PLAN, "planBuild.serviceAccountName=builder")
    assert only(objects, "Job")["spec"]["template"]["spec"]["serviceAccountName"] == "builder"
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"] == ["demo"]


CREATED = ("planBuild.serviceAccountName=builder", "planBuild.serviceAccountCreate=true")


def test_an_account_that_the_cloud_knows_by_name_is_made_for_the_job() -> None:
    objects = render(PLAN, *CREATED, "planBuild.serviceAccountAnnotations.role=builder")
    made = only(objects, "ServiceAccount", "builder")["metadata"]["annotations"]
    assert made["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert {key: value for key, value in made.items() if "helm.sh" not in key} == {"role": "builder"}
    assert only(objects, "Job")["spec"]["template"]["spec"]["serviceAccountName"] == "builder"
    served = only(objects, "ServiceAccount", "demo")["metadata"]["annotations"]
    assert list(served) == ["eks.amazonaws.com/role-arn"], "the service has its own"


def test_the_plan_is_put_where_the_predictor_then_reads() -> None:
    target = "s3://plans/detector"
    sets = (f"planBuild.target={target}", "model.storageUri=s3://models/repository")
    found = steps(*sets)
    assert found["repository"]["args"][1] == found["publish"]["args"][2] == target
    assert environment(render(PLAN, *sets), "predictor")["STORAGE_URI"] == target
    without = environment(render(PLAN, *sets, "planBuild.enabled=false"), "predictor")
    assert without["STORAGE_URI"] == "s3://models/repository", "nobody puts a plan there"


def test_graph_and_repository_are_fetched_the_plan_built_and_published() -> None:
    found = steps()
    assert list(found) == ["graph", "repository", "plan", "publish"]
    assert found["graph"]["args"] == ["fetch", "s3://models/detector-graph", "/work/source"]
    assert found["publish"]["args"] == ["publish", "/work/repository", "s3://models/detector-plans"]
    assert found["plan"]["args"][:3] == ["plan", "/work/source/detector/1/model.onnx", "/work/repository/detector"]


def test_on_volumes_it_is_built_in_its_place() -> None:
    pod = job(*PVC)
    [plan] = pod["containers"]
    assert "initContainers" not in pod or pod["initContainers"] is None
    assert plan["args"][1:3] == ["/source/exports/detector/1/model.onnx", "/repository/plans/detector/detector"]
    claims = {
        one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if one["name"] != "work"
    }
    assert claims == {"source": "graphs", "repository": "models"}
    mounts = {one["name"]: one.get("readOnly", False) for one in plan["volumeMounts"]}
    assert mounts == {"work": False, "source": True, "repository": False}


@pytest.mark.parametrize(
    ("sets", "resource"),
    [
        ((), "nvidia.com/gpu"),
        (("predictor.gpu.sharing=mps",), "nvidia.com/gpu.shared"),
        (("predictor.gpu.sharing=mig", "predictor.gpu.migProfile=1g.10gb"), "nvidia.com/mig-1g.10gb"),
    ],
    ids=["whole", "shared", "mig"],
)
def test_the_plan_is_built_on_what_the_predictor_runs_on(sets: tuple[str, ...], resource: str) -> None:
    objects = render(PLAN, *sets)
    plan = steps(*sets)["plan"]
    predictor = container(objects, "predictor")
    for kind in ("requests", "limits"):
        assert plan["resources"][kind][resource] == predictor["resources"][kind][resource] == "1"
    spec = only(objects, "InferenceService")["spec"]["predictor"]
    pod = job(*sets)
    assert (pod["nodeSelector"], pod["tolerations"]) == (spec["nodeSelector"], spec["tolerations"])
    for name, one in steps(*sets).items():
        if name != "plan":
            assert not [key for key in one["resources"]["requests"] if key.startswith("nvidia.com")]


def test_what_only_prepares_has_nobodys_priority() -> None:
    """The class may be the release's own, which is not there yet when hooks run."""
    objects = render(PLAN)
    assert only(objects, "InferenceService")["spec"]["predictor"]["priorityClassName"] == "serving"
    for kind in ("Job", "DaemonSet"):
        assert "priorityClassName" not in only(objects, kind)["spec"]["template"]["spec"]


def test_what_cannot_succeed_is_not_tried_again() -> None:
    spec = only(render(PLAN), "Job")["spec"]
    rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"] == {"operator": "In", "values": [1, 2]}
    assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "Kubernetes wants it for the policy"
    assert spec["activeDeadlineSeconds"] == 3600


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of S3's protocol with a bucket, which the commands find by their environment."""
    with s3_server(tmp_path / "moto.log") as url:
        for name, value in s3_environment(url).items():
            monkeypatch.setenv(name, value)
        client = boto3.session.Session().client("s3")
        client.create_bucket(Bucket="models")
        yield client


def build(*arguments: str) -> str:
    """Run ``saccade-build``, as the image's entry point does."""
    ended = subprocess.run(
        [sys.executable, "-m", "saccade_predictor.build", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=dict(os.environ),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@needs_rtx
def test_the_jobs_commands_build_once_and_publish_once(s3: Any, tmp_path: Path) -> None:
    """With TensorRT-RTX, which needs no GPU, in the place of TensorRT."""
    graphs = tmp_path / "graphs"
    shutil.copytree(EXAMPLE, graphs)
    build("publish", str(graphs), "s3://models/detector-graph")

    def run_job(at: Path) -> dict[str, str]:
        at.mkdir()
        said = {}
        for name, one in steps().items():
            arguments = [argument.replace("/work/", f"{at}/") for argument in one["args"]]
            said[name] = build(*[argument.replace("--kind=trt", "--kind=trt-rtx") for argument in arguments])
        return said

    first = run_job(tmp_path / "first")
    assert "nothing is published at s3://models/detector-plans yet" in first["repository"]
    assert "built in" in first["plan"]
    again = run_job(tmp_path / "again")
    assert "was there already" in again["plan"]
    assert "0 files sent" in again["publish"]
    build("fetch", "s3://models/detector-plans", str(tmp_path / "models"))
    plan = read_sidecar(tmp_path / "models" / "detector" / "1" / "plan.json")
    assert (plan.precision, plan.tf32, plan.kind) == ("fp16", False, "trt-rtx")
    assert (tmp_path / "models" / "detector" / "labels.txt").read_bytes() == (
        graphs / "detector" / "labels.txt"
    ).read_bytes()
    assert not (tmp_path / "models" / "detector" / "2").exists()


def test_the_image_is_pulled_where_the_predictor_may_run() -> None:
    objects = render(PLAN)
    pod = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    assert [one["image"] for one in pod["initContainers"]] == [
        container(objects, "predictor")["image"],
        "registry.example.com/saccade-predictor:next",
    ]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    for one in [*pod["initContainers"], *pod["containers"]]:
        assert not [key for key in one["resources"]["requests"] if key.startswith("nvidia.com")], "it holds no GPU"


def test_pull_secrets_are_everybodys() -> None:
    objects = render(PLAN, "imagePullSecrets[0]=registry")
    for kind in ("Job", "DaemonSet"):
        assert only(objects, kind)["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_the_priority_class_is_the_one_that_the_predictor_names() -> None:
    objects = render(PLAN, "priorityClass.preemptionPolicy=Never", "priorityClass.value=5")
    found = only(objects, "PriorityClass")
    assert found["metadata"]["name"] == only(objects, "InferenceService")["spec"]["predictor"]["priorityClassName"]
    assert (found["value"], found["preemptionPolicy"], found["globalDefault"]) == (5, "Never", False)


def test_nothing_of_it_is_there_by_default() -> None:
    assert not {one["kind"] for one in render()} & {"Job", "DaemonSet", "PriorityClass"}


@pytest.mark.parametrize(
    ("values", "sets", "sentence"),
    [
        (PLAN, ("planBuild.image.repository=",), "planBuild.image.repository is empty. Build and push the image"),
        (PLAN, ("planBuild.source=",), 'planBuild.source is "" and planBuild.graph "detector/1/model.onnx"'),
        (PLAN, ("planBuild.graph=",), 'and planBuild.graph ""; expected both'),
        (PLAN, ("model.storageUri=oci://x/y",), 'model.storageUri "oci://x/y"; expected s3://, gs:// or pvc://'),
        (PLAN, ("planBuild.source=s3://models/detector-plans/",), "are both s3://models/detector-plans; expected two"),
        (PLAN, ("planBuild.target=s3://models/detector-graph",), "planBuild.source and planBuild.target are both"),
        (
            PLAN,
            ("planBuild.target=pvc://x", "model.path=/models"),
            "planBuild.target is pvc://x and model.path /models",
        ),
        (PLAN, ("planBuild.serviceAccountCreate=true",), "planBuild.serviceAccountName empty; expected a name"),
        (PLAN, (*CREATED, "planBuild.serviceAccountName=demo"), "is demo, which is the service's own account"),
        (PLAN, ("predictor.gpu.count=0", "predictor.gpu.product="), "predictor.gpu.count 0; expected at least 1"),
        (PLAN, ("planBuild.args[0]=--replace",), "planBuild.args has --replace; expected options that are not set"),
        (PLAN, ("priorityClass.name=",), "priorityClass.name empty; expected a name"),
        (PLAN, ("priorityClass.name=system-x",), "priorityClass.name is system-x; expected another beginning"),
        (PLAN, ("priorityClass.name=other",), 'is other, but predictor.priorityClassName is "serving"'),
        (MINIMAL, ("prePull.enabled=true",), "predictor.gpu.product and predictor.nodeSelector are empty"),
    ],
)
def test_what_would_not_work_is_refused(values: Path, sets: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(values, *sets)


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ("planBuild.kind=trt-rtx", "kind"),
        ("planBuild.source=https://x", "/planBuild/source"),
        ("planBuild.target=oci://x", "/planBuild/target"),
        ("planBuild.serviceAccountName=Builder", "/planBuild/serviceAccountName"),
        ("planBuild.serviceAccountAnnotations.x.y=z", "/planBuild/serviceAccountAnnotations"),
        ("planBuild.graph=/detector/1/model.onnx", "/planBuild/graph"),
        ("planBuild.graph=model.plan", "/planBuild/graph"),
        ("planBuild.precision=bf16", "/planBuild/precision"),
        ("planBuild.batch=8", "/planBuild/batch"),
        ("planBuild.args[0]=fp16", "/planBuild/args/0"),
        ("planBuild.timeoutSeconds=1", "/planBuild/timeoutSeconds"),
        ("planBuild.workspaceSize=10", "/planBuild/workspaceSize"),
        ("planBuild.image.name=x", "name"),
        ("prePull.image=x", "image"),
        ("priorityClass.value=1000000001", "/priorityClass/value"),
        ("priorityClass.preemptionPolicy=Always", "/priorityClass/preemptionPolicy"),
    ],
)
def test_the_schema_refuses(sets: str, named: str) -> None:
    text = refused(PLAN, sets)
    assert "values don't meet the specifications of the schema" in text
    assert named in text
