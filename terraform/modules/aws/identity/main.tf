# Who in the cluster may do what in the account: a role for each use, bound to one service account of one cluster.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  account     = data.aws_caller_identity.this.account_id
  partition   = data.aws_partition.this.partition
  region      = data.aws_region.this.region
  cluster_arn = "arn:${local.partition}:eks:${local.region}:${local.account}:cluster/${var.name}"
  issuer      = trimprefix(var.oidc_issuer, "https://")

  accounts = {
    serving                  = { namespace = var.namespace, name = var.serving_account, role = "serving" }
    builder                  = { namespace = var.namespace, name = "${var.serving_account}-builder", role = "builder" }
    cluster_autoscaler       = { namespace = "kube-system", name = "cluster-autoscaler", role = "autoscaler" }
    load_balancer_controller = { namespace = "kube-system", name = "aws-load-balancer-controller", role = "ingress" }
  }

  policies = {
    serving                  = data.aws_iam_policy_document.serving.json
    builder                  = data.aws_iam_policy_document.builder.json
    cluster_autoscaler       = data.aws_iam_policy_document.autoscaler.json
    load_balancer_controller = data.aws_iam_policy_document.ingress.json
  }
}

resource "aws_iam_openid_connect_provider" "this" {
  count = var.mode == "irsa" ? 1 : 0

  url            = var.oidc_issuer
  client_id_list = ["sts.amazonaws.com"]
  tags           = var.tags
}

data "aws_iam_policy_document" "trust" {
  for_each = local.accounts

  dynamic "statement" {
    for_each = var.mode == "pod_identity" ? [1] : []
    content {
      actions = ["sts:AssumeRole", "sts:TagSession"]
      principals {
        type        = "Service"
        identifiers = ["pods.eks.amazonaws.com"]
      }
      condition {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [local.account]
      }
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [local.cluster_arn]
      }
    }
  }

  dynamic "statement" {
    for_each = var.mode == "irsa" ? [1] : []
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = aws_iam_openid_connect_provider.this[*].arn
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:sub"
        values   = ["system:serviceaccount:${each.value.namespace}:${each.value.name}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.accounts

  name               = "${var.name}-${each.value.role}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
  tags               = var.tags
}

resource "aws_iam_role_policy" "this" {
  for_each = local.accounts

  name   = each.value.role
  role   = aws_iam_role.this[each.key].id
  policy = local.policies[each.key]
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = { for use, account in local.accounts : use => account if var.mode == "pod_identity" }

  cluster_name    = var.cluster_name
  namespace       = each.value.namespace
  service_account = each.value.name
  role_arn        = aws_iam_role.this[each.key].arn
  tags            = var.tags
}
