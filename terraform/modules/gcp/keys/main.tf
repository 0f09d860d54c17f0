# One key ring, one key for each kind of data, each with the one service agent that may use it.

resource "google_kms_key_ring" "this" {
  name     = var.key_ring_name
  project  = var.project
  location = var.region
}

resource "google_kms_crypto_key" "this" {
  # checkov:skip=CKV_GCP_43: 90 days by default; the check does not reckon
  # checkov:skip=CKV_GCP_82: a version that is to be destroyed can be taken back for var.destroy_scheduled_days
  for_each                   = local.agents
  name                       = each.key
  key_ring                   = google_kms_key_ring.this.id
  purpose                    = "ENCRYPT_DECRYPT"
  rotation_period            = "${var.rotation_days * 86400}s"
  destroy_scheduled_duration = "${var.destroy_scheduled_days * 86400}s"
  labels                     = var.labels
}

resource "google_kms_crypto_key_iam_member" "this" {
  for_each      = local.agents
  crypto_key_id = google_kms_crypto_key.this[each.key].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${var.project_number}@${each.value}.iam.gserviceaccount.com"
}

locals {
  # Who reads and writes with a key: Google's service agent of that product.
  agents = merge({
    secrets  = "container-engine-robot"
    disks    = "compute-system"
    storage  = "gs-project-accounts"
    registry = "gcp-sa-artifactregistry"
  }, var.cache ? { cache = "cloud-redis", cache-url = "gcp-sa-secretmanager" } : {})
}
