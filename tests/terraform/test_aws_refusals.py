"""What stacks/aws refuses, and what it takes that no example has.

Faults that have nothing to do with each other are planned together: Terraform says all of them at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from helm_support import Object
from terraform_examples import ACCOUNT
from terraform_support import Configuration, copy_sources, need_providers, resources

PROVIDER = 'provider "aws" {\n  region = "eu-central-1"\n}\n'
CERTIFICATE = "arn:aws:acm:eu-central-1:123456789012:certificate/x"
GOOD: dict[str, Any] = {
    "name": "vision",
    "admins": ["arn:aws:iam::123456789012:role/platform"],
    "pools": {"gpu": {"machine_type": "g5.xlarge"}},
}
SHARED = {"gpu": {"machine_type": "g5.2xlarge", "sharing": "time_slicing", "replicas_per_gpu": 2}}
#: By name: what is changed of a stack that is good, and what the refusal says. A group is planned together.
GROUPS: list[dict[str, tuple[dict[str, Any], str]]] = [
    {
        "a cluster that nobody administrates": ({"admins": []}, "write at least one ARN of a role or user"),
        "a version of Kubernetes that Knative refuses": ({"kubernetes_version": "1.32"}, "Knative 1.21 needs 1.33"),
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
        "a load balancer for nobody in particular": (
            {"ingress": {"public": True, "certificate_arn": CERTIFICATE}},
            "public is true without allowed_cidrs: write who may connect",
        ),
    },
    {
        "more machines than the quota": (
            {"sizing": {"max_replicas": 400, "redundancy": 1}},
            "is 1000 vCPUs, but the pools gpu need 1600 at their largest: ask for 1600",
        ),
        "pictures in the clear": (
            {"ingress": {"public": True, "allowed_cidrs": ["203.0.113.0/24"]}},
            "public is true without certificate_arn: write the ARN of a certificate of ACM",
        ),
        "a password that is short": ({"cache": {}, "cache_password": "secret"}, "write 16 to 128 letters"),
    },
    {
        "a machine type that the region lacks": (
            {"pools": {"gpu": {"machine_type": "g6.xlarge"}}},
            "which eu-central-1 does not offer in eu-central-1a, eu-central-1b, eu-central-1c",
        ),
        "a request that Knative would end": (
            {"ingress": {"request_timeout_seconds": 900}},
            "write 1 to 600, which is Knative's limit",
        ),
    },
    {
        "shared GPUs on Bottlerocket": (
            {"gpu_os": "bottlerocket", "pools": SHARED},
            "write al2023: Bottlerocket brings a device plugin",
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
    },
    {"a cache that anybody may use": ({"cache": {}}, "cache is set without cache_password")},
    {
        "a zone that EKS does not take": (
            {"zones": ["eu-central-1a", "eu-central-1z"]},
            "write some of eu-central-1a, eu-central-1b, eu-central-1c: EKS takes no others",
        )
    },
]
GROUP_OF = {case: group for group, cases in enumerate(GROUPS) for case in cases}


def root(folder: str, factory: pytest.TempPathFactory) -> Configuration:
    """A folder of ``terraform/`` as a root of its own."""
    found = Configuration(copy_sources(factory.mktemp("root")) / folder, need_providers(), ACCOUNT)
    (found.folder / "provider.tf").write_text(PROVIDER)
    found.init()
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """The stack itself."""
    return root("stacks/aws", tmp_path_factory)


@pytest.fixture(scope="module")
def refused(stack: Configuration) -> Callable[[int], list[str]]:
    """The refusals of a group."""

    @functools.cache
    def plan(group: int) -> list[str]:
        changes = [change for change, _ in GROUPS[group].values()]
        together = {name: value for change in changes for name, value in change.items()}
        assert len(together) == sum(map(len, changes)), "two cases of the group change the same variable"
        stack.set(GOOD | together)
        return stack.refusals()

    return plan


@pytest.mark.parametrize("case", GROUP_OF)
def test_the_stack_refuses(refused: Callable[[int], list[str]], case: str) -> None:
    group = GROUP_OF[case]
    _, said = GROUPS[group][case]
    assert any(said in one for one in refused(group)), refused(group)


@pytest.fixture(scope="module")
def planned(stack: Configuration) -> Object:
    """A stack with what no example has, that asks the account nothing."""
    stack.set(
        GOOD
        | {
            "check_account": False,
            "sizing": {"max_replicas": 400, "redundancy": 1},
            "identity_mode": "irsa",
            "nat": "none",
            "gpu_os": "bottlerocket",
            "addon_versions": {"coredns": "v1.2.3-eksbuild.4"},
        }
    )
    return stack.plan()


def test_both_disks_of_bottlerocket_are_encrypted(planned: Object) -> None:
    [template] = [one for one in resources(planned, "aws_launch_template").values() if one["name"] == "vision-gpu"]
    disks = {one["device_name"]: one["ebs"][0] for one in template["block_device_mappings"]}
    assert {device: disk["volume_size"] for device, disk in disks.items()} == {"/dev/xvda": 4, "/dev/xvdb": 200}
    assert all(disk["encrypted"] in (True, "true") for disk in disks.values())
    groups = {one["node_group_name"]: one["ami_type"] for one in resources(planned, "aws_eks_node_group").values()}
    assert groups == {"vision-gpu": "BOTTLEROCKET_x86_64_NVIDIA", "vision-system": "AL2023_x86_64_STANDARD"}


def test_a_stack_that_asks_the_account_nothing_can_be_planned(planned: Object) -> None:
    assert not resources(planned, "aws_eks_pod_identity_association")
    assert not resources(planned, "aws_nat_gateway")
    assert len(resources(planned, "aws_iam_openid_connect_provider")) == 1


def test_an_add_on_has_the_version_that_was_written(planned: Object) -> None:
    versions = {one["addon_name"]: one["addon_version"] for one in resources(planned, "aws_eks_addon").values()}
    assert len(versions) == 6
    assert versions.pop("coredns") == "v1.2.3-eksbuild.4"
    assert set(versions.values()) == {"v1.0.0-eksbuild.1"}, "what the invented API says is the newest"


def test_roles_by_openid_connect_are_one_service_accounts_each(tmp_path_factory: pytest.TempPathFactory) -> None:
    module = root("modules/aws/identity", tmp_path_factory)
    module.set(
        {
            "name": "vision",
            "cluster_name": "vision",
            "mode": "irsa",
            "oidc_issuer": "https://oidc.eks.eu-central-1.amazonaws.com/id/0123456789ABCDEF",
            "namespace": "vision",
            "serving_account": "saccade",
            "bucket_arns": {"models": "arn:aws:s3:::models", "plans": "arn:aws:s3:::plans"},
            "data_key_arn": "arn:aws:kms:eu-central-1:123456789012:key/x",
            "tags": {},
        }
    )
    module.apply()
    made = resources({"planned_values": json.loads(module.run("show", "-json"))["values"]})
    roles = {address: one for address, one in made.items() if address.startswith("aws_iam_role.")}
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


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    return root("modules/aws/ingress", tmp_path_factory)


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ({"kind": "network", "request_timeout_seconds": 600}, 610),
        ({"kind": "application", "certificate_arn": CERTIFICATE, "request_timeout_seconds": 600}, 610),
        ({"kind": "network", "certificate_arn": CERTIFICATE, "request_timeout_seconds": 340}, 350),
    ],
    ids=["network without TLS", "application", "network, at most"],
)
def test_requests_may_take_as_long_as_their_listener_waits(
    ingress: Configuration, asked: dict[str, Any], waits: int
) -> None:
    ingress.set(
        {
            "name": "vision",
            "vpc_id": "vpc-1",
            "vpc_cidr": "10.64.0.0/16",
            "subnet_ids": ["subnet-1", "subnet-2"],
            "node_security_group_id": "sg-1",
            "tags": {},
        }
        | asked
    )
    plan = ingress.plan()
    [balancer] = resources(plan, "aws_lb").values()
    [listener] = [one for one in resources(plan, "aws_lb_listener").values() if one["protocol"] != "HTTP"]
    [group] = resources(plan, "aws_lb_target_group").values()
    assert balancer["enable_cross_zone_load_balancing"] is True
    assert group["target_type"] == "ip", "Kourier's pods, without a hop over a node's port"
    told = balancer["idle_timeout"] or listener.get("tcp_idle_timeout_seconds")
    # A TLS listener of a network load balancer waits 350 s, and nobody can change that.
    assert (told or 350) == waits
