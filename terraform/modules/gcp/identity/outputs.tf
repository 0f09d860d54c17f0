output "annotations" {
  description = "Annotations of the Kubernetes service accounts, by reader and builder."

  value = {
    for name, account in google_service_account.this : name => { "iam.gke.io/gcp-service-account" = account.email }
  }

  depends_on = [google_service_account_iam_member.workload_identity]
}

output "emails" {
  description = "Emails of the Google service accounts, by reader and builder."
  value       = { for name, account in google_service_account.this : name => account.email }
}
