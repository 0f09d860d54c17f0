# A Valkey for the transformers' frame cache: TLS, a user of its own that may do no administration, reached from the nodes
# alone. It is a cache: no snapshots.

resource "aws_elasticache_subnet_group" "this" {
  name        = "${var.name}-cache"
  description = "Private subnets of ${var.name}"
  subnet_ids  = var.subnet_ids
  tags        = var.tags
}

resource "aws_security_group" "this" {
  name        = "${var.name}-cache"
  description = "Frame cache, from the nodes alone"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-cache" })
}

resource "aws_vpc_security_group_ingress_rule" "nodes" {
  security_group_id            = aws_security_group.this.id
  description                  = "Transformers"
  referenced_security_group_id = var.node_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
  tags                         = var.tags
}

resource "aws_elasticache_user" "this" {
  user_id   = "${var.name}-saccade"
  user_name = "saccade"
  engine    = "valkey"
  # Keys of any name, as the chart makes them of namespace and release; time, since ages are by the cache's own clock; nothing
  # that administrates or empties it. tests/terraform/test_cache_user.py asks a Redis whether it is enough.
  access_string = "on ~* &* -@all +@read +@write +@connection +@scripting +@transaction +time -@dangerous"
  tags          = var.tags

  authentication_mode {
    type      = "password"
    passwords = [var.password]
  }
}

resource "aws_elasticache_user_group" "this" {
  user_group_id = "${var.name}-saccade"
  engine        = "valkey"
  user_ids      = [aws_elasticache_user.this.user_id]
  tags          = var.tags
}

resource "aws_elasticache_parameter_group" "this" {
  name        = "${var.name}-cache"
  family      = "valkey8"
  description = "When full, what was used longest ago goes"
  tags        = var.tags

  parameter {
    name  = "maxmemory-policy"
    value = "allkeys-lru"
  }
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id       = "${var.name}-cache"
  description                = "Frame cache of ${var.name}"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.node_type
  num_cache_clusters         = var.replicas + 1
  automatic_failover_enabled = var.replicas > 0
  multi_az_enabled           = var.replicas > 0
  port                       = 6379
  parameter_group_name       = aws_elasticache_parameter_group.this.name
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.this.id]
  user_group_ids             = [aws_elasticache_user_group.this.user_group_id]
  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  kms_key_id                 = var.data_key_arn
  auto_minor_version_upgrade = true
  snapshot_retention_limit   = 0
  tags                       = var.tags
}

resource "aws_secretsmanager_secret" "url" {
  name        = "${var.name}/cache-url"
  description = "URL of the frame cache, for the Kubernetes Secret's key url"
  kms_key_id  = var.data_key_arn
  # The name is free again at once: what it holds can be made anew.
  recovery_window_in_days = 0
  tags                    = var.tags
}

resource "aws_secretsmanager_secret_version" "url" {
  secret_id     = aws_secretsmanager_secret.url.id
  secret_string = "rediss://saccade:${var.password}@${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
}
