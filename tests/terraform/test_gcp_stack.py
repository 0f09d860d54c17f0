"""stacks/gcp, planned and made against the provider's real schemas: what has to hold of it, and what is refused."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml
from redis.asyncio.connection import parse_url

from helm_support import CHART, KUBERNETES, helm
from saccade_transformers.settings import TransformerSettings
from terraform_support import SCHEMAS, Configuration, Object, need_providers, only, resources

POOL: Final = {"machine_type": "g2-standard-8"}
#: Everything that is optional, so that everything is looked at.
ALL: Final[Object] = {
    "project": "my-project",
    "name": "vision",
    "region": "europe-west4",
    "zones": ["europe-west4-a", "europe-west4-b"],
    "pools": {
        "l4": {**POOL, "sharing": "time_slicing", "replicas_per_gpu": 2, "max_nodes": 4},
        "a100": {
            "machine_type": "a2-highgpu-1g",
            "sharing": "mig:1g.5gb",
            "max_nodes": 2,
            "zones": ["europe-west4-a"],
        },
        "h100": {
            "machine_type": "a3-highgpu-8g",
            "capacity": "reservation",
            "reservation": "h100s",
            "min_nodes": 0,
            "max_nodes": 1,
        },
        "spot": {**POOL, "capacity": "spot", "min_nodes": 0, "max_nodes": 3, "fallback": "steady"},
        "steady": {**POOL, "max_nodes": 2},
    },
    "serving_pool": "l4",
    "ingress": {
        "domain": "example.org",
        "allowed_cidrs": ["203.0.113.0/24"],
        "requests_per_minute": 6000,
        "dns_zone": "example-org",
    },
    "cache": {},
    "budget": {"billing_account": "000000-000000-000000", "monthly": 1000},
    "tags": {"team": "vision"},
}
SMALL: Final[Object] = {
    "project": "my-project",
    "name": "vision",
    "region": "europe-west4",
    "zones": ["europe-west4-a", "europe-west4-b"],
    "pools": {"gpu": POOL},
}
ROOT_MODULE: Final = """
variable "inputs" { type = any }

module "saccade" {
  source = "../stacks/gcp"

%s
}

provider "google" {
  project = "my-project"
  region  = "europe-west4"
}

%s
"""


@functools.cache
def names(kind: str) -> tuple[str, ...]:
    """Variables or outputs of the stack."""
    text = (Path(__file__).parents[2] / "terraform" / "stacks" / "gcp" / f"{kind}s.tf").read_text()
    return tuple(re.findall(rf'^{kind} "(\w+)"', text, flags=re.MULTILINE))


class Stack:
    """A root that calls the stack, as an example does."""

    def __init__(self, sources: Path, name: str, data: Object | None = None) -> None:
        folder = sources / name
        folder.mkdir()
        answers = None
        if data is not None:
            answers = folder / "answers.json"
            answers.write_text(json.dumps(data))
        self.root = Configuration(folder, need_providers(), answers)
        self._initialised = False

    def set(self, variables: Object) -> Configuration:
        """Call the stack with these variables."""
        given = "\n".join(
            f"  {name} = jsondecode({json.dumps(json.dumps(value))})" for name, value in variables.items()
        )
        told = "\n".join(
            f'output "{name}" {{\n  value     = module.saccade.{name}\n  sensitive = false\n}}'
            for name in names("output")
        )
        text = ROOT_MODULE % (given, told)
        (self.root.folder / "main.tf").write_text(text.replace('variable "inputs" { type = any }\n', ""))
        if not self._initialised:
            self.root.init()
            self._initialised = True
        return self.root


@pytest.fixture(scope="module")
def stack(sources: Path) -> Stack:
    return Stack(sources, "gcp-stack")


@dataclass(frozen=True)
class Life:
    """What a stack was from its plan to its end.

    Attributes:
        plan: as Terraform's JSON.
        made: values of the resources by address, once they were there.
        helm_values: the output.
        platform_inputs: the output, read.
        changes: what a second plan would have changed.
        gone: addresses in the order in which they went.
    """

    plan: Object
    made: dict[str, Object]
    helm_values: str
    platform_inputs: Object
    changes: str
    gone: list[str]


@pytest.fixture(scope="module")
def life(stack: Stack) -> Life:
    """The life of a stack with everything."""
    root = stack.set(ALL)
    plan = root.plan()
    root.apply()
    state = json.loads(root.run("show", "-json"))
    inputs = json.loads(root.output("platform_inputs"))
    made = resources({"planned_values": state["values"]})
    return Life(plan, made, root.output("helm_values"), inputs, root.changes(), root.destroy())


@pytest.fixture(scope="module")
def plan(life: Life) -> Object:
    return life.plan


@functools.cache
def schema() -> Object:
    """The provider's types by name."""
    [found] = json.loads((SCHEMAS / "schemas" / "google.json").read_text())["provider_schemas"].values()
    types = found["resource_schemas"]
    assert isinstance(types, dict)
    return types


