variable "name" {
  description = "Name of the cluster's own resources; node groups are NAME-POOL."
  type        = string
  nullable    = false
}

variable "cluster_name" {
  description = "The cluster that the nodes join, as the module cluster returns it."
  type        = string
  nullable    = false
}

variable "kubernetes_version" {
  description = "Kubernetes version of the nodes."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Private subnets by zone."
  type        = map(string)
  nullable    = false
}

variable "pools" {
  description = "GPU pools as modules/contract/request returns them."
  type = map(object({
    machine_type      = string
    gpu               = string
    gpus_per_node     = number
    parts_per_gpu     = number
    resource          = string
    sharing           = string
    min_nodes         = number
    max_nodes         = number
    capacity          = string
    reservation       = string
    disk_gib          = number
    zones             = list(string)
    labels            = map(string)
    taints            = list(object({ key = string, value = string, effect = string }))
    replicas_per_node = number
  }))
  nullable = false
}

variable "system" {
  description = "Nodes without GPUs, for Knative, KServe, the transformers and what watches them: machine type, nodes, disk (GiB)."
  type = object({
    machine_type = optional(string, "m7i.xlarge")
    min_nodes    = optional(number, 2)
    max_nodes    = optional(number, 6)
    disk_gib     = optional(number, 80)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.system.min_nodes >= 2 && var.system.max_nodes >= var.system.min_nodes
    error_message = "system has ${var.system.min_nodes} to ${var.system.max_nodes} nodes: write min_nodes of at least 2, since Knative's activator and Kourier stand in every request's way, and max_nodes of at least min_nodes."
  }
}

variable "gpu_os" {
  description = "Operating system of GPU nodes: al2023 or bottlerocket, both with NVIDIA's driver."
  type        = string
  default     = "al2023"
  nullable    = false

  validation {
    condition     = contains(["al2023", "bottlerocket"], var.gpu_os)
    error_message = "gpu_os is \"${var.gpu_os}\": write al2023 or bottlerocket."
  }

  validation {
    condition     = var.gpu_os == "al2023" || alltrue([for pool in var.pools : pool.sharing == "none"])
    error_message = "gpu_os is bottlerocket with pools that share GPUs (${join(", ", [for name, pool in var.pools : name if pool.sharing != "none"])}): write al2023: Bottlerocket brings a device plugin of its own, which node labels do not configure."
  }
}

variable "disks_key_arn" {
  description = "KMS key of the nodes' volumes."
  type        = string
  nullable    = false
}

variable "tags" {
  description = "Tags of everything, the instances, volumes and interfaces that node groups make included."
  type        = map(string)
  nullable    = false
}
