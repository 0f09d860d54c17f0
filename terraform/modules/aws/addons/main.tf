# The add-ons whose pods need nodes: names (CoreDNS), volumes (EBS), metrics of nodes and pods.

# The newest of each that EKS has for the cluster's version, unless addon_versions says which: an add-on that stayed behind would
# one day be older than Kubernetes' skew allows. An apply after a release of AWS' brings it.
data "aws_eks_addon_version" "newest" {
  for_each = setsubtract(["aws-ebs-csi-driver", "coredns", "metrics-server"], keys(var.addon_versions))

  addon_name         = each.key
  kubernetes_version = var.kubernetes_version
  most_recent        = true
}

locals {
  addon_versions = merge({ for name, addon in data.aws_eks_addon_version.newest : name => addon.version }, var.addon_versions)
}

data "aws_partition" "this" {}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [var.cluster_arn]
    }
  }
}

data "aws_iam_policy_document" "key" {
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"]
    resources = [var.disks_key_arn]
  }
  statement {
    actions   = ["kms:CreateGrant"]
    resources = [var.disks_key_arn]
    condition {
      test     = "Bool"
      variable = "kms:GrantIsForAWSResource"
      values   = ["true"]
    }
  }
}

resource "aws_iam_role" "ebs" {
  name               = "${var.name}-ebs-csi"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "ebs" {
  role       = aws_iam_role.ebs.name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

resource "aws_iam_role_policy" "ebs" {
  name   = "disks-key"
  role   = aws_iam_role.ebs.id
  policy = data.aws_iam_policy_document.key.json
}

locals {
  # A reference to the node groups, so that they are there first; no value of it is used.
  cluster_with_nodes = length(var.node_group_arns) > 0 ? var.cluster_name : ""
}

resource "aws_eks_addon" "coredns" {
  cluster_name                = local.cluster_with_nodes
  addon_name                  = "coredns"
  addon_version               = local.addon_versions["coredns"]
  resolve_conflicts_on_update = "OVERWRITE"
  tags                        = var.tags
}

resource "aws_eks_addon" "ebs_csi" {
  cluster_name                = local.cluster_with_nodes
  addon_name                  = "aws-ebs-csi-driver"
  addon_version               = local.addon_versions["aws-ebs-csi-driver"]
  resolve_conflicts_on_update = "OVERWRITE"
  configuration_values = jsonencode({
    controller = { extraVolumeTags = var.tags }
    # Its pods on GPU nodes tolerate their taint.
    node = { tolerateAllTaints = true }
  })
  tags = var.tags

  pod_identity_association {
    role_arn        = aws_iam_role.ebs.arn
    service_account = "ebs-csi-controller-sa"
  }

  depends_on = [aws_iam_role_policy_attachment.ebs, aws_iam_role_policy.ebs]
}

resource "aws_eks_addon" "metrics_server" {
  cluster_name                = local.cluster_with_nodes
  addon_name                  = "metrics-server"
  addon_version               = local.addon_versions["metrics-server"]
  resolve_conflicts_on_update = "OVERWRITE"
  tags                        = var.tags
}
