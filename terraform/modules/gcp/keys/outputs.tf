output "key_ids" {
  description = "Ids of the keys by what they encrypt (secrets, disks, storage, registry, cache, cache-url), once their service agents may use them."
  value       = { for name, key in google_kms_crypto_key.this : name => key.id }
  depends_on  = [google_kms_crypto_key_iam_member.this]
}