def kind(address: str) -> str:
    found: list[str] = re.findall(r"\b(google_\w+)\.", address)
    return found[-1]


def test_everything_that_takes_labels_has_the_cluster_s_and_the_user_s(plan: Object) -> None:
    seen = set()
    for address, values in resources(plan).items():
        attributes = schema()[kind(address)]["block"]["attributes"]
        for name in ("labels", "resource_labels"):
            if name in attributes and "goog" not in address.split(".")[-1]:
                seen.add(kind(address))
                assert {"cluster": "vision", "team": "vision", "managed-by": "terraform"}.items() <= values[
                    name
                ].items(), address
        for node in values.get("node_config") or []:
            assert node["resource_labels"]["cluster"] == "vision", address
    assert {
        "google_container_cluster",
        "google_storage_bucket",
        "google_redis_instance",
        "google_kms_crypto_key",
    } <= seen


def test_everything_is_encrypted_with_a_key_of_ours(life: Life) -> None:
    keys = {
        values["name"]: values["id"]
        for address, values in life.made.items()
        if kind(address) == "google_kms_crypto_key"
    }
    found = {}
    for address, values in life.made.items():
        match kind(address):
            case "google_container_cluster":
                [encryption] = values["database_encryption"]
                assert encryption["state"] == "ENCRYPTED"
                found[address] = (encryption["key_name"], keys["secrets"])
            case "google_container_node_pool":
                found[address] = (values["node_config"][0]["boot_disk_kms_key"], keys["disks"])
            case "google_storage_bucket":
                found[address] = (values["encryption"][0]["default_kms_key_name"], keys["storage"])
            case "google_artifact_registry_repository":
                found[address] = (values["kms_key_name"], keys["registry"])
            case "google_redis_instance":
                found[address] = (values["customer_managed_key"], keys["cache"])
            case "google_secret_manager_secret":
                [replica] = values["replication"][0]["user_managed"][0]["replicas"]
                found[address] = (replica["customer_managed_encryption"][0]["kms_key_name"], keys["cache-url"])
            case "google_kms_crypto_key":
                assert values["rotation_period"] == f"{90 * 24 * 3600}s"
    assert len(found) == 1 + (1 + len(ALL["pools"])) + 2 + 1 + 1 + 1
    assert all(is_key == wanted for is_key, wanted in found.values()), found


def test_redis_is_reached_by_tls_and_a_password_with_a_url_that_the_transformer_takes(life: Life) -> None:
    [instance] = [one for address, one in life.made.items() if kind(address) == "google_redis_instance"]
    assert (instance["transit_encryption_mode"], instance["auth_enabled"]) == ("SERVER_AUTHENTICATION", True)
    [version] = [one for address, one in life.made.items() if kind(address) == "google_secret_manager_secret_version"]
    TransformerSettings(cache="redis", cache_redis_url=version["secret_data"], cache_redis_namespace="vision/detector")
    read: Object = dict(parse_url(version["secret_data"]))
    assert (read["password"], read["host"]) == (instance["auth_string"], instance["host"])
    assert read["ssl_ca_data"] == instance["server_ca_certs"][0]["cert"]
    assert "ssl_cert_reqs" not in read, "the server's certificate is checked"


def test_a_second_plan_changes_nothing(life: Life) -> None:
    assert life.changes == ""


def test_what_needs_another_thing_goes_before_it(life: Life) -> None:
    last = {kind(address): at for at, address in enumerate(life.gone)}
    first = {kind(address): at for at, address in reversed(list(enumerate(life.gone)))}
    for later, earlier in [
        ("google_container_node_pool", "google_container_cluster"),
        ("google_container_node_pool", "google_compute_router_nat"),
        ("google_container_cluster", "google_compute_subnetwork"),
        ("google_container_cluster", "google_kms_crypto_key_iam_member"),
        ("google_compute_subnetwork", "google_compute_network"),
        ("google_redis_instance", "google_service_networking_connection"),
        ("google_kms_crypto_key_iam_member", "google_project_service"),
    ]:
        assert last[later] < first[earlier], f"{later} is to go before {earlier}: {life.gone}"


