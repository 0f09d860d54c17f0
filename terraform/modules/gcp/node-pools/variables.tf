variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "The cluster's region."
  type        = string
  nullable    = false
}

variable "zones" {
  description = "Zones of the system pool."
  type        = list(string)
  nullable    = false
}

variable "cluster" {
  description = "Id of the cluster."
  type        = string
  nullable    = false
}

variable "pools" {
  description = "GPU pools by name, as modules/contract/request gives them (output pools)."
  nullable    = false

  type = map(object({
    machine_type    = string
    gpu             = string
    gke_accelerator = string
    gpus_per_node   = number
    sharing         = string
    mig_profile     = string
    parts_per_gpu   = number
    min_nodes       = number
    max_nodes       = number
    capacity        = string
    reservation     = string
    disk_gib        = number
    zones           = list(string)
    labels          = map(string)
    taints          = list(object({ key = string, value = string, effect = string }))
  }))

  validation {
    condition     = !contains(keys(var.pools), "system")
    error_message = "pools has one named \"system\", which is the pool without GPUs; write another name, for example \"gpu\"."
  }

  validation {
    condition     = alltrue([for pool in var.pools : contains(["none", "time_slicing", "mig"], pool.sharing)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name}.sharing is ${pool.sharing}" if !contains(["none", "time_slicing", "mig"], pool.sharing)])}; write none, time_slicing or mig: MPS on GKE asks pods for the host's IPC namespace, which Knative does not give."
  }
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

  validation {
    condition     = var.system.min_nodes >= 1 && var.system.max_nodes >= var.system.min_nodes
    error_message = "system.min_nodes is ${var.system.min_nodes} and max_nodes ${var.system.max_nodes}; write at least 1, and at least as many: Knative's and KServe's controllers run there."
  }
}

variable "service_account" {
  description = "Email of the service account that nodes run as."
  type        = string
  nullable    = false
}

variable "disks_key_id" {
  description = "KMS key that encrypts the disks."
  type        = string
  nullable    = false
}

variable "node_tag" {
  description = "Network tag of the nodes."
  type        = string
  nullable    = false
}

variable "gpu_driver_version" {
  description = "NVIDIA's driver, which GKE installs: DEFAULT or LATEST of the node's version. CUDA 13 needs driver 580 or later: look up what DEFAULT is."
  type        = string
  default     = "LATEST"
  nullable    = false

  validation {
    condition     = contains(["DEFAULT", "LATEST"], var.gpu_driver_version)
    error_message = "gpu_driver_version is \"${var.gpu_driver_version}\"; write DEFAULT or LATEST: with none installed no GPU would appear."
  }
}

variable "surge_nodes" {
  description = "Nodes that an upgrade adds to a GPU pool before it takes one away; 0 takes one away first, which needs no quota and interrupts a replica."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.surge_nodes >= 0 && floor(var.surge_nodes) == var.surge_nodes
    error_message = "surge_nodes is ${var.surge_nodes}; write 0 or more, a whole number."
  }
}

variable "labels" {
  description = "Labels of the machines and disks."
  type        = map(string)
  default     = {}
  nullable    = false
}
