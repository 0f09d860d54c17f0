# What the GPU nodes cost to leave running. Prices are read, never known: a pool without one is named.

locals {
  prices = jsondecode(file(coalesce(var.prices_file, "${path.module}/../prices.json")))

  price_key = { for name, pool in var.pools : name => "${var.cloud}/${var.region}/${pool.machine_type}/${pool.capacity == "spot" ? "spot" : "on_demand"}" }
  price     = { for name in keys(var.pools) : name => try(tonumber(local.prices.per_hour[local.price_key[name]]), null) }
  missing   = distinct([for name, price in local.price : local.price_key[name] if price == null])

  monthly = { for name, price in local.price : name => price == null ? null : {
    at_min = price * local.prices.hours_per_month * local.min_nodes[name]
    at_max = price * local.prices.hours_per_month * local.max_nodes[name]
  } }

  cost = {
    currency = local.prices.currency
    as_of    = local.prices.as_of
    source   = local.prices.source
    pools = { for name in keys(var.pools) : name => (
      local.monthly[name] == null ? "no price for ${local.price_key[name]}" :
      format("%.2f to %.2f %s a month (%d to %d nodes at %.4f an hour)",
        local.monthly[name].at_min, local.monthly[name].at_max, local.prices.currency,
      local.min_nodes[name], local.max_nodes[name], local.price[name])
    ) }
    # null where a price is missing: a sum of some would be read as the sum.
    at_min  = length(local.missing) > 0 ? null : sum([for month in local.monthly : month.at_min])
    at_max  = length(local.missing) > 0 ? null : sum([for month in local.monthly : month.at_max])
    missing = local.missing
  }
}
