output "secret_id" {
  description = "Id of the secret in Secret Manager whose value is the URL, for a Kubernetes Secret with the key `url`."
  value       = google_secret_manager_secret_version.url.secret
}

output "address" {
  description = "The instance's address, host:port."
  value       = "${google_redis_instance.this.host}:${google_redis_instance.this.port}"
}
