variable "name" {
  description = "The repository's id."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$", var.name))
    error_message = "name is \"${var.name}\" (${length(var.name)} characters); write 1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Location of the repository: the cluster's region; image streaming works only within it."
  type        = string
  nullable    = false
}

variable "key_id" {
  description = "KMS key that encrypts the images."
  type        = string
  nullable    = false
}

variable "readers" {
  description = "Who pulls images, by a name for each: members such as serviceAccount:EMAIL."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for member in values(var.readers) : !contains(["allUsers", "allAuthenticatedUsers"], member)])
    error_message = "readers has allUsers or allAuthenticatedUsers; write serviceAccount:EMAIL, group:EMAIL or user:EMAIL: the images hold your models' settings, and egress is yours to pay."
  }
}

variable "keep_versions" {
  description = "Versions of an image that are kept whatever their age."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.keep_versions >= 2
    error_message = "keep_versions is ${var.keep_versions}; write at least 2: a rollback needs the one before."
  }
}

variable "untagged_days" {
  description = "Days after which an image without a tag goes."
  type        = number
  default     = 14
  nullable    = false

  validation {
    condition     = var.untagged_days >= 1
    error_message = "untagged_days is ${var.untagged_days}; write at least 1."
  }
}

variable "labels" {
  description = "Labels of the repository."
  type        = map(string)
  default     = {}
  nullable    = false
}
