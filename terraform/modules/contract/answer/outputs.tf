output "platform" {
  description = "The contract, of the form of modules/contract/platform.schema.json; both clouds return it, and modules/platform takes it."
  value       = local.platform
}

output "helm_values" {
  description = "Values of helm/saccade, as YAML: terraform output -raw helm_values > infra.values.yaml."
  value       = yamlencode(local.values)
}
