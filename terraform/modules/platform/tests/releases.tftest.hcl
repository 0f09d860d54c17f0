# The releases as they are planned; no cluster and no chart is asked.
mock_provider "helm" {}

variables {
  cloud = "aws"
}

run "kserve_comes_from_its_registry_in_the_versions_of_install_yaml" {
  command = plan

  assert {
    condition = (
      helm_release.kserve_resources.repository == "oci://ghcr.io/kserve/charts"
      && helm_release.kserve_resources.chart == "kserve-resources"
      && helm_release.kserve_resources.version == "v0.20.0"
      && helm_release.kserve_crd.version == helm_release.kserve_resources.version
      && helm_release.kserve_runtime_configs.version == helm_release.kserve_resources.version
    )
    error_message = "KServe's charts: ${helm_release.kserve_resources.repository} ${helm_release.kserve_resources.version}"
  }

  assert {
    condition     = yamldecode(helm_release.kserve_resources.values[0]).kserve.controller.gateway.disableIstioVirtualHost == true
    error_message = "with Kourier KServe must not write Istio's VirtualServices"
  }
}

run "every_release_but_the_folders_of_this_repository_has_a_version" {
  command = plan

  variables {
    monitoring = { install_prometheus = true }
  }

  assert {
    condition = alltrue([
      for release in [
        helm_release.prometheus[0], helm_release.cert_manager, helm_release.knative_operator, helm_release.kserve_crd,
        helm_release.kserve_resources, helm_release.kserve_runtime_configs, helm_release.device_plugin[0],
        helm_release.dcgm_exporter[0],
      ] : can(regex("^v?[0-9]+\\.[0-9]+\\.[0-9]+$", release.version))
    ])
    error_message = "a chart without a version would be another one tomorrow"
  }
}

run "a_job_waits_for_knative_before_kserve_starts" {
  command = plan

  assert {
    condition     = helm_release.knative_ready.wait_for_jobs
    error_message = "Helm has to wait for the job"
  }

  assert {
    condition = yamldecode(helm_release.knative_ready.values[0]).arguments == [
      "-n", "knative-serving", "wait", "knativeserving/knative-serving", "--for=condition=Ready", "--timeout=540s"
    ]
    error_message = helm_release.knative_ready.values[0]
  }
}

run "a_change_of_knative_s_settings_makes_another_job" {
  command = plan

  variables {
    domain = "vision.example.org"
  }

  assert {
    condition     = output.knative_settings != run.a_job_waits_for_knative_before_kserve_starts.knative_settings && yamldecode(helm_release.knative_ready.values[0]).after == output.knative_settings
    error_message = "a job cannot be changed: with the same name the upgrade fails"
  }
}

run "shared_gpus_are_the_device_plugin_s_by_the_label_of_their_nodes" {
  command = plan

  variables {
    device_plugin_configs = { default = "version: v1", a10g-slices4 = "version: v1\nsharing: {}" }
  }

  assert {
    condition = (
      yamldecode(helm_release.device_plugin[0].values[1]).config.default == "default"
      && keys(yamldecode(helm_release.device_plugin[0].values[1]).config.map) == ["a10g-slices4", "default"]
    )
    error_message = helm_release.device_plugin[0].values[1]
  }

  assert {
    condition     = length(helm_release.gpu_operator) == 0 && output.gpu_stack == "device-plugin"
    error_message = "the operator is for MIG alone"
  }
}

run "bottlerocket_s_nodes_keep_their_own_plugin" {
  command = plan

  assert {
    condition = alltrue([
      for term in yamldecode(helm_release.device_plugin[0].values[1]).affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms :
      contains([for expression in term.matchExpressions : "${expression.key} ${expression.operator} ${expression.values[0]}"], "saccade.dev/gpu-os NotIn bottlerocket")
    ])
    error_message = "two plugins on a node would take each GPU twice"
  }
}

run "mig_brings_nvidia_s_operator_in_the_plugin_s_place" {
  command = plan

  variables {
    needs_mig_manager     = true
    device_plugin_configs = { default = "version: v1" }
  }

  assert {
    condition     = length(helm_release.device_plugin) == 0 && length(helm_release.dcgm_exporter) == 0
    error_message = "the operator brings both: two plugins would take each GPU twice"
  }

  assert {
    condition = (
      yamldecode(helm_release.gpu_operator[0].values[0]).driver.enabled == false
      && yamldecode(helm_release.gpu_operator[0].values[0]).toolkit.enabled == false
      && yamldecode(helm_release.gpu_operator[0].values[0]).mig.strategy == "mixed"
      && yamldecode(helm_release.gpu_operator[0].values[0]).devicePlugin.config.create == true
    )
    error_message = helm_release.gpu_operator[0].values[0]
  }
}

run "gke_brings_its_own_plugin_and_metrics" {
  command = plan

  variables {
    cloud = "gcp"
  }

  assert {
    condition = (
      length(helm_release.device_plugin) + length(helm_release.gpu_operator) + length(helm_release.dcgm_exporter) == 0
      && output.gpu_stack == "managed"
    )
    error_message = "GKE runs a device plugin on every GPU node"
  }
}

run "kourier_has_the_cloud_s_load_balancer_by_its_annotations" {
  command = plan

  variables {
    ingress = {
      service_type        = "LoadBalancer"
      service_annotations = { "service.beta.kubernetes.io/aws-load-balancer-scheme" = "internal" }
    }
    private_registries = ["123456789012.dkr.ecr.eu-central-1.amazonaws.com"]
  }

  assert {
    condition = (
      yamldecode(helm_release.platform.values[0]).knative.kourier.serviceType == "LoadBalancer"
      && yamldecode(helm_release.platform.values[0]).knative.kourier.serviceAnnotations["service.beta.kubernetes.io/aws-load-balancer-scheme"] == "internal"
    )
    error_message = helm_release.platform.values[0]
  }

  assert {
    condition     = strcontains(yamldecode(helm_release.platform.values[0]).knative.config.deployment["registries-skipping-tag-resolving"], "123456789012.dkr.ecr")
    error_message = "Knative's controller cannot read a private registry"
  }
}

