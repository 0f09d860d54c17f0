output "arns" {
  description = "ARNs of the keys by use: cluster, disks, data, logs."
  value       = { for use, key in aws_kms_key.this : use => key.arn }
}
