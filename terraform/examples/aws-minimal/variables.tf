variable "region" {
  description = "Region."
  type        = string
  default     = "eu-central-1"
  nullable    = false
}

variable "admins" {
  description = "ARNs of the roles or users who administrate the cluster: aws sts get-caller-identity prints yours."
  type        = set(string)
  nullable    = false
}

variable "my_cidrs" {
  description = "From where you reach the Kubernetes API, such as [\"203.0.113.7/32\"]."
  type        = list(string)
  nullable    = false
}
