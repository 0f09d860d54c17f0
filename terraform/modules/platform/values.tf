# The values of the releases, as far as they follow from the cluster.

locals {
  on_aws      = var.cloud == "aws"
  max_history = 5

  # GKE has a plugin and a MIG manager of its own.
  gpu_stack = coalesce(var.gpu_stack, var.cloud == "gcp" ? "managed" : var.needs_mig_manager ? "gpu-operator" : "device-plugin")

  gpu_toleration = { key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule" }

  platform_values = yamlencode({
    knative = {
      replicas = var.knative_replicas
      domain   = var.domain
      kourier = {
        serviceType        = var.ingress.service_type
        serviceAnnotations = var.ingress.service_annotations
      }
      config = {
        # Knative's controller has no identity with which to read a private registry; its tags cannot be moved anyway.
        network    = { default-external-scheme = coalesce(var.external_scheme, var.gateway == null ? "http" : "https") }
        deployment = { registries-skipping-tag-resolving = join(",", concat(["kind.local", "ko.local", "dev.local"], var.private_registries)) }
      }
    }
    namespaces = [{ name = var.namespace }]
    monitoring = { podMonitor = { enabled = local.monitors } }
  })

  monitors = var.monitoring.install_prometheus || var.monitoring.monitors

  # The command that install.yaml has after helm/platform, without its first word: the image's entry point is kubectl.
  knative_ready = {
    image = var.kubectl_image
    # `wait` gives up by itself; the job has a minute more.
    arguments  = concat(slice(split(" ", local.steps.platform.wait[0]), 1, length(split(" ", local.steps.platform.wait[0])) - 1), ["--timeout=${var.timeout_s - 60}s"])
    deadline_s = var.timeout_s
    reads      = [{ apiGroups = ["operator.knative.dev"], resources = ["knativeservings"] }]
    # A job cannot be changed: another one for other values.
    after = substr(sha256(join("", concat(
      [local.platform_values, coalesce(local.charts.platform.version, "folder")],
      lookup(var.values, "platform", []),
      [for path in sort(fileset(local.platform_chart, "templates/**")) : filesha256("${local.platform_chart}/${path}")],
    ))), 0, 8)
  }

  # A volume, so that metrics outlive the pod, and less in it than it holds. Of the cluster's default class.
  prometheus_gib = var.monitoring.storage_gib != null ? var.monitoring.storage_gib : var.cloud == "gcp" || var.storage_class != null ? 100 : 0
  prometheus = local.prometheus_gib == 0 ? null : {
    prometheus = {
      prometheusSpec = {
        retentionSize = "${floor(local.prometheus_gib * 0.8)}GiB"
        storageSpec = {
          volumeClaimTemplate = {
            spec = {
              accessModes = ["ReadWriteOnce"]
              resources   = { requests = { storage = "${local.prometheus_gib}Gi" } }
            }
          }
        }
      }
    }
  }

  plugin_config = {
    map     = var.device_plugin_configs
    default = "default"
  }

  plugin_config_source = { create = true, name = "device-plugin-configs", default = "default" }

  # On nodes with one of NVIDIA's PCI devices, as the chart has it, but for Bottlerocket's, which bring a plugin of their own.
  nvidia_nodes = [
    for label in ["feature.node.kubernetes.io/pci-10de.present", "nvidia.com/gpu.present"] : {
      matchExpressions = [
        { key = label, operator = "In", values = ["true"] },
        { key = "saccade.dev/gpu-os", operator = "NotIn", values = ["bottlerocket"] },
      ]
    }
  ]

  device_plugin = merge(
    {
      gfd      = { enabled = true }
      affinity = { nodeAffinity = { requiredDuringSchedulingIgnoredDuringExecution = { nodeSelectorTerms = local.nvidia_nodes } } }
    },
    { for key, value in { config = local.plugin_config } : key => value if length(var.device_plugin_configs) > 0 },
  )

  # The node's image has the driver and the container toolkit.
  gpu_operator = {
    driver     = { enabled = false }
    toolkit    = { enabled = false }
    mig        = { strategy = "mixed" } # nvidia.com/mig-PROFILE, as the chart asks for it
    daemonsets = { tolerations = [local.gpu_toleration] }
    devicePlugin = {
      for key, value in { config = merge(local.plugin_config_source, { data = var.device_plugin_configs }) } : key => value
      if length(var.device_plugin_configs) > 0
    }
    dcgmExporter = {
      enabled        = var.monitoring.gpu_metrics
      serviceMonitor = { enabled = local.monitors }
    }
    node-feature-discovery = { worker = { tolerations = [local.gpu_toleration] } }
  }

  dcgm_exporter = { serviceMonitor = { enabled = local.monitors } }

  # Pods may not ask the metadata service which network they are in, so it is said.
  aws_load_balancer_controller = var.aws == null ? null : merge(
    { for key, value in { vpcId = var.aws.vpc_id } : key => value if value != null },
    { for key, value in { vpcTags = { cluster = var.aws.cluster_name } } : key => value if var.aws.vpc_id == null },
    {
      clusterName       = var.aws.cluster_name
      region            = var.aws.region
      defaultTargetType = "ip"
      # Its webhook would be asked about every Service of the cluster, and releases that come while its pods do not answer yet
      # would fail. stacks/aws has no Service of type LoadBalancer; elsewhere one names its loadBalancerClass or has the
      # annotation aws-load-balancer-type: external.
      enableServiceMutatorWebhook = false
      defaultTags                 = var.tags
      serviceAccount              = merge({ create = true }, var.aws.load_balancer_controller)
  })

  cluster_autoscaler = var.aws == null ? null : {
    cloudProvider = "aws"
    awsRegion     = var.aws.region
    autoDiscovery = { clusterName = var.aws.cluster_name }
    replicaCount  = 2
    rbac          = { serviceAccount = merge({ create = true }, var.aws.cluster_autoscaler) }
    extraArgs = {
      balance-similar-node-groups   = true
      skip-nodes-with-system-pods   = false
      skip-nodes-with-local-storage = false
      # Spot pools first, the fallback when they give nothing.
      expander                = length(var.aws.expander_priorities) > 0 ? "priority" : "least-waste"
      max-node-provision-time = "15m"
      # A GPU node is dear: ten idle minutes are enough.
      scale-down-unneeded-time = "10m"
    }
    # As text: a map's keys would come quoted, and the autoscaler reads numbers.
    expanderPriorities = join("\n", [for priority, groups in var.aws.expander_priorities : "${priority}:\n${join("\n", [for group in groups : "  - ${group}"])}"])
  }

  gateway = var.gateway == null ? null : {
    className      = var.gateway.class
    addressName    = var.gateway.address_name
    certificateMap = var.gateway.certificate_map
    sslPolicy      = var.gateway.ssl_policy
    securityPolicy = var.gateway.security_policy
    hostnames      = var.gateway.hostnames
    timeoutSeconds = var.gateway.timeout_s
  }

  target_group_binding = var.target_group == null ? null : {
    targetGroupArn = var.target_group.arn
    service        = { name = "kourier", port = var.target_group.port }
  }
}
