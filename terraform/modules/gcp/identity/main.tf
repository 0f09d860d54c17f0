# Who in the cluster may touch which bucket, by Workload Identity: no key lies anywhere.
#
# reader   KServe's storage initializer, in the pods of the InferenceService: reads models and plans.
# builder  the job that builds engine plans: reads models, writes plans.

resource "google_service_account" "this" {
  for_each     = local.accounts
  account_id   = "${var.name}-${each.key}"
  project      = var.project
  display_name = "${each.value.title} of ${var.name}"
  description  = each.value.description
}

resource "google_service_account_iam_member" "workload_identity" {
  for_each           = local.accounts
  service_account_id = google_service_account.this[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.workload_pool}[${var.namespace}/${each.value.kubernetes_service_account}]"
}

# objectViewer lists and reads objects. It does not change, and does not see the bucket's settings.
resource "google_storage_bucket_iam_member" "read" {
  for_each = {
    for pair in setproduct(["reader", "builder"], ["models", "plans"]) : "${pair[0]}-${pair[1]}" => { account = pair[0], bucket = pair[1] }
  }

  bucket = var.buckets[each.value.bucket]
  role   = "roles/storage.objectViewer"
  member = google_service_account.this[each.value.account].member
}

# objectUser reads, writes and deletes objects: a plan that is built again replaces the one before.
resource "google_storage_bucket_iam_member" "write_plans" {
  bucket = var.buckets.plans
  role   = "roles/storage.objectUser"
  member = google_service_account.this["builder"].member
}

locals {
  accounts = {
    reader = {
      title                      = "Model reader"
      description                = "KServe's storage initializer: reads models and engine plans"
      kubernetes_service_account = var.service_accounts.reader
    }
    builder = {
      title                      = "Plan builder"
      description                = "Builds engine plans: reads models, writes plans"
      kubernetes_service_account = var.service_accounts.builder
    }
  }
}