run "behind_a_gateway_kourier_is_not_on_the_internet_by_itself" {
  command = plan

  variables {
    cloud = "gcp"
    gateway = {
      address_name    = "vision"
      certificate_map = "vision"
      ssl_policy      = "vision"
      security_policy = "vision"
      hostnames       = ["*.vision.example.org"]
    }
  }

  assert {
    condition = (
      yamldecode(helm_release.platform.values[0]).knative.kourier.serviceType == "ClusterIP"
      && yamldecode(helm_release.gateway[0].values[0]).timeoutSeconds == 300
      && yamldecode(helm_release.platform.values[0]).knative.config.network["default-external-scheme"] == "https"
    )
    error_message = helm_release.platform.values[0]
  }
}

run "eks_gets_its_controllers_with_the_accounts_that_have_roles" {
  command = plan

  variables {
    aws = {
      cluster_name             = "vision"
      region                   = "eu-central-1"
      vpc_id                   = "vpc-1"
      load_balancer_controller = { name = "aws-load-balancer-controller" }
      cluster_autoscaler       = { name = "cluster-autoscaler" }
      expander_priorities      = { "20" = [".*spot.*"], "10" = [".*"] }
    }
    tags = { cluster = "vision" }
  }

  assert {
    condition = (
      yamldecode(helm_release.aws_load_balancer_controller[0].values[0]).vpcId == "vpc-1"
      && yamldecode(helm_release.aws_load_balancer_controller[0].values[0]).serviceAccount.name == "aws-load-balancer-controller"
      && yamldecode(helm_release.aws_load_balancer_controller[0].values[0]).defaultTags.cluster == "vision"
    )
    error_message = helm_release.aws_load_balancer_controller[0].values[0]
  }

  assert {
    condition     = yamldecode(helm_release.aws_load_balancer_controller[0].values[0]).enableServiceMutatorWebhook == false
    error_message = "its webhook would refuse the services of releases that are made at the same time"
  }

  assert {
    condition = (
      yamldecode(helm_release.cluster_autoscaler[0].values[0]).autoDiscovery.clusterName == "vision"
      && yamldecode(helm_release.cluster_autoscaler[0].values[0]).extraArgs.expander == "priority"
      && strcontains(yamldecode(helm_release.cluster_autoscaler[0].values[0]).expanderPriorities, "20:\n  - .*spot.*")
    )
    error_message = helm_release.cluster_autoscaler[0].values[0]
  }
}

run "kourier_s_pods_join_the_target_group" {
  command = plan

  variables {
    aws = {
      cluster_name             = "vision"
      region                   = "eu-central-1"
      load_balancer_controller = { name = "aws-load-balancer-controller" }
      cluster_autoscaler       = { name = "cluster-autoscaler" }
    }
    target_group = { arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/vision/0123456789abcdef" }
  }

  assert {
    condition     = yamldecode(helm_release.target_group_binding[0].values[0]).targetGroupArn == var.target_group.arn
    error_message = helm_release.target_group_binding[0].values[0]
  }

  assert {
    condition = (
      yamldecode(helm_release.aws_load_balancer_controller[0].values[0]).vpcTags == { cluster = "vision" }
      && !can(yamldecode(helm_release.aws_load_balancer_controller[0].values[0]).vpcId)
    )
    error_message = "without the VPC's id the controller has to find it by a tag"
  }
}

run "monitors_are_made_only_where_somebody_reads_them" {
  command = plan

  assert {
    condition = (
      yamldecode(helm_release.platform.values[0]).monitoring.podMonitor.enabled == false
      && yamldecode(helm_release.dcgm_exporter[0].values[1]).serviceMonitor.enabled == false
    )
    error_message = "a PodMonitor without Prometheus' operator is an unknown kind, and the release fails"
  }
}

run "a_mirror_takes_the_place_of_the_public_repositories" {
  command = plan

  variables {
    charts = { cert-manager = { repository = "oci://mirror.example.org/charts", version = "v1.18.0" } }
    values = { cert-manager = ["replicaCount: 2"] }
  }

  assert {
    condition = (
      helm_release.cert_manager.repository == "oci://mirror.example.org/charts"
      && helm_release.cert_manager.chart == "cert-manager"
      && helm_release.cert_manager.version == "v1.18.0"
      && yamldecode(helm_release.cert_manager.values[1]).replicaCount == 2
    )
    error_message = "${helm_release.cert_manager.repository} ${helm_release.cert_manager.version}"
  }
}

run "helm_platform_comes_from_a_registry_too" {
  command = plan

  variables {
    charts = { platform = { repository = "oci://registry.example.org/charts", chart = "saccade-platform", version = "0.1.0" } }
  }

  assert {
    condition = (
      helm_release.platform.repository == "oci://registry.example.org/charts"
      && helm_release.platform.chart == "saccade-platform"
      && helm_release.platform.version == "0.1.0"
    )
    error_message = "${helm_release.platform.repository}/${helm_release.platform.chart} ${helm_release.platform.version}"
  }
}

run "the_model_s_chart_is_not_waited_for_by_helm" {
  command = plan

  variables {
    saccade = { values = ["predictor: {minReplicas: 2}"] }
  }

  assert {
    condition     = helm_release.saccade[0].wait == false && helm_release.saccade[0].namespace == "vision"
    error_message = "Helm's wait cannot follow an InferenceService"
  }
}
