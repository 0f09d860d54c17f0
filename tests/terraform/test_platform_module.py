"""modules/platform and stacks/platform: what is installed, in which order, with values that the charts take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from helm_support import KUBERNETES, helm
from terraform_support import ROOT, Configuration, Object, need_providers, resources

BUILT_IN: Final = {"v1", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "storage.k8s.io"}
VALUES: Final = "predictor:\n  image: {repository: registry.example.org/predictor}\n"
ACCOUNT: Final = {"namespace": "kube-system", "annotations": {}}
PLATFORM: Final[Object] = {
    "version": 1,
    "cloud": "aws",
    "name": "vision",
    "region": "eu-central-1",
    "tags": {"cluster": "vision"},
    "namespace": "vision",
    "cluster": {
        "name": "vision",
        "endpoint": "https://0123456789.gr7.eu-central-1.eks.amazonaws.com",
        "certificate_authority_data": "LS0tLS1CRUdJTg==",
        "network_id": "vpc-0123456789abcdef0",
    },
    "pools": {"spot": {"capacity": "spot"}, "steady": {"capacity": "on_demand"}},
    "service_accounts": {
        "serving": {"name": "saccade", "namespace": "vision", "annotations": {}},
        "load_balancer_controller": ACCOUNT | {"name": "aws-load-balancer-controller"},
        "cluster_autoscaler": ACCOUNT | {"name": "cluster-autoscaler"},
    },
    "gpu_sharing": {"needs_mig_manager": False, "device_plugin_configs": {"default": "version: v1"}},
    "storage_class": {
        "name": "gp3-encrypted",
        "provisioner": "ebs.csi.aws.com",
        "parameters": {
            "type": "gp3",
            "encrypted": "true",
            "kmsKeyId": "arn:aws:kms:eu-central-1:123456789012:key/disks",
        },
    },
    "registry": {"host": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"},
    "ingress": {
        "service_type": "ClusterIP",
        "service_annotations": {},
        "target_group": {"arn": "arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/vision/1", "port": 80},
    },
}
GATEWAY: Final = {
    "address_name": "vision",
    "certificate_map": "vision",
    "ssl_policy": "vision",
    "security_policy": "vision",
    "hostnames": ["*.vision.example.org"],
}


def of_gke(**changes: Any) -> Object:
    """The contract as stacks/gcp returns it."""
    ingress = {"service_type": "ClusterIP", "service_annotations": {}, "gateway": GATEWAY}
    return PLATFORM | {"cloud": "gcp", "ingress": ingress, "service_accounts": {}, "storage_class": None} | changes


@pytest.fixture(scope="module")
def stack(sources: Path) -> Configuration:
    """stacks/platform, with its provider."""
    made = Configuration(sources / "stacks" / "platform", need_providers())
    made.init()
    return made


@pytest.fixture(autouse=True)
def _chart_of_the_platform() -> None:
    if not (ROOT / "helm" / "platform" / "install.yaml").exists():
        pytest.fail("helm/platform is missing: modules/platform reads its install.yaml")


def releases(plan: Object) -> dict[str, Object]:
    """Planned releases by name."""
    return {release["name"]: release for release in resources(plan, "helm_release").values()}


def merged(release: Object, folder: Path) -> list[str]:
    """Arguments of Helm with a release's values."""
    arguments = []
    for at, text in enumerate(release["values"] or []):
        path = folder / f"{release['name']}-{at}.yaml"
        path.write_text(text)
        arguments += ["-f", str(path)]
    return arguments


