# What the HTTPS load balancer in front of Kourier needs and Kubernetes cannot make: its address, certificate, TLS policy
# and firewall. The load balancer itself is made by GKE from the Gateway that modules/platform installs.

resource "google_compute_global_address" "this" {
  name         = var.name
  project      = var.project
  description  = "The load balancer of ${var.name}"
  address_type = "EXTERNAL"
  ip_version   = "IPV4"
  labels       = var.labels
}

# TLS 1.2 with forward secrecy at least.
resource "google_compute_ssl_policy" "this" {
  name            = var.name
  project         = var.project
  description     = "TLS of ${var.name}"
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
}

resource "google_compute_security_policy" "this" {
  # checkov:skip=CKV_GCP_73: nothing here is Java, and a rule that reads bodies would find its pattern in pictures
  name        = var.name
  project     = var.project
  description = "Who may call ${var.name}"
  type        = "CLOUD_ARMOR"
  labels      = var.labels

  # Cloud Armor takes ten ranges in a rule.
  dynamic "rule" {
    for_each = chunklist(var.allowed_cidrs, 10)

    content {
      action      = var.requests_per_minute == null ? "allow" : "throttle"
      priority    = 1000 + rule.key
      description = "Callers"

      match {
        versioned_expr = "SRC_IPS_V1"

        config {
          src_ip_ranges = rule.value
        }
      }

      dynamic "rate_limit_options" {
        for_each = var.requests_per_minute == null ? [] : [var.requests_per_minute]

        content {
          conform_action = "allow"
          exceed_action  = "deny(429)"
          enforce_on_key = "IP"

          rate_limit_threshold {
            count        = rate_limit_options.value
            interval_sec = 60
          }
        }
      }
    }
  }

  rule {
    action      = "deny(403)"
    priority    = 2147483647
    description = "Everybody else"

    match {
      versioned_expr = "SRC_IPS_V1"

      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}

# Knative's hosts are NAME.NAMESPACE.DOMAIN, and a wildcard covers one label: so one certificate for each namespace.
resource "google_certificate_manager_dns_authorization" "this" {
  for_each    = local.hosts
  name        = "${var.name}-${each.key}"
  project     = var.project
  description = "That ${each.value} is ours"
  domain      = each.value
  labels      = var.labels
}

resource "google_certificate_manager_certificate" "this" {
  for_each    = local.hosts
  name        = "${var.name}-${each.key}"
  project     = var.project
  description = "*.${each.value}"
  labels      = var.labels

  managed {
    domains            = ["*.${each.value}"]
    dns_authorizations = [google_certificate_manager_dns_authorization.this[each.key].id]
  }
}

resource "google_certificate_manager_certificate_map" "this" {
  name        = var.name
  project     = var.project
  description = "Certificates of ${var.name}"
  labels      = var.labels
}

resource "google_certificate_manager_certificate_map_entry" "this" {
  for_each     = local.hosts
  name         = "${var.name}-${each.key}"
  project      = var.project
  description  = "*.${each.value}"
  map          = google_certificate_manager_certificate_map.this.name
  certificates = [google_certificate_manager_certificate.this[each.key].id]
  hostname     = "*.${each.value}"
  labels       = var.labels
}

resource "google_dns_record_set" "authorization" {
  for_each     = var.dns_zone == null ? {} : local.hosts
  project      = var.project
  managed_zone = var.dns_zone
  name         = google_certificate_manager_dns_authorization.this[each.key].dns_resource_record[0].name
  type         = google_certificate_manager_dns_authorization.this[each.key].dns_resource_record[0].type
  rrdatas      = [google_certificate_manager_dns_authorization.this[each.key].dns_resource_record[0].data]
  ttl          = 300
}

resource "google_dns_record_set" "wildcard" {
  for_each     = var.dns_zone == null ? {} : local.hosts
  project      = var.project
  managed_zone = var.dns_zone
  name         = "*.${each.value}."
  type         = "A"
  rrdatas      = [google_compute_global_address.this.address]
  ttl          = 300
}

locals {
  hosts = { for namespace in var.namespaces : namespace => "${namespace}.${var.domain}" }
}
