output "address" {
  description = "The load balancer's address, and its name for the Gateway."

  value = {
    ip   = google_compute_global_address.this.address
    name = google_compute_global_address.this.name
  }
}

output "certificate_map" {
  description = "Name of the certificate map, for the Gateway's annotation networking.gke.io/certmap."
  value       = google_certificate_manager_certificate_map.this.name
  depends_on  = [google_certificate_manager_certificate_map_entry.this]
}

output "ssl_policy" {
  description = "Name of the TLS policy, for a GCPGatewayPolicy."
  value       = google_compute_ssl_policy.this.name
}

output "security_policy" {
  description = "Name of the Cloud Armor policy, for a GCPBackendPolicy."
  value       = google_compute_security_policy.this.name
}

output "hostnames" {
  description = "Hosts of the Gateway's route."
  value       = [for host in values(local.hosts) : "*.${host}"]
}

output "records" {
  description = "DNS records to make where there is no dns_zone: of the certificates' authorizations, and of the hosts."

  value = concat(
    [for authorization in google_certificate_manager_dns_authorization.this : {
      name = authorization.dns_resource_record[0].name
      type = authorization.dns_resource_record[0].type
      data = authorization.dns_resource_record[0].data
    }],
    [for host in values(local.hosts) : {
      name = "*.${host}."
      type = "A"
      data = google_compute_global_address.this.address
    }],
  )
}
