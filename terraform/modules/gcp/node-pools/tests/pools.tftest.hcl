mock_provider "google" {}

variables {
  project         = "my-project"
  region          = "europe-west4"
  zones           = ["europe-west4-a", "europe-west4-b"]
  cluster         = "projects/my-project/locations/europe-west4/clusters/vision"
  service_account = "vision-nodes@my-project.iam.gserviceaccount.com"
  disks_key_id    = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/disks"
  node_tag        = "vision-nodes"
  pools = {
    gpu = {
      machine_type    = "g2-standard-8"
      gpu             = "L4"
      gke_accelerator = "nvidia-l4"
      gpus_per_node   = 1
      sharing         = "none"
      mig_profile     = ""
      parts_per_gpu   = 1
      min_nodes       = 1
      max_nodes       = 4
      capacity        = "on_demand"
      reservation     = ""
      disk_gib        = 200
      zones           = ["europe-west4-a"]
      labels          = { "saccade.dev/gpu-class" = "l4" }
      taints          = [{ key = "nvidia.com/gpu", value = "present", effect = "NoSchedule" }]
    }
  }
}

run "gke_installs_the_driver_and_keeps_others_away" {
  command = plan

  assert {
    condition     = google_container_node_pool.gpu["gpu"].node_config[0].guest_accelerator[0].gpu_driver_installation_config[0].gpu_driver_version == "LATEST"
    error_message = "without a driver no GPU appears"
  }

  assert {
    condition     = one(google_container_node_pool.gpu["gpu"].node_config[0].taint) == { key = "nvidia.com/gpu", value = "present", effect = "NO_SCHEDULE" }
    error_message = "what needs no GPU would take its place"
  }

  assert {
    condition     = length(google_container_node_pool.system.node_config[0].taint) == 0
    error_message = "Knative and KServe run on the system pool"
  }

  assert {
    condition     = google_container_node_pool.gpu["gpu"].upgrade_settings[0].max_surge == 0 && google_container_node_pool.gpu["gpu"].upgrade_settings[0].max_unavailable == 1
    error_message = "an upgrade has to get by with the pool's GPUs"
  }
}

run "machines_with_local_ssds_use_them" {
  command = plan
  variables {
    pools = {
      h100 = {
        machine_type    = "a3-highgpu-8g"
        gpu             = "H100-80GB"
        gke_accelerator = "nvidia-h100-80gb"
        gpus_per_node   = 8
        sharing         = "none"
        mig_profile     = ""
        parts_per_gpu   = 1
        min_nodes       = 0
        max_nodes       = 1
        capacity        = "reservation"
        reservation     = "h100s"
        disk_gib        = 200
        zones           = ["europe-west4-a"]
        labels          = {}
        taints          = []
      }
    }
  }

  assert {
    condition     = google_container_node_pool.gpu["h100"].node_config[0].ephemeral_storage_local_ssd_config[0].local_ssd_count == 16
    error_message = "GKE refuses the machine type without its SSDs"
  }
}

run "an_upgrade_with_a_gpu_to_spare" {
  command = plan
  variables { surge_nodes = 1 }

  assert {
    condition     = google_container_node_pool.gpu["gpu"].upgrade_settings[0].max_surge == 1 && google_container_node_pool.gpu["gpu"].upgrade_settings[0].max_unavailable == 0
    error_message = "a new node comes before the old one goes"
  }
}

run "a_gpu_that_gke_has_no_name_for" {
  command = plan
  variables {
    pools = {
      gpu = {
        machine_type  = "g4dn.xlarge", gpu = "T4", gke_accelerator = null, gpus_per_node = 1, sharing = "none", mig_profile = "",
        parts_per_gpu = 1, min_nodes = 0, max_nodes = 1, capacity = "on_demand", reservation = "", disk_gib = 200,
        zones         = ["europe-west4-a"], labels = {}, taints = []
      }
    }
  }
  expect_failures = [google_container_node_pool.gpu]
}

run "a_driver_that_gke_does_not_install" {
  command = plan
  variables { gpu_driver_version = "INSTALLATION_DISABLED" }
  expect_failures = [var.gpu_driver_version]
}

run "half_a_node" {
  command = plan
  variables { surge_nodes = 0.5 }
  expect_failures = [var.surge_nodes]
}
