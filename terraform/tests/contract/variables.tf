variable "request" {
  description = "What is asked for: inputs of modules/contract/request by name; what is left out has its default."
  type        = any
  nullable    = false
}

variable "has_redis" {
  description = "Whether there is a Redis."
  type        = bool
  default     = false
  nullable    = false
}
