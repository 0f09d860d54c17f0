output "platform" {
  description = "The contract."
  value       = module.answer.platform
}

output "helm_values" {
  description = "The chart's values."
  value       = module.answer.helm_values
}
