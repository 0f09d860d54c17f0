variable "cloud" {
  description = "The cloud: aws, gcp, or other for a cluster that has load balancers, an autoscaler and NVIDIA's driver on its nodes."
  type        = string
  nullable    = false

  validation {
    condition     = contains(["aws", "gcp", "other"], var.cloud)
    error_message = "cloud is \"${var.cloud}\"; write aws, gcp or other."
  }
}

variable "namespace" {
  description = "Namespace of the models. It is made, and kept when everything is destroyed."
  type        = string
  default     = "vision"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is \"${var.namespace}\"; write 1 to 63 lower-case letters, digits and hyphens."
  }
}

variable "domain" {
  description = "The cluster's domain: a model answers at NAME-transformer.NAMESPACE.DOMAIN."
  type        = string
  default     = "example.com"
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain is \"${var.domain}\"; write a domain in small letters, without a wildcard and without a dot at its end, for example vision.example.com."
  }
}

variable "external_scheme" {
  description = "Scheme that services say they are reached by: https where a load balancer ends TLS, http, or null for https behind a gateway and http otherwise."
  type        = string
  default     = null

  validation {
    condition     = var.external_scheme == null ? true : contains(["http", "https"], var.external_scheme)
    error_message = "external_scheme is \"${coalesce(var.external_scheme, "null")}\"; write http or https, or leave it out."
  }
}

variable "knative_replicas" {
  description = "Replicas of Knative's parts and of the gateway."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.knative_replicas >= 1
    error_message = "knative_replicas is ${var.knative_replicas}; write at least 1, and 2 for one that stands by."
  }
}

variable "ingress" {
  description = "Type and annotations of Kourier's service: ClusterIP behind a gateway or a target group, LoadBalancer for one that the cloud makes by the annotations."
  default     = {}
  nullable    = false

  type = object({
    service_type        = optional(string, "ClusterIP")
    service_annotations = optional(map(string), {})
  })

  validation {
    condition     = contains(["ClusterIP", "NodePort", "LoadBalancer"], var.ingress.service_type)
    error_message = "ingress.service_type is \"${var.ingress.service_type}\"; write ClusterIP, NodePort or LoadBalancer."
  }
}

variable "private_registries" {
  description = "Hosts of private registries, whose tags Knative does not resolve to digests: its controller may not read them."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for host in var.private_registries : !strcontains(host, "/") && !strcontains(host, ",")])
    error_message = "private_registries is [${join(", ", var.private_registries)}]; write hosts alone, for example 123456789012.dkr.ecr.eu-central-1.amazonaws.com, without https:// and path."
  }
}

variable "gpu_stack" {
  description = "What makes GPUs a resource: device-plugin, gpu-operator (which MIG needs), managed (the cloud does it, as GKE), or none; null for what the cloud and needs_mig_manager ask for."
  type        = string
  default     = null

  validation {
    condition     = var.gpu_stack == null ? true : contains(["device-plugin", "gpu-operator", "managed", "none"], var.gpu_stack)
    error_message = "gpu_stack is \"${coalesce(var.gpu_stack, "null")}\"; write device-plugin, gpu-operator, managed or none, or leave it out."
  }

  validation {
    condition     = !(var.needs_mig_manager && var.gpu_stack == "device-plugin")
    error_message = "gpu_stack is device-plugin, but a pool's GPUs are cut by MIG; write gpu-operator, or leave it out: the plugin alone does not cut GPUs."
  }

  validation {
    condition     = !(var.cloud == "gcp" && contains(["device-plugin", "gpu-operator"], coalesce(var.gpu_stack, "managed")))
    error_message = "gpu_stack is ${coalesce(var.gpu_stack, "null")}; write managed, or leave it out: GKE runs a device plugin on every GPU node, and two of them would take each GPU twice."
  }
}

variable "needs_mig_manager" {
  description = "Whether a pool's GPUs are cut by MIG, and the cloud does not do it (platform.gpu_sharing.needs_mig_manager)."
  type        = bool
  default     = false
  nullable    = false
}

variable "device_plugin_configs" {
  description = "Configurations of NVIDIA's device plugin (YAML) by name, which nodes choose by the label nvidia.com/device-plugin.config; \"default\" is for nodes without it (platform.gpu_sharing.device_plugin_configs)."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.device_plugin_configs) == 0 || contains(keys(var.device_plugin_configs), "default")
    error_message = "device_plugin_configs has ${join(", ", keys(var.device_plugin_configs))}; write one named default too: nodes without the label get it, and without one their plugin does not start."
  }
}

variable "monitoring" {
  description = "install_prometheus: kube-prometheus-stack too. monitors: PodMonitors and ServiceMonitors for a Prometheus operator that is there already. gpu_metrics: dcgm-exporter. storage_gib: size of Prometheus' volume, 0 for none; left out 100 on gcp and with storage_class, and 0 elsewhere, where there may be no default class."
  default     = {}
  nullable    = false

  type = object({
    install_prometheus = optional(bool, false)
    monitors           = optional(bool, false)
    gpu_metrics        = optional(bool, true)
    storage_gib        = optional(number)
  })

  validation {
    condition     = var.monitoring.storage_gib == null ? true : var.monitoring.storage_gib == 0 || (var.monitoring.storage_gib >= 10 && floor(var.monitoring.storage_gib) == var.monitoring.storage_gib)
    error_message = "monitoring.storage_gib is ${coalesce(var.monitoring.storage_gib, 0)}; write 10 or more, whole GiB, or 0 for metrics that are lost with the pod."
  }

  validation {
    condition     = var.monitoring.storage_gib == null ? true : var.monitoring.storage_gib == 0 || var.cloud != "aws" || var.storage_class != null
    error_message = "monitoring.storage_gib is ${coalesce(var.monitoring.storage_gib, 0)} without storage_class; write storage_class too, or storage_gib = 0: EKS has no default class, and the volume would never come."
  }
}

