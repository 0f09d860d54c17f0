output "models" {
  description = "Bucket of the models: its name, and its gs:// URI."

  value = {
    bucket = google_storage_bucket.this["models"].name
    uri    = "gs://${google_storage_bucket.this["models"].name}"
  }
}

output "plans" {
  description = "Bucket of the engine plans: its name, and its gs:// URI."

  value = {
    bucket = google_storage_bucket.this["plans"].name
    uri    = "gs://${google_storage_bucket.this["plans"].name}"
  }
}
