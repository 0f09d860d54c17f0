"""Every example is made, planned again and destroyed against the providers' real schemas; its values render the chart.

An invented API answers; no cloud is reached.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import yaml

from helm_support import CHART, KUBERNETES, Object, helm, only
from terraform_support import TERRAFORM, Configuration, copy_sources, need_providers, resources

EXAMPLES = sorted(path.parent for path in (TERRAFORM / "examples").glob("*/main.tf"))
SCHEMA = json.loads((TERRAFORM / "modules" / "contract" / "platform.schema.json").read_text(encoding="utf-8"))
ACCOUNT = Path(__file__).parent / "account.json"


@dataclass
class Made:
    """An example that has been applied."""

    configuration: Configuration
    outputs: Object


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda path: path.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The example, with the variables that it shows."""
    providers = need_providers()
    folder = copy_sources(tmp_path_factory.mktemp("made")) / "examples" / request.param.name
    (folder / "terraform.tfvars.example").rename(folder / "terraform.tfvars")
    configuration = Configuration(folder, providers, ACCOUNT)
    configuration.init()
    return Made(configuration, configuration.apply())


@pytest.fixture
def rendered(made: Made, tmp_path: Path) -> list[Object]:
    """What the chart renders with the values as they come out, and no others."""
    values = tmp_path / "infra.values.yaml"
    values.write_text(made.configuration.output("helm_values"))
    for check in (("lint", CHART, "--strict"), ("template", "detector", CHART, "--kube-version", KUBERNETES)):
        ended = helm(*check, "-f", values)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "warn" not in (ended.stdout + ended.stderr).lower(), ended.stdout + ended.stderr
    return [one for one in yaml.safe_load_all(ended.stdout) if one]


def test_a_second_plan_changes_nothing(made: Made) -> None:
    assert made.configuration.changes() == ""


def test_the_contract_is_kept(made: Made) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(made.outputs["platform"])
    assert json.loads(made.outputs["platform_inputs"]) == {
        "platform": made.outputs["platform"],
        "helm_values": made.outputs["helm_values"],
    }


def test_the_charts_pods_fit_onto_the_nodes(made: Made, rendered: list[Object]) -> None:
    predictor = only(rendered, "InferenceService")["spec"]["predictor"]
    [container] = predictor["containers"]
    tolerated = {one["key"] for one in predictor["tolerations"] if one["operator"] == "Exists"}
    serving = [made.outputs["platform"]["pools"][name] for name in made.outputs["platform"]["serving_pools"]]
    assert serving
    for pool in serving:
        assert predictor["nodeSelector"].items() <= pool["labels"].items()
        assert {taint["key"] for taint in pool["taints"]} <= tolerated
        assert container["resources"]["limits"][pool["resource"]] == "1"
    held = sum(pool["max_nodes"] * pool["replicas_per_node"] for pool in serving)
    assert held >= predictor["maxReplicas"]
    assert held >= 2 * predictor["minReplicas"], "a new revision stands beside the old one"


def test_the_charts_pods_have_the_clouds_identity(made: Made, rendered: list[Object]) -> None:
    account = only(rendered, "ServiceAccount")
    serving = made.outputs["platform"]["service_accounts"]["serving"]
    assert account["metadata"]["name"] == serving["name"]
    assert account["metadata"].get("annotations", {}) == serving["annotations"]
    service = only(rendered, "InferenceService")
    [container] = service["spec"]["predictor"]["containers"]
    assert {"name": "STORAGE_URI", "value": made.outputs["platform"]["models"]["uri"]} in container["env"]
    images = made.outputs["platform"]["registry"]["images"]
    for component in ("predictor", "transformer"):
        [container] = service["spec"][component]["containers"]
        assert container["image"].startswith(f"{images[component]}:")


def test_the_sum_of_prices_that_nobody_gave_is_none(made: Made) -> None:
    cost = made.outputs["cost"]
    assert cost["at_min"] is None
    assert cost["missing"]
    assert all(text.startswith("no price for ") for text in cost["pools"].values())


def test_no_password_is_among_the_outputs(made: Made) -> None:
    given = (made.configuration.folder / "terraform.tfvars").read_text()
    secrets = [line.split('"')[1] for line in given.splitlines() if "password" in line]
    assert ("cache_password" in given) == bool(secrets)
    for secret in secrets:
        assert secret not in json.dumps(made.outputs)


def test_stacks_platform_takes_what_comes_out_as_it_is(made: Made) -> None:
    folder = made.configuration.folder.parents[1] / "stacks" / "platform"
    (folder / "platform.auto.tfvars.json").write_text(made.configuration.output("platform_inputs"))
    platform = Configuration(folder, made.configuration.providers)
    platform.init()
    platform.set({"saccade": {}})
    planned = {release["name"]: release for release in resources(platform.plan(), "helm_release").values()}
    assert planned["detector"]["values"] == [made.outputs["helm_values"]]
    cloud = made.outputs["platform"]["cloud"]
    for name in ("aws-load-balancer-controller", "cluster-autoscaler"):
        assert (name in planned) == (cloud == "aws")
    gpu = {"nvidia-device-plugin", "gpu-operator"} & set(planned)
    assert len(gpu) == (1 if cloud == "aws" else 0)
    ingress = made.outputs["platform"]["ingress"]
    assert ("target-group-binding" in planned) == (ingress["target_group"] is not None)
    assert ("gateway" in planned) == (ingress["gateway"] is not None)


# The last one: it takes the example away.
def test_destroying_leaves_nothing_and_takes_nodes_before_what_they_need(made: Made) -> None:
    order = made.configuration.destroy()
    assert order

    def last(*kinds: str) -> int:
        return max(at for at, address in enumerate(order) if address.split(".")[-2].split("[")[0] in kinds)

    def first(*kinds: str) -> int:
        return min(at for at, address in enumerate(order) if address.split(".")[-2].split("[")[0] in kinds)

    if made.outputs["platform"]["cloud"] == "aws":
        assert last("aws_eks_node_group") < first(
            "aws_eks_cluster", "aws_nat_gateway", "aws_vpc_endpoint", "aws_route"
        )
        assert last("aws_lb") < first("aws_subnet", "aws_vpc")
        assert last("aws_eks_node_group", "aws_eks_cluster") < first("aws_kms_key")
    else:
        assert last("google_container_node_pool") < first("google_container_cluster")
        assert last("google_container_cluster") < first("google_compute_subnetwork", "google_compute_network")
