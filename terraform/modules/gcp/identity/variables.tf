variable "name" {
  description = "Beginning of the service accounts' names."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,20}[a-z0-9])$", var.name))
    error_message = "name is \"${var.name}\" (${length(var.name)} characters); write 2 to 22 lower-case letters, digits and hyphens, a letter first and no hyphen last: Google takes 30 for a service account, and \"-builder\" is put behind it."
  }
}

variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "workload_pool" {
  description = "The cluster's identity pool, PROJECT.svc.id.goog."
  type        = string
  nullable    = false
}

variable "namespace" {
  description = "Kubernetes namespace of the models."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is \"${var.namespace}\"; write 1 to 63 lower-case letters, digits and hyphens."
  }
}

variable "service_accounts" {
  description = "Kubernetes service accounts in that namespace: of the InferenceService (reader), and of the job that builds plans (builder)."
  nullable    = false

  type = object({
    reader  = string
    builder = string
  })

  validation {
    condition     = var.service_accounts.reader != var.service_accounts.builder
    error_message = "service_accounts.reader and .builder are both \"${var.service_accounts.reader}\"; write two names: what answers requests must not be able to write plans."
  }
}

variable "buckets" {
  description = "Names of the buckets of models and of plans."
  nullable    = false

  type = object({
    models = string
    plans  = string
  })
}
