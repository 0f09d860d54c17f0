mock_provider "google" {}

variables {
  name                = "vision"
  project             = "my-project"
  region              = "europe-west4"
  zones               = ["europe-west4-a", "europe-west4-b"]
  network_id          = "projects/my-project/global/networks/vision"
  subnetwork_id       = "projects/my-project/regions/europe-west4/subnetworks/vision-nodes"
  pods_range_name     = "pods"
  services_range_name = "services"
  control_plane_cidr  = "10.64.193.0/28"
  node_tag            = "vision-nodes"
  secrets_key_id      = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/secrets"
  disks_key_id        = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/disks"
}

run "the_endpoint_is_private" {
  command = plan

  assert {
    condition = (
      google_container_cluster.this.private_cluster_config[0].enable_private_endpoint
      && google_container_cluster.this.private_cluster_config[0].enable_private_nodes
      && length(google_container_cluster.this.master_authorized_networks_config[0].cidr_blocks) == 0
    )
    error_message = "nobody outside the subnet reaches it unless that is said"
  }

  assert {
    condition     = google_container_cluster.this.deletion_protection
    error_message = "a cluster is not destroyed by accident"
  }

  assert {
    condition     = google_container_cluster.this.datapath_provider == "ADVANCED_DATAPATH"
    error_message = "the chart's NetworkPolicies have to be enforced"
  }

  assert {
    condition     = google_container_cluster.this.workload_identity_config[0].workload_pool == "my-project.svc.id.goog"
    error_message = "pods have identities of their own"
  }

  assert {
    condition     = google_container_cluster.this.gateway_api_config[0].channel == "CHANNEL_STANDARD"
    error_message = "the load balancer comes from a Gateway"
  }

  assert {
    condition = toset([for granted in google_project_iam_member.nodes : granted.role]) == toset([
      "roles/container.defaultNodeServiceAccount", "roles/serviceusage.serviceUsageConsumer"
    ])
    error_message = "logs and metrics; and the quota that image streaming uses"
  }
}

run "a_public_endpoint_is_for_some_alone" {
  command = plan
  variables { endpoint = { public = true, allowed_cidrs = ["203.0.113.0/24"] } }

  assert {
    condition = (
      google_container_cluster.this.private_cluster_config[0].enable_private_endpoint == false
      && one(google_container_cluster.this.master_authorized_networks_config[0].cidr_blocks).cidr_block == "203.0.113.0/24"
    )
    error_message = "who may reach it is a list"
  }
}

run "a_public_endpoint_for_everybody" {
  command = plan
  variables { endpoint = { public = true, allowed_cidrs = ["0.0.0.0/0"] } }
  expect_failures = [var.endpoint]
}

run "a_public_endpoint_without_a_list" {
  command = plan
  variables { endpoint = { public = true } }
  expect_failures = [var.endpoint]
}

run "a_zone_of_another_region" {
  command = plan
  variables { zones = ["europe-west1-b"] }
  expect_failures = [var.zones]
}

run "a_version_before_knative_s" {
  command = plan
  variables { kubernetes_version = "1.32" }
  expect_failures = [var.kubernetes_version]
}

run "a_channel_that_is_none" {
  command = plan
  variables { release_channel = "FAST" }
  expect_failures = [var.release_channel]
}

run "a_name_too_long_for_its_service_account" {
  command = plan
  variables { name = "a-name-of-twenty-five-let" }
  expect_failures = [var.name]
}

run "a_group_of_another_name" {
  command = plan
  variables { rbac_security_group = "admins@example.org" }
  expect_failures = [var.rbac_security_group]
}
