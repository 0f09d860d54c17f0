# A GKE cluster with GPU nodes, what the models need beside it, and the contract that comes out. No provider is configured
# here: an example, or a root of your own, does that, with the state's backend.

data "google_project" "this" {
  project_id = var.project
}

# Which zones have the machine types: a type that the region lacks is refused before anything is made.
data "google_compute_machine_types" "offered" {
  for_each = var.check_machine_types ? {
    for pair in setproduct(distinct([for pool in var.pools : pool.machine_type]), var.zones) :
    "${pair[0]} ${pair[1]}" => { machine_type = pair[0], zone = pair[1] }
  } : {}

  project = var.project
  zone    = each.value.zone
  filter  = "name = \"${each.value.machine_type}\""
}

module "request" {
  source = "../../modules/contract/request"

  cloud                    = "gcp"
  name                     = var.name
  region                   = var.region
  zones                    = var.zones
  network                  = var.network
  endpoint                 = { public = var.endpoint.public, allowed_cidrs = var.endpoint.allowed_cidrs }
  pools                    = var.pools
  serving_pool             = var.serving_pool
  sizing                   = var.sizing
  replica                  = var.replica
  additional_machine_types = var.additional_machine_types
  offered_zones            = local.offered_zones
  quotas                   = var.quotas
  prices_file              = var.prices_file
  tags                     = var.tags
}

