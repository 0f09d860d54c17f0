variable "request" {
  description = "What modules/contract/request returned: module.request as it is."
  type = object({
    identity = object({
      cloud  = string
      name   = string
      region = string
      zones  = list(string)
    })
    pools = map(object({
      machine_type       = string
      gpu                = string
      gpu_product        = string
      architecture       = string
      compute_capability = string
      gpu_memory_gib     = number
      gpus_per_node      = number
      class              = string
      sharing            = string
      mig_profile        = string
      parts_per_gpu      = number
      replicas_per_node  = number
      resource           = string
      min_nodes          = number
      max_nodes          = number
      capacity           = string
      zones              = list(string)
      node_selector      = map(string)
      labels             = map(string)
      taints             = list(object({ key = string, value = string, effect = string }))
    }))
    serving = object({
      pool          = string
      pools         = list(string)
      class         = string
      node_selector = map(string)
      sharing       = string
      mig_profile   = string
      resource      = string
      replica       = object({ cpus = number, memory_gib = number, gpus = number })
    })
    sizes = object({
      replicas_min     = number
      replicas_max     = number
      replicas_surge   = number
      replicas_fitting = number
      gpus_per_replica = number
      canary_percent   = number
      arithmetic       = list(string)
    })
    tags = map(string)
  })
  nullable = false
}

variable "cluster" {
  description = "The cluster: name, endpoint (https://...), certificate authority (base64; \"\" where the endpoint has a certificate that everybody knows), Kubernetes version, location (region or zone), the network's id, and whether its endpoint is private alone."
  type = object({
    name                       = string
    endpoint                   = string
    certificate_authority_data = string
    kubernetes_version         = string
    location                   = string
    network_id                 = string
    private                    = bool
  })
  nullable = false
}

variable "namespace" {
  description = "Namespace that the chart is installed into; the identities are bound to it."
  type        = string
  default     = "vision"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is \"${var.namespace}\": write a name of Kubernetes: lower-case letters, digits and hyphens, at most 63."
  }
}

variable "models_uri" {
  description = "Model repository: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(s3|gs)://.+[^/]$", var.models_uri))
    error_message = "models_uri is \"${var.models_uri}\": write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, without a slash last."
  }
}

variable "plans_uri" {
  description = "Where engine plans are written: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(s3|gs)://.+[^/]$", var.plans_uri))
    error_message = "plans_uri is \"${var.plans_uri}\": write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, without a slash last."
  }
}

variable "service_accounts" {
  description = "Kubernetes service accounts with an identity in the cloud, by use (serving and builder; others as the cloud needs): name, namespace, and the annotations that bind it."
  type = map(object({
    name        = string
    namespace   = string
    annotations = map(string)
  }))
  nullable = false

  validation {
    condition     = length(setsubtract(["serving", "builder"], keys(var.service_accounts))) == 0
    error_message = "service_accounts has ${join(", ", keys(var.service_accounts))}: write serving (reads models and plans) and builder (writes plans)."
  }

  validation {
    condition     = try(var.service_accounts["serving"].name != var.service_accounts["builder"].name, true)
    error_message = "service_accounts: serving and builder are both \"${try(var.service_accounts["serving"].name, "")}\": write two names: what answers requests must not be able to write plans."
  }

  validation {
    condition     = try(length(var.service_accounts["builder"].annotations) > 0 || length(var.service_accounts["serving"].annotations) == 0, true)
    error_message = "service_accounts: serving has annotations and builder has none: write the builder's too; without, the chart would give its account those of serving."
  }
}

variable "registry" {
  description = "Registry: its host, and the repositories of the images predictor, transformer and plan_builder."
  type = object({
    host   = string
    images = object({ predictor = string, transformer = string, plan_builder = string })
  })
  nullable = false
}

variable "image_tag" {
  description = "Tag of all images; null for the chart's appVersion."
  type        = string
  default     = null
}

variable "ingress" {
  description = <<-EOT
    How requests come in: Knative's ingress class; type and annotations of Kourier's Service; on aws the target group that
    its pods join, with the Service's port; on gcp the names that a Gateway refers to; and the address to call, or "".
  EOT
  type = object({
    class               = optional(string, "kourier.ingress.networking.knative.dev")
    service_type        = optional(string, "ClusterIP")
    service_annotations = optional(map(string), {})
    target_group        = optional(object({ arn = string, port = number }))
    gateway = optional(object({
      address_name    = string
      certificate_map = string
      ssl_policy      = string
      security_policy = string
      hostnames       = list(string)
    }))
    address = optional(string, "")
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["ClusterIP", "NodePort", "LoadBalancer"], var.ingress.service_type)
    error_message = "ingress.service_type is \"${var.ingress.service_type}\": write ClusterIP, NodePort or LoadBalancer."
  }
}

variable "storage_class" {
  description = "The class of volumes that is made, and is the default one: name, provisioner (a CSI driver) and its parameters; null where the cluster has a default class of its own."
  type = object({
    name        = string
    provisioner = string
    parameters  = map(string)
  })
  default = null
}

variable "redis" {
  description = "A Redis for the frame cache, or null: host:port, the cloud's secret that holds its URL, and the Kubernetes Secret (key url) that has to hold the same."
  type = object({
    address           = string
    cloud_secret      = string
    kubernetes_secret = string
  })
  default = null
}
