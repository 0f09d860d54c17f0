output "network_id" {
  description = "The network's id, projects/PROJECT/global/networks/NAME."
  value       = google_compute_network.this.id
}

output "subnetwork_id" {
  description = "The subnet's id."
  value       = google_compute_subnetwork.nodes.id
}

output "pods_range_name" {
  description = "Name of the secondary range of pods."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[0].range_name
}

output "services_range_name" {
  description = "Name of the secondary range of Kubernetes services."
  value       = google_compute_subnetwork.nodes.secondary_ip_range[1].range_name
}

output "node_tag" {
  description = "Network tag that nodes carry, so that the firewall rules reach them."
  value       = local.node_tag
}

output "managed_services_range" {
  description = "Name of the range of Google's managed services, once the peering stands; null without one."
  value       = one(google_compute_global_address.services[*].name)
  depends_on  = [google_service_networking_connection.services]
}

output "nat" {
  description = "Name of the NAT; what needs the internet while it starts depends on it."
  value       = google_compute_router_nat.this.name
}
