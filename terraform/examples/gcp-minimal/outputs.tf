output "platform" {
  description = "The contract, of the form of modules/contract/platform.schema.json: what stacks/platform takes."
  value       = module.saccade.platform
}

output "helm_values" {
  description = "Values of helm/saccade that follow from the infrastructure: terraform output -raw helm_values > infra.values.yaml."
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
  description = "What the GPU nodes cost a month, by the price table; missing names the prices that it lacks."
  value       = module.saccade.cost
}

output "quotas_needed" {
  description = "By quota, what the pools need at their largest, in GPUs."
  value       = module.saccade.quotas_needed
}

output "configure_kubectl" {
  description = "Command that points kubectl at the cluster."
  value       = module.saccade.configure_kubectl
}
