variable "name" {
  description = "Name of the cluster's own resources."
  type        = string
  nullable    = false
}

variable "cluster_name" {
  description = "The cluster."
  type        = string
  nullable    = false
}

variable "cluster_arn" {
  description = "The cluster's ARN: pods of no other may take the role."
  type        = string
  nullable    = false
}

variable "disks_key_arn" {
  description = "KMS key of the volumes that the EBS driver makes."
  type        = string
  nullable    = false
}

variable "kubernetes_version" {
  description = "The cluster's Kubernetes version, which the add-ons' versions go by."
  type        = string
  nullable    = false
}

variable "addon_versions" {
  description = "Versions of add-ons by name; what is left out gets the newest that EKS has for the cluster's version, at every apply."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "node_group_arns" {
  description = "Node groups, which have to be there first: these add-ons' pods run on nodes, and applying waits for them."
  type        = map(string)
  nullable    = false

  validation {
    condition     = contains(keys(var.node_group_arns), "system")
    error_message = "node_group_arns has ${join(", ", keys(var.node_group_arns))}: write also system, the nodes without GPUs, which these add-ons run on."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
