variable "name" {
  description = "Name of the cluster; the aliases are alias/NAME-cluster, -disks, -data and -logs."
  type        = string
  nullable    = false
}

variable "deletion_window_days" {
  description = "Days between a key's scheduled deletion and its end, 7 to 30: until then what it encrypted can be saved."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.deletion_window_days >= 7 && var.deletion_window_days <= 30
    error_message = "deletion_window_days is ${var.deletion_window_days}: write 7 to 30, as KMS has it."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
