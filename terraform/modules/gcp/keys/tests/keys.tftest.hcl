mock_provider "google" {}

variables {
  key_ring_name  = "vision"
  project        = "my-project"
  project_number = "123456789012"
  region         = "europe-west4"
}

run "each_key_is_one_service_s" {
  command = plan

  assert {
    condition = { for name, member in google_kms_crypto_key_iam_member.this : name => member.member } == {
      secrets  = "serviceAccount:service-123456789012@container-engine-robot.iam.gserviceaccount.com"
      disks    = "serviceAccount:service-123456789012@compute-system.iam.gserviceaccount.com"
      storage  = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
      registry = "serviceAccount:service-123456789012@gcp-sa-artifactregistry.iam.gserviceaccount.com"
    }
    error_message = jsonencode({ for name, member in google_kms_crypto_key_iam_member.this : name => member.member })
  }

  assert {
    condition     = alltrue([for key in google_kms_crypto_key.this : key.rotation_period == "7776000s"])
    error_message = "keys get a new version every 90 days"
  }
}

run "the_cache_has_keys_of_its_own" {
  command = plan
  variables { cache = true }

  assert {
    condition     = google_kms_crypto_key_iam_member.this["cache"].member == "serviceAccount:service-123456789012@cloud-redis.iam.gserviceaccount.com"
    error_message = google_kms_crypto_key_iam_member.this["cache"].member
  }

  assert {
    condition     = google_kms_crypto_key_iam_member.this["cache-url"].member == "serviceAccount:service-123456789012@gcp-sa-secretmanager.iam.gserviceaccount.com"
    error_message = google_kms_crypto_key_iam_member.this["cache-url"].member
  }
}

run "a_key_that_is_never_rotated" {
  command = plan
  variables { rotation_days = 0 }
  expect_failures = [var.rotation_days]
}

run "a_key_that_is_gone_at_once" {
  command = plan
  variables { destroy_scheduled_days = 0 }
  expect_failures = [var.destroy_scheduled_days]
}

run "a_key_ring_with_a_space" {
  command = plan
  variables { key_ring_name = "my ring" }
  expect_failures = [var.key_ring_name]
}
