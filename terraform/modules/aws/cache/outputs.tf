output "redis" {
  description = "For the contract: host:port, and the secret of Secrets Manager that holds the URL."
  value = {
    address      = "${aws_elasticache_replication_group.this.primary_endpoint_address}:6379"
    cloud_secret = aws_secretsmanager_secret.url.arn
  }
  depends_on = [aws_secretsmanager_secret_version.url]
}
