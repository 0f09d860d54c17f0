# From a cluster with GPU nodes to one that takes helm/saccade, by Helm releases in their order: each waits for the ones
# before it, and a destroy takes them away the other way round.

# Before whatever wants a volume.
resource "helm_release" "storage_class" {
  count = local.wanted.storage-class ? 1 : 0

  name             = "storage-class"
  chart            = "${path.module}/charts/storage-class"
  namespace        = "kube-system"
  create_namespace = false
  values           = [yamlencode(var.storage_class)]
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history
}

# Before what makes monitors: they are kinds of its operator.
resource "helm_release" "prometheus" {
  count = local.wanted.prometheus ? 1 : 0

  name             = "prometheus"
  repository       = local.charts.prometheus.repository
  chart            = local.charts.prometheus.chart
  version          = local.charts.prometheus.version
  namespace        = local.charts.prometheus.namespace
  create_namespace = true
  values           = concat(local.charts.prometheus.values, local.prometheus == null ? [] : [yamlencode(local.prometheus)], lookup(var.values, "prometheus", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.storage_class]
}

# Before the TargetGroupBinding, which is of its kind and goes through its webhook.
resource "helm_release" "aws_load_balancer_controller" {
  count = local.wanted.aws-load-balancer-controller ? 1 : 0

  name             = "aws-load-balancer-controller"
  repository       = local.charts.aws-load-balancer-controller.repository
  chart            = local.charts.aws-load-balancer-controller.chart
  version          = local.charts.aws-load-balancer-controller.version
  namespace        = local.charts.aws-load-balancer-controller.namespace
  create_namespace = false
  values           = concat([yamlencode(local.aws_load_balancer_controller)], lookup(var.values, "aws-load-balancer-controller", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history
}

resource "helm_release" "cluster_autoscaler" {
  count = local.wanted.cluster-autoscaler ? 1 : 0

  name             = "cluster-autoscaler"
  repository       = local.charts.cluster-autoscaler.repository
  chart            = local.charts.cluster-autoscaler.chart
  version          = local.charts.cluster-autoscaler.version
  namespace        = local.charts.cluster-autoscaler.namespace
  create_namespace = false
  values           = concat([yamlencode(local.cluster_autoscaler)], lookup(var.values, "cluster-autoscaler", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history
}

resource "helm_release" "cert_manager" {
  name             = "cert-manager"
  repository       = local.charts.cert-manager.repository
  chart            = local.charts.cert-manager.chart
  version          = local.charts.cert-manager.version
  namespace        = local.charts.cert-manager.namespace
  create_namespace = true
  values           = concat(local.charts.cert-manager.values, lookup(var.values, "cert-manager", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.aws_load_balancer_controller]
}

resource "helm_release" "knative_operator" {
  name             = "knative-operator"
  repository       = local.charts.knative-operator.repository
  chart            = local.charts.knative-operator.chart
  version          = local.charts.knative-operator.version
  namespace        = local.charts.knative-operator.namespace
  create_namespace = true
  values           = concat(local.charts.knative-operator.values, lookup(var.values, "knative-operator", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.cert_manager]
}

# helm/platform: Knative Serving and Kourier, as the operator's custom resource.
resource "helm_release" "platform" {
  name             = "platform"
  repository       = local.charts.platform.repository
  chart            = local.charts.platform.chart
  version          = local.charts.platform.version
  namespace        = local.charts.platform.namespace
  create_namespace = true
  values           = concat(local.charts.platform.values, [local.platform_values], lookup(var.values, "platform", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.knative_operator, helm_release.prometheus]
}

# Helm does not wait for a custom resource, and KServe's controller looks for Knative's kinds once, as it starts: so a job
# waits for the KnativeServing, again after every change of it.
resource "helm_release" "knative_ready" {
  name             = "knative-ready"
  chart            = "${path.module}/charts/wait"
  namespace        = local.charts.platform.namespace
  create_namespace = false
  values           = [yamlencode(local.knative_ready)]
  timeout          = var.timeout_s + 60
  wait_for_jobs    = true
  atomic           = false # taking the job away would take its log away
  max_history      = local.max_history

  depends_on = [helm_release.platform]
}

resource "helm_release" "kserve_crd" {
  name             = "kserve-crd"
  repository       = local.charts.kserve-crd.repository
  chart            = local.charts.kserve-crd.chart
  version          = local.charts.kserve-crd.version
  namespace        = local.charts.kserve-crd.namespace
  create_namespace = true
  values           = concat(local.charts.kserve-crd.values, lookup(var.values, "kserve-crd", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.cert_manager, helm_release.knative_ready]
}

resource "helm_release" "kserve_resources" {
  name             = "kserve-resources"
  repository       = local.charts.kserve-resources.repository
  chart            = local.charts.kserve-resources.chart
  version          = local.charts.kserve-resources.version
  namespace        = local.charts.kserve-resources.namespace
  create_namespace = true
  values           = concat(local.charts.kserve-resources.values, lookup(var.values, "kserve-resources", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.kserve_crd]
}

resource "helm_release" "kserve_runtime_configs" {
  name             = "kserve-runtime-configs"
  repository       = local.charts.kserve-runtime-configs.repository
  chart            = local.charts.kserve-runtime-configs.chart
  version          = local.charts.kserve-runtime-configs.version
  namespace        = local.charts.kserve-runtime-configs.namespace
  create_namespace = true
  values           = concat(local.charts.kserve-runtime-configs.values, lookup(var.values, "kserve-runtime-configs", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.kserve_resources]
}

# GPUs as a resource of nodes: the plugin alone, or NVIDIA's operator where GPUs are cut by MIG. On GKE neither.
resource "helm_release" "device_plugin" {
  count = local.wanted.nvidia-device-plugin ? 1 : 0

  name             = "nvidia-device-plugin"
  repository       = local.charts.nvidia-device-plugin.repository
  chart            = local.charts.nvidia-device-plugin.chart
  version          = local.charts.nvidia-device-plugin.version
  namespace        = local.charts.nvidia-device-plugin.namespace
  create_namespace = true
  values           = concat(local.charts.nvidia-device-plugin.values, [yamlencode(local.device_plugin)], lookup(var.values, "nvidia-device-plugin", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history
}

resource "helm_release" "gpu_operator" {
  count = local.wanted.gpu-operator ? 1 : 0

  name             = "gpu-operator"
  repository       = local.charts.gpu-operator.repository
  chart            = local.charts.gpu-operator.chart
  version          = local.charts.gpu-operator.version
  namespace        = local.charts.gpu-operator.namespace
  create_namespace = true
  values           = concat(local.charts.gpu-operator.values, [yamlencode(local.gpu_operator)], lookup(var.values, "gpu-operator", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.prometheus]
}

resource "helm_release" "dcgm_exporter" {
  count = local.wanted.dcgm-exporter ? 1 : 0

  name             = "dcgm-exporter"
  repository       = local.charts.dcgm-exporter.repository
  chart            = local.charts.dcgm-exporter.chart
  version          = local.charts.dcgm-exporter.version
  namespace        = local.charts.dcgm-exporter.namespace
  create_namespace = true
  values           = concat(local.charts.dcgm-exporter.values, [yamlencode(local.dcgm_exporter)], lookup(var.values, "dcgm-exporter", []))
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  # It runs where the plugin's GPU feature discovery has put its label.
  depends_on = [helm_release.device_plugin, helm_release.prometheus]
}

# The HTTPS load balancer of Google Cloud in front of Kourier.
resource "helm_release" "gateway" {
  count = local.wanted.gateway ? 1 : 0

  name             = "gateway"
  chart            = "${path.module}/charts/gke-gateway"
  namespace        = local.charts.platform.namespace
  create_namespace = false
  values           = [yamlencode(local.gateway)]
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.knative_ready]
}

# The load balancer that stacks/aws made: Kourier's pods join its target group.
resource "helm_release" "target_group_binding" {
  count = local.wanted.target-group-binding ? 1 : 0

  name             = "target-group-binding"
  chart            = "${path.module}/charts/target-group-binding"
  namespace        = local.charts.platform.namespace
  create_namespace = false
  values           = [yamlencode(local.target_group_binding)]
  timeout          = var.timeout_s
  atomic           = true
  max_history      = local.max_history

  depends_on = [helm_release.knative_ready, helm_release.aws_load_balancer_controller]
}

# KServe reports generations in a way that Helm's wait cannot follow: README.md says how to wait for the model.
resource "helm_release" "saccade" {
  count = local.wanted.saccade ? 1 : 0

  name             = var.saccade.release
  repository       = var.saccade.repository
  chart            = coalesce(var.saccade.chart, "${path.module}/../../../helm/saccade")
  version          = var.saccade.version
  namespace        = var.namespace
  create_namespace = false
  values           = var.saccade.values
  wait             = false
  timeout          = var.timeout_s
  max_history      = local.max_history

  depends_on = [
    helm_release.kserve_resources,
    helm_release.device_plugin,
    helm_release.gpu_operator,
    helm_release.prometheus,
  ]
}
