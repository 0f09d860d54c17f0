output "releases" {
  description = "What is installed: namespace, chart and version by name of the release."
  value       = module.platform.releases
}

output "gpu_stack" {
  description = "What makes GPUs a resource: device-plugin, gpu-operator or managed."
  value       = module.platform.gpu_stack
}

output "namespace" {
  description = "Namespace of the models."
  value       = module.platform.namespace
}
