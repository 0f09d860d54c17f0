mock_provider "google" {}

variables {
  name    = "vision"
  project = "my-project"
  region  = "europe-west4"
  cidrs = {
    nodes         = "10.64.0.0/18"
    pods          = "10.128.0.0/14"
    services      = "172.20.0.0/20"
    control_plane = "10.64.193.0/28"
  }
}

run "nodes_reach_out_through_the_nat_alone" {
  command = plan

  assert {
    condition     = google_compute_subnetwork.nodes.private_ip_google_access && google_compute_network.this.auto_create_subnetworks == false
    error_message = "nodes have no public address: Google's APIs have to be reached privately"
  }

  assert {
    condition     = one(google_compute_router_nat.this.subnetwork).secondary_ip_range_names == toset(["pods"])
    error_message = "pods pull images and charts through the NAT too"
  }
}

run "nobody_comes_in_but_the_control_plane_and_the_load_balancer" {
  command = plan

  assert {
    condition     = google_compute_firewall.webhooks.source_ranges == toset(["10.64.193.0/28"])
    error_message = "webhooks are the control plane's"
  }

  assert {
    condition     = google_compute_firewall.load_balancer.source_ranges == toset(["35.191.0.0/16", "130.211.0.0/22"])
    error_message = "these are Google's front ends"
  }

  assert {
    condition     = length(google_compute_global_address.services) == 0 && output.managed_services_range == null
    error_message = "without a range there is no peering"
  }
}

run "managed_services_get_their_range" {
  command = plan

  variables {
    cidrs = {
      nodes            = "10.64.0.0/18"
      pods             = "10.128.0.0/14"
      services         = "172.20.0.0/20"
      control_plane    = "10.64.193.0/28"
      managed_services = "10.64.64.0/20"
    }
  }

  assert {
    condition     = google_compute_global_address.services[0].address == "10.64.64.0" && google_compute_global_address.services[0].prefix_length == 20
    error_message = "${google_compute_global_address.services[0].address}/${google_compute_global_address.services[0].prefix_length}"
  }
}

run "a_range_that_is_none" {
  command = plan
  variables {
    cidrs = { nodes = "10.64.0.0", pods = "10.128.0.0/14", services = "172.20.0.0/20", control_plane = "10.64.193.0/28" }
  }
  expect_failures = [var.cidrs]
}

run "a_control_plane_of_another_size" {
  command = plan
  variables {
    cidrs = { nodes = "10.64.0.0/18", pods = "10.128.0.0/14", services = "172.20.0.0/20", control_plane = "10.64.193.0/24" }
  }
  expect_failures = [var.cidrs]
}

run "a_name_that_is_too_long" {
  command = plan
  variables { name = "a-name-of-more-than-forty-characters-is-too-long" }
  expect_failures = [var.name]
}
