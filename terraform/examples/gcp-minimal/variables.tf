variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region."
  type        = string
  default     = "europe-west4"
  nullable    = false
}