def rendered(release: Object, chart: Path, folder: Path) -> list[Object]:
    """What Helm makes of a release of a chart in this repository."""
    ended = helm(
        "template",
        release["name"],
        chart,
        "-n",
        release["namespace"],
        "--kube-version",
        KUBERNETES,
        *merged(release, folder),
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    objects = [found for found in yaml.safe_load_all(ended.stdout) if found]
    for one in objects:
        if one["apiVersion"].partition("/")[0] in BUILT_IN:
            kubernetes_validate.validate(one, KUBERNETES.rpartition(".")[0], strict=True)
    return objects


def test_each_release_waits_for_what_it_needs_and_goes_before_it(stack: Configuration) -> None:
    stack.set({"platform": PLATFORM, "helm_values": VALUES, "saccade": {}, "monitoring": {"install_prometheus": True}})
    stack.apply()
    assert stack.changes() == ""
    gone = [address.partition(".helm_release.")[2].partition("[")[0] for address in stack.destroy()]
    for later, earlier in [
        ("saccade", "kserve_resources"),
        ("saccade", "device_plugin"),
        ("kserve_runtime_configs", "kserve_resources"),
        ("kserve_resources", "kserve_crd"),
        ("kserve_crd", "knative_ready"),
        ("kserve_crd", "cert_manager"),
        ("target_group_binding", "knative_ready"),
        ("target_group_binding", "aws_load_balancer_controller"),
        ("knative_ready", "platform"),
        ("platform", "knative_operator"),
        ("platform", "prometheus"),
        ("prometheus", "storage_class"),
        ("knative_operator", "cert_manager"),
        ("dcgm_exporter", "device_plugin"),
        ("dcgm_exporter", "prometheus"),
    ]:
        assert gone.index(later) < gone.index(earlier), f"{later} needs {earlier}: {gone}"


def test_the_steps_of_the_install_scripts_are_all_installed(stack: Configuration) -> None:
    stack.set({"platform": PLATFORM, "monitoring": {"install_prometheus": True}})
    planned = releases(stack.plan())
    for step in yaml.safe_load((ROOT / "helm" / "platform" / "install.yaml").read_text())["steps"]:
        release = planned[step["name"]]
        assert release["namespace"] == step["namespace"]
        if step["chart"] != ".":
            assert release["version"] == step["version"]
            whole = f"{release['repository']}/{release['chart']}"
            assert whole == (step["chart"] if "repository" not in step else f"{step['repository']}/{step['chart']}")


def test_helm_platform_takes_the_values_of_every_cloud(stack: Configuration, tmp_path: Path) -> None:
    service = {
        "service_type": "LoadBalancer",
        "service_annotations": {"networking.gke.io/load-balancer-type": "Internal"},
    }
    for platform in (PLATFORM, of_gke(), of_gke(ingress=service)):
        stack.set({"platform": platform, "monitoring": {"monitors": True}})
        objects = rendered(releases(stack.plan())["platform"], ROOT / "helm" / "platform", tmp_path)
        [knative] = [one for one in objects if one["kind"] == "KnativeServing"]
        assert knative["spec"]["ingress"]["kourier"]["service-type"] == platform["ingress"]["service_type"]
        [namespace] = [one for one in objects if one["kind"] == "Namespace"]
        assert namespace["metadata"]["name"] == "vision"
        assert any(one["kind"] == "PodMonitor" for one in objects)
    [kourier] = knative["spec"]["services"]
    assert kourier["annotations"] == service["service_annotations"]


def test_volumes_on_eks_are_encrypted_without_being_asked_for_it(stack: Configuration, tmp_path: Path) -> None:
    stack.set({"platform": PLATFORM})
    release = releases(stack.plan())["storage-class"]
    [made] = rendered(release, ROOT / "terraform" / "modules" / "platform" / "charts" / "storage-class", tmp_path)
    assert made["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert {
        "name": made["metadata"]["name"],
        "provisioner": made["provisioner"],
        "parameters": made["parameters"],
    } == PLATFORM["storage_class"]
    assert made["volumeBindingMode"] == "WaitForFirstConsumer", "a volume stays in its zone, and so would the pod"


@pytest.mark.parametrize(
    ("platform", "asked", "volume", "kept"),
    [
        (PLATFORM, {}, "100Gi", "80GiB"),
        (of_gke(), {"storage_gib": 33}, "33Gi", "26GiB"),
        (PLATFORM, {"storage_gib": 0}, None, None),
    ],
    ids=["EKS", "GKE", "none"],
)
def test_metrics_outlive_their_pod_and_fit_into_their_volume(
    stack: Configuration, platform: Object, asked: Object, volume: str | None, kept: str | None
) -> None:
    stack.set({"platform": platform, "monitoring": {"install_prometheus": True} | asked})
    planned = releases(stack.plan())
    assert ("storage-class" in planned) == (platform["storage_class"] is not None), "GKE has a default class"
    specs = [yaml.safe_load(text)["prometheus"]["prometheusSpec"] for text in planned["prometheus"]["values"]]
    [ours] = [spec for spec in specs if "storageSpec" in spec] or [None]
    if volume is None:
        assert ours is None
    else:
        claim = ours["storageSpec"]["volumeClaimTemplate"]["spec"]
        assert claim["resources"]["requests"]["storage"] == volume
        assert "storageClassName" not in claim, "the cluster's default one"
        assert ours["retentionSize"] == kept


def test_the_job_that_waits_may_read_what_it_waits_for_and_nothing_else(stack: Configuration, tmp_path: Path) -> None:
    stack.set({"platform": PLATFORM})
    release = releases(stack.plan())["knative-ready"]
    objects = rendered(release, ROOT / "terraform" / "modules" / "platform" / "charts" / "wait", tmp_path)
    kinds = {one["kind"]: one for one in objects}
    assert set(kinds) == {"ServiceAccount", "Role", "RoleBinding", "Job"}
    [rule] = kinds["Role"]["rules"]
    assert rule == {
        "apiGroups": ["operator.knative.dev"],
        "resources": ["knativeservings"],
        "verbs": ["get", "list", "watch"],
    }
    pod = kinds["Job"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["serviceAccountName"] == kinds["RoleBinding"]["subjects"][0]["name"]
    assert container["args"][:4] == ["-n", "knative-serving", "wait", "knativeserving/knative-serving"]
    # kubectl gives up before Kubernetes ends the job, and that before Helm gives up.
    waits_s = int(container["args"][-1].removeprefix("--timeout=").removesuffix("s"))
    assert waits_s < kinds["Job"]["spec"]["activeDeadlineSeconds"] < release["timeout"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_gateway_leads_to_kourier_and_outlasts_a_request(stack: Configuration, tmp_path: Path) -> None:
    stack.set({"platform": of_gke()})
    release = releases(stack.plan())["gateway"]
    objects = rendered(release, ROOT / "terraform" / "modules" / "platform" / "charts" / "gke-gateway", tmp_path)
    [gateway] = [one for one in objects if one["kind"] == "Gateway"]
    assert gateway["metadata"]["annotations"] == {"networking.gke.io/certmap": "vision"}
    assert gateway["spec"]["addresses"] == [{"type": "NamedAddress", "value": "vision"}]
    routes = {
        one["spec"]["parentRefs"][0]["sectionName"]: one["spec"] for one in objects if one["kind"] == "HTTPRoute"
    }
    assert set(routes) == {listener["name"] for listener in gateway["spec"]["listeners"]}
    assert routes["https"]["hostnames"] == GATEWAY["hostnames"]
    assert routes["http"]["rules"][0]["filters"][0]["requestRedirect"]["scheme"] == "https"
    targets = {one["kind"]: one["spec"] for one in objects if one["kind"].endswith("Policy")}
    for kind in ("GCPBackendPolicy", "HealthCheckPolicy"):
        assert targets[kind]["targetRef"]["name"] == routes["https"]["rules"][0]["backendRefs"][0]["name"] == "kourier"
    assert targets["GCPBackendPolicy"]["default"]["securityPolicy"] == "vision"
    values = yaml.safe_load((ROOT / "helm" / "saccade" / "values.yaml").read_text())
    waits = targets["GCPBackendPolicy"]["default"]["timeoutSec"]
    assert waits > values["transformer"]["timeoutSeconds"]
    drains = targets["GCPBackendPolicy"]["default"]["connectionDraining"]["drainingTimeoutSec"]
    assert drains == waits, "a Kourier that goes away answers what it has begun"
    assert release["namespace"] == "knative-serving", (
        "the policies have to be where the operator puts Kourier's service"
    )


def test_the_load_balancer_waits_longer_than_the_longest_request(stack: Configuration) -> None:
    stack.set({"platform": of_gke(), "request_timeout_s": 600})
    assert yaml.safe_load(releases(stack.plan())["gateway"]["values"][0])["timeoutSeconds"] == 610


def test_the_domain_is_the_load_balancer_s(stack: Configuration) -> None:
    stack.set({"platform": of_gke()})
    [platform] = [one for name, one in releases(stack.plan()).items() if name == "platform"]
    assert yaml.safe_load(platform["values"][0])["knative"]["domain"] == "example.org"


def test_kourier_s_pods_join_the_target_group(stack: Configuration, tmp_path: Path) -> None:
    stack.set({"platform": PLATFORM})
    release = releases(stack.plan())["target-group-binding"]
    charts = ROOT / "terraform" / "modules" / "platform" / "charts"
    [binding] = rendered(release, charts / "target-group-binding", tmp_path)
    assert binding["spec"]["targetGroupARN"] == PLATFORM["ingress"]["target_group"]["arn"]
    assert binding["spec"]["serviceRef"] == {"name": "kourier", "port": 80}
    assert binding["spec"]["targetType"] == "ip"


def test_spot_machines_are_started_before_those_on_demand(stack: Configuration) -> None:
    stack.set({"platform": PLATFORM})
    values = yaml.safe_load(releases(stack.plan())["cluster-autoscaler"]["values"][0])
    uuid = "-[0-9a-f]{8}-[0-9a-f]{4}-.*"
    assert yaml.safe_load(values["expanderPriorities"]) == {
        10: [f"^eks-vision-steady{uuid}"],
        20: [f"^eks-vision-spot{uuid}"],
    }
    assert values["extraArgs"]["expander"] == "priority"


def test_a_pool_whose_name_begins_another_one_s_has_a_priority_of_its_own(stack: Configuration) -> None:
    pools = {
        "l4": {"capacity": "spot"},
        "l4-steady": {"capacity": "on_demand"},
        "l4-0123abcd": {"capacity": "reservation"},
        "steady": {"capacity": "on_demand"},
    }
    stack.set({"platform": PLATFORM | {"pools": pools}})
    values = yaml.safe_load(releases(stack.plan())["cluster-autoscaler"]["values"][0])
    priorities = yaml.safe_load(values["expanderPriorities"])
    for name, pool in pools.items():
        group = f"eks-vision-{name}-40bbb26b-8679-eb64-d33a-4ba475413529"  # as EKS names them
        found = [at for at, patterns in priorities.items() for pattern in patterns if re.search(pattern, group)]
        assert found == [{"reservation": 30, "spot": 20, "on_demand": 10}[pool["capacity"]]], name


def test_our_chart_gets_the_infrastructure_s_values_and_then_the_user_s(stack: Configuration, tmp_path: Path) -> None:
    mine = "transformer: {image: {repository: registry.example.org/transformer}}\nmodel: {storageUri: s3://models/repository}\n"
    stack.set({"platform": PLATFORM, "helm_values": VALUES, "saccade": {"values": [mine]}})
    release = releases(stack.plan())["detector"]
    assert release["values"] == [VALUES, mine]
    objects = rendered(release, ROOT / "helm" / "saccade", tmp_path)
    [service] = [one for one in objects if one["kind"] == "InferenceService"]
    assert service["spec"]["predictor"]["containers"][0]["image"].startswith("registry.example.org/predictor:")


def test_the_token_for_the_cluster_is_asked_for_at_each_call(stack: Configuration) -> None:
    for platform, command in ((PLATFORM, "aws"), (of_gke(), "gke-gcloud-auth-plugin")):
        stack.set({"platform": platform})
        connection = stack.evaluate("local.connection")
        assert connection["exec"]["command"] == command
        assert connection["host"] == platform["cluster"]["endpoint"]
        assert "token" not in connection
    stack.set({"platform": PLATFORM, "kubeconfig": {"path": "~/.kube/config", "context": "vision"}})
    assert stack.evaluate("local.connection") == {"config_path": "~/.kube/config", "config_context": "vision"}


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"platform": PLATFORM | {"version": 2}}, "platform.version is 2, and this stack knows 1; apply stacks/aws"),
        (
            {"platform": PLATFORM | {"service_accounts": {}}},
            "on aws load_balancer_controller and cluster_autoscaler are needed",
        ),
        (
            {"platform": PLATFORM, "saccade": {}},
            "saccade is given and helm_values is empty; write the output helm_values",
        ),
        (
            {"platform": of_gke(), "domain": "example.com"},
            "load balancer has certificates for *.vision.example.org; leave it out",
        ),
        (
            {"platform": of_gke(), "request_timeout_s": 900},
            "request_timeout_s is 900; write 120 to 600",
        ),
        ({"platform": PLATFORM, "timeout_s": 30}, "timeout_s is 30; write at least 120"),
        ({"platform": PLATFORM, "charts": {"istio": {}}}, "charts has istio; write names of"),
        (
            {"platform": PLATFORM, "values": {"platform": ["- a"]}},
            "values has a text that is no YAML map; write for example",
        ),
    ],
)
def test_what_would_fail_in_the_cluster_is_refused_with_what_to_write(
    stack: Configuration, variables: Object, sentence: str
) -> None:
    stack.set(variables)
    assert any(sentence in refusal for refusal in stack.refusals()), stack.refusals()
