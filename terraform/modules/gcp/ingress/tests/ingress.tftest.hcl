mock_provider "google" {}

variables {
  name          = "vision"
  project       = "my-project"
  domain        = "example.org"
  namespaces    = ["vision", "trial"]
  allowed_cidrs = ["203.0.113.0/24"]
}

run "a_certificate_for_each_namespace" {
  command = plan

  assert {
    condition     = { for name, certificate in google_certificate_manager_certificate.this : name => certificate.managed[0].domains } == { vision = tolist(["*.vision.example.org"]), trial = tolist(["*.trial.example.org"]) }
    error_message = "a wildcard covers one label: *.example.org would not do for NAME.NAMESPACE.example.org"
  }

  assert {
    condition     = length(google_dns_record_set.wildcard) == 0 && length(google_dns_record_set.authorization) == 0
    error_message = "without a zone the records are made elsewhere"
  }
}

run "those_who_are_not_listed_are_denied" {
  command = plan

  assert {
    condition     = { for rule in google_compute_security_policy.this.rule : rule.priority => rule.action } == { "1000" = "allow", "2147483647" = "deny(403)" }
    error_message = jsonencode([for rule in google_compute_security_policy.this.rule : rule.action])
  }
}

run "more_than_ten_ranges_are_two_rules" {
  command = plan
  variables { allowed_cidrs = [for at in range(11) : "203.0.113.${at}/32"] }

  assert {
    condition     = keys({ for rule in google_compute_security_policy.this.rule : rule.priority => rule.action }) == ["1000", "1001", "2147483647"]
    error_message = "Cloud Armor takes ten ranges in a rule"
  }
}

run "nobody_was_said" {
  command = plan
  variables { allowed_cidrs = [] }
  expect_failures = [var.allowed_cidrs]
}

run "a_domain_that_ends_in_a_dot" {
  command = plan
  variables { domain = "example.org." }
  expect_failures = [var.domain]
}

run "no_namespace" {
  command = plan
  variables { namespaces = [] }
  expect_failures = [var.namespaces]
}

run "no_request_at_all" {
  command = plan
  variables { requests_per_minute = 0 }
  expect_failures = [var.requests_per_minute]
}

run "a_name_that_is_too_long" {
  command = plan
  variables { name = "a-name-of-more-than-thirty-two-letters" }
  expect_failures = [var.name]
}
