variable "name" {
  description = "Name of the network and the beginning of its parts' names."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "name is \"${var.name}\"; write 1 to 40 lower-case letters, digits and hyphens, a letter first and no hyphen last: Google allows 63, and \"-managed-services\" is put behind it."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region of the subnet and of the NAT."
  type        = string
  nullable    = false
}

variable "cidrs" {
  description = "Ranges of addresses: of nodes, pods and Kubernetes services, of the control plane (a /28), and of Google's managed services (Memorystore), null for none. modules/contract/request sees to it that they do not overlap."
  nullable    = false

  type = object({
    nodes            = string
    pods             = string
    services         = string
    control_plane    = string
    managed_services = optional(string)
  })

  validation {
    condition     = alltrue([for range in values(var.cidrs) : range == null || can(cidrhost(range, 0))])
    error_message = "cidrs has a value that is no range (${join(", ", [for name, range in var.cidrs : "${name} = ${coalesce(range, "null")}"])}); write each as ADDRESS/LENGTH, for example nodes = \"10.0.0.0/20\"."
  }

  validation {
    condition     = endswith(var.cidrs.control_plane, "/28")
    error_message = "cidrs.control_plane is ${var.cidrs.control_plane}; write a /28, for example 172.16.0.0/28: GKE takes no other size for its control plane."
  }
}

variable "flow_logs" {
  description = "Whether the subnet's flows are logged (half of them, in 10-minute steps)."
  type        = bool
  default     = true
  nullable    = false
}

variable "firewall_logs" {
  description = "Whether connections that the firewall rules let in are logged."
  type        = bool
  default     = true
  nullable    = false
}

variable "labels" {
  description = "Labels of what takes labels."
  type        = map(string)
  default     = {}
  nullable    = false
}