# APIs stay on when this is destroyed: other things in the project may use them.
resource "google_project_service" "this" {
  for_each = local.apis

  project            = var.project
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

module "keys" {
  source = "../../modules/gcp/keys"

  key_ring_name  = coalesce(var.key_ring_name, var.name)
  project        = var.project
  project_number = data.google_project.this.number
  region         = var.region
  cache          = var.cache != null
  labels         = module.request.tags

  depends_on = [google_project_service.this]
}

module "network" {
  source = "../../modules/gcp/network"

  name    = var.name
  project = var.project
  region  = var.region
  labels  = module.request.tags

  cidrs = {
    nodes            = module.request.network.nodes_subnet
    pods             = module.request.network.pod_cidr
    services         = module.request.network.service_cidr
    control_plane    = module.request.network.control_plane
    managed_services = var.cache == null ? null : local.managed_services
  }

  depends_on = [google_project_service.this]
}

module "cluster" {
  source = "../../modules/gcp/cluster"

  name                 = var.name
  project              = var.project
  region               = var.region
  zones                = var.zones
  network_id           = module.network.network_id
  subnetwork_id        = module.network.subnetwork_id
  pods_range_name      = module.network.pods_range_name
  services_range_name  = module.network.services_range_name
  node_tag             = module.network.node_tag
  control_plane_cidr   = module.request.network.control_plane
  endpoint             = var.endpoint
  kubernetes_version   = var.kubernetes_version
  release_channel      = var.release_channel
  secrets_key_id       = module.keys.key_ids["secrets"]
  disks_key_id         = module.keys.key_ids["disks"]
  binary_authorization = var.binary_authorization
  rbac_security_group  = var.rbac_security_group
  maintenance_window   = var.maintenance_window
  deletion_protection  = var.deletion_protection
  labels               = module.request.tags
}

module "storage" {
  source = "../../modules/gcp/storage"

  name              = "${var.project}-${var.name}"
  project           = var.project
  region            = var.region
  key_id            = module.keys.key_ids["storage"]
  access_log_bucket = var.access_log_bucket
  force_destroy     = !var.deletion_protection
  labels            = module.request.tags
}

module "registry" {
  source = "../../modules/gcp/registry"

  name    = var.name
  project = var.project
  region  = var.region
  key_id  = module.keys.key_ids["registry"]
  readers = { nodes = module.cluster.node_service_account.member }
  labels  = module.request.tags
}

# Nodes that cannot reach the internet or their images would fail while they start.
module "node_pools" {
  source = "../../modules/gcp/node-pools"

  project            = var.project
  region             = var.region
  zones              = var.zones
  cluster            = module.cluster.id
  pools              = module.request.pools
  system             = var.system
  service_account    = module.cluster.node_service_account.email
  disks_key_id       = module.keys.key_ids["disks"]
  node_tag           = module.network.node_tag
  gpu_driver_version = var.gpu_driver_version
  surge_nodes        = var.surge_nodes
  labels             = module.request.tags

  depends_on = [module.network, module.registry]
}

module "identity" {
  source = "../../modules/gcp/identity"

  name             = var.name
  project          = var.project
  workload_pool    = module.cluster.workload_pool
  namespace        = var.namespace
  service_accounts = { reader = var.service_accounts.serving, builder = var.service_accounts.builder }
  buckets          = { models = module.storage.models.bucket, plans = module.storage.plans.bucket }
}

module "ingress" {
  source = "../../modules/gcp/ingress"
  count  = var.ingress == null ? 0 : 1

  name                = var.name
  project             = var.project
  domain              = var.ingress.domain
  namespaces          = [var.namespace]
  allowed_cidrs       = var.ingress.allowed_cidrs
  requests_per_minute = var.ingress.requests_per_minute
  dns_zone            = var.ingress.dns_zone
  labels              = module.request.tags

  depends_on = [google_project_service.this]
}

module "cache" {
  source = "../../modules/gcp/cache"
  count  = var.cache == null ? 0 : 1

  name                   = var.name
  project                = var.project
  region                 = var.region
  network_id             = module.network.network_id
  managed_services_range = module.network.managed_services_range
  key_id                 = module.keys.key_ids["cache"]
  url_key_id             = module.keys.key_ids["cache-url"]
  memory_gib             = var.cache.memory_gib
  tier                   = var.cache.tier
  deletion_protection    = var.deletion_protection
  labels                 = module.request.tags
}

# By the label `cluster`, so that a project with other things in it is watched for this one.
resource "google_billing_budget" "this" {
  count = var.budget == null ? 0 : 1

  billing_account = var.budget.billing_account
  display_name    = "Saccade ${var.name}"

  budget_filter {
    projects = ["projects/${data.google_project.this.number}"]
    labels   = { cluster = var.name }
  }

  amount {
    specified_amount {
      currency_code = var.budget.currency
      units         = var.budget.monthly
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]

    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }
}

module "answer" {
  source = "../../modules/contract/answer"

  request   = module.request
  namespace = var.namespace
  image_tag = var.image_tag

  cluster = {
    name                       = module.cluster.name
    endpoint                   = module.cluster.endpoint
    certificate_authority_data = module.cluster.ca_certificate
    kubernetes_version         = module.cluster.version
    location                   = var.region
    private                    = !var.endpoint.public
    network_id                 = module.network.network_id
  }

  models_uri = "${module.storage.models.uri}/repository"
  plans_uri  = "${module.storage.plans.uri}/plans"

  service_accounts = {
    serving = {
      name        = var.service_accounts.serving
      namespace   = var.namespace
      annotations = module.identity.annotations["reader"]
    }
    builder = {
      name        = var.service_accounts.builder
      namespace   = var.namespace
      annotations = module.identity.annotations["builder"]
    }
  }

  registry = {
    host = module.registry.host
    images = {
      predictor    = "${module.registry.url}/saccade-predictor"
      transformer  = "${module.registry.url}/saccade-transformer"
      plan_builder = "${module.registry.url}/saccade-plan-builder"
    }
  }

  ingress = local.ingress

  redis = var.cache == null ? null : {
    address           = module.cache[0].address
    cloud_secret      = module.cache[0].secret_id
    kubernetes_secret = "saccade-cache"
  }
}

locals {
  apis = toset(concat(
    [
      "artifactregistry", "certificatemanager", "cloudkms", "cloudresourcemanager", "compute", "container",
      "containerfilesystem", "containerscanning", "iam", "logging", "monitoring", "storage",
    ],
    var.cache == null ? [] : ["redis", "secretmanager", "servicenetworking"],
    var.budget == null ? [] : ["billingbudgets"],
  ))

  offered_zones = var.check_machine_types ? {
    for machine_type in distinct([for pool in var.pools : pool.machine_type]) : machine_type => [
      for zone in var.zones : zone
      if length(data.google_compute_machine_types.offered["${machine_type} ${zone}"].machine_types) > 0
    ]
  } : null

  # The second quarter of the network, which no subnet has: its first quarter.
  managed_services = cidrsubnet(module.request.network.cidr, 4, 4)

  # Behind a domain of ours a Gateway; else an internal load balancer of Kourier's own service.
  ingress = {
    service_type = var.ingress == null ? "LoadBalancer" : "ClusterIP"
    service_annotations = var.ingress != null ? {} : {
      "networking.gke.io/load-balancer-type"                         = "Internal"
      "networking.gke.io/internal-load-balancer-allow-global-access" = "true"
    }
    gateway = var.ingress == null ? null : {
      address_name    = module.ingress[0].address.name
      certificate_map = module.ingress[0].certificate_map
      ssl_policy      = module.ingress[0].ssl_policy
      security_policy = module.ingress[0].security_policy
      hostnames       = module.ingress[0].hostnames
    }
    address = var.ingress == null ? "" : module.ingress[0].address.ip
  }
}
