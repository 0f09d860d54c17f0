variable "name" {
  description = "Name of the cluster; the repositories are NAME/predictor, NAME/transformer and NAME/plan-builder."
  type        = string
  nullable    = false
}

variable "data_key_arn" {
  description = "KMS key of the images."
  type        = string
  nullable    = false
}

variable "kept_images" {
  description = "Tagged images kept of each repository; older ones go."
  type        = number
  default     = 50
  nullable    = false

  validation {
    condition     = var.kept_images >= 2
    error_message = "kept_images is ${var.kept_images}: write at least 2, the one that runs and the one to go back to."
  }
}

variable "force_destroy" {
  description = "Whether destroying takes the images along; else it fails while there are any."
  type        = bool
  default     = false
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
