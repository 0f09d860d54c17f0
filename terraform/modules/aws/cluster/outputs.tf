output "name" {
  description = "The cluster's name, once nodes may join: its first add-ons are there."
  value       = aws_eks_cluster.this.name
  depends_on  = [aws_eks_addon.vpc_cni, aws_eks_addon.kube_proxy, aws_eks_addon.pod_identity_agent, aws_eks_access_policy_association.admin]
}

output "arn" {
  description = "The cluster's ARN."
  value       = aws_eks_cluster.this.arn
}

output "endpoint" {
  description = "Address of the Kubernetes API."
  value       = aws_eks_cluster.this.endpoint
}

output "certificate_authority_data" {
  description = "The API's certificate authority, base64."
  value       = aws_eks_cluster.this.certificate_authority[0].data
}

output "kubernetes_version" {
  description = "The cluster's Kubernetes version."
  value       = aws_eks_cluster.this.version
}

output "security_group_id" {
  description = "Security group that EKS gives to the control plane and the nodes."
  value       = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

output "oidc_issuer" {
  description = "Issuer of the service accounts' tokens, for IRSA."
  value       = aws_eks_cluster.this.identity[0].oidc[0].issuer
}
