"""What the stack for AWS makes, as a reviewer looks at it: who reaches what, what is encrypted, who may do what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helm_support import Object
from terraform_support import Configuration, copy_sources, need_providers, only, resources

ACCOUNT = Path(__file__).parent / "account.json"


def example(name: str, folder: Path) -> Configuration:
    """An example with the variables that it shows."""
    root = copy_sources(folder) / "examples" / name
    (root / "terraform.tfvars.example").rename(root / "terraform.tfvars")
    found = Configuration(root, need_providers(), ACCOUNT)
    found.init()
    return found


class Made:
    """What an example consists of, once applied: every value is known then."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.apply()
        state = json.loads(configuration.run("show", "-json"))
        self._state = {"planned_values": state["values"]}

    def all(self, kind: str | None = None) -> dict[str, Object]:
        return resources(self._state, kind)

    def the(self, kind: str, part: str = "") -> Object:
        return only({address: one for address, one in self.all(kind).items() if part in address})


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(example("aws-private-a100", tmp_path_factory.mktemp("private")))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(example("aws-a10g-timeslice", tmp_path_factory.mktemp("shared")))


@pytest.fixture(params=["private", "shared"])
def either(request: pytest.FixtureRequest) -> Made:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Made)
    return found


def test_the_kubernetes_api_has_no_public_address(private: Made) -> None:
    [network] = private.the("aws_eks_cluster")["vpc_config"]
    assert network["endpoint_private_access"] is True
    assert network["endpoint_public_access"] is False


def test_a_public_api_is_for_those_who_were_named(shared: Made) -> None:
    [network] = shared.the("aws_eks_cluster")["vpc_config"]
    assert network["endpoint_private_access"] is True
    assert network["public_access_cidrs"] == ["203.0.113.7/32"]


def test_who_made_the_cluster_is_no_admin_by_that_and_the_named_ones_are(either: Made) -> None:
    [access] = either.the("aws_eks_cluster")["access_config"]
    assert access == {"authentication_mode": "API", "bootstrap_cluster_creator_admin_permissions": False}
    assert (
        either.the("aws_eks_access_policy_association")["principal_arn"] == "arn:aws:iam::123456789012:role/platform"
    )


def test_every_log_of_the_control_plane_is_kept_and_encrypted(either: Made) -> None:
    logs = either.the("aws_eks_cluster")["enabled_cluster_log_types"]
    assert set(logs) == {"api", "audit", "authenticator", "controllerManager", "scheduler"}
    groups = either.all("aws_cloudwatch_log_group")
    assert len(groups) == 2
    for group in groups.values():
        assert group["kms_key_id"]
        assert group["retention_in_days"] >= 30


def test_kubernetes_secrets_are_encrypted_with_a_key_of_their_own(either: Made) -> None:
    [encryption] = either.the("aws_eks_cluster")["encryption_config"]
    keys = {address: key["arn"] for address, key in either.all("aws_kms_key").items()}
    assert encryption["resources"] == ["secrets"]
    assert encryption["provider"][0]["key_arn"] == keys['module.saccade.module.keys.aws_kms_key.this["cluster"]']
    assert len(set(keys.values())) == 4
    assert all(key["enable_key_rotation"] for key in either.all("aws_kms_key").values())


def test_nodes_have_encrypted_disks_and_a_metadata_service_that_pods_do_not_reach(either: Made) -> None:
    templates = either.all("aws_launch_template")
    assert templates
    for template in templates.values():
        [disk] = template["block_device_mappings"]
        assert disk["ebs"][0]["encrypted"] in (True, "true")
        assert disk["ebs"][0]["kms_key_id"]
        [metadata] = template["metadata_options"]
        assert (metadata["http_tokens"], metadata["http_put_response_hop_limit"]) == ("required", 1)
        assert {one["resource_type"] for one in template["tag_specifications"]} == {
            "instance",
            "volume",
            "network-interface",
        }
        assert all(one["tags"]["part-of"] == "saccade" for one in template["tag_specifications"])


