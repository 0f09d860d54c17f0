output "service_accounts" {
  description = "Service accounts with their roles bound, by use: name, namespace, and annotations (none with pod identities)."
  value = {
    for use, account in local.accounts : use => {
      name        = account.name
      namespace   = account.namespace
      annotations = var.mode == "irsa" ? { "eks.amazonaws.com/role-arn" = aws_iam_role.this[use].arn } : {}
    }
  }
  depends_on = [aws_iam_role_policy.this, aws_eks_pod_identity_association.this]
}

output "role_arns" {
  description = "ARNs of the roles by use."
  value       = { for use, role in aws_iam_role.this : use => role.arn }
}
