# From a request and what a cloud has made of it to the chart's values.

variables {
  cluster = {
    name                       = "vision"
    endpoint                   = "https://example.invalid"
    certificate_authority_data = "ZmFrZQ=="
    kubernetes_version         = "1.34"
    location                   = "eu-central-1"
    network_id                 = "vpc-0123456789abcdef0"
    private                    = true
  }
  models_uri = "s3://vision-models/repository"
  plans_uri  = "s3://vision-plans/plans"
  service_accounts = {
    serving = { name = "detector", namespace = "vision", annotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::123456789012:role/x" } }
    builder = { name = "builder", namespace = "vision", annotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::123456789012:role/y" } }
  }
  registry = {
    host   = "registry.example"
    images = { predictor = "registry.example/vision/predictor", transformer = "registry.example/vision/transformer", plan_builder = "registry.example/vision/plan-builder" }
  }
}

run "mig" {
  command = plan
  module {
    source = "../request"
  }
  variables {
    cloud  = "aws"
    name   = "vision"
    region = "eu-central-1"
    zones  = ["eu-central-1a", "eu-central-1b"]
    pools = {
      mig    = { machine_type = "p4d.24xlarge", sharing = "mig:3g.20gb" }
      slices = { machine_type = "g5.4xlarge", sharing = "time_slicing", replicas_per_gpu = 3 }
      mps    = { machine_type = "g6.4xlarge", sharing = "mps", replicas_per_gpu = 2 }
    }
    serving_pool = "mig"
  }
}

run "the_chart_is_told_of_the_gpu_and_of_who_may_read" {
  command = plan
  variables {
    request = run.mig
    redis   = { address = "cache.example:6379", cloud_secret = "arn:x", kubernetes_secret = "saccade-cache" }
  }
  assert {
    condition     = yamldecode(output.helm_values).predictor.gpu == { count = 1, sharing = "mig", migProfile = "3g.20gb" }
    error_message = output.helm_values
  }
  assert {
    condition     = yamldecode(output.helm_values).redis.existingSecret == "saccade-cache" && yamldecode(output.helm_values).cache.mode == "redis"
    error_message = output.helm_values
  }
  assert {
    condition     = yamldecode(output.helm_values).serviceAccount.annotations["eks.amazonaws.com/role-arn"] == "arn:aws:iam::123456789012:role/x"
    error_message = output.helm_values
  }
  assert {
    condition     = yamldecode(output.helm_values).predictor.nodeSelector == { "saccade.dev/gpu-class" = "a100-40gb-mig-3g.20gb" }
    error_message = output.helm_values
  }
}

run "the_plan_builder_is_the_builder_and_not_the_server" {
  command = plan
  variables {
    request = run.mig
  }
  assert {
    condition = yamldecode(output.helm_values).planBuild == {
      image                     = { repository = "registry.example/vision/plan-builder" }
      source                    = "s3://vision-models/repository"
      target                    = "s3://vision-plans/plans"
      serviceAccountName        = "builder"
      serviceAccountCreate      = true
      serviceAccountAnnotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::123456789012:role/y" }
    }
    error_message = output.helm_values
  }
}

run "one_account_for_both_is_refused" {
  command = plan
  variables {
    request = run.mig
    service_accounts = {
      serving = { name = "same", namespace = "vision", annotations = {} }
      builder = { name = "same", namespace = "vision", annotations = {} }
    }
  }
  expect_failures = [var.service_accounts]
}

run "a_builder_that_would_be_the_server_is_refused" {
  command = plan
  variables {
    request = run.mig
    service_accounts = {
      serving = { name = "detector", namespace = "vision", annotations = { "eks.amazonaws.com/role-arn" = "arn:aws:iam::123456789012:role/x" } }
      builder = { name = "builder", namespace = "vision", annotations = {} }
    }
  }
  expect_failures = [var.service_accounts]
}

run "the_chart_refuses_what_the_pools_have_no_room_for" {
  command = plan
  variables {
    request = run.mig
  }
  assert {
    condition     = yamldecode(output.helm_values).rollout == { checkHeadroom = true, maxSurgeGpus = 2 }
    error_message = output.helm_values
  }
}

run "nvidias_plugin_is_told_how_to_divide_each_class" {
  command = plan
  variables {
    request = run.mig
  }
  assert {
    condition     = toset(keys(output.platform.gpu_sharing.device_plugin_configs)) == toset(["default", "a10g-slices3", "l4-mps2"])
    error_message = jsonencode(output.platform.gpu_sharing)
  }
  assert {
    condition = yamldecode(output.platform.gpu_sharing.device_plugin_configs["a10g-slices3"]).sharing.timeSlicing == {
      renameByDefault            = true
      failRequestsGreaterThanOne = true
      resources                  = [{ name = "nvidia.com/gpu", replicas = 3 }]
    }
    error_message = output.platform.gpu_sharing.device_plugin_configs["a10g-slices3"]
  }
  assert {
    condition     = yamldecode(output.platform.gpu_sharing.device_plugin_configs["l4-mps2"]).sharing.mps.resources[0].replicas == 2
    error_message = output.platform.gpu_sharing.device_plugin_configs["l4-mps2"]
  }
  assert {
    condition     = output.platform.gpu_sharing.needs_mig_manager && !output.platform.gpu_sharing.managed_by_cloud
    error_message = jsonencode(output.platform.gpu_sharing)
  }
}

run "gke" {
  command = plan
  module {
    source = "../request"
  }
  variables {
    cloud  = "gcp"
    name   = "vision"
    region = "europe-west4"
    zones  = ["europe-west4-a", "europe-west4-b"]
    pools  = { gpu = { machine_type = "g2-standard-16", sharing = "time_slicing", replicas_per_gpu = 4 } }
  }
}

run "on_gke_the_node_says_how_a_gpu_is_shared" {
  command = plan
  variables {
    request    = run.gke
    models_uri = "gs://vision-models/repository"
    image_tag  = "1.2.3"
  }
  assert {
    condition     = yamldecode(output.helm_values).predictor.gpu == { count = 1 } && yamldecode(output.helm_values).predictor.image.tag == "1.2.3"
    error_message = output.helm_values
  }
  assert {
    condition     = length(output.platform.gpu_sharing.device_plugin_configs) == 0 && output.platform.gpu_sharing.managed_by_cloud
    error_message = jsonencode(output.platform.gpu_sharing)
  }
  assert {
    condition     = !can(yamldecode(output.helm_values).cache)
    error_message = output.helm_values
  }
}
