"""Every example is made, planned again and destroyed against the providers' real schemas; its values render the chart.

An invented API answers; no cloud is reached.
"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import terraform_examples
from helm_support import CHART, KUBERNETES, Object, helm, only
from terraform_examples import EXAMPLES, Example, folder_of_the_run
from terraform_support import TERRAFORM, Configuration, resources

SCHEMA = json.loads((TERRAFORM / "modules" / "contract" / "platform.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=EXAMPLES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The example, with the variables that it shows."""
    return terraform_examples.made(folder_of_the_run(tmp_path_factory), request.param)


@pytest.fixture
def rendered(made: Example, tmp_path: Path) -> list[Object]:
    """What the chart renders with the values as they come out, and no others."""
    values = tmp_path / "infra.values.yaml"
    values.write_text(made.configuration.output("helm_values"))
    for check in (("lint", CHART, "--strict"), ("template", "detector", CHART, "--kube-version", KUBERNETES)):
        ended = helm(*check, "-f", values)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "warn" not in (ended.stdout + ended.stderr).lower(), ended.stdout + ended.stderr
    return [one for one in yaml.safe_load_all(ended.stdout) if one]


def test_it_is_valid_without_a_warning(made: Example) -> None:
    """And with it the stack that it calls, and the modules of that."""
    assert made.validated.strip() == "Success! The configuration is valid."


def test_a_second_plan_changes_nothing(made: Example) -> None:
    assert made.configuration.changes() == ""


def test_the_contract_is_kept(made: Example) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(made.outputs["platform"])
    assert json.loads(made.outputs["platform_inputs"]) == {
        "platform": made.outputs["platform"],
        "helm_values": made.outputs["helm_values"],
    }


def test_the_charts_pods_fit_onto_the_nodes(made: Example, rendered: list[Object]) -> None:
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


def test_the_charts_pods_have_the_clouds_identity(made: Example, rendered: list[Object]) -> None:
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


def test_the_job_that_builds_plans_may_do_what_it_does_and_no_more(made: Example, tmp_path: Path) -> None:
    """Account, image, source and target of the chart's Job are those that Terraform has made and granted."""
    values = tmp_path / "infra.values.yaml"
    values.write_text(made.configuration.output("helm_values"))
    wanted = ["planBuild.enabled=true", "planBuild.graph=detector/1/model.onnx"]
    ended = helm(
        "template", "detector", CHART, "-n", "vision", "--kube-version", KUBERNETES, "-f", values,
        *[argument for one in wanted for argument in ("--set", one)],
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    objects = [one for one in yaml.safe_load_all(ended.stdout) if one]
    platform = made.outputs["platform"]
    builder = platform["service_accounts"]["builder"]

    job = only(objects, "Job")
    pod = job["spec"]["template"]["spec"]
    account = only(objects, "ServiceAccount", builder["name"])
    assert (pod["serviceAccountName"], job["metadata"]["namespace"]) == (builder["name"], builder["namespace"])
    assert account["metadata"]["namespace"] == builder["namespace"]
    hooks = {key for key in account["metadata"]["annotations"] if key.startswith("helm.sh/")}
    assert {k: v for k, v in account["metadata"]["annotations"].items() if k not in hooks} == builder["annotations"]

    images = {one["image"].rpartition(":")[0] for one in [*pod["initContainers"], *pod["containers"]]}
    assert images == {platform["registry"]["images"]["plan_builder"]}

    steps = {one["name"]: one["args"] for one in [*pod["initContainers"], *pod["containers"]]}
    source, target = steps["graph"][1], steps["publish"][2]
    assert (source, target) == (platform["models"]["uri"], platform["plans"]["uri"])
    predictor = only(objects, "InferenceService")["spec"]["predictor"]["containers"][0]
    assert {"name": "STORAGE_URI", "value": target} in predictor["env"], "it serves what the Job has put there"

    source_bucket, target_bucket = source.split("/")[2], target.split("/")[2]
    granted = granted_on_aws if platform["cloud"] == "aws" else granted_on_google
    builds, serves = granted(made, builder), granted(made, platform["service_accounts"]["serving"])
    assert builds == {"read": {source_bucket, target_bucket}, "write": {target_bucket}}
    assert serves == {"read": {source_bucket, target_bucket}, "write": set()}


def granted_on_aws(made: Example, account: Object) -> dict[str, set[str]]:
    """Buckets that a service account of Kubernetes may read and write, by its pod identity's role."""
    assert made.outputs["platform"]["registry"]["images"]["plan_builder"] in {
        one["repository_url"] for one in made.all("aws_ecr_repository").values()
    }
    [role] = [
        one["role_arn"]
        for one in made.all("aws_eks_pod_identity_association").values()
        if (one["namespace"], one["service_account"]) == (account["namespace"], account["name"])
    ]
    [name] = [one["name"] for one in made.all("aws_iam_role").values() if one["arn"] == role]
    [policy] = [one["policy"] for one in made.all("aws_iam_role_policy").values() if one["role"] == name]
    found: dict[str, set[str]] = {"s3:GetObject": set(), "s3:PutObject": set(), "s3:ListBucket": set()}
    for statement in json.loads(policy)["Statement"]:
        actions, places = (
            value if isinstance(value, list) else [value] for value in (statement["Action"], statement["Resource"])
        )
        for action in set(actions) & set(found):
            found[action] |= {place.rpartition(":::")[2].partition("/")[0] for place in places}
    assert found["s3:ListBucket"] == found["s3:GetObject"]
    return {"read": found["s3:GetObject"], "write": found["s3:PutObject"]}


def granted_on_google(made: Example, account: Object) -> dict[str, set[str]]:
    """Buckets that a service account of Kubernetes may read and write, by Workload Identity."""
    email = account["annotations"]["iam.gke.io/gcp-service-account"]
    bound = [
        one["member"]
        for one in made.all("google_service_account_iam_member").values()
        if one["service_account_id"].endswith(f"/{email}")
    ]
    assert [member.rpartition("[")[2] for member in bound] == [f"{account['namespace']}/{account['name']}]"]
    found: dict[str, set[str]] = {"roles/storage.objectViewer": set(), "roles/storage.objectUser": set()}
    for one in made.all("google_storage_bucket_iam_member").values():
        if one["member"] == f"serviceAccount:{email}":
            found[one["role"]].add(one["bucket"])
    return {"read": found["roles/storage.objectViewer"], "write": found["roles/storage.objectUser"]}


def test_the_sum_of_prices_that_nobody_gave_is_none(made: Example) -> None:
    cost = made.outputs["cost"]
    assert cost["at_min"] is None
    assert cost["missing"]
    assert all(text.startswith("no price for ") for text in cost["pools"].values())


def test_no_password_is_among_the_outputs(made: Example) -> None:
    given = (made.configuration.folder / "terraform.tfvars").read_text()
    secrets = [line.split('"')[1] for line in given.splitlines() if "password" in line]
    assert ("cache_password" in given) == bool(secrets)
    for secret in secrets:
        assert secret not in json.dumps(made.outputs)


def test_stacks_platform_takes_what_comes_out_as_it_is(made: Example) -> None:
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
def test_destroying_leaves_nothing_and_takes_nodes_before_what_they_need(made: Example) -> None:
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
