"""The load test's chart: Kubernetes takes what it renders, Locust takes its arguments, what cannot work is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from helm_support import HELM, KUBERNETES, ROOT, Object, helm, only
from loadtest_support import HEIGHT, WIDTH, served
from measuring.processes import free_port
from saccade_loadtest.judging import slo
from saccade_loadtest.load import trace

CHART = ROOT / "helm" / "loadtest"
EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))
MINIMAL, FULL = CHART / "ci" / "minimal-values.yaml", CHART / "ci" / "full-values.yaml"

every_example = pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem.removesuffix("-values"))


def render(values: Path, *sets: str, which: str = "helm 4") -> list[Object]:
    options = [option for one in sets for option in ("--set", one)]
    where = ["--namespace", "vision", "--kube-version", KUBERNETES]
    ended = helm("template", "demo", CHART, *where, "-f", values, *options, which=which)
    assert ended.returncode == 0, ended.stderr
    return [found for found in yaml.safe_load_all(ended.stdout) if found]


def refused(values: Path, *sets: str) -> str:
    options = [option for one in sets for option in ("--set", one)]
    ended = helm("template", "demo", CHART, "-f", values, *options)
    assert ended.returncode != 0, "it was not refused"
    return " ".join(ended.stderr.split())


def arguments_of(objects: Sequence[Object], kind: str) -> list[str]:
    [container] = only(objects, kind)["spec"]["template"]["spec"]["containers"]
    return [str(one) for one in container["args"]]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("which", HELM)
@every_example
def test_it_lints(values: Path, which: str) -> None:
    ended = helm("lint", CHART, "--strict", "-f", values, which=which)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@every_example
def test_both_versions_of_helm_render_the_same(values: Path) -> None:
    assert sorted(render(values, which="helm 3"), key=json.dumps) == sorted(render(values), key=json.dumps)


@every_example
@pytest.mark.parametrize("version", ["1.33", "1.35"])
def test_kubernetes_takes_it(values: Path, version: str) -> None:
    objects = render(values)
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)
    assert {"ConfigMap", "Service", "Job", "Deployment"} <= {one["kind"] for one in objects}


@every_example
def test_pods_run_without_privileges_and_names_fit_together(values: Path) -> None:
    objects = render(values)
    for kind in ("Job", "Deployment"):
        pod = only(objects, kind)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        [container] = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        maps = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
        assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} <= maps
    service = only(objects, "Service")
    labels = only(objects, "Job")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert f"--master-host={service['metadata']['name']}" in arguments_of(objects, "Deployment")


def test_the_slo_and_the_trace_are_files_that_the_load_test_reads(tmp_path: Path) -> None:
    objects = render(FULL)
    path = tmp_path / "slo.yaml"
    path.write_text(only(objects, "ConfigMap", "demo-slo")["data"]["slo.yaml"])
    assert slo.load(path).name == "capstone"
    text = only(objects, "ConfigMap", "demo-trace")["data"]["trace.csv"]
    assert [shot.camera for shot in trace.parse_trace(text.splitlines(), "trace").shots] == [0, 1]


def test_results_outlive_the_release_unless_a_claim_is_given() -> None:
    claim = only(render(MINIMAL), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    objects = render(FULL)
    assert not [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    volumes = only(objects, "Job")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "results", "persistentVolumeClaim": {"claimName": "load-results"}} in volumes


def test_large_numbers_are_written_out() -> None:
    arguments = arguments_of(render(MINIMAL, "load.cameras=1000000", "load.runTimeS=2000000"), "Job")
    assert "--users=1000000" in arguments
    assert "--run-time=2000000s" in arguments


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (("image.repository=",), "docker build --target loadtest"),
        (("target.url=detector",), 'target.url is "detector"; expected the service\'s address'),
        (("load.users={V2GrpcUser}",), "target.grpc is empty; expected the host and port of gRPC"),
        (("load.warmupS=300",), "load.warmupS is 300 and load.runTimeS 300; expected less"),
        (("load.cameras=1",), "load.cameras is 1 and workers.replicas 2"),
        (("load.trace=due_s", "load.shape=ramp"), "expected one of them"),
        (("load.shape=zigzag",), "shape"),
        (("load.users={OtherUser}",), "users"),
        (("target.cach=use",), "cach"),
    ],
)
def test_what_cannot_work_is_refused(sets: Sequence[str], sentence: str) -> None:
    assert sentence in refused(MINIMAL, *sets)


def test_locust_takes_the_arguments_and_the_slo_of_the_chart_and_the_job_ends_with_the_verdict(
    tmp_path: Path,
) -> None:
    """The master's and the workers' very command lines, with this machine's paths, against a server."""
    with served("null_detector") as url:
        content = yaml.safe_load(MINIMAL.read_text())
        content["target"]["url"] = url
        content["load"] = {"runTimeS": 16, "warmupS": 1, "cameras": 4, "size": f"{WIDTH}x{HEIGHT}", "fps": 20}
        # How busy this machine is is not what is tested.
        content["slo"] = {"name": "test", "latency": None, "generator": {"schedule_error_p99_ms": 10000}}
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump(content))
        objects = render(values)
        slo_path, results = tmp_path / "slo.yaml", tmp_path / "results"
        slo_path.write_text(only(objects, "ConfigMap", "demo-slo")["data"]["slo.yaml"])
        port = str(free_port())
        here = {
            "/opt/loadtest/images": str(ROOT / "examples" / "images"),
            "/etc/loadtest-slo/slo.yaml": str(slo_path),
            "/results": str(results),
            "=demo-master": "=127.0.0.1",
        }
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")]
        lines = {}
        for kind, more in (("Job", "--master-bind-port"), ("Deployment", "--master-port")):
            text = "\0".join(arguments_of(objects, kind))
            for there, local in here.items():
                text = text.replace(there, local)
            lines[kind] = [*command, *text.split("\0"), more, port]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with (tmp_path / "log").open("wb") as log:
            processes = [
                subprocess.Popen(lines[kind], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
                for kind in ("Job", "Deployment", "Deployment")
            ]
            try:
                status = processes[0].wait(120)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
    assert status == 0, (tmp_path / "log").read_text()
    verdict = json.loads((results / "demo" / "verdict.json").read_text())
    assert verdict["verdict"] == "pass"
    assert (results / "demo" / "report.html").is_file()
    assert (results / "demo" / "locust.html").is_file()
