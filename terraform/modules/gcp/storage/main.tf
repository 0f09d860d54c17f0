# The buckets that models and engine plans lie in: private, versioned, encrypted with a key of ours.

resource "google_storage_bucket" "this" {
  for_each = local.buckets

  name          = each.value
  project       = var.project
  location      = var.region
  storage_class = "STANDARD"
  force_destroy = var.force_destroy
  labels        = merge(var.labels, { holds = each.key })

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  encryption {
    default_kms_key_name = var.key_id
  }

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 86400
  }

  # A version that was replaced stays for a while; the last two stay whatever their age.
  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      days_since_noncurrent_time = var.noncurrent_days
      num_newer_versions         = 2
      with_state                 = "ARCHIVED"
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }

    condition {
      age = 7
    }
  }

  dynamic "logging" {
    for_each = var.access_log_bucket == null ? [] : [var.access_log_bucket]

    content {
      log_bucket        = logging.value
      log_object_prefix = each.value
    }
  }
}

locals {
  buckets = { for kind in ["models", "plans"] : kind => "${var.name}-${kind}" }
}
