variable "cloud" {
  description = "The cloud: aws or gcp."
  type        = string
  nullable    = false

  validation {
    condition     = contains(["aws", "gcp"], var.cloud)
    error_message = "cloud is \"${var.cloud}\": write aws or gcp."
  }
}

variable "name" {
  description = "Name of the cluster and prefix of everything beside it: lower-case letters, digits and hyphens; on aws at most 24 characters, on gcp 20."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]*[a-z0-9])?$", var.name))
    error_message = "name is \"${var.name}\": write lower-case letters, digits and hyphens, a letter first and no hyphen last, such as \"vision-eu\"."
  }

  validation {
    condition     = length(var.name) <= local.name_limits[var.cloud].characters
    error_message = "name is \"${var.name}\", which has ${length(var.name)} characters: write at most ${local.name_limits[var.cloud].characters} on ${var.cloud}, since ${local.name_limits[var.cloud].reason}."
  }
}

variable "region" {
  description = "Region, such as eu-central-1 or europe-west4."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex(var.cloud == "aws" ? "^[a-z]{2}(-[a-z]+)+-[0-9]$" : "^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is \"${var.region}\": write a region of ${var.cloud}, such as ${var.cloud == "aws" ? "eu-central-1" : "europe-west4"}, not a zone."
  }
}

variable "zones" {
  description = "Zones of the region, two to four: the network spreads over them."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(distinct(var.zones)) >= 2 && length(var.zones) <= 4 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones has ${length(var.zones)} entries (${join(", ", var.zones)}): write two to four different ones; with one, its failure would take all replicas."
  }

  validation {
    condition     = alltrue([for zone in var.zones : startswith(zone, var.region)])
    error_message = "zones names ${join(", ", [for zone in var.zones : zone if !startswith(zone, var.region)])}, outside of ${var.region}: write zones of this region, such as ${var.region}${var.cloud == "aws" ? "a" : "-a"}."
  }
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

  validation {
    condition     = can(cidrhost(var.network.cidr, 0)) && can(regex("/(16|17|18|19|20)$", var.network.cidr))
    error_message = "network.cidr is \"${var.network.cidr}\": write an IPv4 range of /16 to /20, such as 10.64.0.0/16: a smaller one has too few addresses for the nodes and pods of three zones."
  }

  validation {
    condition = alltrue([for cidr in compact(concat([var.network.pod_cidr, var.network.service_cidr], var.network.reserved_cidrs)) :
      can(cidrhost(cidr, 0)) && can(regex("^[0-9.]+/[0-9]+$", cidr))
    ])
    error_message = "network: ${join(", ", compact(concat([var.network.pod_cidr, var.network.service_cidr], var.network.reserved_cidrs)))}: write IPv4 ranges, such as 10.64.0.0/16."
  }

  # Both clouds refuse one that has bits beyond its prefix, minutes later.
  validation {
    condition = alltrue([for cidr in compact(concat([var.network.cidr, var.network.pod_cidr, var.network.service_cidr], var.network.reserved_cidrs)) :
      can(regex("^[0-9.]+/[0-9]+$", cidr)) ? try(cidrsubnet(cidr, 0, 0) == cidr, true) : true
    ])
    error_message = "network: ${join(", ", [for cidr in compact(concat([var.network.cidr, var.network.pod_cidr, var.network.service_cidr], var.network.reserved_cidrs)) : "${cidr} is an address within a range: write ${try(cidrsubnet(cidr, 0, 0), cidr)}" if try(cidrsubnet(cidr, 0, 0) != cidr, false)])}."
  }

  validation {
    condition     = var.cloud == "gcp" || var.network.pod_cidr == null
    error_message = "network.pod_cidr is ${coalesce(var.network.pod_cidr, "null")}: leave it out on aws, where pods have addresses of network.cidr."
  }
}

variable "endpoint" {
  description = "The Kubernetes API's endpoint: private alone by default; public also needs allowed_cidrs, from where it may be reached."
  type = object({
    public        = optional(bool, false)
    allowed_cidrs = optional(list(string), [])
  })
  default  = {}
  nullable = false

  validation {
    condition     = !var.endpoint.public || length(var.endpoint.allowed_cidrs) > 0
    error_message = "endpoint.public is true without endpoint.allowed_cidrs: write from where it may be reached, such as allowed_cidrs = [\"203.0.113.7/32\"], or public = false and a way into the network (VPN, bastion)."
  }

  validation {
    condition = alltrue([for cidr in var.endpoint.allowed_cidrs :
      can(cidrhost(cidr, 0)) && can(regex("/([8-9]|[12][0-9]|3[0-2])$", cidr))
    ])
    error_message = "endpoint.allowed_cidrs is ${join(", ", var.endpoint.allowed_cidrs)}: write IPv4 ranges of /8 or smaller, such as 203.0.113.7/32; 0.0.0.0/0 would let everybody try."
  }
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

  validation {
    condition     = length(var.pools) > 0
    error_message = "pools is empty: write at least one, such as pools = { gpu = { machine_type = \"${local.example_type}\" } }."
  }

  validation {
    condition     = alltrue([for name in keys(var.pools) : can(regex("^[a-z]([a-z0-9-]{0,13}[a-z0-9])?$", name))])
    error_message = "pools: ${join(", ", [for name in keys(var.pools) : "\"${name}\"" if !can(regex("^[a-z]([a-z0-9-]{0,13}[a-z0-9])?$", name))])} is no name of a pool: write at most 15 lower-case letters, digits and hyphens, a letter first; the cloud's limit counts the cluster's name too."
  }

  validation {
    condition     = !contains(keys(var.pools), "system")
    error_message = "pools has one named \"system\": write another name, for example \"gpu\", since that is the pool without GPUs that every stack has."
  }
}

