variable "name" {
  description = "Name of the cluster; the cache is NAME-cache."
  type        = string
  nullable    = false
}

variable "node_type" {
  description = "Type of its nodes."
  type        = string
  default     = "cache.t4g.small"
  nullable    = false

  validation {
    condition     = can(regex("^cache\\.[a-z0-9-]+\\.[a-z0-9]+$", var.node_type))
    error_message = "node_type is \"${var.node_type}\": write a type of ElastiCache, such as cache.t4g.small."
  }
}

variable "replicas" {
  description = "Nodes beside the primary, 0 to 5; with one or more it survives the loss of a zone. What it loses is inferred again."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = contains(range(0, 6), var.replicas)
    error_message = "replicas is ${var.replicas}: write 0 to 5."
  }
}

variable "password" {
  description = "Password of the transformers' user: 16 to 128 characters that need no escaping in a URL. It stands in the state, which the backend encrypts, and in Secrets Manager."
  type        = string
  sensitive   = true
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{16,128}$", var.password))
    error_message = "password: write 16 to 128 letters, digits, hyphens and underscores, for example TF_VAR_cache_password=$(openssl rand -hex 24)."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Private subnets."
  type        = list(string)
  nullable    = false
}

variable "node_security_group_id" {
  description = "Security group of the nodes, which alone may connect."
  type        = string
  nullable    = false
}

variable "data_key_arn" {
  description = "KMS key of the cache and of the secret."
  type        = string
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
