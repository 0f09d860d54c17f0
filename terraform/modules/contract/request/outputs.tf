output "pools" {
  description = "The pools by name: machine type, GPU, architecture, sharing, nodes, zones, and the labels and taints that their nodes get."
  value       = local.pools

  precondition {
    condition     = length(local.faults.pools) == 0
    error_message = join(" ", local.faults.pools)
  }

  precondition {
    condition     = length(local.faults.fit) == 0
    error_message = join(" ", local.faults.fit)
  }

  precondition {
    condition     = length(local.faults.room) == 0
    error_message = join(" ", local.faults.room)
  }

  precondition {
    condition     = length(local.quota_faults) == 0
    error_message = join(" ", local.quota_faults)
  }
}

output "network" {
  description = "Address ranges: of the network, pods (gcp) and services; on aws the subnets by zone, private and public; on gcp those of nodes, proxies and the control plane."
  value       = local.network

  precondition {
    condition     = length(local.overlaps) == 0
    error_message = "network: ${join("; ", local.overlaps)}. Write ranges that do not overlap: packets for one would go to the other."
  }
}

output "serving" {
  description = "Where the predictor runs: the pool, all pools of its class, the node selector, how its GPU is shared, and what a replica asks for."
  value = {
    pool          = local.serving_pool
    pools         = local.serving_pools
    class         = local.serving_class
    node_selector = local.pools[local.serving_pool].node_selector
    sharing       = local.mode[local.serving_pool]
    mig_profile   = local.profile[local.serving_pool]
    resource      = local.resource[local.serving_pool]
    replica       = var.replica
  }
}

output "sizes" {
  description = "Replicas: at least, at most, of a new revision beside them, and how many the pools have room for; with the arithmetic in words."
  value       = local.sizes

  precondition {
    condition     = local.replicas_max >= local.replicas_wanted
    error_message = "sizing.max_replicas is ${local.replicas_max}: write at least ${local.replicas_wanted}, as the peak (${local.peak}) and the redundancy (${var.sizing.redundancy}) need, or leave it out."
  }
}

output "quotas_needed" {
  description = "By quota, what the pools need at their largest, with its unit."
  value       = local.quotas_needed
}

output "cost" {
  description = "What the GPU nodes cost a month, with their least and most nodes, by the price table; missing names the prices that it lacks. Nodes alone: no disks, traffic, control plane or load balancer."
  value       = local.cost
}

output "tags" {
  description = "Tags (labels on gcp) of everything."
  value       = local.tags
}

output "identity" {
  description = "What was asked for in general: cloud, name, region, zones and whether the API's endpoint is public."
  value = {
    cloud    = var.cloud
    name     = var.name
    region   = var.region
    zones    = var.zones
    endpoint = var.endpoint
  }
}
