output "url" {
  description = "What stands before an image's name: REGION-docker.pkg.dev/PROJECT/REPOSITORY."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.this.name}"
}

output "host" {
  description = "The registry's host, for `gcloud auth configure-docker` and Knative's registries-skipping-tag-resolving."
  value       = "${var.region}-docker.pkg.dev"
}
