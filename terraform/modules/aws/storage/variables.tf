variable "name" {
  description = "Name of the cluster; the buckets are NAME-models-ACCOUNT-REGION and NAME-plans-ACCOUNT-REGION."
  type        = string
  nullable    = false
}

variable "data_key_arn" {
  description = "KMS key of the objects."
  type        = string
  nullable    = false
}

variable "noncurrent_days" {
  description = "Days that a version of an object is kept after it was replaced or deleted."
  type        = number
  default     = 90
  nullable    = false

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days is ${var.noncurrent_days}: write at least 1; going back to the last model needs its objects."
  }
}

variable "force_destroy" {
  description = "Whether destroying takes the objects along; else it fails while there are any."
  type        = bool
  default     = false
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
