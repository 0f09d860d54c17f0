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

output "platform_inputs" {
  description = "Both as the variables of stacks/platform: terraform output -raw platform_inputs > ../../stacks/platform/platform.auto.tfvars.json."
  value       = jsonencode({ platform = module.answer.platform, helm_values = module.answer.helm_values })
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

output "cache_secret" {
  description = "Command that puts the cache's URL into the cluster, for the chart; null without a cache."
  value       = var.cache == null ? null : "kubectl -n ${var.namespace} create secret generic saccade-cache --from-literal=url=\"$(aws secretsmanager get-secret-value --region ${local.region} --secret-id ${var.name}/cache-url --query SecretString --output text)\""
}
