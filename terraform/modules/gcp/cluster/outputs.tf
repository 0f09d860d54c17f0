output "id" {
  description = "The cluster's id, projects/PROJECT/locations/REGION/clusters/NAME."
  value       = google_container_cluster.this.id
}

output "name" {
  description = "The cluster's name."
  value       = google_container_cluster.this.name
}

output "endpoint" {
  description = "URL of the Kubernetes API: of the DNS endpoint where it is open, else of the address."
  value = (
    var.endpoint.dns
    ? "https://${trimprefix(google_container_cluster.this.control_plane_endpoints_config[0].dns_endpoint_config[0].endpoint, "https://")}"
    : "https://${google_container_cluster.this.endpoint}"
  )
}

output "ca_certificate" {
  description = "PEM of the authority that signed the API's certificate, base64; empty for the DNS endpoint, which has a public one."
  value       = var.endpoint.dns ? "" : google_container_cluster.this.master_auth[0].cluster_ca_certificate
}

output "version" {
  description = "Version of the control plane."
  value       = google_container_cluster.this.master_version
}

output "workload_pool" {
  description = "The identity pool of the cluster's service accounts."
  value       = "${var.project}.svc.id.goog"
  depends_on  = [google_container_cluster.this]
}

output "node_service_account" {
  description = "Email and member of the account that nodes run as."

  value = {
    email  = google_service_account.nodes.email
    member = google_service_account.nodes.member
  }

  depends_on = [google_project_iam_member.nodes]
}
