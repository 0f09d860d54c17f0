# The second root: what runs in the cluster. It is apart from the cluster's own root, because a provider cannot be
# configured from a cluster that the same apply makes, and because it is applied far more often.

provider "helm" {
  kubernetes = local.connection
}

module "platform" {
  source = "../../modules/platform"

  cloud              = var.platform.cloud
  namespace          = var.platform.namespace
  domain             = local.domain
  external_scheme    = var.external_scheme
  knative_replicas   = var.knative_replicas
  private_registries = [var.platform.registry.host]
  tags               = var.platform.tags

  needs_mig_manager     = var.platform.gpu_sharing.needs_mig_manager
  device_plugin_configs = var.platform.gpu_sharing.device_plugin_configs

  ingress = {
    service_type        = var.platform.ingress.service_type
    service_annotations = var.platform.ingress.service_annotations
  }
  target_group = var.platform.ingress.target_group
  # The load balancer answers for a model only after the model had its time to answer.
  gateway = var.platform.ingress.gateway == null ? null : {
    address_name    = var.platform.ingress.gateway.address_name
    certificate_map = var.platform.ingress.gateway.certificate_map
    ssl_policy      = var.platform.ingress.gateway.ssl_policy
    security_policy = var.platform.ingress.gateway.security_policy
    hostnames       = var.platform.ingress.gateway.hostnames
    timeout_s       = var.request_timeout_s + 10
  }

  aws = var.platform.cloud != "aws" ? null : {
    cluster_name             = var.platform.cluster.name
    region                   = var.platform.region
    vpc_id                   = var.platform.cluster.network_id
    load_balancer_controller = local.accounts["load_balancer_controller"]
    cluster_autoscaler       = local.accounts["cluster_autoscaler"]
    expander_priorities      = local.expander_priorities
  }

  storage_class = var.platform.storage_class

  monitoring = var.monitoring
  charts     = var.charts
  values     = var.values
  timeout_s  = var.timeout_s

  saccade = var.saccade == null ? null : {
    release    = var.saccade.release
    values     = concat([var.helm_values], var.saccade.values)
    chart      = var.saccade.chart
    repository = var.saccade.repository
    version    = var.saccade.version
  }
}

locals {
  domain = coalesce(
    var.domain,
    try(trimprefix(var.platform.ingress.gateway.hostnames[0], "*.${var.platform.namespace}."), null),
    "example.com",
  )

  accounts = {
    for use, account in var.platform.service_accounts : use => { name = account.name, annotations = account.annotations }
  }

  # What is reserved is paid for anyway, and spot machines are cheap: on-demand ones come when those give nothing. By the
  # scaling group's name, which EKS makes of the node group's (CLUSTER-POOL) and a UUID: whole, since a pool's name may begin
  # another one's.
  expander_priorities = {
    for priority, capacity in { "30" = "reservation", "20" = "spot", "10" = "on_demand" } : priority => [
      for name, pool in var.platform.pools : "^eks-${var.platform.cluster.name}-${name}-[0-9a-f]{8}-[0-9a-f]{4}-.*" if pool.capacity == capacity
    ] if length(distinct([for pool in var.platform.pools : pool.capacity])) > 1 && contains([for pool in var.platform.pools : pool.capacity], capacity)
  }

  # A token for each call, of who applies: nothing that could be stolen lies in the state.
  commands = {
    aws = {
      command = "aws"
      args    = ["eks", "get-token", "--cluster-name", var.platform.cluster.name, "--region", var.platform.region, "--output", "json"]
    }
    gcp = {
      command = "gke-gcloud-auth-plugin"
      args    = []
    }
  }

  connections = {
    # The endpoint and its authority come from the cloud's own root.
    exec = {
      host                   = var.platform.cluster.endpoint
      cluster_ca_certificate = var.platform.cluster.certificate_authority_data == "" ? null : base64decode(var.platform.cluster.certificate_authority_data)
      exec = {
        api_version = "client.authentication.k8s.io/v1beta1"
        command     = local.commands[var.platform.cloud].command
        args        = local.commands[var.platform.cloud].args
      }
    }
    kubeconfig = {
      config_path    = try(var.kubeconfig.path, null)
      config_context = try(var.kubeconfig.context, null)
    }
  }

  connection = local.connections[var.kubeconfig == null ? "exec" : "kubeconfig"]
}
