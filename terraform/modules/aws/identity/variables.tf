variable "name" {
  description = "Name of the cluster; the roles are NAME-serving, -builder, -autoscaler and -ingress."
  type        = string
  nullable    = false
}

variable "cluster_name" {
  description = "The cluster whose service accounts get the roles."
  type        = string
  nullable    = false
}

variable "mode" {
  description = "How a service account gets its role: pod_identity (an association, nothing in the cluster), or irsa (OpenID Connect and an annotation)."
  type        = string
  default     = "pod_identity"
  nullable    = false

  validation {
    condition     = contains(["pod_identity", "irsa"], var.mode)
    error_message = "mode is \"${var.mode}\": write pod_identity or irsa."
  }
}

variable "oidc_issuer" {
  description = "Issuer of the cluster's tokens, for irsa."
  type        = string
  nullable    = false
}

variable "namespace" {
  description = "Namespace of the service accounts serving and builder."
  type        = string
  nullable    = false
}

variable "serving_account" {
  description = "Name of the service account that the chart makes for the predictor and the transformer."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$", var.serving_account))
    error_message = "serving_account is \"${var.serving_account}\": write a name of Kubernetes of at most 52 lower-case letters, digits and hyphens; the builder's is this with \"-builder\"."
  }
}

variable "bucket_arns" {
  description = "ARNs of the buckets models and plans."
  type        = object({ models = string, plans = string })
  nullable    = false
}

variable "data_key_arn" {
  description = "KMS key of the objects."
  type        = string
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
