variable "name" {
  description = "Name of the instance."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "name is \"${var.name}\" (${length(var.name)} characters); write 1 to 40 lower-case letters, digits and hyphens, a letter first and no hyphen last."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region: the cluster's, since the cache gives up after 5 ms."
  type        = string
  nullable    = false
}

variable "network_id" {
  description = "Network that reaches it."
  type        = string
  nullable    = false
}

variable "managed_services_range" {
  description = "Name of the range that Google's managed services get addresses from."
  type        = string
  nullable    = false
}

variable "key_id" {
  description = "KMS key that encrypts it."
  type        = string
  nullable    = false
}

variable "url_key_id" {
  description = "KMS key that encrypts the secret with its URL."
  type        = string
  nullable    = false
}

variable "memory_gib" {
  description = "Memory (GiB)."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.memory_gib >= 1 && var.memory_gib <= 300
    error_message = "memory_gib is ${var.memory_gib}; write 1 to 300, which is what Memorystore takes."
  }
}

variable "tier" {
  description = "STANDARD_HA (a replica in a second zone) or BASIC."
  type        = string
  default     = "STANDARD_HA"
  nullable    = false

  validation {
    condition     = contains(["STANDARD_HA", "BASIC"], var.tier)
    error_message = "tier is \"${var.tier}\"; write STANDARD_HA or BASIC."
  }
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to destroy it."
  type        = bool
  default     = false
  nullable    = false
}

variable "labels" {
  description = "Labels."
  type        = map(string)
  default     = {}
  nullable    = false
}
