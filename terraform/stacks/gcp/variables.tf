variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][-a-z0-9]{4,28}[a-z0-9]$", var.project))
    error_message = "project is \"${var.project}\"; write the project's id, 6 to 30 lower-case letters, digits and hyphens, not its name or number."
  }
}

variable "name" {
  description = "Name of the cluster and beginning of everything beside it: at most 20 lower-case letters, digits and hyphens."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region, such as europe-west4."
  type        = string
  nullable    = false
}

variable "zones" {
  description = "Zones of the region, two to four. GPUs are in few of them: `gcloud compute accelerator-types list`."
  type        = list(string)
  nullable    = false
}

variable "network" {
  description = "Address ranges: cidr of the network (/16 to /20), pod_cidr and service_cidr of the cluster, and reserved_cidrs of networks that are peered or reached over a VPN, which nothing here may overlap."
  default     = {}
  nullable    = false

  type = object({
    cidr           = optional(string, "10.64.0.0/16")
    pod_cidr       = optional(string)
    service_cidr   = optional(string)
    reserved_cidrs = optional(list(string), [])
  })
}

variable "endpoint" {
  description = "Who reaches the Kubernetes API, beside the nodes' subnet: public (an address on the internet, for allowed_cidrs alone), dns (a name that IAM guards), allowed_cidrs (of a VPN, a bastion, an office)."
  default     = {}
  nullable    = false

  type = object({
    public        = optional(bool, false)
    dns           = optional(bool, false)
    allowed_cidrs = optional(list(string), [])
  })
}

variable "pools" {
  description = <<-EOT
    GPU pools by name. machine_type: g2-standard-* (L4), a2-highgpu-* (A100 40 GB), a2-ultragpu-* (A100 80 GB), a3-highgpu-*
    (H100); min_nodes and max_nodes over all zones, left out they follow from sizing; capacity: on_demand, spot, or
    reservation with its name; fallback: for spot, the pool of the same GPU and sharing that serves when there is none;
    sharing of a GPU: none, time_slicing with replicas_per_gpu (2 to 48), or mig:PROFILE such as mig:1g.5gb; disk_gib of a
    node, at least 200; zones: those of the stack if left out.
  EOT
  nullable    = false

  type = map(object({
    machine_type     = string
    min_nodes        = optional(number)
    max_nodes        = optional(number)
    capacity         = optional(string, "on_demand")
    reservation      = optional(string)
    fallback         = optional(string)
    sharing          = optional(string, "none")
    replicas_per_gpu = optional(number, 1)
    disk_gib         = optional(number, 200)
    zones            = optional(list(string))
    labels           = optional(map(string), {})
  }))
}

variable "serving_pool" {
  description = "The pool whose GPUs the chart's predictor gets, and all pools of the same GPU and sharing with it; left out, the only one that is no other's fallback."
  type        = string
  default     = null
}

variable "sizing" {
  description = "How many replicas: target_rps with rps_per_replica, or max_replicas; base_rps, headroom_percent, redundancy, rollout (surge or stop_then_start) and canary_percent as modules/contract/request has them."
  default     = { max_replicas = 2 }
  nullable    = false

  type = object({
    target_rps       = optional(number)
    base_rps         = optional(number)
    rps_per_replica  = optional(number)
    headroom_percent = optional(number, 30)
    redundancy       = optional(number, 2)
    max_replicas     = optional(number)
    rollout          = optional(string, "surge")
    canary_percent   = optional(number, 0)
  })
}

variable "replica" {
  description = "What a replica of the predictor asks for: CPUs, memory (GiB), and GPUs or, where a pool shares them, parts of one."
  default     = {}
  nullable    = false

  type = object({
    cpus       = optional(number, 2)
    memory_gib = optional(number, 4)
    gpus       = optional(number, 1)
  })
}

variable "additional_machine_types" {
  description = "Machine types that the catalog lacks; see modules/gpu-catalog."
  default     = {}
  nullable    = false

  type = map(object({
    cloud        = string
    gpu          = string
    gpus         = number
    vcpus        = number
    memory_gib   = number
    quota_family = string
  }))
}

variable "check_machine_types" {
  description = "Whether Compute Engine is asked which zones have the machine types. It needs the API to be on already."
  type        = bool
  default     = true
  nullable    = false
}

variable "quotas" {
  description = "What the project may use in the region, by Compute Engine's metric (NVIDIA_L4_GPUS, PREEMPTIBLE_NVIDIA_L4_GPUS, NVIDIA_A100_GPUS, ...), in GPUs; pools that need more are refused. `gcloud compute regions describe REGION --format=json` has them."
  type        = map(number)
  default     = {}
  nullable    = false
}

