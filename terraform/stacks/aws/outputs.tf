output "platform" {
  description = "The contract (modules/contract/platform.schema.json), for stacks/platform: terraform output -json platform."
  value       = module.answer.platform
}

output "helm_values" {
  description = "Values of helm/saccade: terraform output -raw helm_values > infra.values.yaml."
  value       = module.answer.helm_values
  # Whoever installs the chart wants nodes, names and volumes.
  depends_on = [module.addons, module.node_pools]
}

output "sizes" {
  description = "Replicas and the arithmetic that they come from."
  value       = module.request.sizes
}

output "cost" {
  description = "What the GPU nodes cost a month by the price table; where a price is missing, which."
  value       = module.request.cost
}

output "quotas_needed" {
  description = "Quotas of EC2 that the pools need at their largest."
  value       = module.request.quotas_needed
}

output "nat_addresses" {
  description = "Public addresses from which the nodes call out."
  value       = module.network.nat_addresses
}

output "configure_kubectl" {
  description = "Command that points kubectl at the cluster."
  value       = "aws eks update-kubeconfig --region ${local.region} --name ${module.cluster.name}"
}
