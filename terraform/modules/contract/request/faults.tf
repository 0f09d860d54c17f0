# What is wrong with the pools, as sentences that say what to write instead; outputs.tf refuses them. All of one kind come
# together; what follows from them (room, quotas) only when there are none.

locals {
  # Of a node, what system pods and the kubelet keep; of a replica, Knative's sidecar as the chart asks for it.
  node_reserve    = { cpus = 0.5, memory_gib = 3 }
  sidecar         = { cpus = 0.2, memory_gib = 0.25 }
  cpus_wanted     = { for name, count in local.replicas_per_node : name => count * (var.replica.cpus + local.sidecar.cpus) + local.node_reserve.cpus }
  memory_wanted   = { for name, count in local.replicas_per_node : name => count * (var.replica.memory_gib + local.sidecar.memory_gib) + local.node_reserve.memory_gib }
  is_whole        = { for name, pool in var.pools : name => [for count in [pool.min_nodes, pool.max_nodes] : count == null ? true : count >= 0 && floor(count) == count] }
  sharing_choices = "none, time_slicing, ${var.cloud == "aws" ? "mps, " : ""}or mig:PROFILE"

  wrong = {
    machine_type = concat(
      [for name, pool in var.pools :
        "pools.${name}.machine_type is \"${pool.machine_type}\", which the catalog does not have on ${var.cloud}: write one of ${join(", ", keys(local.machines))}, or describe it in additional_machine_types."
        if !contains(keys(local.machines), pool.machine_type)
      ],
      [for name, pool in var.pools :
        "pools.${name}.machine_type is \"${pool.machine_type}\", which ${var.region} does not offer in ${join(", ", pool.zones == null ? var.zones : pool.zones)}: write other zones, another region, or a type that is offered: ${join(", ", [for type in keys(local.machines) : type if contains(keys(coalesce(var.offered_zones, {})), type)])}."
        if contains(keys(local.machines), pool.machine_type) && length(local.pool_zones[name]) == 0
      ],
    )

    nodes = concat(
      [for name, pool in var.pools : "pools.${name}: write whole numbers of nodes, 0 or more."
        if !alltrue(local.is_whole[name])
      ],
      [for name, pool in var.pools :
        "pools.${name}.max_nodes is ${local.max_nodes[name]}: write at least 1 and at least min_nodes (${local.min_nodes[name]})."
        if local.max_nodes[name] < max(1, local.min_nodes[name])
      ],
      [for name, pool in var.pools : "pools.${name}.disk_gib is ${pool.disk_gib}: write at least 200 (GiB): images with CUDA and TensorRT take tens, twice during a rollout."
        if pool.disk_gib < 200
      ],
    )

    capacity = concat(
      [for name, pool in var.pools : "pools.${name}.capacity is \"${pool.capacity}\": write on_demand, spot or reservation."
        if !contains(["on_demand", "spot", "reservation"], pool.capacity)
      ],
      [for name, pool in var.pools : "pools.${name}.capacity is ${pool.capacity}, but ${var.cloud} has ${pool.machine_type} as ${join(", ", local.machine[name].capacities)} alone: write that, or a machine type that it has so: ${join(", ", [for type, machine in local.machines : type if machine.gpu == local.machine[name].gpu && contains(machine.capacities, pool.capacity)])}."
        if contains(keys(local.machines), pool.machine_type) && contains(["on_demand", "spot", "reservation"], pool.capacity) && !contains(local.machine[name].capacities, pool.capacity)
      ],
      [for name, pool in var.pools : "pools.${name}.capacity is ${pool.capacity}: write reservation = \"${var.cloud == "aws" ? "cr-0123456789abcdef0" : "NAME"}\" with it, and without it no reservation."
        if(pool.capacity == "reservation") != (pool.reservation != null)
      ],
      [for name, pool in var.pools : "pools.${name} is spot with min_nodes = 0 and no fallback: write fallback = \"POOL\", a pool of ${local.machine[name].gpu} on demand that serves when there is no spot capacity, or min_nodes = 1 and bear the interruptions."
        if pool.capacity == "spot" && pool.fallback == null && local.min_nodes[name] == 0
      ],
      [for name, pool in var.pools : "pools.${name}.fallback is \"${pool.fallback == null ? "" : pool.fallback}\": write the name of another pool of the same GPU and sharing (${local.class[name]}) that is not spot."
        if pool.fallback == null ? false : (
          !contains(keys(var.pools), pool.fallback) || try(local.class[pool.fallback] != local.class[name] || var.pools[pool.fallback].capacity == "spot", false)
        )
      ],
      [for name, pool in var.pools : "pools.${name}.fallback is \"${pool.fallback == null ? "" : pool.fallback}\", but its capacity is ${pool.capacity}: write it only where capacity is spot."
        if pool.fallback != null && pool.capacity != "spot"
      ],
    )

    sharing = concat(
      [for name, pool in var.pools : "pools.${name}.sharing is \"${pool.sharing}\": write ${local.sharing_choices}."
        if !can(regex("^(none|time_slicing|mps|mig:.+)$", pool.sharing))
      ],
      [for name, pool in var.pools : "pools.${name}.sharing is mps: write time_slicing or mig:PROFILE on gcp, where MPS asks pods for the host's IPC namespace, which Knative does not give."
        if var.cloud == "gcp" && pool.sharing == "mps"
      ],
      [for name, pool in var.pools : "pools.${name}.sharing is \"${pool.sharing}\", but the ${local.machine[name].gpu} of ${pool.machine_type} cannot be partitioned: write time_slicing${var.cloud == "aws" ? " or mps" : ""} with replicas_per_gpu, or a machine type with MIG: ${join(", ", [for type, machine in local.machines : type if length(machine.mig_instances) > 0])}."
        if local.mode[name] == "mig" && contains(keys(local.machines), pool.machine_type) && length(local.machine[name].mig_instances) == 0
      ],
      [for name, pool in var.pools : "pools.${name}.sharing is \"${pool.sharing}\", which the ${local.machine[name].gpu} does not have${var.cloud == "gcp" ? " on GKE" : ""}: write one of ${join(", ", [for profile in keys(local.machine[name].mig_instances) : "mig:${profile}"])}."
        if local.mode[name] == "mig" && length(local.machine[name].mig_instances) > 0 && !contains(keys(local.machine[name].mig_instances), local.profile[name])
      ],
      [for name, pool in var.pools : "pools.${name}.replicas_per_gpu is ${pool.replicas_per_gpu} with sharing ${pool.sharing}: write 2 to 48 with time_slicing and mps, and leave it out otherwise."
        if contains(["time_slicing", "mps"], local.mode[name]) ? !contains(range(2, 49), pool.replicas_per_gpu) : pool.replicas_per_gpu != 1
      ],
      [for name, pool in var.pools : "replica.gpus is ${var.replica.gpus}, but pools.${name}.sharing is ${pool.sharing}: write replica = { gpus = 1 }: parts of GPUs do not add up to a larger one."
        if local.mode[name] != "none" && var.replica.gpus != 1 && contains(local.serving_pools, name)
      ],
    )

    zones = [for name, pool in var.pools :
      "pools.${name}.zones is ${join(", ", coalesce(pool.zones, []))}: write some of ${join(", ", var.zones)}."
      if pool.zones == null ? false : length(pool.zones) == 0 || length(setsubtract(pool.zones, var.zones)) > 0
    ]

    fit = concat(
      [for name in local.serving_pools : "replica.gpus is ${var.replica.gpus}, but a node of pools.${name} (${var.pools[name].machine_type}) has ${local.machine[name].gpus}: write at most as many, or a larger machine type."
        if local.machine[name].gpus > 0 && local.replicas_per_node[name] == 0
      ],
      [for name in local.serving_pools : "${local.replicas_per_node[name]} replicas fit onto the GPUs of a node of pools.${name} (${var.pools[name].machine_type}) and want ${local.cpus_wanted[name]} CPUs and ${local.memory_wanted[name]} GiB with what the node itself needs, but it has ${local.machine[name].vcpus} and ${local.machine[name].memory_gib}: write a smaller replica (now ${var.replica.cpus} CPUs, ${var.replica.memory_gib} GiB), fewer replicas_per_gpu or a larger MIG profile, or a machine type with more."
        if local.replicas_per_node[name] > 0 && (local.cpus_wanted[name] > local.machine[name].vcpus || local.memory_wanted[name] > local.machine[name].memory_gib)
      ],
    )

    room = local.replicas_fitting >= local.replicas_together ? [] : [
      "The pools of ${local.serving_class} (${join(", ", local.serving_pools)}) have room for ${local.replicas_fitting} replicas at most, but ${local.replicas_together} are needed: ${local.replicas_max} at the peak, and ${local.surge} of a new revision beside ${var.sizing.canary_percent > 0 ? "them, since canary_percent is ${var.sizing.canary_percent}" : "the ${local.replicas_min} there are at least"}. Write max_nodes = ${ceil((local.replicas_together - local.replicas_fitting) / max(1, local.replicas_per_node[local.serving_pool])) + local.max_nodes[local.serving_pool]} in pools.${local.serving_pool}, leave it out, or write ${var.sizing.canary_percent > 0 ? "canary_percent = 0" : "rollout = \"stop_then_start\""}."
    ]
  }

  basic = concat(local.wrong.machine_type, local.wrong.nodes, local.wrong.capacity, local.wrong.sharing, local.wrong.zones)

  faults = {
    pools = local.basic
    fit   = length(local.basic) > 0 ? [] : local.wrong.fit
    room  = length(local.basic) + length(local.wrong.fit) > 0 ? [] : local.wrong.room
  }
}
