mock_provider "google" {}

variables {
  name    = "my-project-vision"
  project = "my-project"
  region  = "europe-west4"
  key_id  = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/storage"
}

run "buckets_are_private_versioned_and_encrypted" {
  command = plan

  assert {
    condition = alltrue([for bucket in google_storage_bucket.this : (
      bucket.public_access_prevention == "enforced" && bucket.uniform_bucket_level_access && bucket.versioning[0].enabled
      && bucket.encryption[0].default_kms_key_name == var.key_id && !bucket.force_destroy
    )])
    error_message = "models and plans are nobody else's"
  }

  assert {
    condition     = output.models.uri == "gs://my-project-vision-models" && output.plans.bucket == "my-project-vision-plans"
    error_message = output.models.uri
  }
}

run "a_replaced_model_is_kept_for_a_while" {
  command = plan

  assert {
    condition = alltrue([for bucket in google_storage_bucket.this : anytrue([
      for rule in bucket.lifecycle_rule : one(rule.action).type == "Delete" && one(rule.condition).num_newer_versions == 2
      && one(rule.condition).with_state == "ARCHIVED"
    ])])
    error_message = "only versions that were replaced go, and never the last two"
  }
}

run "a_name_that_google_keeps_for_itself" {
  command = plan
  variables { name = "google-vision" }
  expect_failures = [var.name]
}

run "a_name_that_is_too_long" {
  command = plan
  variables { name = "a-name-of-more-than-fifty-six-characters-is-too-long-for-it" }
  expect_failures = [var.name]
}

run "models_that_cannot_be_taken_back" {
  command = plan
  variables { noncurrent_days = 0 }
  expect_failures = [var.noncurrent_days]
}

run "deleted_objects_kept_for_three_days" {
  command = plan
  variables { soft_delete_days = 3 }
  expect_failures = [var.soft_delete_days]
}
