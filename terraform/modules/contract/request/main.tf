# From what is asked of a pool to what a cloud has to make of it.

module "catalog" {
  source = "../../gpu-catalog"

  additional_machine_types = var.additional_machine_types
}

locals {
  label_domain = "saccade.dev"
  machines     = { for name, machine in module.catalog.machine_types : name => machine if machine.cloud == var.cloud }
  example_type = var.cloud == "aws" ? "g5.xlarge" : "g2-standard-8"

  # Never fails, so that a fault's own sentence is the only one: a machine type that is unknown has no GPU here.
  unknown_machine = {
    gpu           = "unknown", gpu_product = "", architecture = "", compute_capability = "", gpu_memory_gib = 0, gke_accelerator = null,
    mig_instances = tomap({}), capacities = [], gpus = 0, vcpus = 0, memory_gib = 0,
    quotas        = { on_demand = { key = "", name = "", unit = "", units = 0 }, spot = { key = "", name = "", unit = "", units = 0 } }
  }

  machine = { for name, pool in var.pools : name => try(local.machines[pool.machine_type], local.unknown_machine) }

  mode    = { for name, pool in var.pools : name => split(":", pool.sharing)[0] }
  profile = { for name, pool in var.pools : name => try(split(":", pool.sharing)[1], "") }

  # Into how many parts that are handed out a GPU is divided.
  parts_per_gpu = { for name, pool in var.pools : name => (
    local.mode[name] == "mig" ? lookup(local.machine[name].mig_instances, local.profile[name], 0) :
    local.mode[name] == "none" ? 1 : pool.replicas_per_gpu
  ) }
  replicas_per_node = { for name, pool in var.pools : name =>
    floor(local.machine[name].gpus * local.parts_per_gpu[name] / var.replica.gpus)
  }

  # What a plan of TensorRT and a pod's node selector depend on: pools of one class stand in for each other.
  class = { for name, pool in var.pools : name => join("-", compact([
    lower(local.machine[name].gpu),
    { none = "", time_slicing = "slices${pool.replicas_per_gpu}", mps = "mps${pool.replicas_per_gpu}", mig = "mig-${local.profile[name]}" }[
      contains(["none", "time_slicing", "mps", "mig"], local.mode[name]) ? local.mode[name] : "none"
    ],
  ])) }

  serving_candidates = [for name in keys(var.pools) : name if !contains([for pool in var.pools : coalesce(pool.fallback, "-")], name)]
  serving_pool       = try(coalesce(var.serving_pool, local.serving_candidates[0]), keys(var.pools)[0])
  serving_class      = local.class[local.serving_pool]
  serving_pools      = [for name in keys(var.pools) : name if local.class[name] == local.serving_class]

  # A GPU's resource by name. Google's device plugin calls all of them nvidia.com/gpu and tells them apart by node labels.
  resource = { for name in keys(var.pools) : name => (
    var.cloud == "gcp" || local.mode[name] == "none" ? "nvidia.com/gpu" :
    local.mode[name] == "mig" ? "nvidia.com/mig-${local.profile[name]}" : "nvidia.com/gpu.shared"
  ) }

  # Labels by which NVIDIA's device plugin and MIG manager divide the GPUs of a node; on gcp GKE does.
  sharing_labels = { for name, pool in var.pools : name => merge(
    var.cloud == "aws" && contains(["time_slicing", "mps"], local.mode[name]) ? { "nvidia.com/device-plugin.config" = local.class[name] } : {},
    var.cloud == "aws" && local.mode[name] == "mig" ? { "nvidia.com/mig.config" = "all-${local.profile[name]}" } : {},
  ) }

  pools = {
    for name, pool in var.pools : name => {
      machine_type       = pool.machine_type
      gpu                = local.machine[name].gpu
      gpu_product        = local.machine[name].gpu_product
      architecture       = local.machine[name].architecture
      compute_capability = local.machine[name].compute_capability
      gpu_memory_gib     = local.machine[name].gpu_memory_gib
      gke_accelerator    = local.machine[name].gke_accelerator
      gpus_per_node      = local.machine[name].gpus
      vcpus              = local.machine[name].vcpus
      memory_gib         = local.machine[name].memory_gib

      class             = local.class[name]
      sharing           = local.mode[name]
      mig_profile       = local.profile[name]
      parts_per_gpu     = local.parts_per_gpu[name]
      replicas_per_node = local.replicas_per_node[name]
      resource          = local.resource[name]

      min_nodes   = local.min_nodes[name]
      max_nodes   = local.max_nodes[name]
      capacity    = pool.capacity
      reservation = pool.reservation == null ? "" : pool.reservation
      fallback    = pool.fallback == null ? "" : pool.fallback
      disk_gib    = pool.disk_gib
      zones       = local.pool_zones[name]

      node_selector = { "${local.label_domain}/gpu-class" = local.class[name] }
      labels = merge(pool.labels, {
        "${local.label_domain}/pool"      = name
        "${local.label_domain}/gpu-class" = local.class[name]
        "${local.label_domain}/capacity"  = replace(pool.capacity, "_", "-")
      }, local.sharing_labels[name])
      # As GKE sets it by itself; the chart's predictor tolerates the key.
      taints = [{ key = "nvidia.com/gpu", value = "present", effect = "NoSchedule" }]
    }
  }

  pool_zones = { for name, pool in var.pools : name => [
    for zone in(pool.zones == null ? var.zones : pool.zones) : zone
    if var.offered_zones == null ? true : contains(try(var.offered_zones[pool.machine_type], []), zone)
  ] }
}
