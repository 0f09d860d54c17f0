# The contract without a cloud: a request, and an answer with what a cloud would have made of it. For tests of the chart,
# which have no provider.

module "request" {
  source = "../../modules/contract/request"

  cloud        = var.request.cloud
  name         = "vision"
  region       = var.request.cloud == "aws" ? "eu-central-1" : "europe-west4"
  zones        = var.request.cloud == "aws" ? ["eu-central-1a", "eu-central-1b"] : ["europe-west4-a", "europe-west4-b"]
  pools        = var.request.pools
  serving_pool = try(var.request.serving_pool, null)
  sizing       = try(var.request.sizing, { max_replicas = 4 })
  replica      = try(var.request.replica, {})
}

locals {
  scheme = var.request.cloud == "aws" ? "s3" : "gs"
}

module "answer" {
  source = "../../modules/contract/answer"

  request = module.request
  cluster = {
    name                       = "vision"
    endpoint                   = "https://example.invalid"
    certificate_authority_data = "ZmFrZQ=="
    kubernetes_version         = "1.34"
    location                   = module.request.identity.region
    network_id                 = "network"
    private                    = true
  }
  models_uri = "${local.scheme}://vision-models/repository"
  plans_uri  = "${local.scheme}://vision-plans/plans"
  service_accounts = {
    serving = { name = "saccade", namespace = "vision", annotations = { "example.com/role" = "reader" } }
    builder = { name = "saccade-builder", namespace = "vision", annotations = { "example.com/role" = "builder" } }
  }
  registry = {
    host   = "registry.example.com"
    images = { predictor = "registry.example.com/vision/predictor", transformer = "registry.example.com/vision/transformer", plan_builder = "registry.example.com/vision/plan-builder" }
  }
  storage_class = var.request.cloud != "aws" ? null : {
    name        = "gp3-encrypted"
    provisioner = "ebs.csi.aws.com"
    parameters  = { type = "gp3" }
  }
  redis = !var.has_redis ? null : {
    address           = "cache.example.com:6379"
    cloud_secret      = "vision/cache-url"
    kubernetes_secret = "saccade-cache"
  }
}
