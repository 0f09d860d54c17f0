variable "region" {
  description = "Region."
  type        = string
  default     = "us-east-1"
  nullable    = false
}

variable "admins" {
  description = "ARNs of the roles or users who administrate the cluster."
  type        = set(string)
  nullable    = false
}

variable "reservation" {
  description = "Id of the capacity reservation of a p4d.24xlarge: on demand they are seldom free."
  type        = string
  nullable    = false
}

variable "zones" {
  description = "Zones, two to four, the reservation's among them; null for the first three that EKS takes: which of us-east-1 it refuses differs by account."
  type        = list(string)
  default     = null
}

variable "reservation_zone" {
  description = "The reservation's zone, one of the zones: its machines are nowhere else."
  type        = string
  nullable    = false
}

variable "certificate_arn" {
  description = "Certificate of ACM for the hosts of the models."
  type        = string
  nullable    = false
}

variable "cache_password" {
  description = "Password of the frame cache: TF_VAR_cache_password=$(openssl rand -hex 24)."
  type        = string
  sensitive   = true
  nullable    = false
}

variable "budget_usd" {
  description = "What a month may cost (USD) before mails go out."
  type        = number
  nullable    = false
}

variable "emails" {
  description = "Who is told about the budget."
  type        = list(string)
  nullable    = false
}

variable "peered_cidrs" {
  description = "Networks that are peered or reached over a VPN; nothing here may overlap them, and clients come from them."
  type        = list(string)
  default     = []
  nullable    = false
}
