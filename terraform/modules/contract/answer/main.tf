# The one object that both clouds return, and the values of helm/saccade that follow from it. Nothing here is a cloud's.

locals {
  serving  = var.request.serving
  on_gke   = var.request.identity.cloud == "gcp"
  account  = var.service_accounts["serving"]
  builder  = var.service_accounts["builder"]
  replica  = local.serving.replica
  is_mixed = anytrue([for pool in var.request.pools : pool.sharing == "mig"])

  # Configurations of NVIDIA's device plugin, by the value of the node label nvidia.com/device-plugin.config. GKE brings
  # a plugin of its own, which the node pool configures.
  plugin_flags = { version = "v1", flags = { migStrategy = "mixed" } }
  plugin_configs = local.on_gke ? {} : merge(
    { default = yamlencode(local.plugin_flags) },
    {
      for class, pools in { for pool in var.request.pools : pool.class => pool... if contains(["time_slicing", "mps"], pool.sharing) } :
      class => yamlencode(merge(local.plugin_flags, {
        sharing = {
          (pools[0].sharing == "mps" ? "mps" : "timeSlicing") = merge(
            # nvidia.com/gpu.shared, so that nobody gets a part who asked for a GPU.
            { renameByDefault = true },
            # A pod that asks for two parts would get no more time than with one.
            pools[0].sharing == "mps" ? {} : { failRequestsGreaterThanOne = true },
            { resources = [{ name = "nvidia.com/gpu", replicas = pools[0].parts_per_gpu }] },
          )
        }
      }))
    },
  )

  platform = {
    version = 1
    cloud   = var.request.identity.cloud
    name    = var.request.identity.name
    region  = var.request.identity.region
    tags    = var.request.tags
    cluster = var.cluster

    namespace        = var.namespace
    pools            = var.request.pools
    serving_pools    = local.serving.pools
    service_accounts = var.service_accounts
    gpu_sharing = {
      # Who divides the GPUs: the cloud by itself, or what modules/platform installs.
      managed_by_cloud      = local.on_gke
      needs_mig_manager     = local.is_mixed && !local.on_gke
      device_plugin_configs = local.plugin_configs
    }

    models   = { uri = var.models_uri }
    plans    = { uri = var.plans_uri }
    registry = var.registry
    ingress  = var.ingress
    redis    = var.redis
    sizes    = var.request.sizes

    storage_class = var.storage_class
  }

  # Values that differ from the chart's own alone.
  values = merge(
    {
      predictor = {
        image = merge({ repository = var.registry.images.predictor }, local.tag)
        gpu = merge(
          { count = local.replica.gpus },
          # On GKE a shared GPU is nvidia.com/gpu too, and the node selector says which.
          local.on_gke ? {} : {
            none         = {}
            time_slicing = { sharing = "time-slicing" }
            mps          = { sharing = "mps" }
            mig          = { sharing = "mig", migProfile = local.serving.mig_profile }
          }[local.serving.sharing],
        )
        nodeSelector = local.serving.node_selector
        resources = {
          requests = { cpu = tostring(local.replica.cpus), memory = "${local.replica.memory_gib}Gi" }
          # KServe would fill a missing limit with one CPU, and a request above it is refused.
          limits = { cpu = tostring(2 * local.replica.cpus), memory = "${local.replica.memory_gib}Gi" }
        }
        minReplicas = var.request.sizes.replicas_min
        maxReplicas = var.request.sizes.replicas_max
      }
      transformer = { image = merge({ repository = var.registry.images.transformer }, local.tag) }
      model       = { storageUri = var.models_uri }
      # Off, until somebody writes planBuild.enabled and which graph: then the builder's identity puts plans where it alone may
      # write, and the predictor reads them there.
      planBuild = merge(
        {
          image                = merge({ repository = var.registry.images.plan_builder }, local.tag)
          source               = var.models_uri
          target               = var.plans_uri
          serviceAccountName   = local.builder.name
          serviceAccountCreate = true
        },
        # None is none, and not the chart's serviceAccount.annotations: those lead to the reader's identity.
        { for key, value in { serviceAccountAnnotations = local.builder.annotations } : key => value if length(value) > 0 },
      )
      serviceAccount = { name = local.account.name, annotations = local.account.annotations }
    },
    # Without room for a second revision the chart would refuse every one, also after the first was stopped.
    local.surge_gpus == 0 ? {} : { rollout = { checkHeadroom = true, maxSurgeGpus = local.surge_gpus } },
    var.redis == null ? {} : {
      cache = { mode = "redis" }
      redis = { existingSecret = var.redis.kubernetes_secret }
    },
  )

  surge_gpus = var.request.sizes.replicas_surge * local.replica.gpus

  tag = var.image_tag == null ? {} : { tag = var.image_tag }
}
