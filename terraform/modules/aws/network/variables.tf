variable "name" {
  description = "Name of the cluster."
  type        = string
  nullable    = false
}

variable "cidr" {
  description = "Address range of the VPC."
  type        = string
  nullable    = false
}

variable "private_subnets" {
  description = "Ranges of the private subnets by zone: nodes, pods and endpoints."
  type        = map(string)
  nullable    = false
}

variable "public_subnets" {
  description = "Ranges of the public subnets by zone: NAT gateways and an internet-facing load balancer, nothing else."
  type        = map(string)
  nullable    = false

  validation {
    condition     = toset(keys(var.public_subnets)) == toset(keys(var.private_subnets))
    error_message = "public_subnets has the zones ${join(", ", keys(var.public_subnets))} and private_subnets ${join(", ", keys(var.private_subnets))}: write the same ones."
  }
}

variable "nat" {
  description = "Ways out of the private subnets: per_zone (a NAT gateway each), single (one, whose zone's failure cuts all off), or none: then images and charts come from ECR alone."
  type        = string
  default     = "per_zone"
  nullable    = false

  validation {
    condition     = contains(["per_zone", "single", "none"], var.nat)
    error_message = "nat is \"${var.nat}\": write per_zone, single or none."
  }
}

variable "endpoint_services" {
  description = "Services of AWS that are reached without leaving the VPC, beside S3, which always is."
  type        = set(string)
  default     = ["autoscaling", "ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "elasticloadbalancing", "kms", "logs", "sts"]
  nullable    = false

  validation {
    condition     = var.nat != "none" || length(setsubtract(["ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "sts"], var.endpoint_services)) == 0
    error_message = "endpoint_services is ${join(", ", var.endpoint_services)} with nat = \"none\": write also ${join(", ", setsubtract(["ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "sts"], var.endpoint_services))}, without which a node joins no cluster."
  }
}

variable "logs_key_arn" {
  description = "KMS key of the flow log's log group."
  type        = string
  nullable    = false
}

variable "log_retention_days" {
  description = "Days that the flow log is kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days is ${var.log_retention_days}: write one of 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, as CloudWatch has them."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
