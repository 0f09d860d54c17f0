output "names" {
  description = "The add-ons, once their pods run."
  value       = [aws_eks_addon.coredns.addon_name, aws_eks_addon.ebs_csi.addon_name, aws_eks_addon.metrics_server.addon_name]
}
