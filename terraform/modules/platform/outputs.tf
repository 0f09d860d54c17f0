output "releases" {
  description = "What is installed: namespace, chart and version by name of the release."

  value = {
    for release in concat(
      helm_release.storage_class,
      helm_release.prometheus,
      helm_release.aws_load_balancer_controller,
      helm_release.cluster_autoscaler,
      [helm_release.cert_manager, helm_release.knative_operator, helm_release.platform, helm_release.knative_ready],
      [helm_release.kserve_crd, helm_release.kserve_resources, helm_release.kserve_runtime_configs],
      helm_release.device_plugin,
      helm_release.gpu_operator,
      helm_release.dcgm_exporter,
      helm_release.gateway,
      helm_release.target_group_binding,
      helm_release.saccade,
      ) : release.name => {
      namespace = release.namespace
      chart     = release.chart
      version   = release.version
    }
  }
}

output "namespace" {
  description = "Namespace of the models."
  value       = var.namespace
  depends_on  = [helm_release.platform]
}

output "gpu_stack" {
  description = "What makes GPUs a resource: device-plugin, gpu-operator, managed or none."
  value       = local.gpu_stack
}

output "knative_settings" {
  description = "Digest of Knative's settings: another one makes another job that waits for them."
  value       = local.knative_ready.after
}
