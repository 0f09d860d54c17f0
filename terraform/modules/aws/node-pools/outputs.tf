output "node_group_arns" {
  description = "ARNs of the node groups by pool; system is the one without GPUs."
  value       = { for name, group in aws_eks_node_group.this : name => group.arn }
}

output "autoscaling_group_names" {
  description = "Auto Scaling groups by pool."
  value       = { for name, group in aws_eks_node_group.this : name => group.resources[0].autoscaling_groups[0].name }
}

output "node_role_arn" {
  description = "Role of the nodes."
  value       = aws_iam_role.node.arn
}
