variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}
