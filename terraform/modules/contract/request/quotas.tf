# What the pools need of the account's quotas, were all at their largest: rollouts are, for a while.

locals {
  pool_quotas = { for name, pool in var.pools : name => local.machine[name].quotas[pool.capacity == "spot" ? "spot" : "on_demand"] }

  quotas_needed = {
    for key in distinct([for quota in local.pool_quotas : quota.key]) : key => {
      name  = [for quota in local.pool_quotas : quota.name if quota.key == key][0]
      unit  = [for quota in local.pool_quotas : quota.unit if quota.key == key][0]
      units = sum([for name, quota in local.pool_quotas : quota.units * local.max_nodes[name] if quota.key == key])
      pools = [for name, quota in local.pool_quotas : name if quota.key == key]
    }
  }

  quota_faults = [
    for key, quota in local.quotas_needed :
    "The quota \"${quota.name}\"${key == quota.name ? "" : " (${key})"} in ${var.region} is ${var.quotas[key]} ${quota.unit}, but the pools ${join(", ", quota.pools)} need ${quota.units} at their largest: ask for ${quota.units} ${var.cloud == "aws" ? "(aws service-quotas request-service-quota-increase --region ${var.region} --service-code ec2 --quota-code ${key} --desired-value ${quota.units})" : "(console: IAM & Admin, Quotas)"}, or lower max_nodes."
    if length(local.basic) > 0 ? false : contains(keys(var.quotas), key) ? var.quotas[key] < quota.units : false
  ]
}