def test_nothing_is_public_but_the_load_balancer(plan: Object) -> None:
    for bucket in resources(plan, "google_storage_bucket").values():
        assert bucket["public_access_prevention"] == "enforced"
        assert bucket["uniform_bucket_level_access"] is True
        assert bucket["versioning"] == [{"enabled": True}]
    cluster = only(resources(plan, "google_container_cluster"))
    assert cluster["private_cluster_config"][0]["enable_private_nodes"] is True
    assert cluster["private_cluster_config"][0]["enable_private_endpoint"] is True
    assert cluster["master_authorized_networks_config"][0]["gcp_public_cidrs_access_enabled"] is False
    assert cluster["control_plane_endpoints_config"][0]["dns_endpoint_config"][0]["allow_external_traffic"] is False
    for pool in resources(plan, "google_container_node_pool").values():
        assert pool["network_config"][0]["enable_private_nodes"] is True
        assert pool["node_config"][0]["workload_metadata_config"] == [{"mode": "GKE_METADATA"}]
    for rule in resources(plan, "google_compute_firewall").values():
        assert "0.0.0.0/0" not in rule["source_ranges"]
        assert rule["target_tags"] == ["vision-nodes"]
    assert "google_compute_address" not in {kind(address) for address in resources(plan)}


def test_the_load_balancer_takes_those_who_are_allowed_and_nobody_else(plan: Object) -> None:
    rules = {rule["priority"]: rule for rule in only(resources(plan, "google_compute_security_policy"))["rule"]}
    assert rules[2147483647]["action"] == "deny(403)"
    assert rules[2147483647]["match"][0]["config"][0]["src_ip_ranges"] == ["*"]
    assert rules[1000]["action"] == "throttle"
    assert rules[1000]["match"][0]["config"][0]["src_ip_ranges"] == ["203.0.113.0/24"]
    assert rules[1000]["rate_limit_options"][0]["rate_limit_threshold"] == [{"count": 6000, "interval_sec": 60}]
    assert only(resources(plan, "google_compute_ssl_policy"))["min_tls_version"] == "TLS_1_2"
    certificate = only(resources(plan, "google_certificate_manager_certificate"))
    assert certificate["managed"][0]["domains"] == ["*.vision.example.org"]
    records = {record["name"] for record in resources(plan, "google_dns_record_set").values() if record.get("name")}
    assert "*.vision.example.org." in records


def test_each_role_is_one_of_a_short_list_and_bound_to_one_thing(plan: Object) -> None:
    roles = {address: values["role"] for address, values in resources(plan).items() if "_iam_" in kind(address)}
    assert set(roles.values()) == {
        "roles/artifactregistry.reader",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/container.defaultNodeServiceAccount",
        "roles/iam.workloadIdentityUser",
        "roles/serviceusage.serviceUsageConsumer",
        "roles/storage.objectUser",
        "roles/storage.objectViewer",
    }
    of_project = [role for address, role in roles.items() if kind(address).startswith("google_project_iam")]
    assert sorted(of_project) == [
        "roles/container.defaultNodeServiceAccount",
        "roles/serviceusage.serviceUsageConsumer",
    ]
    members = [values.get("member") for values in resources(plan).values()]
    assert not {"allUsers", "allAuthenticatedUsers"} & set(members)


def test_what_answers_requests_cannot_write_plans(life: Life) -> None:
    writers = [one["member"] for one in life.made.values() if one.get("role") == "roles/storage.objectUser"]
    assert writers == ["serviceAccount:vision-builder@my-project.iam.gserviceaccount.com"]
    bound = {
        one["service_account_id"].rsplit("/", 1)[-1].partition("@")[0]: one["member"]
        for address, one in life.made.items()
        if kind(address) == "google_service_account_iam_member"
    }
    assert bound == {
        "vision-reader": "serviceAccount:my-project.svc.id.goog[vision/saccade]",
        "vision-builder": "serviceAccount:my-project.svc.id.goog[vision/saccade-builder]",
    }
    accounts = life.platform_inputs["platform"]["service_accounts"]
    for use, account in (("serving", "vision-reader"), ("builder", "vision-builder")):
        email = f"{account}@my-project.iam.gserviceaccount.com"
        assert accounts[use]["annotations"] == {"iam.gke.io/gcp-service-account": email}