variable "storage_class" {
  description = "The class of volumes to make, as the cluster's default one, or null where there is one: name, provisioner (a CSI driver) and parameters (platform.storage_class)."
  default     = null

  type = object({
    name        = string
    provisioner = string
    parameters  = map(string)
  })
}

variable "aws" {
  description = "For EKS, or null: the cluster's name, region and VPC (null to find it by its tag `cluster`), and name and annotations of the service accounts of AWS' load balancer controller and of the cluster autoscaler, which have a role each. expander_priorities: names of node groups (regular expressions) by priority, the highest first taken; empty for least waste."
  default     = null

  type = object({
    cluster_name             = string
    region                   = string
    vpc_id                   = optional(string)
    load_balancer_controller = object({ name = string, annotations = optional(map(string), {}) })
    cluster_autoscaler       = object({ name = string, annotations = optional(map(string), {}) })
    expander_priorities      = optional(map(list(string)), {})
  })
}

variable "gateway" {
  description = "The HTTPS load balancer of Google Cloud, or null: names of the address, certificate map, TLS policy and Cloud Armor policy that modules/gcp/ingress made, the hosts, and the time of a request (seconds)."
  default     = null

  type = object({
    class           = optional(string, "gke-l7-global-external-managed")
    address_name    = string
    certificate_map = string
    ssl_policy      = string
    security_policy = string
    hostnames       = list(string)
    timeout_s       = optional(number, 300)
  })

  validation {
    condition     = var.gateway == null ? true : var.gateway.timeout_s > 120 && var.gateway.timeout_s <= 3600
    error_message = "gateway.timeout_s is ${try(var.gateway.timeout_s, 0)}; write 121 to 3600: it has to outlast a request, which the chart gives 120 s, or clients get the load balancer's 502."
  }

  validation {
    condition     = var.gateway == null ? true : length(var.gateway.hostnames) > 0
    error_message = "gateway.hostnames is empty; write the hosts, for example [\"*.vision.example.com\"]: a route without any would take every host there is."
  }

  validation {
    condition     = var.gateway == null || var.cloud == "gcp"
    error_message = "gateway is given and cloud is ${var.cloud}; leave it out: its kinds are GKE's."
  }
}

variable "target_group" {
  description = "The target group of a load balancer on AWS that Kourier's pods join, or null: its ARN, and the port of Kourier's service."
  default     = null

  type = object({
    arn  = string
    port = optional(number, 80)
  })

  validation {
    condition     = var.target_group == null || var.aws != null
    error_message = "target_group is given without aws; write aws = { ... } too: the load balancer controller, which it configures, puts pods into target groups."
  }
}

variable "saccade" {
  description = "The chart helm/saccade, or null for a later `helm install`: name of the release, values (YAML texts: the platform's helm_values, then your own), and the chart (a folder; or its name, repository such as oci://REGISTRY/charts, and version); left out, the folder of this repository."
  default     = null

  type = object({
    release    = optional(string, "detector")
    values     = list(string)
    chart      = optional(string)
    repository = optional(string)
    version    = optional(string)
  })
}

variable "platform_chart_path" {
  description = "Folder of the chart helm/platform with its install.yaml and values; null for this repository's."
  type        = string
  default     = null
}

variable "charts" {
  description = "Other sources and versions of charts, by the names in helm/platform/install.yaml and addons.yaml: a mirror's repository, another version. helm/platform itself comes from an OCI registry with { platform = { repository = \"oci://REGISTRY/charts\", chart = \"saccade-platform\", version = \"0.1.0\" } }."
  default     = {}
  nullable    = false

  type = map(object({
    repository = optional(string)
    chart      = optional(string)
    version    = optional(string)
  }))

  validation {
    condition     = length(setsubtract(keys(var.charts), keys(local.steps))) == 0
    error_message = "charts has ${join(", ", setsubtract(keys(var.charts), keys(local.steps)))}; write names of ${join(", ", keys(local.steps))}."
  }

  validation {
    condition     = try(var.charts["platform"].repository, null) == null || try(var.charts["platform"].chart, null) != null
    error_message = "charts.platform has a repository and no chart; write chart = \"saccade-platform\" and a version too: otherwise it is this repository's folder."
  }
}

variable "values" {
  description = "More values of charts, by the same names: YAML texts, the last one wins."
  type        = map(list(string))
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.values), keys(local.steps))) == 0
    error_message = "values has ${join(", ", setsubtract(keys(var.values), keys(local.steps)))}; write names of ${join(", ", keys(local.steps))}."
  }

  validation {
    condition     = alltrue([for text in flatten(values(var.values)) : can(keys(yamldecode(text)))])
    error_message = "values has a text that is no YAML map; write for example { cert-manager = [\"replicaCount: 2\"] }."
  }
}

variable "kubectl_image" {
  description = "Image with kubectl as its entry point, which waits for Knative."
  type        = string
  default     = "registry.k8s.io/kubectl:v1.34.1"
  nullable    = false
}

variable "timeout_s" {
  description = "Time that a release is given (seconds)."
  type        = number
  default     = 600
  nullable    = false

  validation {
    condition     = var.timeout_s >= 120
    error_message = "timeout_s is ${var.timeout_s}; write at least 120: images are pulled and webhooks get their certificates in it."
  }
}

variable "tags" {
  description = "Tags of what controllers make in the cloud: load balancers, their target groups and security groups."
  type        = map(string)
  default     = {}
  nullable    = false
}
