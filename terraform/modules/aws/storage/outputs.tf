output "bucket_arns" {
  description = "ARNs of the buckets: models, plans."
  value       = { for use, bucket in aws_s3_bucket.this : use => bucket.arn }
}

output "uris" {
  description = "Where the model repository and the plans lie: s3://BUCKET/PREFIX."
  value = {
    models = "s3://${aws_s3_bucket.this["models"].bucket}/repository"
    plans  = "s3://${aws_s3_bucket.this["plans"].bucket}/plans"
  }
}