variable "prices_file" {
  description = "A price table of the form of modules/contract/prices.json, which is empty; null for that one."
  type        = string
  default     = null
}

variable "system" {
  description = "The pool of everything without a GPU: Knative, KServe, the transformers. Nodes are totals over the zones."
  default     = {}
  nullable    = false

  type = object({
    machine_type = optional(string, "e2-standard-4")
    min_nodes    = optional(number, 3)
    max_nodes    = optional(number, 10)
    disk_gib     = optional(number, 100)
  })
}

variable "gpu_driver_version" {
  description = "NVIDIA's driver, which GKE installs: DEFAULT or LATEST of the node's version."
  type        = string
  default     = "LATEST"
  nullable    = false
}

variable "surge_nodes" {
  description = "Nodes that an upgrade adds to a GPU pool before it takes one away; 0 takes one away first, which needs no quota and interrupts a replica."
  type        = number
  default     = 0
  nullable    = false
}

variable "kubernetes_version" {
  description = "Least version of the control plane when it is made, 1.33 or later; null for the release channel's default."
  type        = string
  default     = null
}

variable "release_channel" {
  description = "Google's release channel: RAPID, REGULAR, STABLE or EXTENDED."
  type        = string
  default     = "REGULAR"
  nullable    = false
}

variable "binary_authorization" {
  description = "Whether the project's policy of Binary Authorization decides which images may run."
  type        = bool
  default     = false
  nullable    = false
}

variable "rbac_security_group" {
  description = "Google group gke-security-groups@DOMAIN, whose member groups Kubernetes' roles may name; null for none."
  type        = string
  default     = null
}

variable "maintenance_window" {
  description = "When Google may upgrade: a first window's start and end (RFC 3339) and its recurrence (RFC 5545)."
  default     = {}
  nullable    = false

  type = object({
    start_time = optional(string, "2026-01-03T02:00:00Z")
    end_time   = optional(string, "2026-01-03T10:00:00Z")
    recurrence = optional(string, "FREQ=WEEKLY;BYDAY=SA,SU")
  })
}

variable "namespace" {
  description = "Kubernetes namespace of the models."
  type        = string
  default     = "vision"
  nullable    = false
}

variable "service_accounts" {
  description = "Kubernetes service accounts in that namespace: of the InferenceService (serving), and of the job that builds plans (builder)."
  default     = {}
  nullable    = false

  type = object({
    serving = optional(string, "saccade")
    builder = optional(string, "saccade-builder")
  })
}

variable "image_tag" {
  description = "Tag of all images; null for the chart's appVersion."
  type        = string
  default     = null
}

variable "ingress" {
  description = "The HTTPS load balancer on the internet, or null for an internal one without TLS: domain (models answer at NAME-transformer.NAMESPACE.DOMAIN), allowed_cidrs (who may call; [\"0.0.0.0/0\"] for everybody), requests_per_minute of one address, dns_zone (a managed zone of Cloud DNS that gets the records)."
  default     = null

  type = object({
    domain              = string
    allowed_cidrs       = list(string)
    requests_per_minute = optional(number)
    dns_zone            = optional(string)
  })
}

variable "cache" {
  description = "A Memorystore for the frame cache that replicas share, or null: memory (GiB), and tier (STANDARD_HA or BASIC). Its URL has to come into the Kubernetes Secret saccade-cache (output cache_secret)."
  default     = null

  type = object({
    memory_gib = optional(number, 1)
    tier       = optional(string, "STANDARD_HA")
  })
}

variable "budget" {
  description = "A budget with mails at 50, 90 and 100 %, and when 100 % are foreseen, or null: the billing account's id, the amount in a month, and its currency."
  default     = null

  type = object({
    billing_account = string
    monthly         = number
    currency        = optional(string, "USD")
  })

  validation {
    condition     = var.budget == null ? true : var.budget.monthly >= 1 && floor(var.budget.monthly) == var.budget.monthly
    error_message = "budget.monthly is ${try(var.budget.monthly, 0)}; write a whole amount, at least 1."
  }
}

variable "key_ring_name" {
  description = "Name of the KMS key ring; null for the cluster's. A key ring cannot be deleted, so write another after a destroy."
  type        = string
  default     = null
}

variable "access_log_bucket" {
  description = "Bucket that gets the access logs of the models' and plans' buckets; null for none."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether a destroy stops at the cluster, at Redis and at buckets that hold something."
  type        = bool
  default     = true
  nullable    = false
}

variable "tags" {
  description = "Labels of everything, beside managed-by, part-of and cluster."
  type        = map(string)
  default     = {}
  nullable    = false
}