def gpu_pools(plan: Object) -> dict[str, Object]:
    pools = resources(plan, "google_container_node_pool").values()
    return {pool["name"]: pool for pool in pools if pool["name"] != "system"}


def test_gpus_are_divided_as_each_pool_says(plan: Object) -> None:
    found = {
        name: (
            accelerator["type"],
            accelerator["count"],
            accelerator["gpu_partition_size"],
            [tuple(sharing.values()) for sharing in accelerator["gpu_sharing_config"]],
        )
        for name, pool in gpu_pools(plan).items()
        for accelerator in pool["node_config"][0]["guest_accelerator"]
    }
    assert found == {
        "l4": ("nvidia-l4", 1, None, [("TIME_SHARING", 2)]),
        "a100": ("nvidia-tesla-a100", 1, "1g.5gb", []),
        "h100": ("nvidia-h100-80gb", 8, None, []),
        "spot": ("nvidia-l4", 1, None, []),
        "steady": ("nvidia-l4", 1, None, []),
    }
    for pool in gpu_pools(plan).values():
        [accelerator] = pool["node_config"][0]["guest_accelerator"]
        assert accelerator["gpu_driver_installation_config"] == [{"gpu_driver_version": "LATEST"}]
        assert pool["node_config"][0]["gcfs_config"] == [{"enabled": True}]
        assert pool["node_config"][0]["disk_size_gb"] >= 200
        assert pool["node_config"][0]["shielded_instance_config"][0]["enable_secure_boot"] is True


def test_nodes_are_of_the_capacity_that_was_asked_for(plan: Object) -> None:
    pools = gpu_pools(plan)
    assert {name for name, pool in pools.items() if pool["node_config"][0]["spot"]} == {"spot"}
    [affinity] = pools["h100"]["node_config"][0]["reservation_affinity"]
    assert (affinity["consume_reservation_type"], affinity["values"]) == ("SPECIFIC_RESERVATION", ["h100s"])
    sizes = {name: pool["autoscaling"][0] for name, pool in pools.items()}
    assert (sizes["spot"]["total_min_node_count"], sizes["spot"]["total_max_node_count"]) == (0, 3)
    assert sizes["spot"]["location_policy"] == "ANY"
    assert sizes["steady"]["location_policy"] == "BALANCED"
    assert pools["a100"]["node_locations"] == ["europe-west4-a"]


