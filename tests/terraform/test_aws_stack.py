"""What the stack for AWS makes, as a reviewer looks at it: who reaches what, what is encrypted, who may do what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from helm_support import Object
from terraform_examples import Example, folder_of_the_run, made


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return made(folder_of_the_run(tmp_path_factory), "aws-private-a100")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return made(folder_of_the_run(tmp_path_factory), "aws-a10g-timeslice")


@pytest.fixture(params=["private", "shared"])
def either(request: pytest.FixtureRequest) -> Example:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Example)
    return found


def test_the_kubernetes_api_has_no_public_address(private: Example) -> None:
    [network] = private.the("aws_eks_cluster")["vpc_config"]
    assert network["endpoint_private_access"] is True
    assert network["endpoint_public_access"] is False


def test_a_public_api_is_for_those_who_were_named(shared: Example) -> None:
    [network] = shared.the("aws_eks_cluster")["vpc_config"]
    assert network["endpoint_private_access"] is True
    assert network["public_access_cidrs"] == ["203.0.113.7/32"]


def test_who_made_the_cluster_is_no_admin_by_that_and_the_named_ones_are(either: Example) -> None:
    [access] = either.the("aws_eks_cluster")["access_config"]
    assert access == {"authentication_mode": "API", "bootstrap_cluster_creator_admin_permissions": False}
    assert (
        either.the("aws_eks_access_policy_association")["principal_arn"] == "arn:aws:iam::123456789012:role/platform"
    )


def test_every_log_of_the_control_plane_is_kept_and_encrypted(either: Example) -> None:
    logs = either.the("aws_eks_cluster")["enabled_cluster_log_types"]
    assert set(logs) == {"api", "audit", "authenticator", "controllerManager", "scheduler"}
    groups = either.all("aws_cloudwatch_log_group")
    assert len(groups) == 2
    for group in groups.values():
        assert group["kms_key_id"]
        assert group["retention_in_days"] >= 30


def test_kubernetes_secrets_are_encrypted_with_a_key_of_their_own(either: Example) -> None:
    [encryption] = either.the("aws_eks_cluster")["encryption_config"]
    keys = {address: key["arn"] for address, key in either.all("aws_kms_key").items()}
    assert encryption["resources"] == ["secrets"]
    assert encryption["provider"][0]["key_arn"] == keys['module.saccade.module.keys.aws_kms_key.this["cluster"]']
    assert len(set(keys.values())) == 4
    assert all(key["enable_key_rotation"] for key in either.all("aws_kms_key").values())


def test_nodes_have_encrypted_disks_and_a_metadata_service_that_pods_do_not_reach(either: Example) -> None:
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


def test_gpu_nodes_have_disks_for_images_with_cuda(either: Example) -> None:
    for address, template in either.all("aws_launch_template").items():
        size = template["block_device_mappings"][0]["ebs"][0]["volume_size"]
        assert size >= (80 if "system" in address else 200)


def test_nodes_are_in_private_subnets_alone(either: Example) -> None:
    public = {one["id"] for address, one in either.all("aws_subnet").items() if ".public[" in address}
    assert public
    for group in either.all("aws_eks_node_group").values():
        assert group["subnet_ids"]
        assert not public & set(group["subnet_ids"])
    assert not any(one["map_public_ip_on_launch"] for one in either.all("aws_subnet").values())


def test_nobody_is_let_in_from_everywhere(either: Example) -> None:
    rules = either.all("aws_vpc_security_group_ingress_rule")
    assert rules
    for address, rule in rules.items():
        assert rule["cidr_ipv4"] != "0.0.0.0/0", address
        assert rule["cidr_ipv4"] or rule["referenced_security_group_id"], address
    assert either.the("aws_default_security_group")["ingress"] in ([], None)


def test_no_bucket_is_public_and_all_are_encrypted_versioned_and_reached_over_tls(either: Example) -> None:
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


def test_images_cannot_be_replaced_and_are_scanned(either: Example) -> None:
    repositories = either.all("aws_ecr_repository")
    assert {one["name"].split("/")[1] for one in repositories.values()} == {"predictor", "transformer", "plan-builder"}
    for one in repositories.values():
        assert one["image_tag_mutability"] == "IMMUTABLE"
        assert one["image_scanning_configuration"][0]["scan_on_push"] is True
        assert one["encryption_configuration"][0]["encryption_type"] == "KMS"


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_role_may_do_everything_or_anything_to_everything(either: Example) -> None:
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


def test_the_server_reads_and_only_the_builder_writes_plans(either: Example) -> None:
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


def test_roles_are_for_this_clusters_service_accounts_alone(either: Example) -> None:
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


def test_everything_that_takes_tags_has_them(either: Example) -> None:
    tagged = {address: one for address, one in either.all().items() if "tags" in one}
    assert len(tagged) > 60
    bare = [address for address, one in tagged.items() if (one["tags"] or {}).get("part-of") != "saccade"]
    assert bare == []
    names = {one["tags"]["cluster"] for one in tagged.values()}
    assert len(names) == 1


def test_the_network_add_on_is_there_before_nodes_and_keeps_network_policies(either: Example) -> None:
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
    assert all(one["addon_version"] for one in addons.values()), "EKS' default would stay through every upgrade"


def test_the_default_class_of_volumes_has_the_key_of_the_disks(either: Example) -> None:
    given = either.outputs["platform"]["storage_class"]
    keys = {address: key["arn"] for address, key in either.all("aws_kms_key").items()}
    disks = keys['module.saccade.module.keys.aws_kms_key.this["disks"]']
    assert given["parameters"] == {"type": "gp3", "encrypted": "true", "kmsKeyId": disks}
    driver = json.loads(either.the("aws_iam_role_policy", "addons.aws_iam_role_policy.ebs")["policy"])
    assert {one for statement in driver["Statement"] for one in listed(statement["Resource"])} == {disks}


def test_services_of_aws_are_reached_without_the_internet(either: Example) -> None:
    names = {one["service_name"].split(".", 3)[3] for one in either.all("aws_vpc_endpoint").values()}
    assert {"s3", "ecr.api", "ecr.dkr", "sts", "ec2", "elasticloadbalancing", "logs", "eks", "eks-auth"} <= names


def test_the_load_balancer_outwaits_the_longest_request(private: Example) -> None:
    balancer = private.the("aws_lb")
    assert balancer["internal"] is True
    assert balancer["idle_timeout"] == 130
    assert private.the("aws_lb_target_group")["deregistration_delay"] == "120"
    [secure] = [one for one in private.all("aws_lb_listener").values() if one["port"] == 443]
    assert secure["protocol"] == "HTTPS"
    assert secure["ssl_policy"].startswith("ELBSecurityPolicy-TLS13")
    [plain] = [one for one in private.all("aws_lb_listener").values() if one["port"] == 80]
    assert plain["default_action"][0]["type"] == "redirect"


def test_the_cache_speaks_tls_to_the_nodes_and_its_user_administrates_nothing(private: Example) -> None:
    cache = private.the("aws_elasticache_replication_group")
    assert cache["transit_encryption_enabled"] is True
    assert cache["at_rest_encryption_enabled"] in (True, "true")
    assert cache["automatic_failover_enabled"] is True
    assert "-@all" in private.the("aws_elasticache_user")["access_string"]
    assert "-@dangerous" in private.the("aws_elasticache_user")["access_string"]


def test_a_reservation_is_used_and_no_other_capacity(private: Example) -> None:
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


def test_shared_gpus_are_labelled_tainted_and_known_to_the_autoscaler(shared: Example) -> None:
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
