variable "name" {
  description = "Beginning of the buckets' names, which all of Google Cloud shares: put the project's id into it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][-a-z0-9_]{1,55}$", var.name)) && !startswith(var.name, "goog")
    error_message = "name is \"${var.name}\" (${length(var.name)} characters); write 2 to 56 lower-case letters, digits, hyphens or underscores, not beginning with goog: Google takes 63, and \"-models\" is put behind it."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Location of the buckets: the cluster's region, so that a model comes without egress."
  type        = string
  nullable    = false
}

variable "key_id" {
  description = "KMS key that encrypts the objects."
  type        = string
  nullable    = false
}

variable "noncurrent_days" {
  description = "Days that a replaced version is kept."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days is ${var.noncurrent_days}; write at least 1: with 0 an overwritten model could not be taken back."
  }
}

variable "soft_delete_days" {
  description = "Days that a deleted object can be restored; 0 for none, else 7 to 90."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.soft_delete_days == 0 || (var.soft_delete_days >= 7 && var.soft_delete_days <= 90)
    error_message = "soft_delete_days is ${var.soft_delete_days}; write 0 or 7 to 90, which is what Cloud Storage takes."
  }
}

variable "access_log_bucket" {
  description = "Bucket that gets the buckets' access logs; null for none (Cloud Audit Logs say who read what, where they are on)."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether a destroy takes the objects too; otherwise it stops at a bucket that is not empty."
  type        = bool
  default     = false
  nullable    = false
}

variable "labels" {
  description = "Labels of the buckets."
  type        = map(string)
  default     = {}
  nullable    = false
}
