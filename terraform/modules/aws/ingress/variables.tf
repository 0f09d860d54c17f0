variable "name" {
  description = "Name of the cluster; load balancer and target group are NAME-ingress."
  type        = string
  nullable    = false

  validation {
    condition     = length(var.name) <= 24
    error_message = "name is \"${var.name}\", which has ${length(var.name)} characters: write at most 24, since the load balancer's, with \"-ingress\", may have 32."
  }
}

variable "kind" {
  description = "application (HTTP: TLS ends here, requests are spread) or network (TCP or TLS: connections are spread; for gRPC end to end)."
  type        = string
  default     = "application"
  nullable    = false

  validation {
    condition     = contains(["application", "network"], var.kind)
    error_message = "kind is \"${var.kind}\": write application or network."
  }
}

variable "public" {
  description = "Whether it faces the internet; else it has addresses of the VPC alone."
  type        = bool
  default     = false
  nullable    = false
}

variable "allowed_cidrs" {
  description = "Who may connect. Empty: everybody in the VPC; facing the internet it has to be said."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.allowed_cidrs : can(cidrhost(cidr, 0))])
    error_message = "allowed_cidrs is ${join(", ", var.allowed_cidrs)}: write IPv4 ranges, such as 203.0.113.0/24."
  }

  validation {
    condition     = !var.public || length(var.allowed_cidrs) > 0
    error_message = "public is true without allowed_cidrs: write who may connect, such as allowed_cidrs = [\"203.0.113.0/24\"], or [\"0.0.0.0/0\"] for everybody."
  }
}

variable "certificate_arn" {
  description = "Certificate of ACM for the hosts of the models; null for plain HTTP, which only an internal load balancer may speak."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null ? true : can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+$", var.certificate_arn))
    error_message = "certificate_arn is \"${coalesce(var.certificate_arn, "-")}\": write the ARN of a certificate of ACM, arn:aws:acm:REGION:ACCOUNT:certificate/ID."
  }

  validation {
    condition     = !var.public || var.certificate_arn != null
    error_message = "public is true without certificate_arn: write the ARN of a certificate of ACM: pictures do not cross the internet in the clear."
  }
}

variable "request_timeout_seconds" {
  description = "The longest that a request may take (transformer.timeoutSeconds of the chart); the load balancer waits 10 s longer, so that it is never the first to give up."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.request_timeout_seconds >= 1 && var.request_timeout_seconds <= 600
    error_message = "request_timeout_seconds is ${var.request_timeout_seconds}: write 1 to 600, which is Knative's limit."
  }

  validation {
    condition     = var.kind == "application" || var.certificate_arn == null || var.request_timeout_seconds <= 340
    error_message = "request_timeout_seconds is ${var.request_timeout_seconds} with kind network and a certificate: write at most 340, or kind = \"application\": TLS listeners of network load balancers close a connection after 350 quiet seconds, and that cannot be changed."
  }
}

variable "access_logs_bucket" {
  description = "Bucket for access logs that Elastic Load Balancing may write to; null for none."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether it has to be unlocked before it can be destroyed."
  type        = bool
  default     = true
  nullable    = false
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
  nullable    = false
}

variable "vpc_cidr" {
  description = "Address range of the VPC."
  type        = string
  nullable    = false
}

variable "subnet_ids" {
  description = "Subnets: public ones where it faces the internet, else private ones."
  type        = list(string)
  nullable    = false
}

variable "node_security_group_id" {
  description = "Security group of the nodes, which lets the load balancer in."
  type        = string
  nullable    = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
