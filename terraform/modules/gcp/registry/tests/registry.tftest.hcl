mock_provider "google" {}

variables {
  name    = "vision"
  project = "my-project"
  region  = "europe-west4"
  key_id  = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/registry"
  readers = { nodes = "serviceAccount:vision-nodes@my-project.iam.gserviceaccount.com" }
}

run "a_tag_stays_where_it_is" {
  command = plan

  assert {
    condition     = google_artifact_registry_repository.this.docker_config[0].immutable_tags && google_artifact_registry_repository.this.kms_key_name == var.key_id
    error_message = "Knative does not resolve these tags, so they must not move"
  }

  assert {
    condition     = google_artifact_registry_repository_iam_member.readers["nodes"].role == "roles/artifactregistry.reader"
    error_message = "nodes read"
  }
}

run "images_for_everybody" {
  command = plan
  variables { readers = { everybody = "allUsers" } }
  expect_failures = [var.readers]
}

run "no_version_to_go_back_to" {
  command = plan
  variables { keep_versions = 1 }
  expect_failures = [var.keep_versions]
}

run "untagged_images_gone_at_once" {
  command = plan
  variables { untagged_days = 0 }
  expect_failures = [var.untagged_days]
}
