# A regional, VPC-native, private GKE cluster without node pools (node-pools has them), and the service account that
# its nodes run as.

resource "google_service_account" "nodes" {
  account_id   = "${var.name}-nodes"
  project      = var.project
  display_name = "Nodes of ${var.name}"
  description  = "What a node may do: write logs and metrics, and pull images. Pods have accounts of their own."
}

# Logs, metrics and their metadata: the role that Google keeps for nodes. And image streaming, whose quota a node uses.
resource "google_project_iam_member" "nodes" {
  for_each = toset(["container.defaultNodeServiceAccount", "serviceusage.serviceUsageConsumer"])

  project = var.project
  role    = "roles/${each.key}"
  member  = google_service_account.nodes.member
}

resource "google_container_cluster" "this" {
  # checkov:skip=CKV_GCP_12: Dataplane V2 enforces NetworkPolicies; the add-on that this looks for is for the older datapath
  # checkov:skip=CKV_GCP_21: labels are given; the check does not follow variables
  # checkov:skip=CKV_GCP_65: var.rbac_security_group, where the organisation has such a group
  # checkov:skip=CKV_GCP_66: var.binary_authorization, where the project has a policy
  name                = var.name
  project             = var.project
  location            = var.region
  node_locations      = var.zones
  description         = "Saccade: computer-vision models on KServe"
  deletion_protection = var.deletion_protection
  resource_labels     = var.labels

  network         = var.network_id
  subnetwork      = var.subnetwork_id
  networking_mode = "VPC_NATIVE"

  # Cilium: NetworkPolicies of the chart are enforced, and what they drop is logged.
  datapath_provider           = "ADVANCED_DATAPATH"
  enable_intranode_visibility = true
  enable_shielded_nodes       = true
  enable_legacy_abac          = false

  # Google makes one pool with every cluster; it goes, and the pools of node-pools come.
  remove_default_node_pool = true
  initial_node_count       = 1

  min_master_version = var.kubernetes_version

  node_config {
    service_account   = google_service_account.nodes.email
    oauth_scopes      = ["https://www.googleapis.com/auth/cloud-platform"]
    boot_disk_kms_key = var.disks_key_id
    image_type        = "COS_CONTAINERD"
    labels            = { "saccade.dev/pool" = "removed-at-once" }
    tags              = [var.node_tag]
    resource_labels   = var.labels

    shielded_instance_config {
      enable_integrity_monitoring = true
      enable_secure_boot          = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  release_channel {
    channel = var.release_channel
  }

  ip_allocation_policy {
    cluster_secondary_range_name  = var.pods_range_name
    services_secondary_range_name = var.services_range_name
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = !var.endpoint.public
    master_ipv4_cidr_block  = var.control_plane_cidr

    # A VPN's or interconnect's other end may be in another region.
    master_global_access_config {
      enabled = true
    }
  }

  # The DNS endpoint is open to IAM alone, not to addresses: off unless asked for.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = var.endpoint.dns
    }

    ip_endpoints_config {
      enabled = true
    }
  }

  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled      = false
    private_endpoint_enforcement_enabled = true

    dynamic "cidr_blocks" {
      for_each = var.endpoint.allowed_cidrs

      content {
        cidr_block = cidr_blocks.value
      }
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }

  dynamic "authenticator_groups_config" {
    for_each = var.rbac_security_group == null ? [] : [var.rbac_security_group]

    content {
      security_group = authenticator_groups_config.value
    }
  }

  # Kubernetes' secrets in etcd, before Google's own encryption of its disks.
  database_encryption {
    state    = "ENCRYPTED"
    key_name = var.secrets_key_id
  }

  # ingress' load balancer is made from a Gateway by GKE's own controller.
  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  addons_config {
    http_load_balancing {
      disabled = false
    }

    horizontal_pod_autoscaling {
      disabled = false
    }

    gce_persistent_disk_csi_driver_config {
      enabled = true
    }

    dns_cache_config {
      enabled = true
    }
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER"]
  }

  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER", "DCGM"]

    managed_prometheus {
      enabled = true
    }
  }

  cost_management_config {
    enabled = true
  }

  security_posture_config {
    mode               = "BASIC"
    vulnerability_mode = "VULNERABILITY_DISABLED" # the registry scans images
  }

  binary_authorization {
    evaluation_mode = var.binary_authorization ? "PROJECT_SINGLETON_POLICY_ENFORCE" : "DISABLED"
  }

  node_pool_defaults {
    node_config_defaults {
      insecure_kubelet_readonly_port_enabled = "FALSE"
      logging_variant                        = "DEFAULT"
    }
  }

  maintenance_policy {
    recurring_window {
      start_time = var.maintenance_window.start_time
      end_time   = var.maintenance_window.end_time
      recurrence = var.maintenance_window.recurrence
    }
  }

  timeouts {
    create = "60m"
    update = "60m"
    delete = "60m"
  }

  lifecycle {
    # The pool that this block describes is removed at once; a release channel moves the version by itself.
    ignore_changes = [node_config, initial_node_count, min_master_version]
  }
}
