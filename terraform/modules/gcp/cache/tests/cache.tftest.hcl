mock_provider "google" {
  mock_resource "google_redis_instance" {
    defaults = {
      host            = "10.64.64.3"
      port            = 6378
      auth_string     = "a/b"
      server_ca_certs = [{ cert = "-----BEGIN CERTIFICATE-----\nMII+\n-----END CERTIFICATE-----\n" }]
    }
  }
}

variables {
  name                   = "vision"
  project                = "my-project"
  region                 = "europe-west4"
  network_id             = "projects/my-project/global/networks/vision"
  managed_services_range = "vision-managed-services"
  key_id                 = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/cache"
  url_key_id             = "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/cache-url"
}

run "it_asks_for_a_password_over_tls" {
  command = plan

  assert {
    condition = (
      google_redis_instance.this.auth_enabled && google_redis_instance.this.transit_encryption_mode == "SERVER_AUTHENTICATION"
      && google_redis_instance.this.customer_managed_key == var.key_id && google_redis_instance.this.connect_mode == "PRIVATE_SERVICE_ACCESS"
    )
    error_message = "frames of cameras are in it"
  }

  assert {
    condition     = google_redis_instance.this.redis_configs["maxmemory-policy"] == "allkeys-lru"
    error_message = "a full cache must forget, not refuse"
  }
}

run "the_url_has_the_password_and_the_authority_in_it" {
  assert {
    condition     = google_secret_manager_secret_version.url.secret_data == "rediss://:a%2Fb@10.64.64.3:6378/0?ssl_check_hostname=false&ssl_ca_data=-----BEGIN+CERTIFICATE-----%0AMII%2B%0A-----END+CERTIFICATE-----%0A"
    error_message = "redis-py would not read it"
  }

  assert {
    condition     = output.address == "10.64.64.3:6378"
    error_message = output.address
  }
}

run "too_much_memory" {
  command = plan
  variables { memory_gib = 400 }
  expect_failures = [var.memory_gib]
}

run "a_tier_that_is_none" {
  command = plan
  variables { tier = "GOLD" }
  expect_failures = [var.tier]
}

run "a_name_that_is_too_long" {
  command = plan
  variables { name = "a-name-of-more-than-forty-characters-is-too-long" }
  expect_failures = [var.name]
}