def test_gpu_nodes_have_disks_for_images_with_cuda(either: Made) -> None:
    for address, template in either.all("aws_launch_template").items():
        size = template["block_device_mappings"][0]["ebs"][0]["volume_size"]
        assert size >= (80 if "system" in address else 200)


def test_nodes_are_in_private_subnets_alone(either: Made) -> None:
    public = {one["id"] for address, one in either.all("aws_subnet").items() if ".public[" in address}
    assert public
    for group in either.all("aws_eks_node_group").values():
        assert group["subnet_ids"]
        assert not public & set(group["subnet_ids"])
    assert not any(one["map_public_ip_on_launch"] for one in either.all("aws_subnet").values())


def test_nobody_is_let_in_from_everywhere(either: Made) -> None:
    rules = either.all("aws_vpc_security_group_ingress_rule")
    assert rules
    for address, rule in rules.items():
        assert rule["cidr_ipv4"] != "0.0.0.0/0", address
        assert rule["cidr_ipv4"] or rule["referenced_security_group_id"], address
    assert either.the("aws_default_security_group")["ingress"] in ([], None)


def test_no_bucket_is_public_and_all_are_encrypted_versioned_and_reached_over_tls(either: Made) -> None:
    buckets = either.all("aws_s3_bucket")
    assert len(buckets) == 2
    checks: dict[str, Callable[[Object], bool]] = {
        "aws_s3_bucket_public_access_block": lambda one: all(
            one[what]
            for what in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
        ),
        "aws_s3_bucket_versioning": lambda one: one["versioning_configuration"][0]["status"] == "Enabled",
        "aws_s3_bucket_server_side_encryption_configuration": lambda one: (
            next(iter(one["rule"]))["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
        ),
        "aws_s3_bucket_ownership_controls": lambda one: one["rule"][0]["object_ownership"] == "BucketOwnerEnforced",
    }
    for kind, check in checks.items():
        found = either.all(kind)
        assert {one["bucket"] for one in found.values()} == {one["id"] for one in buckets.values()}
        assert all(check(one) for one in found.values()), kind
    assert not either.all("aws_s3_bucket_acl")
    for one in either.all("aws_s3_bucket_policy").values():
        statements = json.loads(one["policy"])["Statement"]
        assert all(statement["Effect"] == "Deny" for statement in statements), "a bucket's policy lets nobody in"
        assert any(
            statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") == "false"
            for statement in statements
        )


def test_images_cannot_be_replaced_and_are_scanned(either: Made) -> None:
    repositories = either.all("aws_ecr_repository")
    assert {one["name"].split("/")[1] for one in repositories.values()} == {"predictor", "transformer", "plan-builder"}
    for one in repositories.values():
        assert one["image_tag_mutability"] == "IMMUTABLE"
        assert one["image_scanning_configuration"][0]["scan_on_push"] is True
        assert one["encryption_configuration"][0]["encryption_type"] == "KMS"


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_role_may_do_everything_or_anything_to_everything(either: Made) -> None:
    policies = either.all("aws_iam_role_policy")
    assert len(policies) >= 6
    for address, one in policies.items():
        for statement in json.loads(one["policy"])["Statement"]:
            assert statement["Effect"] == "Allow"
            for action in listed(statement["Action"]):
                assert "*" not in action, f"{address}: {action}"
                if "*" in listed(statement["Resource"]):
                    verb = action.split(":")[1]
                    assert verb.startswith(("Describe", "Get", "List")), f"{address}: {action} on everything"


def test_the_server_reads_and_only_the_builder_writes_plans(either: Made) -> None:
    def actions(use: str) -> dict[str, list[str]]:
        policy = json.loads(either.the("aws_iam_role_policy", f'identity.aws_iam_role_policy.this["{use}"]')["policy"])
        return {
            action: listed(statement["Resource"])
            for statement in policy["Statement"]
            for action in listed(statement["Action"])
        }

    assert set(actions("serving")) == {"s3:ListBucket", "s3:GetObject", "kms:Decrypt"}
    [written] = actions("builder")["s3:PutObject"]
    assert "-plans-" in written
    assert "s3:DeleteObject" not in actions("builder")


def test_roles_are_for_this_clusters_service_accounts_alone(either: Made) -> None:
    associations = either.all("aws_eks_pod_identity_association")
    assert {(one["namespace"], one["service_account"]) for one in associations.values()} == {
        ("vision", "saccade"),
        ("vision", "saccade-builder"),
        ("kube-system", "cluster-autoscaler"),
        ("kube-system", "aws-load-balancer-controller"),
    }
    for address, role in either.all("aws_iam_role").items():
        for statement in json.loads(role["assume_role_policy"])["Statement"]:
            [service] = listed(statement["Principal"]["Service"])
            assert service.endswith(".amazonaws.com"), address
            if service == "pods.eks.amazonaws.com":
                assert statement["Condition"]["ArnEquals"]["aws:SourceArn"].startswith("arn:aws:eks:"), address
    assert not either.all("aws_iam_user")
    assert not either.all("aws_iam_access_key")


def test_everything_that_takes_tags_has_them(either: Made) -> None:
    tagged = {address: one for address, one in either.all().items() if "tags" in one}
    assert len(tagged) > 60
    bare = [address for address, one in tagged.items() if (one["tags"] or {}).get("part-of") != "saccade"]
    assert bare == []
    names = {one["tags"]["cluster"] for one in tagged.values()}
    assert len(names) == 1


def test_the_network_add_on_is_there_before_nodes_and_keeps_network_policies(either: Made) -> None:
    addons = {one["addon_name"]: one for one in either.all("aws_eks_addon").values()}
    assert set(addons) == {
        "aws-ebs-csi-driver",
        "coredns",
        "eks-pod-identity-agent",
        "kube-proxy",
        "metrics-server",
        "vpc-cni",
    }
    assert json.loads(addons["vpc-cni"]["configuration_values"]) == {"enableNetworkPolicy": "true"}


def test_services_of_aws_are_reached_without_the_internet(either: Made) -> None:
    names = {one["service_name"].split(".", 3)[3] for one in either.all("aws_vpc_endpoint").values()}
    assert {"s3", "ecr.api", "ecr.dkr", "sts", "ec2", "elasticloadbalancing", "logs", "eks", "eks-auth"} <= names


def test_the_load_balancer_outwaits_the_longest_request(private: Made) -> None:
    balancer = private.the("aws_lb")
    assert balancer["internal"] is True
    assert balancer["idle_timeout"] == 130
    assert private.the("aws_lb_target_group")["deregistration_delay"] == "120"
    [secure] = [one for one in private.all("aws_lb_listener").values() if one["port"] == 443]
    assert secure["protocol"] == "HTTPS"
    assert secure["ssl_policy"].startswith("ELBSecurityPolicy-TLS13")
    [plain] = [one for one in private.all("aws_lb_listener").values() if one["port"] == 80]
    assert plain["default_action"][0]["type"] == "redirect"


def test_the_cache_speaks_tls_to_the_nodes_and_its_user_administrates_nothing(private: Made) -> None:
    cache = private.the("aws_elasticache_replication_group")
    assert cache["transit_encryption_enabled"] is True
    assert cache["at_rest_encryption_enabled"] in (True, "true")
    assert cache["automatic_failover_enabled"] is True
    assert "-@all" in private.the("aws_elasticache_user")["access_string"]
    assert "-@dangerous" in private.the("aws_elasticache_user")["access_string"]


def test_a_reservation_is_used_and_no_other_capacity(private: Made) -> None:
    template = private.the("aws_launch_template", '"a100"')
    [reservation] = template["capacity_reservation_specification"]
    assert reservation["capacity_reservation_target"][0]["capacity_reservation_id"] == "cr-0123456789abcdef0"
    group = private.the("aws_eks_node_group", '"a100"')
    assert group["instance_types"] == ["p4d.24xlarge"]
    assert group["labels"]["k8s.amazonaws.com/accelerator"] == "a100-40gb"
    [zone] = [
        one["availability_zone"] for one in private.all("aws_subnet").values() if one["id"] in group["subnet_ids"]
    ]
    assert zone == "us-east-1c", "the reservation's"


def test_shared_gpus_are_labelled_tainted_and_known_to_the_autoscaler(shared: Made) -> None:
    for pool, capacity in {"spot": "SPOT", "steady": "ON_DEMAND"}.items():
        group = shared.the("aws_eks_node_group", f'"{pool}"')
        assert group["capacity_type"] == capacity
        assert group["ami_type"] == "AL2023_x86_64_NVIDIA"
        assert group["labels"]["nvidia.com/device-plugin.config"] == "a10g-slices3"
        assert group["labels"]["saccade.dev/gpu-class"] == "a10g-slices3"
        assert "k8s.amazonaws.com/accelerator" not in group["labels"], "the autoscaler would wait for nvidia.com/gpu"
        [taint] = group["taint"]
        assert taint == {"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}
        tag = shared.the("aws_autoscaling_group_tag", f'"{pool}"')["tag"][0]
        assert (tag["key"], tag["value"]) == (
            "k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu.shared",
            "3",
        )
    assert shared.the("aws_eks_node_group", '"spot"')["scaling_config"][0]["min_size"] == 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """The stack itself, to be refused."""
    root = copy_sources(tmp_path_factory.mktemp("stack")) / "stacks" / "aws"
    (root / "provider.tf").write_text('provider "aws" {\n  region = "eu-central-1"\n}\n')
    found = Configuration(root, need_providers(), ACCOUNT)
    found.init()
    return found


CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/x"
GOOD: dict[str, Any] = {
    "name": "vision",
    "admins": ["arn:aws:iam::123456789012:role/platform"],
    "pools": {"gpu": {"machine_type": "g5.xlarge"}},
}
SHARED = {"gpu": {"machine_type": "g5.2xlarge", "sharing": "time_slicing", "replicas_per_gpu": 2}}
#: By name: what is changed of a stack that is good, and what the refusal says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "more machines than the quota": (
        {"sizing": {"max_replicas": 400, "redundancy": 1}},
        "is 1000 vCPUs, but the pools gpu need 1600 at their largest: ask for 1600",
    ),
    "a machine type that the region lacks": (
        {"pools": {"gpu": {"machine_type": "g6.xlarge"}}},
        "which eu-central-1 does not offer in eu-central-1a, eu-central-1b, eu-central-1c",
    ),
    "a zone that EKS does not take": (
        {"zones": ["eu-central-1a", "eu-central-1z"]},
        "write some of eu-central-1a, eu-central-1b, eu-central-1c: EKS takes no others",
    ),
    "a load balancer for nobody in particular": (
        {"ingress": {"public": True, "certificate_arn": CERTIFICATE}},
        "public is true without allowed_cidrs: write who may connect",
    ),
    "pictures in the clear": (
        {"ingress": {"public": True, "allowed_cidrs": ["203.0.113.0/24"]}},
        "public is true without certificate_arn: write the ARN of a certificate of ACM",
    ),
    "a request that Knative would end": (
        {"ingress": {"request_timeout_seconds": 900}},
        "write 1 to 600, which is Knative's limit",
    ),
    "a request that a TLS listener would end": (
        {
            "ingress": {
                "kind": "network",
                "certificate_arn": CERTIFICATE,
                "request_timeout_seconds": 341,
            }
        },
        "request_timeout_seconds is 341 with kind network and a certificate: write at most 340",
    ),
    "a cache that anybody may use": ({"cache": {}}, "cache is set without cache_password"),
    "a password that is short": ({"cache": {}, "cache_password": "secret"}, "write 16 to 128 letters"),
    "a cluster that nobody administrates": ({"admins": []}, "write at least one ARN of a role or user"),
    "a version of Kubernetes that Knative refuses": ({"kubernetes_version": "1.32"}, "Knative 1.21 needs 1.33"),
    "shared GPUs on Bottlerocket": (
        {"gpu_os": "bottlerocket", "pools": SHARED},
        "write al2023: Bottlerocket brings a device plugin",
    ),
    "an endpoint for everybody": (
        {"endpoint": {"public": True}},
        "endpoint.public is true without endpoint.allowed_cidrs",
    ),
    "one node for Knative": ({"system": {"min_nodes": 1}}, "write min_nodes of at least 2"),
    "a budget that tells nobody": (
        {"budget": {"monthly_limit_usd": 10, "emails": []}},
        "a budget that tells nobody is none",
    ),
    "a service account that Kubernetes refuses": ({"serving_account": "Saccade"}, 'serving_account is "Saccade"'),
    "logs of ten days": ({"log_retention_days": 10}, "write one of 7, 14, 30"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_stack_refuses(stack: Configuration, case: str) -> None:
    change, said = REFUSED[case]
    stack.set(GOOD | change)
    refusals = stack.refusals()
    assert any(said in refusal for refusal in refusals), refusals


def test_roles_by_openid_connect_are_one_service_accounts_each(stack: Configuration) -> None:
    stack.set(GOOD | {"identity_mode": "irsa", "deletion_protection": False})
    made = Made(stack)
    roles = {address: one for address, one in made.all("aws_iam_role").items() if ".identity." in address}
    assert len(roles) == 4
    accounts = set()
    for role in roles.values():
        [statement] = json.loads(role["assume_role_policy"])["Statement"]
        assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
        [(provider, audience)] = [
            (key.removesuffix(":aud"), value)
            for key, value in statement["Condition"]["StringEquals"].items()
            if key.endswith(":aud")
        ]
        assert audience == "sts.amazonaws.com"
        assert not provider.startswith("https://")
        accounts.add(statement["Condition"]["StringEquals"][f"{provider}:sub"])
    assert accounts == {
        "system:serviceaccount:vision:saccade",
        "system:serviceaccount:vision:saccade-builder",
        "system:serviceaccount:kube-system:cluster-autoscaler",
        "system:serviceaccount:kube-system:aws-load-balancer-controller",
    }
    stack.destroy()


def test_both_disks_of_bottlerocket_are_encrypted(stack: Configuration) -> None:
    stack.set(GOOD | {"gpu_os": "bottlerocket"})
    planned = stack.plan()
    [template] = [one for one in resources(planned, "aws_launch_template").values() if one["name"] == "vision-gpu"]
    disks = {one["device_name"]: one["ebs"][0] for one in template["block_device_mappings"]}
    assert {device: disk["volume_size"] for device, disk in disks.items()} == {"/dev/xvda": 4, "/dev/xvdb": 200}
    assert all(disk["encrypted"] in (True, "true") for disk in disks.values())
    groups = {one["node_group_name"]: one["ami_type"] for one in resources(planned, "aws_eks_node_group").values()}
    assert groups == {"vision-gpu": "BOTTLEROCKET_x86_64_NVIDIA", "vision-system": "AL2023_x86_64_STANDARD"}


def test_a_stack_that_asks_the_account_nothing_can_be_planned(stack: Configuration) -> None:
    stack.set(
        GOOD
        | {
            "check_account": False,
            "sizing": {"max_replicas": 400, "redundancy": 1},
            "identity_mode": "irsa",
            "nat": "none",
        }
    )
    planned = stack.plan()
    assert not resources(planned, "aws_eks_pod_identity_association")
    assert not resources(planned, "aws_nat_gateway")
    assert len(resources(planned, "aws_iam_openid_connect_provider")) == 1


@pytest.mark.parametrize(
    "ingress",
    [
        {"kind": "network", "request_timeout_seconds": 600},
        {"kind": "application", "certificate_arn": CERTIFICATE, "request_timeout_seconds": 600},
        {"kind": "network", "certificate_arn": CERTIFICATE, "request_timeout_seconds": 340},
    ],
    ids=["network without TLS", "application", "network, at most"],
)
def test_requests_may_take_as_long_as_their_listener_waits(stack: Configuration, ingress: dict[str, Any]) -> None:
    stack.set(GOOD | {"ingress": ingress})
    assert resources(stack.plan(), "aws_lb_listener")
