# The stack with Terraform's own mocks in AWS' place: runs with the real provider too, without an account.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1c", "eu-central-1a", "eu-central-1b", "eu-central-1d"] }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
  mock_data "aws_servicequotas_service_quota" {
    defaults = { value = 64 }
  }
  mock_data "aws_ec2_instance_type_offerings" {
    defaults = {
      instance_types = ["g5.xlarge", "g5.xlarge", "g6.xlarge"]
      locations      = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    }
  }
  mock_resource "aws_eks_cluster" {
    defaults = {
      arn                   = "arn:aws:eks:eu-central-1:123456789012:cluster/vision"
      endpoint              = "https://example.invalid"
      certificate_authority = [{ data = "ZmFrZQ==" }]
      identity              = [{ oidc = [{ issuer = "https://oidc.example.invalid/id/A" }] }]
    }
  }
  mock_resource "aws_eks_node_group" {
    defaults = {
      arn       = "arn:aws:eks:eu-central-1:123456789012:nodegroup/vision/x/y"
      resources = [{ autoscaling_groups = [{ name = "eks-x" }], remote_access_security_group_id = "" }]
    }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/x" }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::123456789012:oidc-provider/x" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:x" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::x" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/x/y" }
  }
  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/x/y" }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/vision/x" }
  }
}

variables {
  name   = "vision"
  admins = ["arn:aws:iam::123456789012:role/platform"]
  pools  = { gpu = { machine_type = "g5.xlarge" } }
}

run "a_pool_is_in_the_zones_that_offer_its_machines" {
  assert {
    condition     = join(",", output.platform.pools["gpu"].zones) == "eu-central-1a,eu-central-1b"
    error_message = jsonencode(output.platform.pools)
  }
  assert {
    condition     = length(setsubtract(["use1-az3", "usw1-az2", "cac1-az3"], data.aws_availability_zones.this.exclude_zone_ids)) == 0
    error_message = "EKS refuses subnets in these zones"
  }
  assert {
    condition     = output.quotas_needed["L-DB2E81BA"].units == 16
    error_message = jsonencode(output.quotas_needed)
  }
  assert {
    condition     = jsonencode(output.platform.service_accounts.serving) == jsonencode({ name = "saccade", namespace = "vision", annotations = {} })
    error_message = jsonencode(output.platform.service_accounts)
  }
  assert {
    condition     = output.platform.cluster.kubernetes_version == "1.35"
    error_message = "EKS' standard support of earlier versions has ended or ends on 2026-12-02"
  }
  assert {
    condition     = output.platform.cluster.private && output.platform.redis == null
    error_message = jsonencode(output.platform.cluster)
  }
}

run "roles_and_the_cache_reach_the_chart_by_their_names_alone" {
  variables {
    identity_mode  = "irsa"
    cache          = {}
    cache_password = "a-password-of-letters-only"
  }
  assert {
    condition = (
      yamldecode(output.helm_values).serviceAccount.annotations["eks.amazonaws.com/role-arn"] == "arn:aws:iam::123456789012:role/x"
      && yamldecode(output.helm_values).planBuild.serviceAccountAnnotations["eks.amazonaws.com/role-arn"] == "arn:aws:iam::123456789012:role/x"
    )
    error_message = output.helm_values
  }
  assert {
    condition     = yamldecode(output.helm_values).redis == { existingSecret = "saccade-cache" }
    error_message = output.helm_values
  }
  assert {
    condition     = !strcontains(jsonencode(output.platform), "a-password-of-letters-only")
    error_message = "the password is in the contract"
  }
}

run "a_cache_without_a_password_is_refused" {
  command = plan
  variables {
    cache = {}
  }
  expect_failures = [var.cache]
}
