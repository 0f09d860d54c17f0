variable "name" {
  description = "The cluster's name, and the beginning of its service account's."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,22}[a-z0-9])$", var.name))
    error_message = "name is \"${var.name}\" (${length(var.name)} characters); write 2 to 24 lower-case letters, digits and hyphens, a letter first and no hyphen last: Google takes 40 for a cluster but 30 for a service account, whose name is this and \"-nodes\"."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "The cluster's region: its control plane is in three of its zones."
  type        = string
  nullable    = false
}

variable "zones" {
  description = "Zones of the region in which nodes may be; pools may have fewer."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.zones) >= 1 && alltrue([for zone in var.zones : can(regex("^${var.region}-[a-z]$", zone))])
    error_message = "zones is [${join(", ", var.zones)}]; write zones of ${var.region}, for example [\"${var.region}-a\", \"${var.region}-b\"]."
  }
}

variable "network_id" {
  description = "Id of the network."
  type        = string
  nullable    = false
}

variable "subnetwork_id" {
  description = "Id of the subnet."
  type        = string
  nullable    = false
}

variable "pods_range_name" {
  description = "Name of the subnet's secondary range of pods."
  type        = string
  nullable    = false
}

variable "services_range_name" {
  description = "Name of the subnet's secondary range of Kubernetes services."
  type        = string
  nullable    = false
}

variable "control_plane_cidr" {
  description = "The control plane's range, a /28."
  type        = string
  nullable    = false
}

variable "node_tag" {
  description = "Network tag of the nodes, by which firewall rules reach them."
  type        = string
  nullable    = false
}

variable "endpoint" {
  description = "Who reaches the Kubernetes API: public (an address on the internet, for allowed_cidrs alone), dns (a name that IAM guards), allowed_cidrs (who may reach the public or the private endpoint's address)."
  default     = {}
  nullable    = false

  type = object({
    public        = optional(bool, false)
    dns           = optional(bool, false)
    allowed_cidrs = optional(list(string), [])
  })

  validation {
    condition     = !var.endpoint.public || length(var.endpoint.allowed_cidrs) > 0
    error_message = "endpoint.public is true and endpoint.allowed_cidrs is empty; write who may reach it, for example allowed_cidrs = [\"203.0.113.0/24\"], or public = false: an API server open to the whole internet is one stolen token away from everything."
  }

  validation {
    condition     = alltrue([for range in var.endpoint.allowed_cidrs : can(cidrhost(range, 0)) && !endswith(range, "/0")])
    error_message = "endpoint.allowed_cidrs is [${join(", ", var.endpoint.allowed_cidrs)}]; write ranges ADDRESS/LENGTH, never with length 0: /0 is everybody."
  }
}

variable "kubernetes_version" {
  description = "Least version of the control plane when it is made; null for the release channel's default. Knative 1.21 needs 1.33 or later."
  type        = string
  default     = null

  validation {
    condition     = var.kubernetes_version == null || try(tonumber(split(".", var.kubernetes_version)[1]) >= 33, false)
    error_message = "kubernetes_version is ${coalesce(var.kubernetes_version, "null")}; write 1.33 or later (1.33, 1.34, 1.35), or null for the release channel's default: Knative 1.21 needs 1.33."
  }
}

variable "release_channel" {
  description = "Google's release channel, which moves the cluster's version: RAPID, REGULAR, STABLE or EXTENDED."
  type        = string
  default     = "REGULAR"
  nullable    = false

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "release_channel is \"${var.release_channel}\"; write RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "secrets_key_id" {
  description = "KMS key for Kubernetes' secrets."
  type        = string
  nullable    = false
}

variable "disks_key_id" {
  description = "KMS key for nodes' disks."
  type        = string
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

  validation {
    condition     = var.rbac_security_group == null || startswith(coalesce(var.rbac_security_group, "-"), "gke-security-groups@")
    error_message = "rbac_security_group is \"${coalesce(var.rbac_security_group, "-")}\"; write gke-security-groups@DOMAIN: GKE takes no other name."
  }
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

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy the cluster."
  type        = bool
  default     = true
  nullable    = false
}

variable "labels" {
  description = "Labels of the cluster and of what it makes."
  type        = map(string)
  default     = {}
  nullable    = false
}
