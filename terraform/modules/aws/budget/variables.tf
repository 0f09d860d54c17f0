variable "name" {
  description = "Name of the cluster; the budget counts what is tagged cluster = NAME."
  type        = string
  nullable    = false
}

variable "monthly_limit_usd" {
  description = "What a month may cost (USD): mails go out at 80 % of it, at 100 %, and when the forecast passes it. It stops nothing."
  type        = number
  nullable    = false

  validation {
    condition     = var.monthly_limit_usd > 0
    error_message = "monthly_limit_usd is ${var.monthly_limit_usd}: write an amount above 0."
  }
}

variable "emails" {
  description = "Who is told."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.emails) > 0 && alltrue([for address in var.emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "emails is [${join(", ", var.emails)}]: write at least one address; a budget that tells nobody is none."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  nullable    = false
}
