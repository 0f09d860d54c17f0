# With Terraform's own mocks; tests/terraform looks closer, and at what the charts render.
mock_provider "helm" {}

variables {
  platform = {
    version   = 1
    cloud     = "gcp"
    name      = "vision"
    region    = "europe-west4"
    tags      = { cluster = "vision" }
    namespace = "vision"
    cluster = {
      name                       = "vision"
      endpoint                   = "https://gke-0123.europe-west4.gke.goog"
      certificate_authority_data = ""
    }
    pools            = { gpu = { capacity = "on_demand" } }
    service_accounts = {}
    gpu_sharing      = { needs_mig_manager = false, device_plugin_configs = {} }
    registry         = { host = "europe-west4-docker.pkg.dev" }
    ingress = {
      service_type        = "LoadBalancer"
      service_annotations = { "networking.gke.io/load-balancer-type" = "Internal" }
    }
  }
}

run "gke_needs_neither_plugin_nor_autoscaler" {
  command = plan

  assert {
    condition     = output.gpu_stack == "managed" && length(setintersection(keys(output.releases), ["nvidia-device-plugin", "gpu-operator", "cluster-autoscaler"])) == 0
    error_message = join(", ", keys(output.releases))
  }

  assert {
    condition     = length(setsubtract(["cert-manager", "knative-operator", "platform", "knative-ready", "kserve-crd", "kserve-resources"], keys(output.releases))) == 0
    error_message = join(", ", keys(output.releases))
  }
}

run "the_model_comes_with_its_values_alone" {
  command = plan

  variables {
    saccade = {}
  }

  expect_failures = [var.helm_values]
}

run "a_contract_of_another_version" {
  command = plan

  variables {
    platform = {
      version          = 2
      cloud            = "gcp"
      name             = "vision"
      region           = "europe-west4"
      tags             = {}
      namespace        = "vision"
      cluster          = { name = "vision", endpoint = "https://gke-0123.europe-west4.gke.goog", certificate_authority_data = "" }
      pools            = {}
      service_accounts = {}
      gpu_sharing      = { needs_mig_manager = false, device_plugin_configs = {} }
      registry         = { host = "europe-west4-docker.pkg.dev" }
      ingress          = { service_type = "ClusterIP", service_annotations = {} }
    }
  }

  expect_failures = [var.platform]
}

run "longer_than_knative_lets_a_request_take" {
  command = plan

  variables {
    request_timeout_s = 900
  }

  expect_failures = [var.request_timeout_s]
}
