variable "platform" {
  description = "The contract: output `platform` of stacks/aws or stacks/gcp. `terraform -chdir=../gcp output -raw platform_inputs > platform.auto.tfvars.json` writes it and helm_values here."
  nullable    = false

  type = object({
    version   = number
    cloud     = string
    name      = string
    region    = string
    tags      = map(string)
    namespace = string
    cluster = object({
      name                       = string
      endpoint                   = string
      certificate_authority_data = string
      network_id                 = optional(string)
    })
    pools            = map(object({ capacity = string }))
    service_accounts = map(object({ name = string, namespace = string, annotations = map(string) }))
    gpu_sharing = object({
      needs_mig_manager     = bool
      device_plugin_configs = map(string)
    })
    registry = object({ host = string })
    storage_class = optional(object({
      name        = string
      provisioner = string
      parameters  = map(string)
    }))
    ingress = object({
      service_type        = string
      service_annotations = map(string)
      target_group        = optional(object({ arn = string, port = number }))
      gateway = optional(object({
        address_name    = string
        certificate_map = string
        ssl_policy      = string
        security_policy = string
        hostnames       = list(string)
      }))
    })
  })

  validation {
    condition     = var.platform.version == 1
    error_message = "platform.version is ${var.platform.version}, and this stack knows 1; apply stacks/${var.platform.cloud} of the same version of Saccade, and write its output again."
  }

  validation {
    condition     = var.platform.cloud != "aws" || alltrue([for use in ["load_balancer_controller", "cluster_autoscaler"] : contains(keys(var.platform.service_accounts), use)])
    error_message = "platform.service_accounts has ${join(", ", keys(var.platform.service_accounts))}; on aws load_balancer_controller and cluster_autoscaler are needed too: apply stacks/aws again, and write its output again."
  }

  validation {
    condition     = startswith(var.platform.cluster.endpoint, "https://")
    error_message = "platform.cluster.endpoint is \"${var.platform.cluster.endpoint}\"; write a URL that begins with https://."
  }
}

variable "helm_values" {
  description = "Output `helm_values` of the same stack: the chart's values that follow from the infrastructure. Used where `saccade` is set."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.helm_values == "" || can(keys(yamldecode(var.helm_values)))
    error_message = "helm_values is no YAML map; write the output helm_values as it is."
  }

  validation {
    condition     = var.saccade == null || var.helm_values != ""
    error_message = "saccade is given and helm_values is empty; write the output helm_values of stacks/${var.platform.cloud}: without it the chart knows neither images nor model."
  }
}

variable "kubeconfig" {
  description = "A kubeconfig to connect with (path, and context or null for the current one), in the place of the cloud's own command for a token."
  default     = null

  type = object({
    path    = string
    context = optional(string)
  })
}

variable "domain" {
  description = "The cluster's domain: a model answers at NAME-transformer.NAMESPACE.DOMAIN. null for the load balancer's, else example.com."
  type        = string
  default     = null

  validation {
    condition = var.domain == null || var.platform.ingress.gateway == null ? true : alltrue([
      for host in var.platform.ingress.gateway.hostnames : host == "*.${var.platform.namespace}.${var.domain}"
    ])
    error_message = "domain is \"${coalesce(var.domain, "-")}\", but the load balancer has certificates for ${try(join(", ", var.platform.ingress.gateway.hostnames), "")}; leave it out, or write the domain that stacks/gcp was given: Knative's hosts have to be those."
  }
}

variable "external_scheme" {
  description = "Scheme that services say they are reached by: https where a load balancer ends TLS, or null for https behind Google Cloud's and http otherwise."
  type        = string
  default     = null
}

variable "request_timeout_s" {
  description = "Time of the longest request (seconds): transformer.timeoutSeconds of the chart. Google Cloud's load balancer waits a little longer; on AWS stacks/aws has it."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.request_timeout_s >= 120 && var.request_timeout_s <= 600
    error_message = "request_timeout_s is ${var.request_timeout_s}; write 120 to 600: the chart's transformer has 120 by default, and Knative lets no request take longer than 600."
  }
}

variable "knative_replicas" {
  description = "Replicas of Knative's parts and of the gateway."
  type        = number
  default     = 2
  nullable    = false
}

variable "monitoring" {
  description = "install_prometheus: kube-prometheus-stack too. monitors: PodMonitors and ServiceMonitors for a Prometheus operator that is there already. gpu_metrics: dcgm-exporter. storage_gib: size of Prometheus' volume, 0 for none; left out 100."
  default     = {}
  nullable    = false

  type = object({
    install_prometheus = optional(bool, false)
    monitors           = optional(bool, false)
    gpu_metrics        = optional(bool, true)
    storage_gib        = optional(number)
  })
}

variable "saccade" {
  description = "The chart helm/saccade too: name of the release, your values (YAML texts) over helm_values, and the chart (a folder, or name, repository and version; left out, this repository's). null for a later `helm install`."
  default     = null

  type = object({
    release    = optional(string, "detector")
    values     = optional(list(string), [])
    chart      = optional(string)
    repository = optional(string)
    version    = optional(string)
  })
}

variable "charts" {
  description = "Other sources and versions of charts, by their names in helm/platform/install.yaml and modules/platform/addons.yaml."
  default     = {}
  nullable    = false

  type = map(object({
    repository = optional(string)
    chart      = optional(string)
    version    = optional(string)
  }))
}

variable "values" {
  description = "More values of charts, by the same names: YAML texts."
  type        = map(list(string))
  default     = {}
  nullable    = false
}

variable "timeout_s" {
  description = "Time that a release is given (seconds)."
  type        = number
  default     = 600
  nullable    = false
}
