# What would fail in the cluster is refused before it is asked. tests/terraform asserts the sentences.
mock_provider "helm" {}

variables {
  cloud = "aws"
}

run "a_cloud_that_is_none" {
  command = plan
  variables { cloud = "azure" }
  expect_failures = [var.cloud]
}

run "a_domain_with_a_wildcard" {
  command = plan
  variables { domain = "*.example.org" }
  expect_failures = [var.domain]
}

run "mig_with_the_plugin_alone" {
  command = plan
  variables {
    needs_mig_manager = true
    gpu_stack         = "device-plugin"
  }
  expect_failures = [var.gpu_stack]
}

run "a_second_plugin_on_gke" {
  command = plan
  variables {
    cloud     = "gcp"
    gpu_stack = "device-plugin"
  }
  expect_failures = [var.gpu_stack]
}

run "a_volume_of_a_few_bytes" {
  command = plan
  variables {
    cloud      = "gcp"
    monitoring = { install_prometheus = true, storage_gib = 1 }
  }
  expect_failures = [var.monitoring]
}

run "a_volume_of_no_class" {
  command = plan
  variables { monitoring = { install_prometheus = true, storage_gib = 50 } }
  expect_failures = [var.monitoring]
}

run "plugin_configs_without_a_default" {
  command = plan
  variables { device_plugin_configs = { a10g-slices4 = "version: v1" } }
  expect_failures = [var.device_plugin_configs]
}

run "a_registry_with_a_path" {
  command = plan
  variables { private_registries = ["https://registry.example.org/team"] }
  expect_failures = [var.private_registries]
}

run "a_gateway_on_aws" {
  command = plan
  variables {
    gateway = { address_name = "a", certificate_map = "c", ssl_policy = "s", security_policy = "p", hostnames = ["*.vision.example.org"] }
  }
  expect_failures = [var.gateway]
}

run "a_load_balancer_that_gives_up_before_the_model" {
  command = plan
  variables {
    cloud   = "gcp"
    gateway = { address_name = "a", certificate_map = "c", ssl_policy = "s", security_policy = "p", hostnames = ["*.vision.example.org"], timeout_s = 60 }
  }
  expect_failures = [var.gateway]
}

run "a_chart_that_is_not_installed" {
  command = plan
  variables { charts = { istio = { version = "1.27.1" } } }
  expect_failures = [var.charts]
}

run "values_that_are_no_map" {
  command = plan
  variables { values = { cert-manager = ["- a list"] } }
  expect_failures = [var.values]
}

run "too_little_time" {
  command = plan
  variables { timeout_s = 30 }
  expect_failures = [var.timeout_s]
}

run "a_target_group_without_its_controller" {
  command = plan
  variables { target_group = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/vision/0123456789abcdef" } }
  expect_failures = [var.target_group]
}

run "a_kind_of_service_that_is_none" {
  command = plan
  variables { ingress = { service_type = "Internal" } }
  expect_failures = [var.ingress]
}

run "helm_platform_from_a_registry_without_its_name_there" {
  command = plan
  variables { charts = { platform = { repository = "oci://registry.example.org/charts" } } }
  expect_failures = [var.charts]
}

run "a_scheme_that_is_none" {
  command = plan
  variables { external_scheme = "grpc" }
  expect_failures = [var.external_scheme]
}
