# An EKS cluster with GPU nodes, what the models need beside it, and the contract that comes out. No provider is configured
# here: an example, or a root of your own, does that, with the state's backend.

module "request" {
  source = "../../modules/contract/request"

  cloud                    = "aws"
  name                     = var.name
  region                   = local.region
  zones                    = local.zones
  network                  = var.network
  endpoint                 = var.endpoint
  pools                    = var.pools
  serving_pool             = var.serving_pool
  sizing                   = var.sizing
  replica                  = var.replica
  additional_machine_types = var.additional_machine_types
  offered_zones            = local.offered_zones
  quotas                   = local.quotas
  prices_file              = var.prices_file
  tags                     = var.tags
}

locals {
  tags = module.request.tags
  name = module.request.identity.name
}

module "keys" {
  source = "../../modules/aws/keys"

  name                 = local.name
  deletion_window_days = var.deletion_protection ? 30 : 7
  tags                 = local.tags
}

module "network" {
  source = "../../modules/aws/network"

  name               = local.name
  cidr               = module.request.network.cidr
  private_subnets    = module.request.network.private_subnets
  public_subnets     = module.request.network.public_subnets
  nat                = var.nat
  logs_key_arn       = module.keys.arns.logs
  log_retention_days = var.log_retention_days
  tags               = local.tags
}

module "cluster" {
  source = "../../modules/aws/cluster"

  name                = local.name
  kubernetes_version  = var.kubernetes_version
  subnet_ids          = values(module.network.private_subnet_ids)
  service_cidr        = module.request.network.service_cidr
  endpoint            = module.request.identity.endpoint
  admins              = var.admins
  secrets_key_arn     = module.keys.arns.cluster
  logs_key_arn        = module.keys.arns.logs
  log_retention_days  = var.log_retention_days
  deletion_protection = var.deletion_protection
  addon_versions      = var.addon_versions
  tags                = local.tags
}

module "node_pools" {
  source = "../../modules/aws/node-pools"

  name               = local.name
  cluster_name       = module.cluster.name
  kubernetes_version = module.cluster.kubernetes_version
  subnet_ids         = module.network.private_subnet_ids
  pools              = module.request.pools
  system             = var.system
  gpu_os             = var.gpu_os
  disks_key_arn      = module.keys.arns.disks
  tags               = local.tags
}

module "addons" {
  source = "../../modules/aws/addons"

  name               = local.name
  cluster_name       = module.cluster.name
  cluster_arn        = module.cluster.arn
  disks_key_arn      = module.keys.arns.disks
  kubernetes_version = var.kubernetes_version
  addon_versions     = var.addon_versions
  node_group_arns    = module.node_pools.node_group_arns
  tags               = local.tags
}

module "storage" {
  source = "../../modules/aws/storage"

  name            = local.name
  data_key_arn    = module.keys.arns.data
  noncurrent_days = var.noncurrent_days
  force_destroy   = !var.deletion_protection
  tags            = local.tags
}

module "registry" {
  source = "../../modules/aws/registry"

  name          = local.name
  data_key_arn  = module.keys.arns.data
  force_destroy = !var.deletion_protection
  tags          = local.tags
}

module "identity" {
  source = "../../modules/aws/identity"

  name            = local.name
  cluster_name    = module.cluster.name
  mode            = var.identity_mode
  oidc_issuer     = module.cluster.oidc_issuer
  namespace       = var.namespace
  serving_account = var.serving_account
  bucket_arns     = module.storage.bucket_arns
  data_key_arn    = module.keys.arns.data
  tags            = local.tags
}

module "ingress" {
  source = "../../modules/aws/ingress"

  name                    = local.name
  kind                    = var.ingress.kind
  public                  = var.ingress.public
  allowed_cidrs           = var.ingress.allowed_cidrs
  certificate_arn         = var.ingress.certificate_arn
  request_timeout_seconds = var.ingress.request_timeout_seconds
  access_logs_bucket      = var.ingress.access_logs_bucket
  deletion_protection     = var.deletion_protection
  vpc_id                  = module.network.vpc_id
  vpc_cidr                = module.request.network.cidr
  subnet_ids              = values(var.ingress.public ? module.network.public_subnet_ids : module.network.private_subnet_ids)
  node_security_group_id  = module.cluster.security_group_id
  tags                    = local.tags
}

module "cache" {
  source = "../../modules/aws/cache"
  count  = var.cache == null ? 0 : 1

  name                   = local.name
  node_type              = var.cache.node_type
  replicas               = var.cache.replicas
  password               = var.cache_password
  vpc_id                 = module.network.vpc_id
  subnet_ids             = values(module.network.private_subnet_ids)
  node_security_group_id = module.cluster.security_group_id
  data_key_arn           = module.keys.arns.data
  tags                   = local.tags
}

module "budget" {
  source = "../../modules/aws/budget"
  count  = var.budget == null ? 0 : 1

  name              = local.name
  monthly_limit_usd = var.budget.monthly_limit_usd
  emails            = var.budget.emails
  tags              = local.tags
}

module "answer" {
  source = "../../modules/contract/answer"

  request = module.request
  cluster = {
    name                       = module.cluster.name
    endpoint                   = module.cluster.endpoint
    certificate_authority_data = module.cluster.certificate_authority_data
    kubernetes_version         = module.cluster.kubernetes_version
    location                   = local.region
    network_id                 = module.network.vpc_id
    private                    = !var.endpoint.public
  }
  namespace        = var.namespace
  models_uri       = module.storage.uris.models
  plans_uri        = module.storage.uris.plans
  service_accounts = module.identity.service_accounts
  registry         = module.registry.registry
  # EKS makes no class the default one, and none of its own encrypts with our key.
  storage_class = {
    name        = "gp3-encrypted"
    provisioner = "ebs.csi.aws.com"
    parameters  = { type = "gp3", encrypted = "true", kmsKeyId = module.keys.arns.disks }
  }
  image_tag = var.image_tag
  ingress = {
    target_group = module.ingress.ingress.target_group
    address      = module.ingress.ingress.address
  }
  redis = var.cache == null ? null : {
    address           = module.cache[0].redis.address
    cloud_secret      = module.cache[0].redis.cloud_secret
    kubernetes_secret = "saccade-cache"
  }
}
