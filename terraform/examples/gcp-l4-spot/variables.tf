variable "project" {
  description = "The Google Cloud project's id."
  type        = string
  nullable    = false
}

variable "region" {
  description = "Region."
  type        = string
  default     = "europe-west4"
  nullable    = false
}

variable "domain" {
  description = "Domain under which models answer, at NAME-transformer.vision.DOMAIN."
  type        = string
  nullable    = false
}

variable "callers" {
  description = "Who may call, as ranges of addresses; [\"0.0.0.0/0\"] for everybody."
  type        = list(string)
  nullable    = false
}

variable "dns_zone" {
  description = "Managed zone of Cloud DNS, by name, that gets the records; null to make them elsewhere (output dns_records)."
  type        = string
  default     = null
}
