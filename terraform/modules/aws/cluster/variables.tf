variable "name" {
  description = "Name of the cluster."
  type        = string
  nullable    = false
}

variable "kubernetes_version" {
  description = "Kubernetes version, 1.33 to 1.35: what Knative 1.21 and KServe 0.20 were tested with."
  type        = string
  nullable    = false

  validation {
    condition     = contains(["1.33", "1.34", "1.35"], var.kubernetes_version)
    error_message = "kubernetes_version is \"${var.kubernetes_version}\": write 1.33, 1.34 or 1.35; Knative 1.21 needs 1.33, and later ones are untested."
  }
}

variable "subnet_ids" {
  description = "Private subnets of the control plane's interfaces and the nodes."
  type        = list(string)
  nullable    = false
}

variable "service_cidr" {
  description = "Address range of the cluster's services."
  type        = string
  nullable    = false
}

variable "endpoint" {
  description = "Whether the API's endpoint is public too, and from where it may then be reached."
  type = object({
    public        = bool
    allowed_cidrs = list(string)
  })
  nullable = false

  validation {
    condition     = !var.endpoint.public || length(var.endpoint.allowed_cidrs) > 0
    error_message = "endpoint.public is true without endpoint.allowed_cidrs: write from where it may be reached, such as allowed_cidrs = [\"203.0.113.7/32\"]; EKS would take everybody."
  }
}

variable "admins" {
  description = "ARNs of roles or users who administrate the cluster. Who creates it is not one by that alone."
  type        = set(string)
  nullable    = false

  validation {
    condition     = length(var.admins) > 0 && alltrue([for arn in var.admins : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/.+$", arn))])
    error_message = "admins is [${join(", ", var.admins)}]: write at least one ARN of a role or user, such as arn:aws:iam::123456789012:role/platform; without one nobody could install anything."
  }
}

variable "secrets_key_arn" {
  description = "KMS key that encrypts Kubernetes' Secrets."
  type        = string
  nullable    = false
}

variable "logs_key_arn" {
  description = "KMS key of the control plane's log group."
  type        = string
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that the control plane's logs are kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days is ${var.log_retention_days}: write one of 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, as CloudWatch has them."
  }
}

variable "deletion_protection" {
  description = "Whether the cluster has to be unlocked before it can be destroyed."
  type        = bool
  default     = true
  nullable    = false
}

variable "addon_versions" {
  description = "Versions of add-ons by name; what is left out gets the newest that EKS has for the cluster's version, at every apply."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
