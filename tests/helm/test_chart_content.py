"""What the chart promises of the InferenceService and of what is beside it, and that the services understand it."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from pydantic.alias_generators import to_camel

from helm_support import CHART, EXAMPLES, MINIMAL, ROOT, container, environment, helm, only, render
from saccade_predictor.settings import PredictorSettings
from saccade_serving.settings import ServiceSettings
from saccade_transformers.settings import TransformerSettings

AWS, GCP, MIG, CPU = (
    CHART / "ci" / f"{name}-values.yaml" for name in ("production-aws", "production-gcp", "mig", "cpu-only")
)
SETTINGS: dict[str, tuple[type[ServiceSettings], str]] = {
    "predictor": (PredictorSettings, "SACCADE_PREDICTOR_"),
    "transformer": (TransformerSettings, "SACCADE_TRANSFORMER_"),
}
every_example = pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem.removesuffix("-values"))
both = pytest.mark.parametrize("component", SETTINGS)


@every_example
@both
def test_the_services_take_their_environment(values: Path, component: str) -> None:
    model, prefix = SETTINGS[component]
    given = environment(render(values), component)
    secret = {"cache/url": "rediss://user:word@cache:6380/0", "cache/seal": "0123456789abcdef"}
    ours = {name: secret.get(value, value) for name, value in given.items() if name.startswith(prefix)}
    names = {prefix + name.upper() for name in model.model_fields}
    assert ours.keys() <= names
    with mock.patch.dict(os.environ, ours, clear=True):
        settings = model()
    assert settings.metrics_on_http is False
    assert settings.metrics_port == 9095


@both
def test_the_services_take_their_arguments(component: str) -> None:
    arguments = container(render(), component)["args"]
    module = {"predictor": "saccade_predictor", "transformer": "saccade_transformers"}[component]
    more = ["--predictor_host", "demo-predictor.vision"] if component == "transformer" else []  # KServe adds it
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments, *more, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    flags = re.findall(r"^  (--[\w-]+)", ended.stdout, re.MULTILINE)
    assert {argument.partition("=")[0] for argument in arguments} <= set(flags)


def test_every_setting_finds_its_variable(tmp_path: Path) -> None:
    """Helm makes the variables' names from camelCase; they must be those of the services."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))["$defs"]
    sample: dict[str, Any] = {}
    for path, definition in (
        (("predictor", "settings"), "predictorSettings"),
        (("transformer", "settings"), "transformerSettings"),
        (("cache", "settings"), "cacheSettings"),
    ):
        found = schema[definition]["properties"]
        assert found
        sample.setdefault(path[0], {})[path[1]] = {name: _value(one) for name, one in found.items()}
    sample["predictor"]["settings"]["drainGraceS"] = sample["transformer"]["settings"]["drainGraceS"] = 20
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(_merged(yaml.safe_load(MINIMAL.read_text(encoding="utf-8")), sample)))
    objects = render(values)
    for component, (model, prefix) in SETTINGS.items():
        given = {name for name in environment(objects, component) if name.startswith(prefix)}
        known = {prefix + name.upper() for name in model.model_fields}
        assert given <= known
        left_out = {name.removeprefix(prefix).lower() for name in known - given}
        assert all(
            name in {"host", "metrics_port", "model_repository", "model_control_key"}
            or name.startswith("cache_redis_")
            for name in left_out
        ), left_out


