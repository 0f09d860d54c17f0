# What becomes of a pool.

variables {
  cloud  = "aws"
  name   = "vision"
  region = "eu-central-1"
  zones  = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

run "slices_of_an_a10g_are_a_class_of_their_own" {
  command = plan
  variables {
    pools  = { shared = { machine_type = "g5.4xlarge", sharing = "time_slicing", replicas_per_gpu = 4 } }
    sizing = { max_replicas = 8, redundancy = 4 }
  }
  assert {
    condition     = output.pools["shared"].labels["nvidia.com/device-plugin.config"] == "a10g-slices4"
    error_message = jsonencode(output.pools["shared"].labels)
  }
  assert {
    condition     = output.pools["shared"].resource == "nvidia.com/gpu.shared" && output.serving.node_selector["saccade.dev/gpu-class"] == "a10g-slices4"
    error_message = jsonencode(output.serving)
  }
  assert {
    condition     = output.pools["shared"].min_nodes == 1 && output.pools["shared"].max_nodes == 2
    error_message = "four replicas fit onto a node, eight onto two"
  }
}

run "instances_of_an_a100_are_asked_for_by_their_profile" {
  command = plan
  variables {
    pools  = { mig = { machine_type = "p4d.24xlarge", sharing = "mig:3g.20gb" } }
    sizing = { max_replicas = 16, redundancy = 16 }
  }
  assert {
    condition     = output.pools["mig"].labels["nvidia.com/mig.config"] == "all-3g.20gb" && output.pools["mig"].resource == "nvidia.com/mig-3g.20gb"
    error_message = jsonencode(output.pools["mig"])
  }
  assert {
    condition     = output.pools["mig"].replicas_per_node == 16 && output.pools["mig"].max_nodes == 2
    error_message = jsonencode(output.pools["mig"])
  }
}

run "an_h100_on_gke_is_a_spot_machine_or_eight_of_them" {
  command = plan
  variables {
    cloud  = "gcp"
    region = "europe-west4"
    zones  = ["europe-west4-a", "europe-west4-b"]
    pools = {
      spot   = { machine_type = "a3-highgpu-1g", capacity = "spot", min_nodes = 0, fallback = "steady", sharing = "mig:1g.20gb" }
      steady = { machine_type = "a3-highgpu-8g", sharing = "mig:1g.20gb" }
    }
  }
  assert {
    condition     = output.pools["spot"].capacity == "spot" && output.pools["steady"].parts_per_gpu == 4
    error_message = jsonencode(output.pools)
  }
}

run "gke_calls_every_part_of_a_gpu_the_same" {
  command = plan
  variables {
    cloud  = "gcp"
    region = "europe-west4"
    zones  = ["europe-west4-a", "europe-west4-b"]
    pools  = { mig = { machine_type = "a2-highgpu-1g", sharing = "mig:3g.20gb" } }
  }
  assert {
    condition     = output.pools["mig"].resource == "nvidia.com/gpu" && !contains(keys(output.pools["mig"].labels), "nvidia.com/mig.config")
    error_message = jsonencode(output.pools["mig"])
  }
  assert {
    condition     = output.pools["mig"].gke_accelerator == "nvidia-tesla-a100"
    error_message = jsonencode(output.pools["mig"])
  }
}

run "spot_nodes_and_their_fallback_serve_together" {
  command = plan
  variables {
    pools = {
      spot   = { machine_type = "g6.xlarge", capacity = "spot", min_nodes = 0, fallback = "steady" }
      steady = { machine_type = "g6.2xlarge" }
    }
    sizing = { max_replicas = 3 }
  }
  assert {
    condition     = output.serving.pool == "spot" && toset(output.serving.pools) == toset(["spot", "steady"])
    error_message = jsonencode(output.serving)
  }
  assert {
    condition     = output.pools["steady"].min_nodes == 0 && output.pools["steady"].max_nodes == 4
    error_message = jsonencode(output.pools["steady"])
  }
  assert {
    condition     = output.quotas_needed["L-3819A6DF"].units == 16 && output.quotas_needed["L-DB2E81BA"].units == 32
    error_message = jsonencode(output.quotas_needed)
  }
}

run "a_pool_is_where_its_machines_are_offered" {
  command = plan
  variables {
    pools         = { gpu = { machine_type = "g5.xlarge" } }
    offered_zones = { "g5.xlarge" = ["eu-central-1b", "eu-central-1a", "eu-central-1z"] }
  }
  assert {
    condition     = join(",", output.pools["gpu"].zones) == "eu-central-1a,eu-central-1b"
    error_message = jsonencode(output.pools["gpu"].zones)
  }
}

run "subnets_lie_in_the_network_and_apart" {
  command = plan
  variables {
    pools   = { gpu = { machine_type = "g5.xlarge" } }
    zones   = ["eu-central-1a", "eu-central-1b", "eu-central-1c", "eu-central-1d"]
    network = { cidr = "10.20.0.0/18", reserved_cidrs = ["10.20.64.0/18", "192.168.0.0/16"] }
  }
  assert {
    condition = [for zone in ["a", "b", "c", "d"] : output.network.private_subnets["eu-central-1${zone}"]] == [
      "10.20.0.0/20", "10.20.16.0/20", "10.20.32.0/20", "10.20.56.0/21"
    ]
    error_message = jsonencode(output.network)
  }
  assert {
    condition = [for zone in ["a", "b", "c", "d"] : output.network.public_subnets["eu-central-1${zone}"]] == [
      "10.20.48.0/24", "10.20.49.0/24", "10.20.50.0/24", "10.20.51.0/24"
    ]
    error_message = jsonencode(output.network)
  }
  assert {
    condition     = output.network.proxy_subnet == "10.20.48.0/24" && output.network.control_plane == "10.20.49.0/28"
    error_message = jsonencode(output.network)
  }
}

run "without_a_price_there_is_no_sum" {
  command = plan
  variables {
    pools = { gpu = { machine_type = "g5.xlarge" } }
  }
  assert {
    condition     = output.cost.pools["gpu"] == "no price for aws/eu-central-1/g5.xlarge/on_demand" && output.cost.at_min == null
    error_message = jsonencode(output.cost)
  }
}

run "a_months_price_is_that_of_its_hours" {
  command = plan
  variables {
    pools       = { gpu = { machine_type = "g5.xlarge" } }
    prices_file = "tests/made-up-prices.json"
  }
  assert {
    condition     = output.cost.at_min == 2920 && output.cost.at_max == 5840
    error_message = jsonencode(output.cost)
  }
  assert {
    condition     = output.cost.pools["gpu"] == "2920.00 to 5840.00 XXX a month (2 to 4 nodes at 2.0000 an hour)"
    error_message = jsonencode(output.cost)
  }
}
