# What is installed, from where and in which version: read from helm/platform/install.yaml, which the install scripts are
# written from too, and from addons.yaml. var.charts puts other sources and versions in their place.

locals {
  platform_chart = coalesce(var.platform_chart_path, "${path.module}/../../../helm/platform")

  steps = {
    for step in concat(
      yamldecode(file("${local.platform_chart}/install.yaml")).steps,
      yamldecode(file("${path.module}/addons.yaml")).steps,
    ) : step.name => step
  }

  # An OCI chart is given as repository and name, which is how the provider wants it; a folder has no version.
  charts = {
    for name, step in local.steps : name => {
      repository = try(coalesce(var.charts[name].repository), try(regex("^(oci://.+)/[^/]+$", step.chart)[0], step.repository, null), null)
      chart      = try(coalesce(var.charts[name].chart), step.chart == "." ? local.platform_chart : basename(step.chart))
      version    = try(coalesce(var.charts[name].version), try(step.version, null), null)
      namespace  = step.namespace
      # Files beside install.yaml; ours and the user's come after them.
      values = [for path in try(step.values, []) : file("${local.platform_chart}/${path}")]
    }
  }

  wanted = {
    prometheus                   = var.monitoring.install_prometheus
    aws-load-balancer-controller = local.on_aws && var.aws != null
    cluster-autoscaler           = local.on_aws && var.aws != null
    nvidia-device-plugin         = local.gpu_stack == "device-plugin"
    gpu-operator                 = local.gpu_stack == "gpu-operator"
    # The operator has a dcgm-exporter of its own, and so has GKE (monitoring_config's DCGM).
    dcgm-exporter        = local.gpu_stack == "device-plugin" && var.monitoring.gpu_metrics
    gateway              = var.gateway != null
    target-group-binding = var.target_group != null
    storage-class        = var.storage_class != null
    saccade              = var.saccade != null
  }
}