def _value(schema: dict[str, Any]) -> Any:
    """A value that a setting may have."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "boolean":
        return True
    if schema["type"] == "string":
        return "a"
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return min(low, schema.get("maximum", low)) if schema["type"] == "integer" else schema.get("maximum", low)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = dict(one)
    for name, value in other.items():
        merged[name] = _merged(merged[name], value) if isinstance(merged.get(name), dict) else value
    return merged


def test_large_numbers_stay_numbers() -> None:
    assert environment(render(AWS), "transformer")["SACCADE_TRANSFORMER_MAX_REQUEST_BYTES"] == "134217728"
    assert environment(render(AWS), "predictor")["SACCADE_PREDICTOR_REQUEST_LOG_SHARE"] == "0.01"
    assert environment(render(AWS), "predictor")["SACCADE_PREDICTOR_REQUEST_LOG"] == "true"


def test_camel_case_is_what_helm_reads_back() -> None:
    assert to_camel("min_receive_bytes_per_s") == "minReceiveBytesPerS"


@every_example
def test_what_a_gpu_revision_needs_is_said(values: Path) -> None:
    spec = only(render(values), "InferenceService")["spec"]
    annotations = spec["predictor"]["annotations"]
    assert annotations["autoscaling.knative.dev/target-utilization-percentage"] == "100"
    assert annotations["queue.sidecar.serving.knative.dev/cpu-resource-request"] == "200m"
    assert "autoscaling.knative.dev/min-scale" not in annotations, "KServe strips it"
    assert annotations["autoscaling.knative.dev/initial-scale"] == str(spec["predictor"]["minReplicas"])
    deadline = int(annotations["serving.knative.dev/progress-deadline"].removesuffix("s"))
    assert deadline == (600 if values == CPU else 1800)
    [one] = spec["predictor"]["containers"]
    startup = one["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= deadline
    assert spec["predictor"]["timeout"] < spec["transformer"]["timeout"] <= 600
    assert spec["predictor"]["enableServiceLinks"] is False


@every_example
@both
def test_ready_means_that_the_model_is(values: Path, component: str) -> None:
    one = container(render(values), component)
    assert one["readinessProbe"]["httpGet"] == {"path": "/v2/models/detector/ready", "port": 8080}
    assert one["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": 8080}
    assert len(one["ports"]) == 1, "Knative serves one"


def test_grpc_has_the_name_that_knative_wants() -> None:
    objects = render(GCP)
    assert container(objects, "predictor")["ports"] == [{"name": "h2c", "containerPort": 8081, "protocol": "TCP"}]
    assert "--predictor_protocol=grpc-v2" in container(objects, "transformer")["args"]
    assert container(objects, "transformer")["ports"][0]["containerPort"] == 8080


def test_the_autoscalers_target_follows_from_the_batches() -> None:
    spec = only(render(MINIMAL, "predictor.batching.rows=64", "predictor.batching.instances=2"), "InferenceService")[
        "spec"
    ]
    assert spec["predictor"]["scaleTarget"] == 135  # 1.5 x 0.7 x 64 x 2, rounded up
    assert spec["predictor"]["containerConcurrency"] == 0
    spec = only(render(AWS), "InferenceService")["spec"]
    assert (spec["predictor"]["scaleTarget"], spec["predictor"]["containerConcurrency"]) == (41, 160)


@pytest.mark.parametrize(
    ("values", "sets", "resource", "selector"),
    [
        (MINIMAL, (), "nvidia.com/gpu", None),
        (AWS, (), "nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-L4"}),
        (
            AWS,
            ("predictor.gpu.sharing=time-slicing",),
            "nvidia.com/gpu.shared",
            {"nvidia.com/gpu.product": "NVIDIA-L4"},
        ),
        # GKE has neither NVIDIA's labels nor another name for a GPU that is shared.
        (GCP, (), "nvidia.com/gpu", {"cloud.google.com/gke-accelerator": "nvidia-l4"}),
        (MIG, (), "nvidia.com/mig-1g.10gb", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}),
    ],
    ids=["any", "product", "shared", "gke", "mig"],
)
def test_gpus_are_asked_for_alike_in_requests_and_limits(
    values: Path, sets: tuple[str, ...], resource: str, selector: dict[str, str] | None
) -> None:
    objects = render(values, *sets)
    resources = container(objects, "predictor")["resources"]
    assert resources["requests"][resource] == resources["limits"][resource] == "1"
    assert float(resources["limits"]["cpu"]) > float(resources["requests"]["cpu"]), "KServe's default is 1"
    predictor = only(objects, "InferenceService")["spec"]["predictor"]
    assert predictor.get("nodeSelector") == selector
    assert predictor["tolerations"][-1] == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def test_without_a_gpu_nothing_needs_knatives_feature_flags() -> None:
    spec = only(render(CPU), "InferenceService")["spec"]
    for component in ("predictor", "transformer"):
        assert not spec[component].keys() & {"nodeSelector", "tolerations", "priorityClassName", "affinity"}
        assert not any(
            name.startswith("nvidia.com") for name in container(render(CPU), component)["resources"]["requests"]
        )
    assert environment(render(CPU), "predictor")["SACCADE_PREDICTOR_MODEL_REPOSITORY"] == "/opt/saccade/models"


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    one = container(render(AWS, "predictor.image.tag=one"), "predictor")["image"]
    assert one == f"123456789012.dkr.ecr.eu-central-1.amazonaws.com/saccade-predictor@{digest}"


def test_no_secret_is_anywhere_but_in_its_secret() -> None:
    variables = environment(render(AWS), "transformer")
    assert variables["SACCADE_TRANSFORMER_CACHE_REDIS_URL"] == "cache/url"
    assert variables["SACCADE_TRANSFORMER_CACHE_REDIS_SECRET"] == "cache/seal"
    assert variables["SACCADE_TRANSFORMER_CACHE_REDIS_NAMESPACE"] == "vision/gate-detector"
    assert variables["SACCADE_TRANSFORMER_CACHE_TTL_S"] == "3"


def test_the_redis_of_the_release_is_the_transformers_alone() -> None:
    objects = render(GCP)
    variables = environment(objects, "transformer")
    assert variables["SACCADE_TRANSFORMER_CACHE_REDIS_URL"] == "redis://demo-redis.vision:6379/0"
    assert only(objects, "Service")["spec"]["ports"][0]["port"] == 6379
    policy = only(objects, "NetworkPolicy", "demo-redis")["spec"]
    pod = only(objects, "Deployment")["spec"]["template"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    [rule] = policy["ingress"]
    assert rule["from"] == [
        {"podSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": "demo", "component": "transformer"}}}
    ]


def test_only_queue_proxys_ports_and_the_metrics_are_open() -> None:
    policy = only(render(), "NetworkPolicy")["spec"]
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == {8012, 8013, 8112, 8022, 9090, 9091, 9095}
    for rule in policy["ingress"]:
        assert rule["from"], "open to everybody"


def test_prometheus_finds_our_port_and_queue_proxys() -> None:
    monitor = only(render(AWS), "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    found = {}
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        keep, address, *labels = endpoint["relabelings"]
        found[keep["regex"]] = address["replacement"].partition(":")[2]
        assert {one["targetLabel"] for one in labels} == {"inferenceservice", "component", "revision"}
    assert found == {"kserve-container": "9095", "queue-proxy": "9091"}


def test_a_disruption_leaves_one() -> None:
    budgets = [one["spec"] for one in render() if one["kind"] == "PodDisruptionBudget"]
    assert {budget["selector"]["matchLabels"]["component"] for budget in budgets} == {"predictor", "transformer"}
    assert all(budget["maxUnavailable"] == 1 for budget in budgets)


def test_more_objects_are_templates() -> None:
    assert only(render(GCP), "ConfigMap", "demo-note")["data"] == {"note": "of the release"}


def test_the_account_is_the_clouds() -> None:
    objects = render(AWS)
    account = only(objects, "ServiceAccount")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].endswith("role/models")
    spec = only(objects, "InferenceService")["spec"]
    assert {spec[one]["serviceAccountName"] for one in SETTINGS} == {account["metadata"]["name"]} == {"gate-detector"}


def test_the_test_has_the_picture_and_the_script() -> None:
    objects = render()
    held = only(objects, "ConfigMap", "demo-test")
    assert base64.b64decode(held["binaryData"]["picture.jpg"]) == (CHART / "files" / "chelsea.jpg").read_bytes()
    assert held["data"]["ask.py"] == (CHART / "files" / "ask.py").read_text(encoding="utf-8")
    assert only(objects, "Pod")["spec"]["containers"][0]["args"] == [
        "http://demo-transformer.vision",
        "detector",
        "/test/picture.jpg",
        "cat",
    ]


def test_what_is_printed_says_how_to_wait() -> None:
    ended = helm("install", "demo", CHART, "--dry-run=client", "-n", "vision", "-f", MINIMAL)
    assert ended.returncode == 0, ended.stderr
    notes = ended.stdout.partition("NOTES:")[2]
    assert "saccade rollout wait demo -n vision" in notes
    assert "2 GPUs are held instead of 1" in notes


def test_what_follows_from_other_files_was_written() -> None:
    code = "import generate as g; print([path.name for path, text in g.files().items() if path.read_text() != text])"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "helm", capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout.strip(), ended.returncode) == ("[]", 0), f"run make chart: {ended.stdout}{ended.stderr}"


def test_every_value_has_its_row() -> None:
    rows = re.findall(r"^\| `([\w.]+)`", (CHART / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 60
    assert len(rows) == len(set(rows))
