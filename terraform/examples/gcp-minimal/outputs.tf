output "platform" {
  description = "The contract, of the form of modules/contract/platform.schema.json: what stacks/platform takes."
  value       = module.stack.platform
}

output "helm_values" {
  description = "Values of helm/saccade that follow from the infrastructure: terraform output -raw helm_values > infra.values.yaml."
  value       = module.stack.helm_values
}

output "platform_inputs" {
  description = "Both as the variables of stacks/platform: terraform output -raw platform_inputs > ../../stacks/platform/platform.auto.tfvars.json."
  value       = module.stack.platform_inputs
}

output "sizing" {
  description = "The arithmetic behind replicas and nodes, line by line."
  value       = module.stack.sizing
}

output "cost" {
  description = "What the GPU nodes cost a month, by the price table; missing names the prices that it lacks."
  value       = module.stack.cost
}

output "quotas_needed" {
  description = "By quota, what the pools need at their largest, in GPUs."
  value       = module.stack.quotas_needed
}

output "connect" {
  description = "Command that writes a kubeconfig for the cluster."
  value       = module.stack.connect
}
