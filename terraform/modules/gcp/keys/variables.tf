variable "key_ring_name" {
  description = "Name of the key ring. A key ring cannot be deleted, so after a destroy another name is needed (or an import)."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-zA-Z0-9_-]{1,63}$", var.key_ring_name))
    error_message = "key_ring_name is \"${var.key_ring_name}\"; write 1 to 63 letters, digits, hyphens or underscores."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "project_number" {
  description = "The project's number: Google's service agents are named by it."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region of the keys: that of what they encrypt."
  type        = string
  nullable    = false
}

variable "cache" {
  description = "Whether there are keys for Memorystore, and for the secret that holds its URL."
  type        = bool
  default     = false
  nullable    = false
}

variable "rotation_days" {
  description = "Days after which a key gets a new version."
  type        = number
  default     = 90
  nullable    = false

  validation {
    condition     = var.rotation_days >= 1 && var.rotation_days <= 365
    error_message = "rotation_days is ${var.rotation_days}; write 1 to 365."
  }
}

variable "destroy_scheduled_days" {
  description = "Days between the order to destroy a key's version and its end, in which it can be taken back."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.destroy_scheduled_days >= 1 && var.destroy_scheduled_days <= 120
    error_message = "destroy_scheduled_days is ${var.destroy_scheduled_days}; write 1 to 120, which is what Cloud KMS takes."
  }
}

variable "labels" {
  description = "Labels of the keys."
  type        = map(string)
  default     = {}
  nullable    = false
}
