# Beside types, what is wrong is said by modules/contract/request and by the modules that a variable goes to.

variable "name" {
  description = "Name of the cluster and prefix of everything beside it: lower-case letters, digits and hyphens; on aws at most 24 characters, on gcp 20."
  type        = string
  nullable    = false
}

variable "zones" {
  description = "Zones of the region, two to four; null for the first three that need no opting in and that EKS takes."
  type        = list(string)
  default     = null
}

variable "network" {
  description = "Address ranges: cidr of the network (/16 to /20); service_cidr of the cluster's services; on gcp also pod_cidr, on aws pods have addresses of the network; reserved_cidrs of networks that are peered or reached over a VPN, which nothing here may overlap."
  type = object({
    cidr           = optional(string, "10.64.0.0/16")
    pod_cidr       = optional(string)
    service_cidr   = optional(string)
    reserved_cidrs = optional(list(string), [])
  })
  default  = {}
  nullable = false
}

variable "endpoint" {
  description = "The Kubernetes API's endpoint: private alone by default; public also needs allowed_cidrs, from where it may be reached."
  type = object({
    public        = optional(bool, false)
    allowed_cidrs = optional(list(string), [])
  })
  default  = {}
  nullable = false
}

variable "nat" {
  description = "Ways out of the private subnets: per_zone, single, or none; see modules/aws/network."
  type        = string
  default     = "per_zone"
  nullable    = false
}

variable "pools" {
  description = <<-EOT
    GPU pools by name. machine_type: a key of the catalog; min_nodes and max_nodes: nodes, left out they follow from
    sizing; capacity: on_demand, spot, or reservation with its name or id; fallback: for spot, the pool of the same GPU
    and sharing that serves when there is none; sharing of a GPU: none, time_slicing, mps (both with replicas_per_gpu,
    2 to 48), or mig:PROFILE such as mig:1g.10gb; disk_gib of a node, at least 200, since CUDA images are large; zones:
    those of the request if left out.
  EOT
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
  nullable = false
}

variable "serving_pool" {
  description = "The pool whose GPUs the chart's predictor gets, and all pools of the same GPU and sharing with it; left out, the only pool, or the only one that is no other's fallback."
  type        = string
  default     = null
}

variable "sizing" {
  description = <<-EOT
    How many replicas of the predictor. Either target_rps (requests per second at the peak) with rps_per_replica (measured:
    saccade-build profile, saccade-loadtest), or max_replicas alone. base_rps: in quiet hours, target_rps if left out;
    headroom_percent on top of both rates; redundancy: replicas there are at least; rollout: surge (a new revision stands
    beside the old one, with GPUs of its own) or stop_then_start; canary_percent: the largest share of requests that a
    new revision gets before it is promoted, 0 for none.
  EOT
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
  default  = { max_replicas = 2 }
  nullable = false
}

variable "replica" {
  description = "What a replica of the predictor asks for: CPUs, memory (GiB), and GPUs or, where a pool shares them, parts of one."
  type = object({
    cpus       = optional(number, 2)
    memory_gib = optional(number, 4)
    gpus       = optional(number, 1)
  })
  default  = {}
  nullable = false
}

variable "system" {
  description = "Nodes without GPUs, for Knative, KServe and the transformers."
  type = object({
    machine_type = optional(string, "m7i.xlarge")
    min_nodes    = optional(number, 2)
    max_nodes    = optional(number, 6)
    disk_gib     = optional(number, 80)
  })
  default  = {}
  nullable = false
}

variable "gpu_os" {
  description = "Operating system of GPU nodes: al2023 or bottlerocket (without GPU sharing)."
  type        = string
  default     = "al2023"
  nullable    = false
}

variable "kubernetes_version" {
  description = "Kubernetes version, 1.33 to 1.35. Raise it before EKS' standard support of it ends (1.33: 2026-07-29, 1.34: 2026-12-02, 1.35: 2027-03-27): after that EKS does it by itself."
  type        = string
  default     = "1.35"
  nullable    = false
}

variable "addon_versions" {
  description = "Versions of EKS' add-ons by name; what is left out gets the newest that EKS has for the cluster's version, at every apply."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "admins" {
  description = "ARNs of roles or users who administrate the cluster, at least one: who applies this is not one by that alone."
  type        = set(string)
  nullable    = false
}

variable "identity_mode" {
  description = "How service accounts get their roles: pod_identity or irsa."
  type        = string
  default     = "pod_identity"
  nullable    = false
}

variable "namespace" {
  description = "Namespace that the chart is installed into."
  type        = string
  default     = "vision"
  nullable    = false
}

variable "serving_account" {
  description = "Name of the service account that the chart makes."
  type        = string
  default     = "saccade"
  nullable    = false
}

variable "ingress" {
  description = "The load balancer in front of Kourier: application or network; public (then with allowed_cidrs and the certificate's ARN) or of the VPC; the longest that a request may take; a bucket for access logs."
  type = object({
    kind                    = optional(string, "application")
    public                  = optional(bool, false)
    allowed_cidrs           = optional(list(string), [])
    certificate_arn         = optional(string)
    request_timeout_seconds = optional(number, 120)
    access_logs_bucket      = optional(string)
  })
  default  = {}
  nullable = false
}

variable "cache" {
  description = "A Valkey that the transformers' frame cache shares, or null: type of its nodes, and nodes beside the primary. It needs cache_password."
  type = object({
    node_type = optional(string, "cache.t4g.small")
    replicas  = optional(number, 1)
  })
  default = null

  validation {
    condition     = var.cache == null || var.cache_password != null
    error_message = "cache is set without cache_password: write one of 16 to 128 letters and digits, for example TF_VAR_cache_password=$(openssl rand -hex 24)."
  }
}

variable "cache_password" {
  description = "Password of the cache, 16 to 128 letters, digits, hyphens and underscores."
  type        = string
  default     = null
  sensitive   = true
}

variable "budget" {
  description = "A budget for the month (USD) and who is told, or null."
  type = object({
    monthly_limit_usd = number
    emails            = list(string)
  })
  default = null
}

variable "noncurrent_days" {
  description = "Days that replaced and deleted objects of the buckets are kept."
  type        = number
  default     = 90
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that the control plane's and the flow log are kept."
  type        = number
  default     = 365
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether cluster and load balancer have to be unlocked before a destroy, and buckets and registries emptied."
  type        = bool
  default     = true
  nullable    = false
}

variable "check_account" {
  description = "Whether every plan asks the account for its quotas and the region for its machine types; false where the caller may not."
  type        = bool
  default     = true
  nullable    = false
}

variable "image_tag" {
  description = "Tag of all images; null for the chart's appVersion."
  type        = string
  default     = null
}

variable "additional_machine_types" {
  description = "Machine types that the catalog lacks; see modules/gpu-catalog."
  type = map(object({
    cloud        = string
    gpu          = string
    gpus         = number
    vcpus        = number
    memory_gib   = number
    quota_family = string
  }))
  default  = {}
  nullable = false
}

variable "prices_file" {
  description = "A price table of the form of modules/contract/prices.json, which is empty: prices are the account's, so that its owner fills them in. null for that one."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags (labels on gcp) of everything, beside those that the stacks set."
  type        = map(string)
  default     = {}
  nullable    = false
}
