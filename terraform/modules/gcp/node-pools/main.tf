# The pool that everything without a GPU runs on, and one pool for each of the contract's GPU pools. GKE installs the
# driver, divides the GPUs, and scales the pools; NVIDIA's own charts have no part in it.

resource "google_container_node_pool" "system" {
  name               = "system"
  project            = var.project
  location           = var.region
  cluster            = var.cluster
  node_locations     = var.zones
  initial_node_count = 1

  autoscaling {
    total_min_node_count = var.system.min_nodes
    total_max_node_count = var.system.max_nodes
    location_policy      = "BALANCED"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = 1
    max_unavailable = 0
  }

  network_config {
    enable_private_nodes = true
  }

  node_config {
    machine_type      = var.system.machine_type
    image_type        = "COS_CONTAINERD"
    disk_size_gb      = var.system.disk_gib
    disk_type         = "pd-balanced"
    boot_disk_kms_key = var.disks_key_id
    service_account   = var.service_account
    oauth_scopes      = local.oauth_scopes
    labels            = { "saccade.dev/pool" = "system" }
    resource_labels   = merge(var.labels, { pool = "system" })
    tags              = [var.node_tag]
    metadata          = local.metadata

    gcfs_config {
      enabled = true
    }

    gvnic {
      enabled = true
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }

    shielded_instance_config {
      enable_integrity_monitoring = true
      enable_secure_boot          = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  lifecycle {
    # The autoscaler's business after the pool is made.
    ignore_changes = [initial_node_count]
  }
}

resource "google_container_node_pool" "gpu" {
  for_each = var.pools

  name               = each.key
  project            = var.project
  location           = var.region
  cluster            = var.cluster
  node_locations     = each.value.zones
  initial_node_count = 0 # per zone, so that 1 would start three; the autoscaler starts what is wanted

  # Totals over the zones, as the contract counts nodes.
  autoscaling {
    total_min_node_count = each.value.min_nodes
    total_max_node_count = each.value.max_nodes
    # A spot or reserved GPU is taken where there is one.
    location_policy = each.value.capacity == "on_demand" ? "BALANCED" : "ANY"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  # A new node before the old one goes needs a GPU more than the pool has: quotas rarely have one to spare.
  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = var.surge_nodes
    max_unavailable = var.surge_nodes > 0 ? 0 : 1
  }

  network_config {
    enable_private_nodes = true
  }

  node_config {
    machine_type      = each.value.machine_type
    image_type        = "COS_CONTAINERD"
    disk_size_gb      = each.value.disk_gib
    disk_type         = startswith(each.value.machine_type, "a3-") ? "pd-ssd" : "pd-balanced"
    boot_disk_kms_key = var.disks_key_id
    service_account   = var.service_account
    oauth_scopes      = local.oauth_scopes
    spot              = each.value.capacity == "spot"
    labels            = each.value.labels
    resource_labels   = merge(var.labels, { pool = each.key })
    tags              = [var.node_tag]
    metadata          = local.metadata

    guest_accelerator {
      type               = each.value.gke_accelerator
      count              = each.value.gpus_per_node
      gpu_partition_size = each.value.sharing == "mig" ? each.value.mig_profile : null

      gpu_driver_installation_config {
        gpu_driver_version = var.gpu_driver_version
      }

      dynamic "gpu_sharing_config" {
        for_each = each.value.sharing == "time_slicing" ? [each.value.parts_per_gpu] : []

        content {
          gpu_sharing_strategy       = "TIME_SHARING"
          max_shared_clients_per_gpu = gpu_sharing_config.value
        }
      }
    }

    dynamic "taint" {
      for_each = each.value.taints

      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = local.taint_effects[taint.value.effect]
      }
    }

    dynamic "reservation_affinity" {
      for_each = each.value.capacity == "reservation" ? [each.value.reservation] : []

      content {
        consume_reservation_type = "SPECIFIC_RESERVATION"
        key                      = "compute.googleapis.com/reservation-name"
        values                   = [reservation_affinity.value]
      }
    }

    # Machines that come with local SSDs keep images, logs and emptyDirs on them.
    dynamic "ephemeral_storage_local_ssd_config" {
      for_each = [for count in [lookup(local.local_ssds, each.value.machine_type, 0)] : count if count > 0]

      content {
        local_ssd_count = ephemeral_storage_local_ssd_config.value
      }
    }

    # Image streaming: a container starts while its gigabytes of CUDA and TensorRT still come.
    gcfs_config {
      enabled = true
    }

    gvnic {
      enabled = true
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }

    shielded_instance_config {
      enable_integrity_monitoring = true
      enable_secure_boot          = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  timeouts {
    create = "45m"
    update = "60m"
    delete = "45m"
  }

  lifecycle {
    ignore_changes = [initial_node_count]

    precondition {
      condition     = each.value.gke_accelerator != null
      error_message = "pools.${each.key}.machine_type is ${each.value.machine_type}, whose GPU ${each.value.gpu} has no name on GKE; write a type with an L4 (g2-standard-*), an A100 (a2-highgpu-*, a2-ultragpu-*) or an H100 (a3-highgpu-*)."
    }
  }
}

locals {
  # What the service account may do is IAM's to say, not the scopes'.
  oauth_scopes = ["https://www.googleapis.com/auth/cloud-platform"]
  metadata     = { disable-legacy-endpoints = "true" }

  # Local SSDs that are part of the machine type, and have to be said:
  # https://cloud.google.com/compute/docs/disks/local-ssd#lssd_disks_fixed
  local_ssds = {
    a2-ultragpu-1g = 1
    a2-ultragpu-2g = 2
    a2-ultragpu-4g = 4
    a2-ultragpu-8g = 8
    a3-highgpu-1g  = 2
    a3-highgpu-2g  = 4
    a3-highgpu-4g  = 8
    a3-highgpu-8g  = 16
  }

  # Kubernetes' words to GKE's.
  taint_effects = {
    NoSchedule       = "NO_SCHEDULE"
    PreferNoSchedule = "PREFER_NO_SCHEDULE"
    NoExecute        = "NO_EXECUTE"
  }
}
