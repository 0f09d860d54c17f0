# A Redis for the frame cache that replicas share: Memorystore in two zones, with AUTH, TLS and a key of ours, reached
# over the network's private peering alone. Its URL lies in Secret Manager, for the Kubernetes Secret that the chart reads.

resource "google_redis_instance" "this" {
  name                    = var.name
  project                 = var.project
  region                  = var.region
  display_name            = "Frame cache of ${var.name}"
  tier                    = var.tier
  memory_size_gb          = var.memory_gib
  redis_version           = "REDIS_7_2"
  authorized_network      = var.network_id
  connect_mode            = "PRIVATE_SERVICE_ACCESS"
  reserved_ip_range       = var.managed_services_range
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  customer_managed_key    = var.key_id
  deletion_protection     = var.deletion_protection
  labels                  = var.labels

  # What was used longest ago goes; the cache loses nothing that could not be inferred again.
  redis_configs = {
    maxmemory-policy = "allkeys-lru"
  }

  persistence_config {
    persistence_mode = "DISABLED"
  }

  maintenance_policy {
    weekly_maintenance_window {
      day = "SUNDAY"

      start_time {
        hours   = 3
        minutes = 0
        seconds = 0
        nanos   = 0
      }
    }
  }
}

resource "google_secret_manager_secret" "url" {
  secret_id = "${var.name}-cache-url"
  project   = var.project
  labels    = var.labels

  replication {
    user_managed {
      replicas {
        location = var.region

        customer_managed_encryption {
          kms_key_name = var.url_key_id
        }
      }
    }
  }
}

# The instance's own authority, which signs for it alone, goes with the URL: the transformer needs no file, and the name
# in the certificate, which is none of an address, need not be compared. A version for each rotation of either.
resource "google_secret_manager_secret_version" "url" {
  secret      = google_secret_manager_secret.url.id
  secret_data = local.url
}

# In a URL's user part a space is %20, in its query a plus.
locals {
  authorities = join("\n", google_redis_instance.this.server_ca_certs[*].cert)
  url = join("", [
    "rediss://:${replace(urlencode(google_redis_instance.this.auth_string), "+", "%20")}@${google_redis_instance.this.host}:${google_redis_instance.this.port}/0",
    "?ssl_check_hostname=false&ssl_ca_data=${urlencode(local.authorities)}",
  ])
}
