# The add-ons before compute. A node without a network add-on never becomes ready.

# The newest of each that EKS has for the cluster's version, unless addon_versions says which: an add-on that stayed behind would
# one day be older than Kubernetes' skew allows. An apply after a release of AWS' brings it.
data "aws_eks_addon_version" "newest" {
  for_each = setsubtract(["eks-pod-identity-agent", "kube-proxy", "vpc-cni"], keys(var.addon_versions))

  addon_name         = each.key
  kubernetes_version = var.kubernetes_version
  most_recent        = true
}

locals {
  addon_versions = merge({ for name, addon in data.aws_eks_addon_version.newest : name => addon.version }, var.addon_versions)
}

data "aws_iam_policy_document" "pod_identity" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_eks_cluster.this.arn]
    }
  }
}

resource "aws_iam_role" "cni" {
  name               = "${var.name}-vpc-cni"
  assume_role_policy = data.aws_iam_policy_document.pod_identity.json
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "cni" {
  role       = aws_iam_role.cni.name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/AmazonEKS_CNI_Policy"
}

resource "aws_eks_addon" "pod_identity_agent" {
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = "eks-pod-identity-agent"
  addon_version               = local.addon_versions["eks-pod-identity-agent"]
  resolve_conflicts_on_update = "OVERWRITE"
  tags                        = var.tags
}

resource "aws_eks_addon" "vpc_cni" {
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = "vpc-cni"
  addon_version               = local.addon_versions["vpc-cni"]
  resolve_conflicts_on_update = "OVERWRITE"
  # The chart's NetworkPolicies are only kept by a plugin that knows them.
  configuration_values = jsonencode({ enableNetworkPolicy = "true" })
  tags                 = var.tags

  pod_identity_association {
    role_arn        = aws_iam_role.cni.arn
    service_account = "aws-node"
  }

  depends_on = [aws_iam_role_policy_attachment.cni, aws_eks_addon.pod_identity_agent]
}

resource "aws_eks_addon" "kube_proxy" {
  cluster_name                = aws_eks_cluster.this.name
  addon_name                  = "kube-proxy"
  addon_version               = local.addon_versions["kube-proxy"]
  resolve_conflicts_on_update = "OVERWRITE"
  tags                        = var.tags
}