variable "serving_pool" {
  description = "The pool whose GPUs the chart's predictor gets, and all pools of the same GPU and sharing with it; left out, the only pool, or the only one that is no other's fallback."
  type        = string
  default     = null

  validation {
    condition     = var.serving_pool == null || contains(keys(var.pools), coalesce(var.serving_pool, "-"))
    error_message = "serving_pool is \"${coalesce(var.serving_pool, "-")}\", which is no pool: write one of ${join(", ", keys(var.pools))}."
  }

  validation {
    condition     = var.serving_pool != null || length(local.serving_candidates) == 1
    error_message = "serving_pool is left out, and ${join(", ", local.serving_candidates)} could each be meant: write which pool serves."
  }
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

  validation {
    condition     = (var.sizing.target_rps == null) == (var.sizing.rps_per_replica == null)
    error_message = "sizing has one of target_rps and rps_per_replica: write both, or neither and max_replicas."
  }

  validation {
    condition     = var.sizing.target_rps != null || var.sizing.max_replicas != null
    error_message = "sizing is empty: write target_rps and rps_per_replica, or max_replicas."
  }

  validation {
    condition = alltrue([for rate in [var.sizing.target_rps, var.sizing.base_rps, var.sizing.rps_per_replica] :
      rate == null ? true : rate > 0
    ])
    error_message = "sizing: write target_rps, base_rps and rps_per_replica above 0 (requests per second)."
  }

  validation {
    condition = (var.sizing.base_rps == null ? true :
      var.sizing.target_rps == null ? false : var.sizing.base_rps <= var.sizing.target_rps
    )
    error_message = "sizing.base_rps is ${coalesce(var.sizing.base_rps, 0)}: write at most target_rps (${coalesce(var.sizing.target_rps, 0)}), which is the peak."
  }

  validation {
    condition     = var.sizing.headroom_percent >= 0 && var.sizing.headroom_percent <= 300
    error_message = "sizing.headroom_percent is ${var.sizing.headroom_percent}: write 0 to 300."
  }

  validation {
    condition     = var.sizing.redundancy >= 1 && var.sizing.redundancy == floor(var.sizing.redundancy)
    error_message = "sizing.redundancy is ${var.sizing.redundancy}: write the replicas there are at least, 1 or more; with 1, its failure interrupts the service."
  }

  validation {
    condition     = contains(["surge", "stop_then_start"], var.sizing.rollout)
    error_message = "sizing.rollout is \"${var.sizing.rollout}\": write surge, or stop_then_start, which needs no further GPU and interrupts the service."
  }

  validation {
    condition     = var.sizing.canary_percent >= 0 && var.sizing.canary_percent < 100
    error_message = "sizing.canary_percent is ${var.sizing.canary_percent}: write 0 (none) to 99."
  }

  validation {
    condition     = var.sizing.canary_percent == 0 || var.sizing.rollout == "surge"
    error_message = "sizing.canary_percent is ${var.sizing.canary_percent} with rollout stop_then_start: write rollout = \"surge\", since a canary's revision stands beside the old one, or canary_percent = 0."
  }
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

  validation {
    condition     = var.replica.cpus > 0 && var.replica.memory_gib >= 1 && var.replica.gpus >= 1 && var.replica.gpus == floor(var.replica.gpus)
    error_message = "replica is ${jsonencode(var.replica)}: write cpus above 0, memory_gib and gpus of at least 1."
  }
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

variable "offered_zones" {
  description = "Which zones offer a machine type, by machine type, as the cloud says; null leaves it unchecked. A type that is not a key is offered nowhere in the region."
  type        = map(list(string))
  default     = null
}

variable "quotas" {
  description = "What the account may use, by quota (EC2's code such as L-DB2E81BA, in vCPUs; Compute Engine's metric such as NVIDIA_L4_GPUS, in GPUs); one that is not there is not checked."
  type        = map(number)
  default     = {}
  nullable    = false
}

variable "prices_file" {
  description = "A price table of the form of modules/contract/prices.json, which is empty: prices are the account's, so that its owner fills them in. null for that one."
  type        = string
  default     = null

  validation {
    condition     = var.prices_file == null ? true : can(keys(jsondecode(file(var.prices_file)).per_hour))
    error_message = "prices_file is \"${coalesce(var.prices_file, "-")}\": write the path of a JSON file with currency, as_of, source, hours_per_month, and per_hour by \"cloud/region/machine type/on_demand or spot\"."
  }
}

variable "tags" {
  description = "Tags (labels on gcp) of everything, beside those that the stacks set."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([for key, value in var.tags :
      can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))
    ])
    error_message = "tags: write keys and values of lower-case letters, digits, hyphens and underscores, at most 63, a letter first in keys: both clouds take those."
  }
}
