mock_provider "google" {}

variables {
  name             = "vision"
  project          = "my-project"
  workload_pool    = "my-project.svc.id.goog"
  namespace        = "vision"
  service_accounts = { reader = "saccade", builder = "saccade-builder" }
  buckets          = { models = "my-models", plans = "my-plans" }
}

run "readers_read_and_the_builder_writes_plans_alone" {
  command = plan

  assert {
    condition = alltrue([for grant in google_storage_bucket_iam_member.read : grant.role == "roles/storage.objectViewer"]) && (
      google_storage_bucket_iam_member.write_plans.bucket == "my-plans" && google_storage_bucket_iam_member.write_plans.role == "roles/storage.objectUser"
    )
    error_message = "models are written by people, not by the cluster"
  }

  assert {
    condition     = google_service_account_iam_member.workload_identity["reader"].member == "serviceAccount:my-project.svc.id.goog[vision/saccade]"
    error_message = google_service_account_iam_member.workload_identity["reader"].member
  }
}

run "one_account_for_both" {
  command = plan
  variables { service_accounts = { reader = "saccade", builder = "saccade" } }
  expect_failures = [var.service_accounts]
}

run "a_name_too_long_for_a_service_account" {
  command = plan
  variables { name = "a-name-of-twenty-three-" }
  expect_failures = [var.name]
}

run "a_namespace_that_is_none" {
  command = plan
  variables { namespace = "Vision" }
  expect_failures = [var.namespace]
}
