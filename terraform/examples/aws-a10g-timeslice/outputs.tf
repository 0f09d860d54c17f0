output "platform" {
  description = "The contract, for stacks/platform: terraform output -json platform."
  value       = module.saccade.platform
}

output "helm_values" {
  description = "Values of helm/saccade: terraform output -raw helm_values > infra.values.yaml."
  value       = module.saccade.helm_values
}

output "platform_inputs" {
  description = "Both as the variables of stacks/platform: terraform output -raw platform_inputs > ../../stacks/platform/platform.auto.tfvars.json."
  value       = module.saccade.platform_inputs
}

output "sizes" {
  description = "Replicas and the arithmetic that they come from."
  value       = module.saccade.sizes
}

output "cost" {
  description = "What the GPU nodes cost a month by the price table; where a price is missing, which."
  value       = module.saccade.cost
}

output "quotas_needed" {
  description = "Quotas of EC2 that the pools need at their largest."
  value       = module.saccade.quotas_needed
}

output "configure_kubectl" {
  description = "Command that points kubectl at the cluster."
  value       = module.saccade.configure_kubectl
}
