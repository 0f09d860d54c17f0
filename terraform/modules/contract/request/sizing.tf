# Replicas from rates, nodes from replicas. ceil() is exact here: percentages are whole numbers, so nothing is rounded before.

locals {
  share    = 100 + var.sizing.headroom_percent
  per_unit = var.sizing.rps_per_replica == null ? 1 : var.sizing.rps_per_replica
  peak     = var.sizing.target_rps == null ? 0 : ceil(var.sizing.target_rps * local.share / (100 * local.per_unit))
  quiet    = var.sizing.base_rps == null ? local.peak : ceil(var.sizing.base_rps * local.share / (100 * local.per_unit))

  replicas_min    = max(local.quiet, var.sizing.redundancy)
  replicas_wanted = max(local.peak, local.replicas_min)
  replicas_max    = var.sizing.max_replicas == null ? local.replicas_wanted : var.sizing.max_replicas

  # A new revision starts with as many replicas as there are at least, however small its share of the requests, and holds
  # them until it is promoted or taken back (Knative keeps min-scale for every revision with a route).
  canary = var.sizing.target_rps == null ? local.replicas_min : ceil(
    var.sizing.target_rps * var.sizing.canary_percent * local.share / (10000 * local.per_unit)
  )
  surge = (var.sizing.rollout == "stop_then_start" ? 0 :
    var.sizing.canary_percent == 0 ? local.replicas_min : max(local.replicas_min, local.canary)
  )

  # A plain change may wait for a quiet hour; a canary of hours or days has to fit in beside the peak.
  replicas_together = max(local.replicas_max, var.sizing.canary_percent > 0 ? local.replicas_max + local.surge : local.replicas_min + local.surge)

  min_nodes = { for name, pool in var.pools : name => (
    pool.min_nodes != null ? pool.min_nodes :
    name == local.serving_pool ? ceil(local.replicas_min / max(1, local.replicas_per_node[name])) :
    contains(local.serving_pools, name) ? 0 : 1
  ) }
  max_nodes = { for name, pool in var.pools : name => (
    pool.max_nodes != null ? pool.max_nodes : max(local.min_nodes[name], 1,
      contains(local.serving_pools, name) ? ceil(local.replicas_together / max(1, local.replicas_per_node[name])) : 1
    )
  ) }

  replicas_fitting = sum([for name in local.serving_pools : local.max_nodes[name] * local.replicas_per_node[name]])

  arithmetic = compact([
    var.sizing.target_rps == null ? "" :
    "peak: ceil(${var.sizing.target_rps} rps x ${local.share} % / ${local.per_unit} rps per replica) = ${local.peak}",
    var.sizing.base_rps == null ? "" :
    "quiet hours: ceil(${var.sizing.base_rps} rps x ${local.share} % / ${local.per_unit} rps per replica) = ${local.quiet}",
    "replicas at least: max(${local.quiet}, redundancy ${var.sizing.redundancy}) = ${local.replicas_min}",
    "replicas at most: ${local.replicas_max}",
    var.sizing.rollout == "stop_then_start" ? "rollout: stop, then start: no further GPUs" :
    var.sizing.canary_percent == 0 ? "rollout: a second revision starts with ${local.surge}" :
    "rollout: a canary of ${var.sizing.canary_percent} % needs ${local.surge} beside the ${local.replicas_max}",
    "nodes of ${local.serving_pool}: ${local.min_nodes[local.serving_pool]} to ${local.max_nodes[local.serving_pool]}, each for ${local.replicas_per_node[local.serving_pool]} replicas",
  ])

  sizes = {
    replicas_min     = local.replicas_min
    replicas_max     = local.replicas_max
    replicas_surge   = local.surge
    replicas_fitting = local.replicas_fitting
    # Whole GPUs or parts, as a replica asks for them.
    gpus_per_replica = var.replica.gpus
    canary_percent   = var.sizing.canary_percent
    arithmetic       = local.arithmetic
  }
}
