# With Terraform's own mocks, so that it runs with the real provider as well; tests/terraform looks closer.
mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }

  mock_data "google_compute_machine_types" {
    defaults = { machine_types = [{ name = "g2-standard-8" }] }
  }
}

variables {
  project = "my-project"
  name    = "vision"
  region  = "europe-west4"
  zones   = ["europe-west4-a", "europe-west4-b"]
  pools   = { gpu = { machine_type = "g2-standard-8" } }
}

run "two_replicas_and_room_for_a_new_revision" {
  command = plan

  assert {
    condition     = output.sizes.replicas_min == 2 && output.sizes.replicas_max == 2 && output.quotas_needed["NVIDIA_L4_GPUS"].units == 4
    error_message = jsonencode(output.sizes)
  }

  assert {
    condition     = output.cost.missing == tolist(["gcp/europe-west4/g2-standard-8/on_demand"])
    error_message = "a price that nobody gave is not invented"
  }
}

run "without_a_domain_there_is_no_public_address" {
  command = plan

  assert {
    condition     = length(module.ingress) == 0 && length(output.dns_records) == 0
    error_message = "the load balancer is internal"
  }

  assert {
    condition     = output.configure_kubectl == "gcloud container clusters get-credentials vision --project my-project --region europe-west4 --internal-ip"
    error_message = output.configure_kubectl
  }
}

run "a_budget_watches_this_cluster" {
  command = plan
  variables { budget = { billing_account = "000000-000000-000000", monthly = 2000 } }

  assert {
    condition     = google_billing_budget.this[0].budget_filter[0].labels == tomap({ cluster = "vision" })
    error_message = "the project may hold other things"
  }

  assert {
    condition     = contains(keys(google_project_service.this), "billingbudgets")
    error_message = "the API of budgets has to be on"
  }
}

run "images_are_streamed_by_an_api_of_its_own" {
  command = plan

  assert {
    condition     = contains(keys(google_project_service.this), "containerfilesystem")
    error_message = "nodes with gcfs_config would pull whole images without it"
  }
}

run "apis_stay_on" {
  command = plan

  assert {
    condition     = alltrue([for api in google_project_service.this : !api.disable_on_destroy])
    error_message = "others in the project may use them"
  }
}

run "a_budget_of_half_a_dollar" {
  command = plan
  variables { budget = { billing_account = "000000-000000-000000", monthly = 0.5 } }
  expect_failures = [var.budget]
}

run "a_project_by_its_name" {
  command = plan
  variables { project = "My Project" }
  expect_failures = [var.project]
}
