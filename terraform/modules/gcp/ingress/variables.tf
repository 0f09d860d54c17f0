variable "name" {
  description = "Name of the address, the policies and the certificate map, and the beginning of the certificates'."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$", var.name))
    error_message = "name is \"${var.name}\" (${length(var.name)} characters); write 1 to 32 lower-case letters, digits and hyphens, a letter first and no hyphen last: a certificate's name is this and a namespace's, and Google takes 63."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "domain" {
  description = "Domain under which models answer, at NAME-transformer.NAMESPACE.DOMAIN."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain is \"${var.domain}\"; write a domain that is yours in small letters, without a wildcard and without a dot at its end, for example vision.example.com."
  }
}

variable "namespaces" {
  description = "Kubernetes namespaces of the models: each gets a certificate for *.NAMESPACE.DOMAIN."
  type        = set(string)
  nullable    = false

  validation {
    condition     = length(var.namespaces) > 0 && alltrue([for namespace in var.namespaces : can(regex("^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$", namespace))])
    error_message = "namespaces is [${join(", ", var.namespaces)}]; write at least one, each of 1 to 30 lower-case letters, digits and hyphens: a certificate's name has it."
  }
}

variable "allowed_cidrs" {
  description = "Who may call, as ranges of addresses; [\"0.0.0.0/0\"] is everybody."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.allowed_cidrs) > 0 && alltrue([for range in var.allowed_cidrs : can(cidrhost(range, 0))])
    error_message = "allowed_cidrs is [${join(", ", var.allowed_cidrs)}]; write who may call, for example [\"203.0.113.0/24\"], or [\"0.0.0.0/0\"] for everybody: the load balancer is on the internet, so that has to be said."
  }
}

variable "requests_per_minute" {
  description = "Requests in a minute from one address, beyond which it gets 429; null for no limit."
  type        = number
  default     = null

  validation {
    condition     = var.requests_per_minute == null ? true : var.requests_per_minute >= 1
    error_message = "requests_per_minute is ${coalesce(var.requests_per_minute, 0)}; write at least 1, or null for no limit."
  }
}

variable "dns_zone" {
  description = "Managed zone of Cloud DNS, by name, that gets the records; null to make them elsewhere (output records)."
  type        = string
  default     = null
}

variable "labels" {
  description = "Labels of what takes labels."
  type        = map(string)
  default     = {}
  nullable    = false
}