def test_the_chart_s_predictor_fits_onto_the_pool_and_nothing_else_does(life: Life, tmp_path: Path) -> None:
    values = tmp_path / "infra.values.yaml"
    values.write_text(life.helm_values)
    ended = helm("template", "detector", CHART, "-n", "vision", "--kube-version", KUBERNETES, "-f", values)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    [service] = [one for one in yaml.safe_load_all(ended.stdout) if one and one["kind"] == "InferenceService"]
    predictor = service["spec"]["predictor"]
    node = gpu_pools(life.plan)["l4"]["node_config"][0]
    assert predictor["nodeSelector"].items() <= node["labels"].items()
    effects = {"NO_SCHEDULE": "NoSchedule"}
    for taint in node["taint"]:
        assert any(
            toleration["key"] == taint["key"] and toleration["effect"] == effects[taint["effect"]]
            for toleration in predictor["tolerations"]
        ), taint
    [container] = predictor["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1", "GKE calls a shared GPU nvidia.com/gpu"
    assert "nodeSelector" not in service["spec"]["transformer"]


def test_control_plane_reaches_the_webhooks(plan: Object) -> None:
    [rule] = [one for one in resources(plan, "google_compute_firewall").values() if one["name"] == "vision-webhooks"]
    cluster = only(resources(plan, "google_container_cluster"))
    assert rule["source_ranges"] == [cluster["private_cluster_config"][0]["master_ipv4_cidr_block"]]
    assert {"8443", "9443"} <= set(rule["allow"][0]["ports"])


def test_what_is_protected_says_so_and_a_trial_goes_away_whole(stack: Stack, plan: Object) -> None:
    def guards(planned: Object) -> set[bool]:
        return {
            *(one["deletion_protection"] for one in resources(planned, "google_container_cluster").values()),
            *(not one["force_destroy"] for one in resources(planned, "google_storage_bucket").values()),
        }

    assert guards(plan) == {True}
    assert guards(stack.set(SMALL | {"deletion_protection": False}).plan()) == {False}


#: What is changed of a stack that is good, and what is said. The changes of a group are planned together: Terraform
#: says all that is wrong at once, but not what would follow from something that is wrong itself.
REFUSED: Final[list[list[tuple[Object, list[str]]]]] = [
    [
        (
            {"network": {"cidr": "10.64.0.0/16", "reserved_cidrs": ["10.64.128.0/20"]}},
            ["cidr 10.64.0.0/16 overlaps reserved_cidrs[0] 10.64.128.0/20", "Write ranges that do not overlap"],
        ),
        (
            {
                "pools": {
                    "other": {"machine_type": "g5.xlarge"},
                    "mig": {**POOL, "sharing": "mig:1g.5gb"},
                    "mps": {**POOL, "sharing": "mps", "replicas_per_gpu": 2},
                    "spot": {**POOL, "capacity": "spot", "min_nodes": 0},
                },
                "serving_pool": "mps",
            },
            [
                'pools.other.machine_type is "g5.xlarge", which the catalog does not have on gcp: write one of',
                "g2-standard-8",
                "the L4 of g2-standard-8 cannot be partitioned: write time_slicing",
                "a2-highgpu-1g",
                "sharing is mps: write time_slicing or mig:PROFILE on gcp",
                "is spot with min_nodes = 0 and no fallback: write fallback =",
            ],
        ),
    ],
    [
        (
            {"quotas": {"NVIDIA_L4_GPUS": 1}},
            ['quota "NVIDIA_L4_GPUS" in europe-west4 is 1 GPUs', "ask for 4", "or lower max_nodes"],
        ),
        (
            {"ingress": {"domain": "example.org", "allowed_cidrs": []}},
            ["allowed_cidrs is []; write who may call", '["0.0.0.0/0"] for everybody'],
        ),
        ({"system": {"min_nodes": 0}}, ["system.min_nodes is 0 and max_nodes 10; write at least 1"]),
        ({"gpu_driver_version": "535"}, ['gpu_driver_version is "535"; write DEFAULT or LATEST']),
    ],
    [
        (
            {
                "pools": {"gpu": {**POOL, "max_nodes": 2}},
                "sizing": {"max_replicas": 2, "canary_percent": 10},
            },
            ["since canary_percent is 10", "Write max_nodes = 4 in pools.gpu", "or write canary_percent = 0"],
        ),
        (
            {"ingress": {"domain": "*.example.org", "allowed_cidrs": ["203.0.113.0/24"]}},
            ['domain is "*.example.org"; write a domain that is yours', "without a wildcard"],
        ),
    ],
    [
        (
            {"endpoint": {"public": True}},
            ["endpoint.public is true without endpoint.allowed_cidrs: write from where it may be reached"],
        ),
        ({"name": "a-name-that-is-much-too-long"}, ["which has 28 characters: write at most 20 on gcp"]),
        (
            {"kubernetes_version": "1.31"},
            ["kubernetes_version is 1.31; write 1.33 or later", "Knative 1.21 needs 1.33"],
        ),
        (
            {"pools": {"system": POOL}},
            ['pools has one named "system"', 'write another name, for example "gpu"'],
        ),
    ],
    [
        ({"project": "My Project"}, ['project is "My Project"; write the project\'s id']),
        (
            {"budget": {"billing_account": "000000-000000-000000", "monthly": 0.5}},
            ["budget.monthly is 0.5; write a whole amount, at least 1"],
        ),
    ],
]


@pytest.mark.parametrize("group", range(len(REFUSED)))
def test_what_cannot_work_is_refused_with_what_to_write(stack: Stack, group: int) -> None:
    changes = [change for change, _ in REFUSED[group]]
    together = {name: value for change in changes for name, value in change.items()}
    assert len(together) == sum(map(len, changes)), "two of the group change the same variable"
    refusals = stack.set(SMALL | together).refusals()
    for _, sentences in REFUSED[group]:
        for sentence in sentences:
            assert any(sentence in refusal for refusal in refusals), (sentence, refusals)


def test_a_machine_type_that_the_region_does_not_offer_is_refused(sources: Path) -> None:
    nowhere: Object = {"data": {"google_compute_machine_types": {"machine_types": []}}}
    refusals = Stack(sources, "gcp-not-offered", nowhere).set(SMALL).refusals()
    assert any('g2-standard-8", which europe-west4 does not offer' in refusal for refusal in refusals), refusals
    assert any("write other zones, another region" in refusal for refusal in refusals), refusals
