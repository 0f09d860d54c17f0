# One VPC, one subnet with GKE's secondary ranges, no way in from the internet, one NAT out.

resource "google_compute_network" "this" {
  name                            = var.name
  project                         = var.project
  description                     = "Saccade's cluster ${var.name}"
  auto_create_subnetworks         = false
  routing_mode                    = "REGIONAL"
  delete_default_routes_on_create = false
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "${var.name}-nodes"
  project                  = var.project
  region                   = var.region
  network                  = google_compute_network.this.id
  ip_cidr_range            = var.cidrs.nodes
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.cidrs.pods
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.cidrs.services
  }

  dynamic "log_config" {
    for_each = var.flow_logs ? [1] : []

    content {
      aggregation_interval = "INTERVAL_10_MIN"
      flow_sampling        = 0.5
      metadata             = "INCLUDE_ALL_METADATA"
    }
  }
}

resource "google_compute_router" "this" {
  name    = var.name
  project = var.project
  region  = var.region
  network = google_compute_network.this.id
}

# Images and NVIDIA's charts are pulled through it; with ports for pods that talk to one registry at a time.
resource "google_compute_router_nat" "this" {
  name                                = var.name
  project                             = var.project
  region                              = var.region
  router                              = google_compute_router.this.name
  nat_ip_allocate_option              = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat  = "LIST_OF_SUBNETWORKS"
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false
  min_ports_per_vm                    = 64

  subnetwork {
    name                     = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat  = ["PRIMARY_IP_RANGE", "LIST_OF_SECONDARY_IP_RANGES"]
    secondary_ip_range_names = ["pods"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# GKE opens only 443 and 10250 from the control plane: without this the webhooks of cert-manager, Knative and KServe
# time out, and every change of an InferenceService with them.
resource "google_compute_firewall" "webhooks" {
  name          = "${var.name}-webhooks"
  project       = var.project
  network       = google_compute_network.this.id
  description   = "The control plane reaches the webhooks of cert-manager, Knative and KServe"
  direction     = "INGRESS"
  source_ranges = [var.cidrs.control_plane]
  target_tags   = [local.node_tag]

  allow {
    protocol = "tcp"
    ports    = ["8443", "9443", "10250"]
  }

  dynamic "log_config" {
    for_each = var.firewall_logs ? [1] : []

    content {
      metadata = "INCLUDE_ALL_METADATA"
    }
  }
}

# Google's front ends and their health checks come from these two ranges, documented at
# https://cloud.google.com/load-balancing/docs/health-check-concepts#ip-ranges
resource "google_compute_firewall" "load_balancer" {
  name          = "${var.name}-load-balancer"
  project       = var.project
  network       = google_compute_network.this.id
  description   = "The HTTPS load balancer and its health checks reach Kourier"
  direction     = "INGRESS"
  source_ranges = ["35.191.0.0/16", "130.211.0.0/22"]
  target_tags   = [local.node_tag]

  allow {
    protocol = "tcp"
    ports    = ["8080", "8081", "8443"]
  }

  dynamic "log_config" {
    for_each = var.firewall_logs ? [1] : []

    content {
      metadata = "INCLUDE_ALL_METADATA"
    }
  }
}

# The range Google's managed services (Memorystore) get their addresses from.
resource "google_compute_global_address" "services" {
  count         = var.cidrs.managed_services == null ? 0 : 1
  name          = "${var.name}-managed-services"
  project       = var.project
  network       = google_compute_network.this.id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  address       = split("/", var.cidrs.managed_services)[0]
  prefix_length = tonumber(split("/", var.cidrs.managed_services)[1])
  labels        = var.labels
}

resource "google_service_networking_connection" "services" {
  count                   = var.cidrs.managed_services == null ? 0 : 1
  network                 = google_compute_network.this.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.services[0].name]
}

locals {
  node_tag = "${var.name}-nodes"
}
